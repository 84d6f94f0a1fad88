//! Frames on the way in: a 4-byte length, then a request header and body. Each frame becomes one `Bytes` of its own
//! size, so that the records of a produce request are a slice of what the socket delivered.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::StrBytes;

use super::socket::Stream;
use super::{Purpose, peers};
use crate::api::Close;
use crate::api::table::{self, Row};

/// Frames of all APIs but Produce: what a request without records may take. A bound on what its array lengths can reserve.
const OTHER_REQUEST_BYTES_MAX: usize = 16 << 20;
/// Bytes asked of the socket at a time while no frame says how much is to come: adapts between these two.
const READ_AHEAD_BYTES_MIN: usize = 16 << 10;
const READ_AHEAD_BYTES_MAX: usize = 1 << 20;
/// The most that is reserved at a time, whatever length a frame claims.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// Length, API key, version and correlation id: what is needed to judge a frame before it is read.
const PREFIX_BYTES: usize = 12;

/// A request as framed: header decoded, body not.
pub struct Request {
    pub row: &'static Row,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
    pub body: Bytes,
}

/// What can be taken from the bytes read so far.
pub enum Taken {
    Request(Request),
    /// An ApiVersions request in a version that is not offered: answered in version 0.
    UnsupportedApiVersions {
        correlation_id: i32,
    },
    /// What another node says; only on listeners that serve nodes.
    Peer {
        correlation_id: i32,
        message: Bytes,
    },
    Incomplete,
}

/// Who is on the other side, as its first frame tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Client,
    Peer,
}

/// Bytes read from one connection and not yet taken as frames.
pub struct FrameReader {
    buffer: BytesMut,
    request_bytes_max: usize,
    purpose: Purpose,
    /// How much to read at a time: as much as the last frame took, or more if reads come back full, so that a steady
    /// stream of frames is read in place with one system call each or fewer.
    read_ahead: usize,
    /// The client id of the last request: mostly the next one's too, and then it is not copied again.
    client_id: Option<StrBytes>,
}

impl FrameReader {
    /// `request_bytes_max`: `socket.request.max.bytes`.
    pub fn new(request_bytes_max: usize, purpose: Purpose) -> FrameReader {
        FrameReader {
            buffer: BytesMut::new(),
            request_bytes_max,
            purpose,
            read_ahead: READ_AHEAD_BYTES_MIN,
            client_id: None,
        }
    }

    /// Reads what the socket has; how much that is, or `None` at the end of the stream, also when it broke: nothing comes any
    /// more either way.
    pub fn read_from(&mut self, stream: &Stream) -> Option<usize> {
        match stream.try_read_buf(self.room()) {
            Ok(0) => None,
            Ok(bytes) => {
                self.on_read(bytes);
                Some(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(_) => None,
        }
    }

    /// The buffer to read into next. A frame that has begun gets room for its rest as far as this connection has shown that
    /// it sends such frames (a claimed length alone costs nothing), and otherwise as much again as has come of it. The
    /// memory of frames that are done with is used again.
    pub fn room(&mut self) -> &mut BytesMut {
        let want = match self.frame_bytes() {
            Some(bytes) => {
                let rest = (4 + bytes).saturating_sub(self.buffer.len());
                rest.min(self.read_ahead.max(self.buffer.len())).clamp(1, RESERVE_BYTES_MAX)
            }
            None => self.read_ahead,
        };
        if self.buffer.capacity() - self.buffer.len() < want {
            self.buffer.reserve(want);
        }
        &mut self.buffer
    }

    /// Notes how much a read brought, to choose the size of the next ones.
    pub fn on_read(&mut self, bytes: usize) {
        if self.buffer.len() == self.buffer.capacity() {
            self.read_ahead = (self.read_ahead * 2).min(READ_AHEAD_BYTES_MAX / 4).max(self.read_ahead);
        } else if bytes < self.read_ahead / 4 {
            self.read_ahead = (self.read_ahead / 2).max(READ_AHEAD_BYTES_MIN);
        }
    }

    /// Gives back the memory of a connection that has nothing to say.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.read_ahead = READ_AHEAD_BYTES_MIN;
        }
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Length of the frame that has begun, once `take` has judged it.
    fn frame_bytes(&self) -> Option<usize> {
        let length = self.buffer.get(..4)?.try_into().ok()?;
        if self.buffer.len() < PREFIX_BYTES {
            return None;
        }
        usize::try_from(i32::from_be_bytes(length)).ok()
    }

    /// Who sent the frame that has begun, once its API key is there.
    pub fn caller(&self) -> Option<Caller> {
        let key = self.buffer.get(4..6)?.try_into().ok()?;
        let is_peer = self.purpose.serves_peers && i16::from_be_bytes(key) == peers::API_KEY;
        Some(if is_peer { Caller::Peer } else { Caller::Client })
    }

    /// Takes the next request. An error closes the connection.
    pub fn take(&mut self) -> Result<Taken, Close> {
        if let Some(length) = self.buffer.get(..4) {
            let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            // What nodes say to each other has a bound of its own, however small that of clients is set.
            let max = match self.caller() {
                Some(Caller::Peer) => peers::FRAME_BYTES_MAX,
                _ => self.request_bytes_max,
            };
            if length < (PREFIX_BYTES - 4) as i32 || length as usize > max {
                return Err(Close::new(format!(
                    "a frame of {length} bytes (allowed: {} to {max}, socket.request.max.bytes)",
                    PREFIX_BYTES - 4,
                )));
            }
        }
        let Some(prefix) = self.buffer.get(..PREFIX_BYTES) else { return Ok(Taken::Incomplete) };
        let mut prefix = prefix;
        let length = prefix.get_i32() as usize;
        let key = prefix.get_i16();
        let version = prefix.get_i16();
        let correlation_id = prefix.get_i32();
        if key == peers::API_KEY && self.purpose.serves_peers {
            return self.take_from_peer(length, version, correlation_id);
        }
        let row = table::row(key).ok_or_else(|| Close::new(format!("request with unknown API key {key}")))?;
        if !row.is_served_on(self.purpose.role) {
            return Err(Close::new(format!("API key {key} is not served on this listener")));
        }
        if key != ApiKey::Produce as i16 && length > OTHER_REQUEST_BYTES_MAX {
            return Err(Close::new(format!(
                "a frame of {length} bytes for API key {key} (allowed: {OTHER_REQUEST_BYTES_MAX})"
            )));
        }
        if self.buffer.len() < 4 + length {
            return Ok(Taken::Incomplete);
        }
        self.read_ahead = self.read_ahead.max((4 + length).min(READ_AHEAD_BYTES_MAX));
        self.buffer.advance(4);
        let mut body = self.buffer.split_to(length).freeze();
        if !row.versions.contains(&version) {
            if key == ApiKey::ApiVersions as i16 {
                return Ok(Taken::UnsupportedApiVersions { correlation_id });
            }
            return Err(Close::new(format!(
                "API key {key} version {version} is not offered (only {} to {})",
                row.versions.start(),
                row.versions.end()
            )));
        }
        body.advance(PREFIX_BYTES - 4);
        let client_id = self.take_client_id(&mut body)?;
        if row.request_header_is_flexible(version) {
            skip_tagged_fields(&mut body)?;
        }
        Ok(Taken::Request(Request { row, version, correlation_id, client_id, body }))
    }

    fn take_from_peer(&mut self, length: usize, version: i16, correlation_id: i32) -> Result<Taken, Close> {
        if version != peers::VERSION || length > peers::FRAME_BYTES_MAX {
            return Err(Close::new(format!("a frame of {length} bytes and version {version} between nodes")));
        }
        if self.buffer.len() < 4 + length {
            return Ok(Taken::Incomplete);
        }
        self.read_ahead = self.read_ahead.max((4 + length).min(READ_AHEAD_BYTES_MAX));
        self.buffer.advance(PREFIX_BYTES);
        let mut message = self.buffer.split_to(length + 4 - PREFIX_BYTES).freeze();
        match message.try_get_i16() {
            Ok(-1) => Ok(Taken::Peer { correlation_id, message }),
            _ => Err(Close::new("a malformed header between nodes")),
        }
    }

    fn take_client_id(&mut self, body: &mut Bytes) -> Result<Option<StrBytes>, Close> {
        let malformed = || Close::new("malformed request header");
        let length = match body.try_get_i16().map_err(|_| malformed())? {
            -1 => return Ok(None),
            length => usize::try_from(length).map_err(|_| malformed())?,
        };
        if length > body.len() {
            return Err(malformed());
        }
        let text = body.split_to(length);
        if self.client_id.as_ref().is_none_or(|last| last.as_bytes() != &text[..]) {
            let text = std::str::from_utf8(&text).map_err(|_| malformed())?;
            self.client_id = Some(StrBytes::from_string(text.to_string()));
        }
        Ok(self.client_id.clone())
    }
}

fn skip_tagged_fields(body: &mut Bytes) -> Result<(), Close> {
    for _ in 0..unsigned_varint(body)? {
        unsigned_varint(body)?;
        let size = unsigned_varint(body)?;
        if size > body.len() {
            return Err(Close::new("malformed request header"));
        }
        body.advance(size);
    }
    Ok(())
}

fn unsigned_varint(body: &mut Bytes) -> Result<usize, Close> {
    let mut value = 0usize;
    for shift in [0, 7, 14, 21, 28] {
        let byte = body.try_get_u8().map_err(|_| Close::new("malformed request header"))?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Close::new("malformed request header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_BYTES: usize = 90 << 20;

    fn receive(frames: &mut FrameReader, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = frames.room();
            let part = rest.len().min(room.capacity() - room.len());
            room.extend_from_slice(&rest[..part]);
            frames.on_read(part);
            rest = &rest[part..];
        }
    }

    #[test]
    fn a_claimed_length_alone_costs_nothing() {
        let mut frames = FrameReader::new(100 << 20, Purpose::CLIENTS);
        let mut begun = (FRAME_BYTES as i32).to_be_bytes().to_vec();
        begun.extend([0, ApiKey::Produce as u8, 0, 9, 0, 0, 0, 1, 0]);
        receive(&mut frames, &begun);
        assert!(matches!(frames.take().unwrap(), Taken::Incomplete));
        assert!(frames.room().capacity() <= 2 * READ_AHEAD_BYTES_MIN);
        // With what comes grows what is reserved, in few steps.
        let mut steps = 0;
        while frames.buffered() < FRAME_BYTES {
            let room = frames.room();
            let part = room.capacity() - room.len();
            room.resize(room.len() + part, 0);
            frames.on_read(part);
            assert!(frames.room().capacity() <= 4 * frames.buffered() + RESERVE_BYTES_MAX);
            steps += 1;
        }
        assert!(steps < 120, "{steps}");
    }

    #[test]
    fn a_connection_that_sends_large_frames_gets_their_room_at_once() {
        let mut frames = FrameReader::new(100 << 20, Purpose::CLIENTS);
        let length = 900_000;
        let mut frame = (length as i32).to_be_bytes().to_vec();
        frame.extend([0, ApiKey::Produce as u8, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0]);
        frame.resize(4 + length, 0);
        receive(&mut frames, &frame);
        assert!(matches!(frames.take().unwrap(), Taken::Request(_)));
        receive(&mut frames, &frame[..20]);
        assert!(matches!(frames.take().unwrap(), Taken::Incomplete));
        let room = frames.room();
        assert!(room.capacity() - room.len() >= length - 20);
    }
}
