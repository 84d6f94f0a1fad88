//! The four compressions of a batch's records, as streams in both directions.
//!
//! A decoder allocates by what it has read, never by a length that the bytes claim (`snappy` and `lz4` bound each
//! block by what its compressed bytes could possibly expand to; gzip keeps a constant state; zstd touches of its window only
//! what it has written). It is also at least as strict as the decoder of a Java consumer: what is accepted
//! here is stored and read by them. What is written here is what Kafka's own producer writes: snappy in xerial
//! framing with 32 KiB blocks, lz4 frames of independent 64 KiB blocks without checksums.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::lz4::{Lz4Decoder, new_lz4_encoder};
use crate::snappy::{SnappyDecoder, SnappyEncoder};
use crate::zstd_stream::ZstdDecoder;

/// How the records of a batch are compressed (`compression.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The number in a batch's attributes.
    pub fn id(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The values of `compression.<codec>.level` (KIP-390); `None` for codecs without levels. gzip also takes -1,
    /// its default. The lz4 compressor here knows one level and takes any of these for it: only the ratio differs.
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Codec::None | Codec::Snappy => None,
            Codec::Gzip => Some(1..=9),
            Codec::Lz4 => Some(1..=17),
            Codec::Zstd => Some(-131_072..=22),
        }
    }

    /// What a level that is not configured means.
    pub fn default_level(self) -> i32 {
        match self {
            Codec::None | Codec::Snappy => 0,
            Codec::Gzip => -1,
            Codec::Lz4 => 9,
            Codec::Zstd => 3,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    #[error("more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("not a stream of this codec")]
    Malformed(#[source] io::Error),
}

/// The inner error of an `io::Error` that says: a bound on the output was reached.
#[derive(Debug, thiserror::Error)]
#[error("the output exceeds its bound")]
pub(crate) struct OutputFull;

pub(crate) fn is_output_full(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OutputFull>())
}

pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Decompresses `bytes` to at most `bytes_max` bytes.
pub fn decompress(codec: Codec, bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecompressError> {
    let too_large = DecompressError::TooLarge { bytes_max };
    let classify = |error: io::Error| {
        if is_output_full(&error) {
            DecompressError::TooLarge { bytes_max }
        } else {
            DecompressError::Malformed(error)
        }
    };
    let decoder = Decoder::new(codec, bytes, bytes_max).map_err(classify)?;
    let mut output = Vec::new();
    // One byte more than allowed tells "exactly the bound" from "more". The vector grows with what is read.
    let limit = (bytes_max as u64).saturating_add(1);
    decoder.take(limit).read_to_end(&mut output).map_err(classify)?;
    if output.len() > bytes_max { Err(too_large) } else { Ok(output) }
}

/// Compresses `bytes`; `level` as in `Codec::levels`, `None` for the default. Levels out of range are clamped by the codec.
pub fn compress(codec: Codec, level: Option<i32>, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let level = level.unwrap_or(codec.default_level());
    let mut encoder = Encoder::new(codec, level, usize::MAX, Some(bytes.len() as u64))?;
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Decompresses a slice as a stream.
pub(crate) enum Decoder<'a> {
    None(&'a [u8]),
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
    Snappy(SnappyDecoder<'a>),
    Lz4(Lz4Decoder<'a>),
    Zstd(ZstdDecoder<'a>),
}

impl<'a> Decoder<'a> {
    /// `bytes_max` bounds what is decompressed at once (a snappy block); the caller counts the output.
    pub(crate) fn new(codec: Codec, bytes: &'a [u8], bytes_max: usize) -> io::Result<Decoder<'a>> {
        Ok(match codec {
            Codec::None => Decoder::None(bytes),
            Codec::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(bytes))),
            Codec::Snappy => Decoder::Snappy(SnappyDecoder::new(bytes, bytes_max)),
            Codec::Lz4 => Decoder::Lz4(Lz4Decoder::new(bytes)?),
            Codec::Zstd => Decoder::Zstd(ZstdDecoder::new(bytes)?),
        })
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::None(rest) => rest.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Snappy(decoder) => decoder.read(buffer),
            Decoder::Lz4(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// A vector that refuses to outgrow its bound, so that recompression stops when the batch is too large anyway.
pub(crate) struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.bytes_max - self.bytes.len() {
            return Err(io::Error::other(OutputFull));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses a stream into a bounded vector.
pub(crate) enum Encoder {
    None(Bounded),
    Gzip(Box<GzEncoder<Bounded>>),
    Snappy(Box<SnappyEncoder<Bounded>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Bounded>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Bounded>>),
}

impl Encoder {
    /// Fails with `OutputFull` inside when the output exceeds `bytes_max`. `source_bytes` is exactly what will be
    /// written, if that is known: zstd then takes, and makes readers take, no larger window than that.
    pub(crate) fn new(
        codec: Codec,
        level: i32,
        bytes_max: usize,
        source_bytes: Option<u64>,
    ) -> io::Result<Encoder> {
        let output = Bounded { bytes: Vec::new(), bytes_max };
        Ok(match codec {
            Codec::None => Encoder::None(output),
            Codec::Gzip => {
                let level = u32::try_from(level)
                    .map_or(flate2::Compression::default(), |level| flate2::Compression::new(level.min(9)));
                Encoder::Gzip(Box::new(GzEncoder::new(output, level)))
            }
            Codec::Snappy => Encoder::Snappy(Box::new(SnappyEncoder::new(output))),
            Codec::Lz4 => Encoder::Lz4(Box::new(new_lz4_encoder(output))),
            Codec::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(output, level)?;
                encoder.set_pledged_src_size(source_bytes)?;
                Encoder::Zstd(Box::new(encoder))
            }
        })
    }

    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        let output = match self {
            Encoder::None(output) => output,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Snappy(encoder) => encoder.finish()?,
            Encoder::Lz4(encoder) => encoder.finish().map_err(io::Error::from)?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        };
        Ok(output.bytes)
    }
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::None(output) => output.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Snappy(encoder) => encoder.write(bytes),
            Encoder::Lz4(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::None(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Snappy(encoder) => encoder.flush(),
            Encoder::Lz4(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}
