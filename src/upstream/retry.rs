//! Repeating what failed in passing.

use std::time::Duration;

use super::failure::Failure;
use super::transport::Deadline;
use crate::sys::{clock, random};

/// The pause before the first repetition; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs `attempt` until it succeeds, fails for good, was repeated `retries` times, or the deadline passes.
///
/// # Errors
/// The last attempt's failure.
pub(super) async fn retried<T, F>(
    retries: u32,
    deadline: &Deadline,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut pause = FIRST_PAUSE;
    let mut left = retries;
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        if !failure.passing || left == 0 || deadline.passed() {
            return Err(failure);
        }
        tracing::debug!(error = %failure.error, left, "trying again");
        let rest = clock::sleep(random::jittered(pause));
        if deadline.limit(rest).await.is_err() {
            return Err(failure);
        }
        left -= 1;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::*;
    use crate::sys::clock::{ManualClock, Timestamp};
    use crate::upstream::UpstreamError;

    fn status(status: u16) -> Failure {
        let host = "registry.test".into();
        UpstreamError::Status { host, status }.into()
    }

    async fn attempts(retries: u32, fail: impl Fn(u32) -> Option<Failure>) -> (u32, bool) {
        let clock = ManualClock::starting_at(Timestamp::from_millis(0));
        let deadline = Deadline::after(Duration::from_hours(1), clock);
        let count = Cell::new(0);
        let attempt = || {
            count.set(count.get() + 1);
            std::future::ready(fail(count.get()).map_or(Ok(()), Err))
        };
        let result = retried(retries, &deadline, attempt).await;
        (count.get(), result.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_errors_is_outlasted() {
        let burst = |attempt| (attempt <= 3).then(|| status(503));
        assert_eq!(attempts(5, burst).await, (4, true));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_repeated_more_often_than_allowed() {
        assert_eq!(attempts(5, |_| Some(status(503))).await, (6, false));
        assert_eq!(attempts(0, |_| Some(status(503))).await, (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clear_answer_is_not_asked_for_again() {
        assert_eq!(attempts(5, |_| Some(status(400))).await, (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_the_repetitions() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(0));
        let deadline = Deadline::after(Duration::from_secs(1), Arc::<ManualClock>::clone(&clock));
        let count = Cell::new(0);
        let attempt = || {
            count.set(count.get() + 1);
            clock.advance(Duration::from_millis(600));
            std::future::ready(Err::<(), _>(status(503)))
        };
        assert!(retried(5, &deadline, attempt).await.is_err());
        assert_eq!(count.get(), 2);
    }
}
