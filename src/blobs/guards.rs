//! What holds space while it exists: a download its reservation, a reader the blob that he reads.

use std::fmt;
use std::sync::Arc;

use super::limits::ReserveError;
use super::space::{Space, blocks};
use crate::oci::Digest;
use crate::sys::tasks;

/// Space that is set aside for a download, until this goes.
pub struct Reservation {
    space: Arc<Space>,
    bytes: u64,
    written: u64,
}

impl Reservation {
    pub(super) const fn empty(space: Arc<Space>) -> Self {
        Self {
            space,
            bytes: 0,
            written: 0,
        }
    }

    /// How many bytes are set aside.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets `bytes` more aside, up to the end of a 4 KiB block, evicting if need be. Blocks.
    ///
    /// # Errors
    /// What was set aside before stays so.
    pub fn extend(&mut self, bytes: u64) -> Result<(), ReserveError> {
        // A file takes whole blocks.
        let more = blocks(self.bytes.saturating_add(bytes)) - self.bytes;
        self.space.reserve(more)?;
        self.bytes += more;
        Ok(())
    }

    /// Notes that the file has `written` bytes now: they are missing from the disk's free space already.
    pub fn written(&mut self, written: u64) {
        let written = written.min(self.bytes);
        self.space.written(self.written, written);
        self.written = written;
    }

    /// Gives back what is set aside beyond the bytes that are written.
    pub fn shrink(&mut self) {
        let rest = self.bytes.saturating_sub(blocks(self.written));
        self.space.release(rest, 0);
        self.bytes -= rest;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.release(self.bytes, self.written);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A reader of a blob: while it exists the blob's bytes are on disk and are counted, evicted or not.
pub struct Reading {
    space: Arc<Space>,
    digest: Digest,
}

impl Reading {
    pub(super) const fn new(space: Arc<Space>, digest: Digest) -> Self {
        Self { space, digest }
    }

    /// Says that the blob is damaged: from here on it is as if it were not held.
    pub async fn condemn(&self, reason: &str) {
        let (space, digest) = (Arc::clone(&self.space), self.digest);
        tracing::warn!(%digest, reason, "a cached blob is damaged; it is kept aside and will be fetched again");
        if let Err(error) = tasks::blocking(move || space.quarantine(digest)).await {
            tracing::warn!(%digest, %error, "a damaged blob cannot be kept aside");
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.space.left(self.digest);
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
