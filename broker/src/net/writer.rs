//! Replies on the way out: memory parts in vectored writes, slices of segment files by `sendfile`, nothing copied in
//! between.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use bytes::{BufMut, Bytes, BytesMut};
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::api::{Part, Reply};

/// Parts in one vectored write (the kernel takes up to 1,024).
const VECTORS_MAX: usize = 64;

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

    /// Writes until everything is with the kernel.
    pub async fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        while !self.parts.is_empty() {
            let written = stream.async_io(Interest::WRITABLE, || self.write_some(stream)).await?;
            self.consume(written);
        }
        Ok(())
    }

    fn write_some(&self, stream: &TcpStream) -> io::Result<usize> {
        match &self.parts[0] {
            Part::Slice(slice) => {
                let mut offset = slice.position;
                let file = slice.file.as_ref().and_then(|file| file.as_fd());
                let file = file.ok_or_else(|| io::Error::other("a slice without a file descriptor"))?;
                let sent = rustix::fs::sendfile(stream.as_fd(), file, Some(&mut offset), slice.len)?;
                if sent == 0 {
                    // The file is shorter than the slice says: the frame cannot be completed.
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a segment file was cut while it was sent",
                    ));
                }
                Ok(sent)
            }
            Part::Bytes(_) => {
                let mut vectors = [IoSlice::new(&[]); VECTORS_MAX];
                let mut count = 0;
                for part in self.parts.iter().take(VECTORS_MAX) {
                    let Part::Bytes(bytes) = part else { break };
                    vectors[count] = IoSlice::new(bytes);
                    count += 1;
                }
                // More to come right behind (a file): the kernel is told not to send a packet of the header alone.
                let flags = if count < self.parts.len() { SendFlags::MORE } else { SendFlags::empty() };
                let flags = flags | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                if count == 1 {
                    Ok(rustix::net::send(stream.as_fd(), &vectors[0], flags)?)
                } else {
                    let mut control = rustix::net::SendAncillaryBuffer::default();
                    Ok(rustix::net::sendmsg(stream.as_fd(), &vectors[..count], &mut control, flags)?)
                }
            }
        }
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
