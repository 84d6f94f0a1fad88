//! Large objects, put in parts. The object is there when the last request of its upload is carried out, and not before; what is left of
//! an upload that came to no end costs money without being seen, so it is given up at once, or when the next store is opened.

use std::sync::Arc;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use futures::{StreamExt, TryStreamExt, stream};
use ottla_batch::TimestampMs;
use ottla_storage::tiering::store::{Condition, Content, RequestKind, StoreError};
use uuid::Uuid;

use super::{Failed, NOTHING_THERE, PUT_ID, S3Store, Shared, Try};
use crate::failure::{self, Failure, Said};

/// Parts of one upload that are sent at the same time.
const PARTS_IN_FLIGHT: usize = 2;
/// S3's bound.
const PARTS_MAX: u64 = 10_000;

/// An upload that was begun. Given up when dropped, unless it came to its end.
struct Upload {
    shared: Arc<Shared>,
    key: String,
    id: String,
    is_completed: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime the process ends; the next one finds it.
        if let (false, Ok(runtime)) = (self.is_completed, tokio::runtime::Handle::try_current()) {
            let (shared, key, id) = (self.shared.clone(), self.key.clone(), self.id.clone());
            runtime.spawn(async move {
                if let Err(error) = shared.abort(&key, &id).await {
                    tracing::debug!(%error, "an upload could not be given up");
                }
            });
        }
    }
}

impl S3Store {
    pub(super) async fn upload(
        &self,
        key: &str,
        content: &Arc<Content>,
        condition: Condition,
    ) -> Result<(), StoreError> {
        let parts_count = content.len().div_ceil(self.shared.part_bytes);
        if parts_count > PARTS_MAX {
            let told =
                format!("{}: {} bytes are too many for one object", self.shared.target(key), content.len());
            return Err(StoreError::Refused(told));
        }
        let put_id = Uuid::new_v4().to_string();
        let id = self.shared.begin(key, &put_id).await?;
        let mut upload = Upload { shared: self.shared.clone(), key: key.to_owned(), id, is_completed: false };
        let parts = stream::iter(0..parts_count)
            .map(|index| self.upload_part(&upload, content, index))
            .buffered(PARTS_IN_FLIGHT)
            .try_collect::<Vec<_>>()
            .await?;
        self.shared.complete(&upload, parts, condition, &put_id).await?;
        upload.is_completed = true;
        Ok(())
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        content: &Arc<Content>,
        index: u64,
    ) -> Result<CompletedPart, StoreError> {
        let shared = &self.shared;
        let position = index * shared.part_bytes;
        let len = (content.len() - position).min(shared.part_bytes);
        let payload = self.payload(&upload.key, content, position, len).await?;
        let target = shared.target(&upload.key);
        let number = index as i32 + 1;
        let attempt = async |attempted: Try| {
            let (body, trouble) = payload.body(&attempted.progress);
            let part = shared
                .client
                .upload_part()
                .bucket(&shared.bucket)
                .key(&upload.key)
                .upload_id(&upload.id)
                .part_number(number)
                .body(body)
                .set_checksum_algorithm(shared.checksum_algorithm())
                .set_checksum_crc32_c(payload.crc32c());
            let sent = part.customize().interceptor(payload.signing()).send().await;
            match trouble.take() {
                Some(error) => Err(Failed::With(error)),
                None => sent.map_err(|error| failure::judge(&error, &target, shared.region()).into()),
            }
        };
        let sent = shared.retried(RequestKind::Put, &target, attempt).await?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32_c(payload.crc32c())
            .build())
    }
}

impl Shared {
    async fn begin(&self, key: &str, put_id: &str) -> Result<String, StoreError> {
        let target = self.target(key);
        let attempt = async |_| {
            let mut begin =
                self.client.create_multipart_upload().bucket(&self.bucket).key(key).metadata(PUT_ID, put_id);
            if let Some(id) = &self.sse_kms_key_id {
                begin = begin
                    .server_side_encryption(ServerSideEncryption::AwsKms)
                    .ssekms_key_id(id)
                    .bucket_key_enabled(true);
            }
            let begun = begin.set_checksum_algorithm(self.checksum_algorithm()).send().await;
            let begun = begun.map_err(|error| failure::judge(&error, &target, self.region()))?;
            let without_id =
                || Failure::Unknown(format!("{target}: the service began an upload without an id"));
            Ok(begun.upload_id.ok_or_else(without_id)?)
        };
        self.retried(RequestKind::Put, &target, attempt).await
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<CompletedPart>,
        condition: Condition,
        put_id: &str,
    ) -> Result<(), StoreError> {
        let key = &upload.key;
        let target = self.target(key);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let attempt = async |Try { may_be_done, .. }| {
            let mut complete = self
                .client
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(&upload.id)
                .multipart_upload(parts.clone());
            if condition == Condition::Absent {
                complete = complete.if_none_match(NOTHING_THERE);
            }
            let Err(error) = complete.send().await else { return Ok(()) };
            let said = Said::by(&error);
            match (said.status, said.code.as_str()) {
                (412, _) => self.judge_existing(key, may_be_done, put_id).await,
                // An upload that was completed is no longer there.
                (_, "NoSuchUpload") if may_be_done && self.is_of_put(key, put_id).await? => Ok(()),
                // S3 has given up the upload: all of it is to be sent again, which is the caller's to decide.
                (409, _) | (_, "NoSuchUpload") => {
                    Err(Failed::With(StoreError::Unavailable(format!("{target}: {}", said.text()))))
                }
                _ => Err(failure::judge(&error, &target, self.region()).into()),
            }
        };
        self.retried(RequestKind::Put, &target, attempt).await
    }

    async fn abort(&self, key: &str, upload_id: &str) -> Result<(), StoreError> {
        let target = self.target(key);
        let attempt = async |_| {
            let abort =
                self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload_id);
            match abort.send().await {
                Ok(_) => Ok(()),
                Err(error) if Said::by(&error).code == "NoSuchUpload" => Ok(()),
                Err(error) => Err(failure::judge(&error, &target, self.region()).into()),
            }
        };
        self.retried(RequestKind::Delete, &target, attempt).await
    }

    pub(super) async fn abort_stale_uploads(
        &self,
        prefix: &str,
        before: TimestampMs,
    ) -> Result<usize, StoreError> {
        let target = self.target(prefix);
        let mut aborted = 0;
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let attempt = async |_| {
                let list = self
                    .client
                    .list_multipart_uploads()
                    .bucket(&self.bucket)
                    .set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()))
                    .set_key_marker(key_marker.clone())
                    .set_upload_id_marker(id_marker.clone());
                list.send().await.map_err(|error| failure::judge(&error, &target, self.region()).into())
            };
            let page = self.retried(RequestKind::List, &target, attempt).await?;
            for upload in page.uploads() {
                let is_stale = upload
                    .initiated()
                    .and_then(|initiated| initiated.to_millis().ok())
                    .is_some_and(|initiated| initiated < before.0);
                if let (true, Some(key), Some(id)) = (is_stale, upload.key(), upload.upload_id()) {
                    self.abort(key, id).await?;
                    aborted += 1;
                }
            }
            let is_cut = page.is_truncated().unwrap_or(false);
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if !is_cut || key_marker.is_none() {
                return Ok(aborted);
            }
        }
    }
}
