//! Questions that find out whether only others are not answered.
//!
//! Bounded in every way: one per repository at a time and in [`PERIOD`], [`RUNNING`] at once, [`REPOSITORIES`] known.
//! So what never answers holds that many clients and no more.

use std::time::Duration;

/// The least time between two trials of one repository.
pub(super) const PERIOD: Duration = Duration::from_secs(3);
/// How many run at once.
pub(super) const RUNNING: usize = 8;
/// How many repositories are known, and so how many are tried in one period.
const REPOSITORIES: usize = 16;

/// The trials of late.
#[derive(Debug, Default)]
pub(super) struct Trials(Vec<Trial>);

#[derive(Debug)]
struct Trial {
    repository: String,
    /// When it began, by the monotonic clock.
    begun: Duration,
    running: bool,
}

impl Trials {
    /// Whether `repository` may be tried now. If so, [`end`](Self::end) is to be called afterwards.
    pub(super) fn begin(&mut self, repository: &str, now: Duration) -> bool {
        self.0
            .retain(|trial| trial.running || now.saturating_sub(trial.begun) < PERIOD);
        let known = self.0.iter().any(|trial| trial.repository == repository);
        let running = self.0.iter().filter(|trial| trial.running).count();
        if known || running >= RUNNING || self.0.len() >= REPOSITORIES {
            return false;
        }
        self.0.push(Trial {
            repository: repository.to_owned(),
            begun: now,
            running: true,
        });
        true
    }

    /// A trial of `repository` has ended.
    pub(super) fn end(&mut self, repository: &str) {
        let mut all = self.0.iter_mut();
        if let Some(trial) = all.find(|trial| trial.repository == repository) {
            trial.running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(7);

    #[test]
    fn one_at_a_time_and_in_a_period() {
        let mut trials = Trials::default();
        assert!(trials.begin("a", NOW));
        assert!(!trials.begin("a", NOW + PERIOD * 9), "it still runs");
        trials.end("a");
        assert!(trials.begin("a", NOW + PERIOD));
        trials.end("a");
        assert!(!trials.begin("a", NOW + PERIOD + Duration::from_millis(2_999)));
        assert!(trials.begin("a", NOW + PERIOD * 2));
    }

    #[test]
    fn what_never_answers_holds_no_more_than_a_few() {
        let mut trials = Trials::default();
        let begun = |trials: &mut Trials, now| {
            let names = (0..100).map(|number| format!("r{number}"));
            names.filter(|name| trials.begin(name, now)).count()
        };
        assert_eq!(begun(&mut trials, NOW), RUNNING);
        assert_eq!(begun(&mut trials, NOW + PERIOD * 9), 0);
        let mut trials = Trials::default();
        let names = (0..100).map(|number| format!("r{number}"));
        let begun = names.filter(|name| {
            let begun = trials.begin(name, NOW);
            trials.end(name);
            begun
        });
        assert_eq!(begun.count(), REPOSITORIES);
    }
}
