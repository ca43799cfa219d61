//! A blob of one repository at the upstream, as the download sees it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Inner;
use super::failure::Failure;
use super::negative::Subject;
use crate::fetch::Source;
use crate::oci::{Digest, RepositoryName};
use crate::upstream::{BlobBody, UpstreamError};

/// Opens a blob with the rights of one repository, and notes the membership that an answer proves.
pub(super) struct RepositorySource {
    pub(super) inner: Arc<Inner>,
    pub(super) name: RepositoryName,
    pub(super) digest: Digest,
}

impl Source for RepositorySource {
    fn open(&self, offset: u64) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
        Box::pin(async move {
            let Self {
                inner,
                name,
                digest,
            } = self;
            let subject = Subject::Blob(*digest);
            let opened = inner.parts.upstream.open_blob(name, *digest, offset).await;
            let body = match opened {
                Ok(body) => body,
                Err(error) => {
                    let failure = Failure::from(error.clone());
                    inner.note_absence(name, subject, &failure).await;
                    return Err(error);
                }
            };
            inner.end_absences(name, [subject]).await;
            if inner.memory.member(name, *digest).is_none() {
                // An upstream that answers has proved that the blob belongs to this repository. Its length is not
                // proved by that, and is not noted.
                inner.admit(name, *digest, None).await;
            }
            Ok(body)
        })
    }

    fn name(&self) -> String {
        format!("{}/{}", self.inner.upstream_name(), self.name)
    }

    fn stall(&self) -> Duration {
        self.inner.settings.stall
    }

    fn retries(&self) -> u32 {
        self.inner.settings.retries
    }
}
