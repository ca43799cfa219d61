//! When an upstream is left alone because it does not answer.
//!
//! A plain state machine: no clock, no lock, no task. It opens when a whole question failed because the registry or
//! its token endpoint could not be reached, or failed by itself several times in a row; any answer closes it. An
//! answer that came while a question was waiting speaks for the upstream: one address that is silent is no outage.

use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
use super::request::Question;
use super::{Kind, Phase, UpstreamError};

/// How many questions in a row must fail before failures that may concern one request alone are an outage.
const FAILURES: u32 = 3;
/// How many repositories are asked about once in an outage before the upstream as a whole is left alone.
const REPOSITORIES: usize = 16;

/// A moment in the life of an upstream: what has been answered since then speaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch(u64);

/// Whether the upstream is asked.
#[derive(Debug, Default)]
enum Circuit {
    /// It is.
    #[default]
    Closed,
    /// It is not, but for probes.
    Open(Box<Outage>),
}

/// Why the upstream is not asked, and with what it is probed.
#[derive(Debug)]
pub(super) struct Outage {
    /// When it began, by the monotonic clock.
    pub(super) since: Duration,
    /// What the last question failed with.
    pub(super) cause: Arc<UpstreamError>,
    /// The last question that failed.
    pub(super) question: Question,
    /// Where it may be that only some repositories fail: those that have been asked about.
    tried: Vec<String>,
}

/// Decides whether an upstream is asked.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    circuit: Circuit,
    failures: u32,
    answers: u64,
}

/// What a failure says of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// There is no way to it.
    Down,
    /// It does not answer. An answer to somebody else meanwhile says that it does.
    Silent,
    /// It, or the way to it, failed once.
    Failing,
    /// Nothing: the answer itself was counted where it arrived.
    Nothing,
}

impl Breaker {
    /// The present moment.
    pub(super) const fn watch(&self) -> Watch {
        Watch(self.answers)
    }

    /// The outage, if there is one.
    pub(super) fn outage(&self) -> Option<&Outage> {
        match &self.circuit {
            Circuit::Open(outage) => Some(outage),
            Circuit::Closed => None,
        }
    }

    /// Whether `question` may find out whether only other repositories fail; each may once.
    pub(super) fn tries(&mut self, question: &Question) -> bool {
        let Circuit::Open(outage) = &mut self.circuit else {
            return false;
        };
        let name = question.repository();
        let known =
            outage.tried.len() >= REPOSITORIES || outage.tried.iter().any(|tried| tried == name);
        if known || !matches!(*outage.cause, UpstreamError::Status { .. }) {
            return false;
        }
        outage.tried.push(name.to_owned());
        true
    }

    /// The upstream answered, whatever it said. Returns the outage that ends with this.
    pub(super) fn answered(&mut self) -> Option<Box<Outage>> {
        self.answers = self.answers.wrapping_add(1);
        self.failures = 0;
        match std::mem::take(&mut self.circuit) {
            Circuit::Open(outage) => Some(outage),
            Circuit::Closed => None,
        }
    }

    /// A question that was begun at `watch` has failed after all its repetitions. Returns whether an outage begins.
    pub(super) fn failed(
        &mut self,
        question: &Question,
        watch: Watch,
        failure: &Failure,
        now: Duration,
    ) -> bool {
        let down = match Sign::of(question.kind(), failure) {
            Sign::Nothing => return false,
            Sign::Down => true,
            Sign::Silent => watch == self.watch(),
            Sign::Failing => {
                self.failures = self.failures.saturating_add(1);
                self.failures >= FAILURES
            }
        };
        match &mut self.circuit {
            Circuit::Open(outage) => {
                outage.cause = Arc::new(failure.error.clone());
                outage.question = question.clone();
                false
            }
            Circuit::Closed if down => {
                self.open(question, failure.error.clone(), now);
                true
            }
            Circuit::Closed => false,
        }
    }

    /// Somebody has waited for `question` since `watch`, in vain so far. Returns whether an outage begins.
    pub(super) fn suspect(
        &mut self,
        question: &Question,
        watch: Watch,
        cause: UpstreamError,
        now: Duration,
    ) -> bool {
        let suspicious = self.outage().is_none() && watch == self.watch();
        if suspicious {
            self.open(question, cause, now);
        }
        suspicious
    }

    fn open(&mut self, question: &Question, cause: UpstreamError, now: Duration) {
        self.circuit = Circuit::Open(Box::new(Outage {
            since: now,
            cause: Arc::new(cause),
            question: question.clone(),
            tried: vec![question.repository().to_owned()],
        }));
    }
}

impl Sign {
    fn of(kind: Kind, failure: &Failure) -> Self {
        match &failure.error {
            // A CDN that fails is not the registry.
            _ if failure.away => Self::Nothing,
            UpstreamError::Status { status, .. } if *status >= 500 => Self::Failing,
            UpstreamError::Unreachable { phase, .. } => match phase {
                Phase::Slot => Self::Nothing,
                Phase::FirstByte | Phase::Stall => Self::Silent,
                // Blobs are repeated by whoever downloads them.
                _ if kind == Kind::BlobGet => Self::Failing,
                Phase::Body => Self::Silent,
                Phase::Resolve | Phase::Connect | Phase::Tls => Self::Down,
            },
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::*;

    const NOW: Duration = Duration::from_secs(7);

    fn question_of(kind: Kind, name: &str) -> Question {
        let url = Url::parse("https://registry.test/v2/").unwrap();
        Question::new(kind, url, &name.parse().unwrap(), "*/*")
    }

    fn question(kind: Kind) -> Question {
        question_of(kind, "library/nginx")
    }

    fn unreachable(phase: Phase) -> Failure {
        Failure::from(UpstreamError::Unreachable {
            host: "registry.test".into(),
            phase,
            reason: "of the test".into(),
        })
    }

    fn status(status: u16) -> Failure {
        let host = "registry.test".into();
        Failure::from(UpstreamError::Status { host, status })
    }

    fn fails(breaker: &mut Breaker, kind: Kind, failure: &Failure) -> bool {
        let watch = breaker.watch();
        breaker.failed(&question(kind), watch, failure, NOW)
    }

    /// How many failures in a row begin an outage; 0 when ten do not.
    fn needed(kind: Kind, failure: impl Fn() -> Failure) -> usize {
        let mut breaker = Breaker::default();
        (1..=10)
            .find(|_| fails(&mut breaker, kind, &failure()))
            .unwrap_or(0)
    }

    #[test]
    fn how_many_failures_are_an_outage() {
        for phase in [Phase::Resolve, Phase::Connect, Phase::Tls] {
            assert_eq!(needed(Kind::ManifestHead, || unreachable(phase)), 1);
            assert_eq!(needed(Kind::BlobGet, || unreachable(phase)), 3, "{phase:?}");
        }
        for phase in [Phase::FirstByte, Phase::Stall] {
            assert_eq!(needed(Kind::ManifestHead, || unreachable(phase)), 1);
            assert_eq!(needed(Kind::BlobGet, || unreachable(phase)), 1, "{phase:?}");
        }
        for kind in [Kind::Tags, Kind::BlobGet] {
            assert_eq!(needed(kind, || unreachable(Phase::Slot)), 0);
            assert_eq!(needed(kind, || status(503)), 3);
            assert_eq!(needed(kind, || status(418)), 0);
            let cdn = || Failure::at(unreachable(Phase::Connect).error, false);
            assert_eq!(needed(kind, cdn), 0);
        }
    }

    #[test]
    fn an_answer_ends_an_outage_and_the_count() {
        let mut breaker = Breaker::default();
        assert!(!fails(&mut breaker, Kind::Tags, &status(500)));
        assert!(!fails(&mut breaker, Kind::Tags, &status(500)));
        assert!(breaker.answered().is_none());
        assert!(!fails(&mut breaker, Kind::Tags, &status(500)));
        assert!(!fails(&mut breaker, Kind::Tags, &status(500)));
        assert!(fails(&mut breaker, Kind::Tags, &status(500)));
        // A later failure is the cause that is told.
        assert!(!fails(&mut breaker, Kind::Tags, &unreachable(Phase::Tls)));
        let outage = breaker.answered().unwrap();
        assert_eq!(outage.since, NOW);
        assert!(matches!(
            *outage.cause,
            UpstreamError::Unreachable {
                phase: Phase::Tls,
                ..
            }
        ));
        assert!(breaker.outage().is_none());
    }

    #[test]
    fn an_answer_to_somebody_else_speaks_against_silence() {
        let mut breaker = Breaker::default();
        let watch = breaker.watch();
        breaker.answered();
        let silent = unreachable(Phase::FirstByte);
        let asked = question(Kind::ManifestHead);
        assert!(!breaker.failed(&asked, watch, &silent, NOW));
        assert!(!breaker.suspect(&asked, watch, silent.error.clone(), NOW));
        let watch = breaker.watch();
        assert!(breaker.suspect(&asked, watch, silent.error.clone(), NOW));
        assert!(!breaker.suspect(&asked, watch, silent.error, NOW), "twice");
    }

    #[test]
    fn other_repositories_are_tried_once_each_when_the_upstream_answers_with_errors() {
        let mut breaker = Breaker::default();
        let other = |number: usize| question_of(Kind::Tags, &format!("library/r{number}"));
        assert!(!breaker.tries(&other(0)), "without an outage");
        assert_eq!(
            (0..3)
                .filter(|_| fails(&mut breaker, Kind::Tags, &status(500)))
                .count(),
            1
        );
        assert!(!breaker.tries(&question(Kind::Tags)), "it failed just now");
        assert!(breaker.tries(&other(0)));
        assert!(!breaker.tries(&other(0)), "twice");
        let tried = (1..100).filter(|number| breaker.tries(&other(*number)));
        assert_eq!(tried.count(), REPOSITORIES - 2);

        breaker.answered();
        assert!(fails(
            &mut breaker,
            Kind::Tags,
            &unreachable(Phase::Connect)
        ));
        assert!(!breaker.tries(&other(0)), "nobody is there");
    }
}
