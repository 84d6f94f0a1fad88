//! LZ4 frames as Kafka's clients read them.
//!
//! The decoder is our own, over lz4_flex's blocks, because it must refuse what the frame decoder of a Java
//! consumer refuses (blocks that depend on each other, a missing end mark) and must not allocate by the block
//! size that the header claims. Checksums of blocks and of the header are verified as Java does; a content
//! checksum is stepped over as Java does, the CRC of the batch covers it.

use std::io::{self, Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use twox_hash::XxHash32;

use crate::codec::malformed;

const MAGIC: u32 = 0x184D_2204;
const VERSION_MASK: u8 = 0b1100_0000;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT_BLOCKS: u8 = 0b0010_0000;
const BLOCK_CHECKSUM: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
const RESERVED_OR_DICTIONARY: u8 = 0b0000_0011;
/// Set in a block's length if the block is stored as it is.
const STORED: u32 = 1 << 31;

/// The most that `compressed` bytes of LZ4 can expand to: each byte of a match length stands for 255.
fn expansion_max(compressed: usize) -> usize {
    compressed.saturating_mul(255).saturating_add(64)
}

pub(crate) fn new_lz4_encoder<W: Write>(output: W) -> FrameEncoder<W> {
    let frame = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    FrameEncoder::with_frame_info(frame, output)
}

pub(crate) struct Lz4Decoder<'a> {
    rest: &'a [u8],
    block_bytes_max: usize,
    has_block_checksums: bool,
    has_content_checksum: bool,
    is_ended: bool,
    block: Vec<u8>,
    /// What of `block[..end]` has been read.
    position: usize,
    end: usize,
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> io::Result<&'a [u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or_else(|| malformed("the frame is cut off"))?;
    *rest = left;
    Ok(taken)
}

impl<'a> Lz4Decoder<'a> {
    /// Reads the frame header.
    pub(crate) fn new(bytes: &'a [u8]) -> io::Result<Lz4Decoder<'a>> {
        let mut rest = bytes;
        if u32::from_le_bytes(*take(&mut rest)?) != MAGIC {
            return Err(malformed("not an lz4 frame"));
        }
        let descriptor = rest;
        let [flags, block_size] = *take(&mut rest)?;
        if flags & VERSION_MASK != VERSION || flags & RESERVED_OR_DICTIONARY != 0 {
            return Err(malformed("an lz4 frame of an unknown version or with a dictionary"));
        }
        if flags & INDEPENDENT_BLOCKS == 0 {
            return Err(malformed("an lz4 frame with dependent blocks, which Kafka's consumers can't read"));
        }
        let block_bytes_max = match block_size {
            0x40 => 64 * 1024,
            0x50 => 256 * 1024,
            0x60 => 1024 * 1024,
            0x70 => 4 * 1024 * 1024,
            _ => return Err(malformed("an lz4 frame with an unknown block size")),
        };
        if flags & CONTENT_SIZE != 0 {
            let _claimed = take::<8>(&mut rest)?;
        }
        let descriptor = &descriptor[..descriptor.len() - rest.len()];
        let [checksum] = *take(&mut rest)?;
        if checksum != (XxHash32::oneshot(0, descriptor) >> 8) as u8 {
            return Err(malformed("the checksum of the lz4 frame header is wrong"));
        }
        Ok(Lz4Decoder {
            rest,
            block_bytes_max,
            has_block_checksums: flags & BLOCK_CHECKSUM != 0,
            has_content_checksum: flags & CONTENT_CHECKSUM != 0,
            is_ended: false,
            block: Vec::new(),
            position: 0,
            end: 0,
        })
    }

    /// Decompresses the next block; false at the end mark.
    fn advance(&mut self) -> io::Result<bool> {
        if self.is_ended {
            return Ok(false);
        }
        let length = u32::from_le_bytes(*take(&mut self.rest)?);
        if length == 0 {
            self.is_ended = true;
            if self.has_content_checksum {
                let _unverified = take::<4>(&mut self.rest)?;
            }
            // Java's consumer stops here and would not see what follows.
            return if self.rest.is_empty() {
                Ok(false)
            } else {
                Err(malformed("bytes follow the lz4 frame"))
            };
        }
        let is_stored = length & STORED != 0;
        let length = (length & !STORED) as usize;
        if length > self.block_bytes_max {
            return Err(malformed("an lz4 block exceeds the block size of its frame"));
        }
        let (compressed, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| malformed("the frame is cut off"))?;
        self.rest = rest;
        if self.has_block_checksums
            && u32::from_le_bytes(*take(&mut self.rest)?) != XxHash32::oneshot(0, compressed)
        {
            return Err(malformed("the checksum of an lz4 block is wrong"));
        }
        self.position = 0;
        self.end = 0;
        if is_stored {
            self.block.clear();
            self.block.extend_from_slice(compressed);
            self.end = length;
        } else {
            let bytes_max = self.block_bytes_max.min(expansion_max(length));
            if self.block.len() < bytes_max {
                self.block.resize(bytes_max, 0);
            }
            self.end = lz4_flex::block::decompress_into(compressed, &mut self.block[..bytes_max])
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(true)
    }
}

impl Read for Lz4Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // An empty block is not the end, and each round takes bytes from the input.
        while self.position == self.end {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.end - self.position);
        buffer[..count].copy_from_slice(&self.block[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}
