//! Randomness that need not be secret: jitter and identifiers.

use std::time::Duration;

/// A duration drawn evenly from `half..=full` of `base`, so that clients that failed together do not return together.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that draws numbers"
)]
pub fn jittered(base: Duration) -> Duration {
    base.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// A number that is unlikely to be drawn twice, for request ids and spool names.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that draws numbers"
)]
pub fn unique() -> u64 {
    fastrand::u64(..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_all_of_the_base() {
        let base = Duration::from_millis(100);
        for _ in 0..1_000 {
            let drawn = jittered(base);
            assert!(drawn >= base / 2 && drawn <= base, "{drawn:?}");
        }
    }
}
