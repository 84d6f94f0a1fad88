//! Walking the records of a compressed batch without holding them: a window of constant size over the decoder.
//!
//! The bound on the output is what stops a bomb; memory stays that of the decoder and one window. Optionally
//! every decompressed byte also goes to an encoder, which is how a batch is recompressed in the same pass.

use std::io::{self, Read, Write};

use crate::codec::{Decoder, Encoder};
use crate::error::RecordFlaw;
use crate::varint;

const WINDOW_BYTES: usize = 16 * 1024;

/// What a batch check needs to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordFacts {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) has_key: bool,
}

#[derive(Debug)]
pub(crate) enum StreamError {
    Flaw(RecordFlaw),
    /// The bound on decompressed bytes is reached.
    TooLarge,
    Decode(io::Error),
    Encode(io::Error),
}

impl From<RecordFlaw> for StreamError {
    fn from(flaw: RecordFlaw) -> StreamError {
        StreamError::Flaw(flaw)
    }
}

pub(crate) struct RecordStream<'a> {
    decoder: Decoder<'a>,
    encoder: Option<Encoder>,
    window: Vec<u8>,
    /// `window[position..end]` is still to be walked.
    position: usize,
    end: usize,
    /// Decompressed bytes that were walked before the window.
    walked: u64,
    bytes_max: u64,
}

impl<'a> RecordStream<'a> {
    pub(crate) fn new(decoder: Decoder<'a>, encoder: Option<Encoder>, bytes_max: usize) -> RecordStream<'a> {
        RecordStream {
            decoder,
            encoder,
            window: vec![0; WINDOW_BYTES],
            position: 0,
            end: 0,
            walked: 0,
            bytes_max: bytes_max as u64,
        }
    }

    pub(crate) fn into_encoder(self) -> Option<Encoder> {
        self.encoder
    }

    /// Replaces the walked window by the next bytes; false at the end of the stream.
    fn refill(&mut self) -> Result<bool, StreamError> {
        self.walked += self.end as u64;
        self.position = 0;
        self.end = 0;
        let count = loop {
            match self.decoder.read(&mut self.window) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if crate::codec::is_output_full(&error) => return Err(StreamError::TooLarge),
                Err(error) => return Err(StreamError::Decode(error)),
            }
        };
        self.end = count;
        if self.walked + count as u64 > self.bytes_max {
            return Err(StreamError::TooLarge);
        }
        if let Some(encoder) = &mut self.encoder {
            encoder.write_all(&self.window[..count]).map_err(StreamError::Encode)?;
        }
        Ok(count > 0)
    }

    /// Position in the decompressed bytes.
    fn offset(&self) -> u64 {
        self.walked + self.position as u64
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, StreamError> {
        if self.position == self.end && !self.refill()? {
            return Err(RecordFlaw::Ends.into());
        }
        let byte = self.window[self.position];
        self.position += 1;
        Ok(byte)
    }

    fn skip(&mut self, length: usize) -> Result<(), StreamError> {
        let mut left = length;
        loop {
            let step = left.min(self.end - self.position);
            self.position += step;
            left -= step;
            if left == 0 {
                return Ok(());
            }
            if !self.refill()? {
                return Err(RecordFlaw::Ends.into());
            }
        }
    }

    fn i32(&mut self) -> Result<i32, StreamError> {
        varint::read_i32(|| self.byte())
    }

    /// Steps over bytes with their length in front, of which a negative one is null; true if there were any.
    fn nullable(&mut self) -> Result<bool, StreamError> {
        match usize::try_from(self.i32()?) {
            Ok(length) => self.skip(length).map(|()| true),
            Err(_negative) => Ok(false),
        }
    }

    fn length(&mut self) -> Result<usize, StreamError> {
        usize::try_from(self.i32()?).map_err(|_| RecordFlaw::NegativeLength.into())
    }

    /// Walks over the next record; the rules are those of `Cursor::record`.
    pub(crate) fn record(&mut self) -> Result<RecordFacts, StreamError> {
        let length = self.length()?;
        let end = self.offset() + length as u64;
        let _attributes = self.byte()?;
        let timestamp_delta = varint::read_i64(|| self.byte())?;
        let offset_delta = self.i32()?;
        let has_key = self.nullable()?;
        let _has_value = self.nullable()?;
        for _ in 0..self.length()? {
            // Ends a hostile count early; the end of the stream would stop it too, but only later.
            if self.offset() >= end {
                return Err(RecordFlaw::Length.into());
            }
            let key_length = self.length()?;
            self.skip(key_length)?;
            self.nullable()?;
        }
        if self.offset() != end {
            return Err(RecordFlaw::Length.into());
        }
        Ok(RecordFacts { timestamp_delta, offset_delta, has_key })
    }

    /// Whether all bytes have been walked. Reads to the end of the stream, so that its trailer is checked.
    pub(crate) fn is_at_end(&mut self) -> Result<bool, StreamError> {
        Ok(self.position == self.end && !self.refill()?)
    }
}
