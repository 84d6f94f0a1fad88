//! What a put sends: a range of a content, read piece by piece while it is sent, so that large requests take no memory.
//!
//! It is read twice, first for its checksum, which the head of the request says. While it is sent the checksum is made once more, and the
//! last piece is held back unless it is the same: what was changed in between is never sent in full, and what is not sent in full
//! no service stores.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_types::base64;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::channel::oneshot;
use http_body::{Frame, SizeHint};
use ottla_storage::tiering::directory::Beside;
use ottla_storage::tiering::store::{Content, StoreError};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::progress::Progress;

/// Of each upload under way two are in memory: one that is being sent, and the next.
const PIECE_BYTES: u64 = 512 << 10;
/// Stays in the processor's cache from one read to the next.
const BUFFER_BYTES: usize = 128 << 10;
const CRC: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// By what the service sees that it got what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// CRC-32C in the head of the request, which the service also keeps. The signature leaves the payload out, which TLS protects.
    Crc32c,
    /// SHA-256 in the signature, which every service knows, and which protects the payload where there is no TLS. Costs the processor
    /// several times as much.
    Signature,
}

/// A range of a content that has been read once.
pub(super) struct Payload {
    source: Source,
    crc: u64,
    /// With [`Integrity::Signature`].
    sha256: Option<String>,
}

#[derive(Clone)]
struct Source {
    key: Arc<str>,
    content: Arc<Content>,
    position: u64,
    len: u64,
    beside: Beside,
}

impl Payload {
    pub async fn read(
        key: &str,
        content: &Arc<Content>,
        position: u64,
        len: u64,
        integrity: Integrity,
        beside: &Beside,
    ) -> Result<Payload, StoreError> {
        let source =
            Source { key: key.into(), content: content.clone(), position, len, beside: beside.clone() };
        let checksums = source.run(move |source| {
            let mut crc = Digest::new(CRC);
            let mut sha256 = (integrity == Integrity::Signature).then(Sha256::new);
            let mut buffer = vec![0; BUFFER_BYTES];
            source.content.visit(source.position, source.len, &mut buffer, |piece| {
                crc.update(piece);
                if let Some(sha256) = &mut sha256 {
                    sha256.update(piece);
                }
            })?;
            Ok((crc.finalize(), sha256.map(|sha256| hex(&sha256.finalize()))))
        });
        let (crc, sha256) = source.answered(checksums.await)?;
        Ok(Payload { source, crc, sha256 })
    }

    /// As S3 wants to hear it. None where the signature has a checksum.
    pub fn crc32c(&self) -> Option<String> {
        self.sha256.is_none().then(|| base64::encode((self.crc as u32).to_be_bytes()))
    }

    pub fn signing(&self) -> Signing {
        Signing(match &self.sha256 {
            Some(sha256) => PayloadSigningOverride::Precomputed(sha256.clone()),
            None => PayloadSigningOverride::UnsignedPayload,
        })
    }

    /// For one try.
    pub fn body(&self, progress: &Progress) -> (ByteStream, Trouble) {
        let trouble = Trouble::default();
        let mut body = Body {
            source: self.source.clone(),
            at: 0,
            reading: None,
            crc: Digest::new(CRC),
            expected_crc: self.crc,
            progress: progress.clone(),
            trouble: trouble.clone(),
        };
        body.read_on();
        (ByteStream::new(SdkBody::from_body_1_x(body)), trouble)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Reading<T> = oneshot::Receiver<io::Result<T>>;
type Read<T> = Result<io::Result<T>, oneshot::Canceled>;

impl Source {
    /// Where waiting for a disk holds up nobody.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Source) -> io::Result<T> + Send + 'static,
    ) -> Reading<T> {
        let (answer, answered) = oneshot::channel();
        let source = self.clone();
        (self.beside)(Box::new(move || {
            // Whoever asked may have gone away.
            let _ = answer.send(work(&source));
        }));
        answered
    }

    fn answered<T>(&self, read: Read<T>) -> Result<T, StoreError> {
        match read {
            Ok(read) => read.map_err(|source| self.unreadable(source)),
            Err(_) => Err(StoreError::Unavailable("the store is stopping".to_owned())),
        }
    }

    fn unreadable(&self, source: io::Error) -> StoreError {
        StoreError::Content { key: self.key.to_string(), source }
    }

    fn piece(&self, at: u64) -> io::Result<Bytes> {
        self.content.read(self.position + at, (self.len - at).min(PIECE_BYTES) as usize)
    }
}

/// What kept a body from being sent in full, for whoever hears only that the request failed.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<StoreError>>>);

impl Trouble {
    pub fn take(&self) -> Option<StoreError> {
        self.0.lock().take()
    }
}

struct Body {
    source: Source,
    /// How much of it has gone.
    at: u64,
    /// The next piece. None: all has gone, or it came to an end before.
    reading: Option<Reading<Bytes>>,
    crc: Digest,
    expected_crc: u64,
    progress: Progress,
    trouble: Trouble,
}

impl Body {
    fn read_on(&mut self) {
        let at = self.at;
        self.reading = (at < self.source.len).then(|| self.source.run(move |source| source.piece(at)));
    }

    fn next(&mut self, read: Read<Bytes>) -> Result<Bytes, StoreError> {
        self.reading = None;
        let piece = self.source.answered(read)?;
        self.crc.update(&piece);
        self.at += piece.len() as u64;
        if self.at == self.source.len && self.crc.finalize() != self.expected_crc {
            let changed = "it was changed while it was sent, and is not stored";
            return Err(self.source.unreadable(io::Error::new(io::ErrorKind::InvalidData, changed)));
        }
        self.read_on();
        self.progress.sent(piece.len());
        Ok(piece)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("what was to be sent could not be read")]
struct Unreadable;

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Unreadable;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unreadable>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(context));
        Poll::Ready(Some(match self.next(read) {
            Ok(piece) => Ok(Frame::data(piece)),
            Err(error) => {
                *self.trouble.0.lock() = Some(error);
                Err(Unreadable)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.source.len
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.source.len - self.at)
    }
}

/// Tells the SDK what to sign, which otherwise depends on whether a body is in memory.
#[derive(Debug)]
pub(super) struct Signing(PayloadSigningOverride);

impl Intercept for Signing {
    fn name(&self) -> &'static str {
        "Signing"
    }

    fn modify_before_signing(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(self.0.clone());
        Ok(())
    }
}
