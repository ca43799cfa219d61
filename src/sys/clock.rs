//! Time: what the clocks say, and waiting.
//!
//! Clocks for different questions. The wall clock may jump, survives a restart and dates what is stored. The
//! monotonic clock never goes back and measures how long something takes. A [`Timeline`] joins the two for ages that
//! outlive a process. Timers follow tokio's clock, which a test may pause.

mod timeline;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
pub use timeline::{Anchor, InvalidAnchor, Jump, Timeline};
pub use tokio::time::error::Elapsed;

/// A point in wall-clock time, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The timestamp `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The timestamp `duration` later.
    #[must_use]
    pub fn later(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long ago `earlier` was, or `None` when `earlier` lies in the future (the clock was set back).
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

/// Tells the time. Cheap to share behind an [`Arc`].
pub trait Clock: Debug + Send + Sync {
    /// The wall clock. It may jump in either direction between two calls.
    fn wall(&self) -> Timestamp;

    /// Time since the clock was made; never goes back.
    fn monotonic(&self) -> Duration;

    /// Time since the machine was started, its sleep included; never goes back while it runs.
    fn uptime(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    fn wall(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn uptime(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Duration::new(seconds, nanos)
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `wall`.
    pub fn starting_at(wall: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            wall: AtomicU64::new(wall.0),
            monotonic: AtomicU64::new(0),
        })
    }

    /// Lets `duration` pass on both clocks.
    pub fn advance(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.wall.fetch_add(millis, Ordering::SeqCst);
        self.monotonic.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as an administrator or NTP may.
    pub fn set_wall(&self, wall: Timestamp) {
        self.wall.store(wall.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic.load(Ordering::SeqCst))
    }

    /// As if the machine had been started with the clock.
    fn uptime(&self) -> Duration {
        self.monotonic()
    }
}

/// Waits for `duration`.
#[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Runs `work` for at most `limit`.
///
/// # Errors
/// [`Elapsed`] when the limit passes first; `work` is dropped then.
#[expect(clippy::disallowed_methods, reason = "the one place that sets timers")]
pub async fn timeout<F: Future>(limit: Duration, work: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(limit, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_yields_no_age() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(5_000));
        let before = clock.wall();
        clock.set_wall(Timestamp::from_millis(1_000));
        assert_eq!(clock.wall().since(before), None);
        clock.advance(Duration::from_secs(6));
        assert_eq!(clock.wall().since(before), Some(Duration::from_secs(2)));
        assert_eq!(clock.monotonic(), Duration::from_secs(6));
    }

    #[test]
    fn the_machine_has_been_running() {
        let clock = SystemClock::new();
        let uptime = clock.uptime();
        assert!(uptime > Duration::ZERO);
        assert!(clock.uptime() >= uptime);
    }
}
