//! Blobs of an earlier epoch: verified by their first read, and trusted from then on.

use std::sync::Arc;

use tracing::info;

use super::{Blobs, BlobsError, HeldBlob, Lookup, read};
use crate::index::{BlobRecord, IndexError};
use crate::oci::{Digest, Hasher};
use crate::sys::tasks;

/// Whether a blob's bytes are known to be what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Verified,
    /// The machine was started anew since, and may have lost power.
    Unverified,
}

impl Blobs {
    pub(super) fn trust(&self, record: &BlobRecord) -> Trust {
        if record.epoch < self.current().epoch {
            Trust::Unverified
        } else {
            Trust::Verified
        }
    }

    /// Reads all of a blob of an earlier epoch, and notes that it is right. Once begun it goes on to its end, also
    /// when nobody waits for it any more: the next client has the use of it.
    pub(super) async fn verify(
        &self,
        digest: Digest,
        held: HeldBlob,
    ) -> Result<Lookup, BlobsError> {
        // Nobody ever closes it.
        let Ok(permit) = Arc::clone(&self.verifications).acquire_owned().await else {
            return Ok(Lookup::Lost);
        };
        let (this, reading) = (self.clone(), Arc::clone(&held.reading));
        let verified = tasks::blocking(move || {
            let _permit = permit;
            this.verify_now(digest, &held)
                .map(|right| right.then_some(held))
        });
        if let Some(held) = verified.await? {
            return Ok(Lookup::Held(held));
        }
        reading.condemn("it does not have its digest").await;
        Ok(Lookup::Lost)
    }

    /// Whether the file has its bytes. One that cannot be read has not.
    fn verify_now(&self, digest: Digest, held: &HeldBlob) -> Result<bool, IndexError> {
        // Another client's question may have been answered while this one waited.
        let record = self.index.blob(digest)?;
        if record.is_some_and(|record| self.trust(&record) == Trust::Verified) {
            return Ok(true);
        }
        let mut hasher = Hasher::new(digest.algorithm());
        let read = read::hash(&*held.file, &mut hasher, 0, held.size);
        let right = read.is_ok() && hasher.finish() == digest;
        if right {
            info!(%digest, size = held.size, "a blob of before the machine was started was verified");
            self.confirm(digest)?;
        }
        Ok(right)
    }

    /// Notes that a blob was found right. Blocks.
    pub(super) fn confirm(&self, digest: Digest) -> Result<(), IndexError> {
        self.index.confirm_blob(digest, self.noted_epoch()?)
    }
}
