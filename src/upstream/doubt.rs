//! Blobs that a mirror did not deliver: it is not asked for them again for a while.
//!
//! Whether a body was right shows where its bytes are counted and hashed, which is not here. So a body of a mirror
//! comes with a [`Doubt`], which its reader raises when the body turns out to be broken, of the wrong length or of
//! another digest. The next source is then asked in place of the mirror, instead of the mirror for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::oci::digest::Digest;
use crate::sys::clock::Clock;

/// How long a mirror is not asked again for a blob.
const MEMORY: Duration = Duration::from_mins(10);
/// The most blobs that are remembered of one mirror.
const LIMIT: usize = 1024;

/// Says of a body that it was not the blob. Does nothing unless raised.
pub struct Doubt {
    doubts: Arc<Doubts>,
    digest: Digest,
}

impl Doubt {
    /// The body was not the blob, or not all of it.
    pub fn raise(self) {
        self.doubts.raise(self.digest);
    }
}

impl std::fmt::Debug for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Doubt").field(&self.digest).finish()
    }
}

/// The blobs that one mirror did not deliver, and since when that is known.
pub(super) struct Doubts {
    clock: Arc<dyn Clock>,
    raised: Mutex<HashMap<Digest, Duration>>,
}

impl Doubts {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            raised: Mutex::default(),
        })
    }

    /// A doubt about the body of `digest` that is about to come.
    pub(super) fn about(self: &Arc<Self>, digest: Digest) -> Doubt {
        Doubt {
            doubts: Arc::clone(self),
            digest,
        }
    }

    /// Whether `digest` was not delivered lately.
    pub(super) fn holds(&self, digest: Digest) -> bool {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        raised.get(&digest).is_some_and(|at| self.is_recent(*at))
    }

    fn raise(&self, digest: Digest) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        raised.retain(|_, at| self.is_recent(*at));
        if raised.len() >= LIMIT
            && let Some(oldest) = raised.iter().min_by_key(|(_, at)| **at)
        {
            let oldest = *oldest.0;
            raised.remove(&oldest);
        }
        raised.insert(digest, self.clock.monotonic());
    }

    fn is_recent(&self, at: Duration) -> bool {
        self.clock.monotonic().saturating_sub(at) < MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Algorithm;
    use crate::sys::clock::{ManualClock, Timestamp};

    fn digest(number: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_be_bytes())
    }

    #[test]
    fn a_doubt_fades_and_the_oldest_gives_way() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(0));
        let doubts = Doubts::new(Arc::<ManualClock>::clone(&clock));
        drop(doubts.about(digest(0)));
        assert!(!doubts.holds(digest(0)), "nobody raised it");
        for number in 0..=LIMIT {
            doubts.about(digest(number)).raise();
            clock.advance(Duration::from_millis(1));
        }
        assert!(!doubts.holds(digest(0)), "more than are remembered");
        assert!(doubts.holds(digest(1)) && doubts.holds(digest(LIMIT)));
        clock.advance(MEMORY);
        assert!(!doubts.holds(digest(LIMIT)));
    }
}
