//! Snappy as Kafka's clients use it: blocks in xerial framing (snappy-java, franz-go), or one raw block (librdkafka).
//!
//! xerial: magic (8 bytes), version and least compatible version (32 bits each), then blocks, each with its
//! length in front (32 bits, big-endian). The magic may come again where streams were concatenated.

use std::io::{self, Read, Write};

use crate::codec::{OutputFull, malformed};

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const VERSION: u32 = 1;
const STREAM_HEADER_LEN: usize = MAGIC.len() + 8;
/// What snappy-java writes; readers take any size.
const BLOCK_BYTES: usize = 32 * 1024;

/// The most that `compressed` bytes of snappy can expand to: its best element makes 64 bytes of 3.
fn expansion_max(compressed: usize) -> usize {
    compressed.saturating_mul(22).saturating_add(64)
}

pub(crate) struct SnappyDecoder<'a> {
    rest: &'a [u8],
    is_framed: bool,
    bytes_max: usize,
    block: Vec<u8>,
    /// What of `block` has been read.
    position: usize,
    decoder: snap::raw::Decoder,
}

impl<'a> SnappyDecoder<'a> {
    pub(crate) fn new(bytes: &'a [u8], bytes_max: usize) -> SnappyDecoder<'a> {
        SnappyDecoder {
            rest: bytes,
            is_framed: bytes.starts_with(&MAGIC),
            bytes_max,
            block: Vec::new(),
            position: 0,
            decoder: snap::raw::Decoder::new(),
        }
    }

    /// The next compressed block, or `None` at the end.
    fn compressed(&mut self) -> io::Result<Option<&'a [u8]>> {
        if !self.is_framed {
            let block = std::mem::take(&mut self.rest);
            return Ok((!block.is_empty()).then_some(block));
        }
        while self.rest.starts_with(&MAGIC) {
            self.rest = self
                .rest
                .get(STREAM_HEADER_LEN..)
                .ok_or_else(|| malformed("the stream header is cut off"))?;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (length, rest) =
            self.rest.split_first_chunk::<4>().ok_or_else(|| malformed("a block length is cut off"))?;
        let length = usize::try_from(i32::from_be_bytes(*length))
            .map_err(|_| malformed("a block length is negative"))?;
        let (block, rest) =
            rest.split_at_checked(length).ok_or_else(|| malformed("a block is longer than the stream"))?;
        self.rest = rest;
        Ok(Some(block))
    }

    /// Decompresses the next block; false at the end of the stream.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(compressed) = self.compressed()? else { return Ok(false) };
        if compressed.is_empty() {
            return Err(malformed("a block without even a length"));
        }
        let length = snap::raw::decompress_len(compressed)?;
        if length > expansion_max(compressed.len()) {
            return Err(malformed("a block claims more bytes than it can hold"));
        }
        if length > self.bytes_max {
            return Err(io::Error::other(OutputFull));
        }
        self.block.resize(length, 0);
        self.position = 0;
        let written = self.decoder.decompress(compressed, &mut self.block)?;
        self.block.truncate(written);
        Ok(true)
    }
}

impl Read for SnappyDecoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // An empty block is not the end, and each round takes bytes from the input.
        while self.position == self.block.len() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.block.len() - self.position);
        buffer[..count].copy_from_slice(&self.block[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

pub(crate) struct SnappyEncoder<W> {
    output: W,
    /// Less than `BLOCK_BYTES` bytes that wait for more.
    block: Vec<u8>,
    is_started: bool,
    encoder: snap::raw::Encoder,
    compressed: Vec<u8>,
}

impl<W: Write> SnappyEncoder<W> {
    pub(crate) fn new(output: W) -> SnappyEncoder<W> {
        SnappyEncoder {
            output,
            block: Vec::with_capacity(BLOCK_BYTES),
            is_started: false,
            encoder: snap::raw::Encoder::new(),
            compressed: vec![0; snap::raw::max_compress_len(BLOCK_BYTES)],
        }
    }

    fn start(&mut self) -> io::Result<()> {
        if !self.is_started {
            self.is_started = true;
            self.output.write_all(&MAGIC)?;
            self.output.write_all(&VERSION.to_be_bytes())?;
            self.output.write_all(&VERSION.to_be_bytes())?;
        }
        Ok(())
    }

    fn write_block(&mut self) -> io::Result<()> {
        self.start()?;
        let length = self.encoder.compress(&self.block, &mut self.compressed)?;
        // At most `compressed.len()`, some 38 KiB.
        self.output.write_all(&(length as u32).to_be_bytes())?;
        self.output.write_all(&self.compressed[..length])?;
        self.block.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.start()?;
        if !self.block.is_empty() {
            self.write_block()?;
        }
        Ok(self.output)
    }
}

impl<W: Write> Write for SnappyEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        if self.block.len() == BLOCK_BYTES {
            self.write_block()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Blocks are cut by size only, as readers of the other side expect nothing of a flush.
        Ok(())
    }
}
