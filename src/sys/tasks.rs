//! Tasks that have an owner: each is counted, told when the process closes, and drained within a limit.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures_util::future;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::clock;

/// The owner of a set of tasks. Clones share the set.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    closing: CancellationToken,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Tasks that are counted and drained with these, and can be told to end before them.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            closing: self.closing.child_token(),
        }
    }

    /// Starts `work` as a task of this set. Dropping the handle does not end it.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, name: &'static str, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(
            self.tracker
                .track_future(work.instrument(tracing::debug_span!("task", name))),
        )
    }

    /// Resolves once [`close`](Self::close) was called.
    pub fn closing(&self) -> WaitForCancellationFutureOwned {
        self.closing.clone().cancelled_owned()
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Tells every task, those of branches too, that it is to end.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until every task has ended, at most `limit`; returns how many are left.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.close();
        self.tracker.close();
        match clock::timeout(limit, self.tracker.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tracker.len(),
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.running())
            .field("closing", &self.is_closing())
            .finish()
    }
}

/// Runs `work` on the blocking pool: disk access, hashing, SQL. A panic in `work` continues in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    begin_blocking(work).await
}

/// Does `work` until `closing`; what is left of it then is dropped.
pub async fn until(closing: impl Future<Output = ()>, work: impl Future) {
    let (closing, work) = (pin!(closing), pin!(work));
    future::select(work, closing).await;
}

/// Begins `work` on the blocking pool now, before anybody waits for it. A panic in `work` continues in whoever waits.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn begin_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send {
    let begun = tokio::task::spawn_blocking(work);
    async move {
        match begun.await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is gone, and with it whoever waits here.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_tasks_that_end_when_told_to() {
        let tasks = Tasks::new();
        let closing = tasks.closing();
        tasks.spawn("patient", closing);
        assert_eq!(tasks.running(), 1);
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, 0);
    }

    #[tokio::test]
    async fn a_branch_ends_before_its_tree_and_with_it() {
        let tasks = Tasks::new();
        let (first, second) = (tasks.branch(), tasks.branch());
        let ended = first.spawn("first", first.closing());
        second.spawn("second", second.closing());
        first.close();
        ended.await.unwrap();
        assert!(!tasks.is_closing() && !second.is_closing());
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_gives_up_at_its_limit_and_counts_what_is_left() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending::<()>());
        assert_eq!(tasks.drain(Duration::from_secs(1)).await, 1);
    }
}
