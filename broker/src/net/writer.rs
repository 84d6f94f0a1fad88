//! Replies on the way out, in order. The socket writes memory parts by vectored writes and slices of segment files by
//! `sendfile`; nothing is copied in between.

use std::collections::VecDeque;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use super::socket::Stream;
use crate::api::{Part, Reply};

/// Frames ready to be written, in order.
#[derive(Default)]
pub struct Outbox {
    parts: VecDeque<Part>,
    bytes: usize,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes waiting to be written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a reply as one frame: length, correlation id, (tagged fields,) body.
    pub fn push(&mut self, correlation_id: i32, header_is_flexible: bool, reply: Reply) {
        let body: usize = reply.parts.iter().map(part_bytes).sum();
        let header = if header_is_flexible { 5 } else { 4 };
        let mut head = BytesMut::with_capacity(4 + header + small_first_part(&reply));
        head.put_u32((header + body) as u32);
        head.put_i32(correlation_id);
        if header_is_flexible {
            head.put_u8(0);
        }
        let mut parts = reply.parts.into_iter().peekable();
        // Most replies are one small buffer: one piece to write then.
        if let Some(Part::Bytes(first)) = parts.next_if(is_small) {
            head.put_slice(&first);
        }
        self.bytes += 4 + header + body;
        self.parts.push_back(Part::Bytes(head.freeze()));
        self.parts.extend(parts.filter(|part| part_bytes(part) > 0));
    }

    /// Adds what is a frame already.
    pub fn push_parts(&mut self, parts: impl IntoIterator<Item = Part>) {
        for part in parts.into_iter().filter(|part| part_bytes(part) > 0) {
            self.bytes += part_bytes(&part);
            self.parts.push_back(part);
        }
    }

    /// Writes until everything is with the kernel.
    pub async fn flush(&mut self, stream: &Stream) -> io::Result<()> {
        while !self.parts.is_empty() {
            self.write(stream).await?;
        }
        Ok(())
    }

    /// Waits until the socket takes some of what is there, which must not be nothing. May be dropped: then nothing was written.
    pub async fn write(&mut self, stream: &Stream) -> io::Result<()> {
        let written = stream.write_some(&self.parts).await?;
        self.consume(written);
        Ok(())
    }

    fn consume(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let Some(part) = self.parts.front_mut() else { return };
            let length = part_bytes(part);
            if written >= length {
                written -= length;
                self.parts.pop_front();
                continue;
            }
            match part {
                Part::Bytes(bytes) => *bytes = bytes.split_off(written),
                Part::Slice(slice) => {
                    slice.position += written as u64;
                    slice.len -= written;
                }
            }
            return;
        }
    }
}

fn part_bytes(part: &Part) -> usize {
    match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::Slice(slice) => slice.len,
    }
}

/// Copied behind the frame header rather than written as a vector of its own.
const SMALL_BYTES: usize = 4096;

fn is_small(part: &Part) -> bool {
    matches!(part, Part::Bytes(bytes) if bytes.len() <= SMALL_BYTES)
}

fn small_first_part(reply: &Reply) -> usize {
    reply.parts.first().filter(|part| is_small(part)).map_or(0, part_bytes)
}

/// The body of a reply of one buffer.
pub fn reply_of(body: Bytes) -> Reply {
    Reply { parts: vec![Part::Bytes(body)] }
}
