//! Reading zstd frames, with decoders that are kept per thread.
//!
//! A decoder and its window are megabytes that C allocates (Java's producer claims 2 MiB for any batch); making them
//! for each batch took a quarter to a third of the check of a 16 KiB batch (benches/benches/batch.rs). Kept are only those of
//! an ordinary size, one per thread.
//!
//! Encoders claim the window of their level whatever the size of the batch, so a claim can't be held against the
//! caller's bound. zstd maps a window of the claimed size but touches no more of it than it writes output
//! (tests/memory.rs holds this); the largest one accepted is that of Java's decoder, and of level 22.

use std::cell::Cell;
use std::io::{self, Read};

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, SafeResult, get_error_name};

use crate::codec::malformed;

const WINDOW_LOG_MAX: u32 = 27;
/// Holds the window of levels up to 7 or so; what is larger is freed after its batch.
const KEPT_BYTES_MAX: usize = 6 * 1024 * 1024;

thread_local! {
    static KEPT: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

fn checked(result: SafeResult) -> io::Result<usize> {
    result.map_err(|code| io::Error::new(io::ErrorKind::InvalidData, get_error_name(code)))
}

pub(crate) struct ZstdDecoder<'a> {
    rest: &'a [u8],
    /// `None` only while dropping.
    context: Option<DCtx<'static>>,
    /// Between frames, where the input may end.
    is_between_frames: bool,
}

impl<'a> ZstdDecoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> io::Result<ZstdDecoder<'a>> {
        let context = match KEPT.take() {
            Some(kept) => kept,
            None => {
                let mut context =
                    DCtx::try_create().ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
                checked(context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)))?;
                context
            }
        };
        Ok(ZstdDecoder { rest: bytes, context: Some(context), is_between_frames: true })
    }
}

impl Drop for ZstdDecoder<'_> {
    fn drop(&mut self) {
        // A batch may have been given up in the middle of a frame.
        if let Some(mut context) = self.context.take()
            && context.sizeof() <= KEPT_BYTES_MAX
            && context.reset(ResetDirective::SessionOnly).is_ok()
        {
            KEPT.set(Some(context));
        }
    }
}

impl Read for ZstdDecoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(context) = &mut self.context else { return Ok(0) };
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.is_between_frames && self.rest.is_empty() {
                return Ok(0);
            }
            let mut input = InBuffer::around(self.rest);
            let mut output = OutBuffer::around(&mut *buffer);
            let left = checked(context.decompress_stream(&mut output, &mut input))?;
            let (read, written) = (input.pos(), output.pos());
            self.rest = &self.rest[read..];
            self.is_between_frames = left == 0;
            if written > 0 {
                return Ok(written);
            }
            if read == 0 && !self.is_between_frames {
                return Err(malformed("the zstd frame is cut off"));
            }
        }
    }
}
