//! A bucket as an object store.
//!
//! Each call makes one request, a large put several, and tries again while it may help. Of a put with [`Condition::Absent`] whose answer
//! was lost a second try cannot know by the answer alone who put what is there: so every put writes a number of its own into the
//! object's metadata, by which it knows its object again.

mod payload;
mod progress;
mod upload;

use std::future::Future;
use std::sync::Arc;

use aws_config::Region;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, ObjectIdentifier, ServerSideEncryption};
use bytes::{Bytes, BytesMut};
use ottla_batch::TimestampMs;
use ottla_storage::tiering::directory::Beside;
use ottla_storage::tiering::store::{
    Answer, ByteRange, Condition, Content, Listed, ObjectStore, PAGE_KEYS_MAX, Page, Piece, RequestCounters,
    RequestCounts, RequestKind, StoreError, check_key,
};
use uuid::Uuid;

use self::payload::Payload;
use self::progress::Progress;
use crate::access::{Access, is_amazon};
use crate::failure::{self, Failure, Said};

pub use self::payload::Integrity;

/// In an object's metadata: which put made it.
const PUT_ID: &str = "ottla-put";
const NOTHING_THERE: &str = "*";
/// What a failed request sends again, and a slow connection in one. Large, as requests cost money and parts no memory.
pub const PART_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub struct S3Config {
    pub bucket: String,
    /// URL of a service other than Amazon's.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// None: as the bucket says.
    pub sse_kms_key_id: Option<String>,
    pub integrity: Integrity,
    /// Up to here an object goes in one request, else in parts of this size. S3 takes 5 MiB to 5 GiB; see [`PART_BYTES`].
    pub part_bytes: u64,
    pub access: Access,
}

#[derive(Clone)]
pub struct S3Store {
    shared: Arc<Shared>,
    beside: Beside,
}

struct Shared {
    client: Client,
    bucket: String,
    sse_kms_key_id: Option<String>,
    integrity: Integrity,
    part_bytes: u64,
    access: Access,
    counters: Arc<RequestCounters>,
}

/// One try of a request.
struct Try {
    /// An earlier one may have been carried out.
    may_be_done: bool,
    progress: Progress,
}

/// A try failed: with an answer for the caller, or in a way that decides about the next try.
enum Failed {
    With(StoreError),
    By(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed::By(failure)
    }
}

impl Integrity {
    /// Amazon's services know CRC-32C, others may not.
    pub fn at(endpoint: Option<&str>) -> Integrity {
        let has_tls = endpoint.is_none_or(|endpoint| !endpoint.starts_with("http://"));
        if has_tls && is_amazon(endpoint) { Integrity::Crc32c } else { Integrity::Signature }
    }
}

impl S3Store {
    /// Does not ask the bucket: that it is there and may be used shows at the first call.
    pub async fn open(mut config: S3Config, beside: Beside) -> S3Store {
        config.access.assume_region(config.endpoint.as_deref());
        let loaded = config.access.load().await;
        let mut builder = aws_sdk_s3::config::Builder::from(&loaded).force_path_style(config.path_style);
        if let Some(endpoint) = &config.endpoint {
            // Of S3 alone: a role is assumed at the Security Token Service, which is elsewhere.
            builder = builder.endpoint_url(endpoint);
        }
        // A try that stands still is given up here, by `request_timeout`: the SDK's own 20 s would be the limit wherever that is longer.
        builder = builder.stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if config.integrity == Integrity::Signature {
            builder = builder
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        }
        let shared = Shared {
            client: Client::from_conf(builder.build()),
            bucket: config.bucket,
            sse_kms_key_id: config.sse_kms_key_id,
            integrity: config.integrity,
            part_bytes: config.part_bytes,
            access: config.access,
            counters: Arc::default(),
        };
        S3Store { shared: Arc::new(shared), beside }
    }

    /// Whether the bucket is there and can be read.
    pub async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        self.shared.list_page(prefix, None, 1).await.map(|_| ())
    }

    /// Gives up uploads of large objects below `prefix` that were begun before `before`: their writers have died. Returns how many.
    pub async fn abort_stale_uploads(&self, prefix: &str, before: TimestampMs) -> Result<usize, StoreError> {
        self.shared.abort_stale_uploads(prefix, before).await
    }

    async fn payload(
        &self,
        key: &str,
        content: &Arc<Content>,
        position: u64,
        len: u64,
    ) -> Result<Payload, StoreError> {
        Payload::read(key, content, position, len, self.shared.integrity, &self.beside).await
    }

    async fn put_content(&self, key: &str, content: Content, condition: Condition) -> Result<(), StoreError> {
        check_key(key)?;
        let content = Arc::new(content);
        if content.len() > self.shared.part_bytes {
            return self.upload(key, &content, condition).await;
        }
        let payload = self.payload(key, &content, 0, content.len()).await?;
        self.shared.put_whole(key, &payload, condition).await
    }
}

impl ObjectStore for S3Store {
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()> {
        Box::pin(self.put_content(key, content, condition))
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        Box::pin(self.shared.get(key, range))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        Box::pin(self.shared.list(prefix, after))
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        Box::pin(self.shared.delete(keys))
    }

    fn counts(&self) -> RequestCounts {
        self.shared.counters.counts()
    }
}

impl Shared {
    fn target(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    fn region(&self) -> Option<&str> {
        self.client.config().region().map(Region::as_ref)
    }

    /// Tries until it is answered or trying again does not help.
    async fn retried<T, F>(
        &self,
        kind: RequestKind,
        target: &str,
        mut attempt: impl FnMut(Try) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut may_be_done = false;
        let mut retry = 0;
        loop {
            self.counters.asked(kind);
            let limit = self.access.request_timeout;
            let progress = Progress::new(&self.counters);
            let attempted = attempt(Try { may_be_done, progress: progress.clone() });
            let failure = match progress.watch(limit, attempted).await {
                Some(Ok(answered)) => return Ok(answered),
                Some(Err(Failed::With(error))) => return Err(error),
                Some(Err(Failed::By(failure))) => failure,
                None => failure::too_late(target, limit),
            };
            self.counters.failed();
            let told = match failure {
                Failure::Refused(told) => return Err(StoreError::Refused(told)),
                Failure::NotDone(told) => told,
                Failure::Unknown(told) => {
                    may_be_done = true;
                    told
                }
            };
            if retry == self.access.retries {
                return Err(StoreError::Unavailable(told));
            }
            retry += 1;
            tokio::time::sleep(Access::pause(retry)).await;
        }
    }

    async fn put_whole(&self, key: &str, payload: &Payload, condition: Condition) -> Result<(), StoreError> {
        let target = self.target(key);
        let put_id = Uuid::new_v4().to_string();
        let attempt = async |attempted: Try| {
            let (body, trouble) = payload.body(&attempted.progress);
            let mut put = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key)
                .metadata(PUT_ID, &put_id)
                .body(body)
                .set_checksum_algorithm(self.checksum_algorithm())
                .set_checksum_crc32_c(payload.crc32c());
            if condition == Condition::Absent {
                put = put.if_none_match(NOTHING_THERE);
            }
            if let Some(id) = &self.sse_kms_key_id {
                put = put
                    .server_side_encryption(ServerSideEncryption::AwsKms)
                    .ssekms_key_id(id)
                    .bucket_key_enabled(true);
            }
            let sent = put.customize().interceptor(payload.signing()).send().await;
            if let Some(error) = trouble.take() {
                return Err(Failed::With(error));
            }
            match sent {
                Ok(_) => Ok(()),
                Err(error) if condition == Condition::Absent && Said::by(&error).status == 412 => {
                    self.judge_existing(key, attempted.may_be_done, &put_id).await
                }
                Err(error) => Err(failure::judge(&error, &target, self.region()).into()),
            }
        };
        self.retried(RequestKind::Put, &target, attempt).await
    }

    fn checksum_algorithm(&self) -> Option<ChecksumAlgorithm> {
        (self.integrity == Integrity::Crc32c).then_some(ChecksumAlgorithm::Crc32C)
    }

    /// Something is there. If an earlier try may have been carried out it may be what was to be put.
    async fn judge_existing(&self, key: &str, may_be_done: bool, put_id: &str) -> Result<(), Failed> {
        if may_be_done && self.is_of_put(key, put_id).await? {
            return Ok(());
        }
        Err(Failed::With(StoreError::Exists(key.to_owned())))
    }

    /// Whether the object is there and of that put.
    async fn is_of_put(&self, key: &str, put_id: &str) -> Result<bool, Failed> {
        self.counters.asked(RequestKind::Get);
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(head) => {
                let found = head.metadata().and_then(|metadata| metadata.get(PUT_ID));
                Ok(found.is_some_and(|found| found == put_id))
            }
            Err(error) if Said::by(&error).status == 404 => Ok(false),
            Err(error) => match failure::judge(&error, &self.target(key), self.region()) {
                // The put stays as unknown as it was, whatever forbids to look.
                Failure::Refused(told) | Failure::NotDone(told) | Failure::Unknown(told) => {
                    Err(Failure::Unknown(told).into())
                }
            },
        }
    }

    async fn get(&self, key: &str, range: ByteRange) -> Result<Piece, StoreError> {
        check_key(key)?;
        let target = self.target(key);
        // No range has no bytes: one is asked for, and left out.
        let wanted = match range {
            ByteRange::Whole { .. } => None,
            ByteRange::From { position, len } => match position.checked_add(len.max(1) as u64 - 1) {
                Some(last) => Some(format!("bytes={position}-{last}")),
                None => Some(format!("bytes={position}-")),
            },
            ByteRange::Suffix { len } => Some(format!("bytes=-{}", len.max(1))),
        };
        let attempt = async |attempted: Try| {
            let get = self.client.get_object().bucket(&self.bucket).key(key).set_range(wanted.clone());
            match get.send().await {
                Ok(got) => self.piece(key, range, got, &attempted.progress).await,
                Err(error) => {
                    let said = Said::by(&error);
                    match (said.status, said.code.as_str()) {
                        (404, "NoSuchKey" | "NotFound" | "") => {
                            Err(Failed::With(StoreError::NotFound(key.to_owned())))
                        }
                        (416, _) => self.out_of_range(key, range).await,
                        _ => Err(failure::judge(&error, &target, self.region()).into()),
                    }
                }
            }
        };
        self.retried(RequestKind::Get, &target, attempt).await
    }

    /// What the service answered, if it is what was asked for.
    async fn piece(
        &self,
        key: &str,
        range: ByteRange,
        got: GetObjectOutput,
        progress: &Progress,
    ) -> Result<Piece, Failed> {
        let other = |what: &str| {
            Failed::By(Failure::Unknown(format!("{}: the service answered {what}", self.target(key))))
        };
        let content_len =
            u64::try_from(got.content_length().unwrap_or(-1)).map_err(|_| other("no length"))?;
        let (position, object_bytes) = match got.content_range() {
            Some(range) => parse_content_range(range).ok_or_else(|| other("a range that is none"))?,
            None => (0, content_len),
        };
        let out_of_range = || Failed::With(StoreError::Range { key: key.to_owned(), range, object_bytes });
        let (from, asked) = match range {
            ByteRange::Whole { bytes_max } if object_bytes > bytes_max as u64 => return Err(out_of_range()),
            ByteRange::Whole { .. } => (0, object_bytes),
            ByteRange::From { position, .. } if position >= object_bytes => return Err(out_of_range()),
            ByteRange::From { position, len } => (position, (object_bytes - position).min(len.max(1) as u64)),
            ByteRange::Suffix { len } => {
                let len = object_bytes.min(len.max(1) as u64);
                (object_bytes - len, len)
            }
        };
        if (position, content_len) != (from, asked) {
            return Err(other("other bytes than those asked for"));
        }
        let mut body = got.body;
        let mut bytes = BytesMut::with_capacity(asked as usize);
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| {
                Failure::Unknown(format!("{}: {}", self.target(key), failure::chain(&error)))
            })?;
            progress.got(part.len());
            if (bytes.len() + part.len()) as u64 > asked {
                return Err(other("more bytes than it said"));
            }
            bytes.extend_from_slice(&part);
        }
        if bytes.len() as u64 != asked {
            return Err(other("fewer bytes than it said"));
        }
        match range {
            ByteRange::From { len: 0, .. } => bytes.clear(),
            ByteRange::Suffix { len: 0 } => {
                return Ok(Piece { bytes: Bytes::new(), position: object_bytes, object_bytes });
            }
            _ => {}
        }
        Ok(Piece { bytes: bytes.freeze(), position, object_bytes })
    }

    /// The range has no byte of the object: its size is not in the answer everywhere.
    async fn out_of_range(&self, key: &str, range: ByteRange) -> Result<Piece, Failed> {
        self.counters.asked(RequestKind::Get);
        let head = self.client.head_object().bucket(&self.bucket).key(key).send().await;
        let head = head.map_err(|error| match Said::by(&error).status {
            404 => Failed::With(StoreError::NotFound(key.to_owned())),
            _ => failure::judge(&error, &self.target(key), self.region()).into(),
        })?;
        let object_bytes = u64::try_from(head.content_length().unwrap_or(0)).unwrap_or(0);
        match range {
            // Of an empty object any suffix is empty.
            ByteRange::Suffix { .. } if object_bytes == 0 => {
                Ok(Piece { bytes: Bytes::new(), position: 0, object_bytes })
            }
            _ => Err(Failed::With(StoreError::Range { key: key.to_owned(), range, object_bytes })),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let mut after = after.map(str::to_owned);
        loop {
            let (listed, last) = self.list_page(prefix, after.as_deref(), PAGE_KEYS_MAX).await?;
            // A page of nothing but foreign keys would not say where to go on.
            if !listed.objects.is_empty() || !listed.is_cut || last.is_none() {
                return Ok(listed);
            }
            after = last;
        }
    }

    /// With the last key, ours or not.
    async fn list_page(
        &self,
        prefix: &str,
        after: Option<&str>,
        keys_max: usize,
    ) -> Result<(Page, Option<String>), StoreError> {
        let target = self.target(prefix);
        let attempt = async |_| {
            let list = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()))
                .set_start_after(after.map(str::to_owned))
                .max_keys(keys_max as i32);
            list.send().await.map_err(|error| failure::judge(&error, &target, self.region()).into())
        };
        let listed = self.retried(RequestKind::List, &target, attempt).await?;
        let is_cut = listed.is_truncated().unwrap_or(false);
        let mut last = None;
        let (mut objects, mut foreign) = (Vec::new(), 0);
        for object in listed.contents.unwrap_or_default() {
            let Some(key) = object.key else { continue };
            last = Some(key.clone());
            if check_key(&key).is_ok() {
                objects.push(Listed {
                    key,
                    bytes: object.size.and_then(|size| size.try_into().ok()).unwrap_or(0),
                });
            } else {
                foreign += 1;
            }
        }
        Ok((Page { objects, foreign, is_cut }, last))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        for keys in keys.chunks(PAGE_KEYS_MAX) {
            self.delete_page(keys).await?;
        }
        Ok(())
    }

    async fn delete_page(&self, keys: &[String]) -> Result<(), StoreError> {
        let target = match keys {
            [key] => self.target(key),
            keys => format!("{} and {} others", self.target(&keys[0]), keys.len() - 1),
        };
        let identifiers = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let delete = identifiers
            .collect::<Result<Vec<_>, _>>()
            .and_then(|keys| Delete::builder().set_objects(Some(keys)).quiet(true).build())
            .map_err(|error| StoreError::Refused(format!("{target}: {error}")))?;
        let attempt = async |_| {
            let request = self.client.delete_objects().bucket(&self.bucket).delete(delete.clone());
            let deleted = request.send().await;
            let deleted = deleted.map_err(|error| failure::judge(&error, &target, self.region()))?;
            let of = |said: &aws_sdk_s3::types::Error| {
                let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                let said_of =
                    Said { code: text(said.code()), message: text(said.message()), ..Said::default() };
                failure::judge_answer(&said_of, &self.target(said.key().unwrap_or_default()), self.region())
            };
            // One that can be tried again hides none that cannot.
            let mut failures =
                deleted.errors().iter().filter(|said| said.code() != Some("NoSuchKey")).map(of);
            let Some(first) = failures.next() else { return Ok(()) };
            let refused = failures.find(|failure| matches!(failure, Failure::Refused(_)));
            Err(match first {
                Failure::Refused(_) => first,
                _ => refused.unwrap_or(first),
            }
            .into())
        };
        self.retried(RequestKind::Delete, &target, attempt).await
    }
}

/// `bytes 3-6/10`: position and size of the whole. Where the bytes end, the length says too.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, object_bytes) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (position, _) = range.split_once('-')?;
    Some((position.parse().ok()?, object_bytes.parse().ok()?))
}
