//! Parts of blobs, kept for a while so that the next request for them resumes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sink::Tally;
use crate::blobs::{Blobs, Reservation};
use crate::oci::Digest;
use crate::store::Spool;

/// How many parts are kept; the oldest gives way.
pub(super) const PARTS: usize = 16;

/// The beginning of a blob, unverified, with what it amounts to so far.
pub(super) struct Part {
    pub(super) spool: Spool,
    pub(super) tally: Tally,
    pub(super) received: u64,
    /// The space that it takes.
    pub(super) reservation: Option<Reservation>,
}

/// The parts that are kept. They live as long as the process; the next one sweeps their files.
pub(super) struct Parts {
    kept: Mutex<VecDeque<Part>>,
    blobs: Blobs,
}

impl Parts {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self {
            kept: Mutex::default(),
            blobs,
        }
    }

    /// Takes the part of `digest`, if one is kept.
    pub(super) fn take(&self, digest: Digest) -> Option<Part> {
        let mut kept = self.kept();
        let place = kept.iter().position(|part| part.spool.digest == digest)?;
        kept.remove(place)
    }

    /// Keeps a part; returns the one that gives way to it, to be discarded.
    #[must_use]
    pub(super) fn keep(&self, part: Part) -> Option<Part> {
        let mut kept = self.kept();
        kept.push_back(part);
        if kept.len() > PARTS {
            kept.pop_front()
        } else {
            None
        }
    }

    /// Throws every part away.
    pub(super) async fn clear(&self) {
        let all = std::mem::take(&mut *self.kept());
        for part in all {
            self.blobs.discard(part.spool).await;
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Part>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
