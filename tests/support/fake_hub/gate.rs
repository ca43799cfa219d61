//! Gates: answers that wait at a chosen byte until the test lets them go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How long a test waits for something that must happen before it fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Holds every matching answer until [`Self::release`] or drop. Once released it stays open.
#[derive(Debug)]
#[must_use = "a gate opens when it is dropped"]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

/// The hub's side of a [`Gate`].
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    shared: Arc<Shared>,
}

impl Gate {
    pub(super) fn new() -> (Self, Barrier) {
        let shared = Arc::new(Shared {
            open: watch::Sender::new(false),
            arrived: watch::Sender::new(0),
        });
        let barrier = Barrier {
            shared: Arc::clone(&shared),
        };
        (Self { shared }, barrier)
    }

    /// Lets all answers go, those that wait and those to come.
    pub fn release(&self) {
        self.shared.open.send_replace(true);
    }

    /// How many answers have come to the gate so far.
    pub fn arrived(&self) -> usize {
        *self.shared.arrived.borrow()
    }

    /// Waits until `count` answers have come to the gate; fails the test after 30 s.
    pub async fn wait_for(&self, count: usize) {
        let mut arrived = self.shared.arrived.subscribe();
        let reached = timeout(DEADLINE, arrived.wait_for(|now| *now >= count)).await;
        let now = self.arrived();
        assert!(reached.is_ok(), "{now} of {count} answers came to the gate");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.release();
    }
}

impl Barrier {
    /// Counts an arrival and waits until the gate is open.
    pub(super) async fn pass(&self) {
        self.shared.arrived.send_modify(|count| *count += 1);
        let mut open = self.shared.open.subscribe();
        // The sender lives in `self`, so the wait ends by opening alone.
        drop(open.wait_for(|open| *open).await);
    }
}
