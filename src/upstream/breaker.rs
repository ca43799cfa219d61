//! When an upstream is left alone because it does not answer.
//!
//! A plain state machine: no clock, no lock, no task. It opens when a whole question failed because the registry or
//! its token endpoint could not be reached, or failed by itself several times in a row; any answer closes it. An
//! answer that came while a question was waiting speaks for the upstream: one address that is silent is no outage.
//!
//! An outage ends also by an answer to something else than what began it. If that has failed once more in the
//! meantime, its repository alone is not asked from then on, but for one question now and then, until it is answered.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::failure::Failure;
use super::request::Question;
use super::trials::Trials;
use super::{Kind, Phase, UpstreamError};

/// How many questions in a row must fail before failures that may concern one request alone are an outage.
const FAILURES: u32 = 3;
/// How many repositories are known to fail alone; the one that was noticed first is forgotten for another.
const LAME: usize = 16;

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
    /// The question that began it.
    pub(super) question: Question,
    /// Whether it has failed since then, so that it may be its repository alone that fails.
    confirmed: bool,
    /// How many probes have been taken.
    probes: u32,
}

/// A repository that fails although the upstream answers.
#[derive(Debug)]
struct Lame {
    repository: String,
    cause: Arc<UpstreamError>,
}

/// Decides whether an upstream is asked.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    circuit: Circuit,
    failures: u32,
    answers: u64,
    lame: Vec<Lame>,
    trials: Trials,
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

    /// Why nothing of `repository` is asked although the upstream answers.
    pub(super) fn lame(&self, repository: &str) -> Option<&Arc<UpstreamError>> {
        let mut all = self.lame.iter();
        let lame = all.find(|lame| lame.repository == repository)?;
        Some(&lame.cause)
    }

    /// Whether `question`, which would not be asked, may find out whether only others fail, or whether its own
    /// repository still does. If so, [`end_trial`](Self::end_trial) is to be called afterwards.
    pub(super) fn tries(&mut self, question: &Question, now: Duration) -> bool {
        let worth = match &self.circuit {
            Circuit::Closed => true,
            Circuit::Open(outage) => outage.may_concern_others_only(question),
        };
        worth && self.trials.begin(question.repository(), now)
    }

    /// A trial of `repository` has ended.
    pub(super) fn end_trial(&mut self, repository: &str) {
        self.trials.end(repository);
    }

    /// What to probe with: in turn the question that began the outage, and whether the upstream answers at all.
    pub(super) fn probe(&mut self, ping: &Url) -> Option<Question> {
        let Circuit::Open(outage) = &mut self.circuit else {
            return None;
        };
        outage.probes = outage.probes.wrapping_add(1);
        let question = outage.question.clone().into_probe(ping);
        Some(match outage.probes % 2 {
            0 => question.into_ping(ping),
            _ => question,
        })
    }

    /// Something of `repository` was answered. Returns whether nothing of it was asked until now.
    pub(super) fn told(&mut self, repository: &str) -> bool {
        let before = self.lame.len();
        self.lame.retain(|lame| lame.repository != repository);
        self.lame.len() < before
    }

    /// The upstream answered, whatever it said. Returns the outage that ends with this.
    pub(super) fn answered(&mut self) -> Option<Box<Outage>> {
        self.answers = self.answers.wrapping_add(1);
        self.failures = 0;
        let Circuit::Open(outage) = std::mem::take(&mut self.circuit) else {
            return None;
        };
        if outage.confirmed && outage.may_be_of_one_repository() {
            self.note_lame(outage.question.repository(), Arc::clone(&outage.cause));
        }
        Some(outage)
    }

    fn note_lame(&mut self, repository: &str, cause: Arc<UpstreamError>) {
        self.told(repository);
        if self.lame.len() >= LAME {
            self.lame.remove(0);
        }
        self.lame.push(Lame {
            repository: repository.to_owned(),
            cause,
        });
    }

    /// A question that was begun at `watch` has failed after all its repetitions. Returns whether an outage begins.
    pub(super) fn failed(
        &mut self,
        question: &Question,
        watch: Watch,
        failure: &Failure,
        now: Duration,
    ) -> bool {
        let name = question.repository();
        let is_lame = self.lame(name).is_some();
        let down = match Sign::of(question.kind(), failure) {
            Sign::Nothing => return false,
            Sign::Down => true,
            Sign::Silent | Sign::Failing if is_lame => false,
            Sign::Silent => watch == self.watch(),
            Sign::Failing if self.is_another_of_the_lame(failure) => {
                self.note_lame(name, Arc::new(failure.error.clone()));
                false
            }
            Sign::Failing => {
                self.failures = self.failures.saturating_add(1);
                self.failures >= FAILURES
            }
        };
        match &mut self.circuit {
            Circuit::Open(outage) if name == outage.question.repository() => {
                outage.cause = Arc::new(failure.error.clone());
                outage.confirmed |= question.kind() != Kind::Ping;
                false
            }
            Circuit::Closed if down => {
                self.open(question, failure.error.clone(), now);
                true
            }
            Circuit::Open(_) | Circuit::Closed => false,
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
        let is_lame = self.lame(question.repository()).is_some();
        let suspicious = self.outage().is_none() && !is_lame && watch == self.watch();
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
            confirmed: false,
            probes: 0,
        }));
    }

    /// Whether the upstream answers, but some repositories with errors: `failure` says that here is another.
    fn is_another_of_the_lame(&self, failure: &Failure) -> bool {
        let is_error = |error: &UpstreamError| matches!(error, UpstreamError::Status { .. });
        let others = self.lame.iter().any(|lame| is_error(&lame.cause));
        self.outage().is_none() && others && is_error(&failure.error)
    }
}

impl Outage {
    /// Whether somebody is there, so that it may be that only some repositories are not answered.
    fn may_be_of_one_repository(&self) -> bool {
        matches!(
            *self.cause,
            UpstreamError::Status { .. }
                | UpstreamError::Unreachable {
                    phase: Phase::FirstByte | Phase::Stall | Phase::Body,
                    ..
                }
        )
    }

    /// Whether `question` is worth being asked. Where nothing is answered, that is what is not held: who checks a tag
    /// is served what is, and would only wait.
    fn may_concern_others_only(&self, question: &Question) -> bool {
        let is_quick = matches!(*self.cause, UpstreamError::Status { .. });
        let is_wanted = matches!(question.kind(), Kind::ManifestGet | Kind::BlobGet);
        question.repository() != self.question.repository()
            && self.may_be_of_one_repository()
            && (is_quick || is_wanted)
    }
}

/// Whether an answer with this status says that somebody is there. 501 and 505 are said of the question.
pub(super) const fn speaks(status: u16) -> bool {
    status < 500 || matches!(status, 501 | 505)
}

impl Sign {
    fn of(kind: Kind, failure: &Failure) -> Self {
        match &failure.error {
            // A CDN that fails is not the registry.
            _ if failure.away => Self::Nothing,
            UpstreamError::Status { status, .. } if !speaks(*status) => Self::Failing,
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
    use super::super::trials::PERIOD;
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
    fn other_repositories_are_tried_now_and_then_when_somebody_is_there() {
        let mut breaker = Breaker::default();
        let other = question_of(Kind::Tags, "library/other");
        for _ in 0..3 {
            fails(&mut breaker, Kind::Tags, &status(500));
        }
        assert!(breaker.outage().is_some());
        assert!(
            !breaker.tries(&question(Kind::Tags), NOW),
            "it is probed with"
        );
        assert!(breaker.tries(&other, NOW));
        breaker.end_trial("library/other");
        assert!(!breaker.tries(&other, NOW), "just now");
        assert!(breaker.tries(&other, NOW + PERIOD));
        breaker.end_trial("library/other");

        // Of who does not answer at all what is not held may be asked.
        let later = NOW + PERIOD * 2;
        breaker.answered();
        let silent = unreachable(Phase::FirstByte);
        assert!(fails(&mut breaker, Kind::ManifestHead, &silent));
        let head = question_of(Kind::ManifestHead, "library/other");
        let get = question_of(Kind::ManifestGet, "library/other");
        assert!(!breaker.tries(&head, later));
        assert!(breaker.tries(&get, later));
        breaker.end_trial("library/other");

        breaker.answered();
        let down = unreachable(Phase::Connect);
        assert!(fails(&mut breaker, Kind::Tags, &down));
        assert!(!breaker.tries(&get, later + PERIOD), "nobody is there");
    }

    #[test]
    fn probes_take_turns() {
        let ping = Url::parse("https://registry.test/v2/").unwrap();
        let mut breaker = Breaker::default();
        assert!(breaker.probe(&ping).is_none());
        let down = unreachable(Phase::FirstByte);
        fails(&mut breaker, Kind::ManifestGet, &down);
        let mut probed = || breaker.probe(&ping).unwrap().kind();
        let turns = [
            Kind::ManifestHead,
            Kind::Ping,
            Kind::ManifestHead,
            Kind::Ping,
        ];
        assert_eq!([(); 4].map(|()| probed()), turns);
    }

    #[test]
    fn one_repository_that_fails_alone_is_left_alone_alone() {
        let silent = unreachable(Phase::FirstByte);
        let mut breaker = Breaker::default();
        assert!(fails(&mut breaker, Kind::ManifestHead, &silent));
        assert!(!fails(&mut breaker, Kind::ManifestHead, &silent), "a probe");
        breaker.answered();
        let name = "library/nginx";
        assert!(breaker.lame(name).is_some());
        assert!(breaker.lame("library/redis").is_none());
        // It begins no outage any more, and is asked now and then.
        assert!(!fails(&mut breaker, Kind::ManifestHead, &silent));
        let watch = breaker.watch();
        let asked = question(Kind::ManifestHead);
        assert!(!breaker.suspect(&asked, watch, silent.error.clone(), NOW));
        assert!(breaker.tries(&asked, NOW));
        assert!(!breaker.tries(&asked, NOW + PERIOD), "while it is asked");
        // Another one's silence is no less a sign.
        let another = question_of(Kind::ManifestHead, "library/redis");
        assert!(breaker.suspect(&another, watch, silent.error, NOW));
        assert!(breaker.told(name));
        assert!(!breaker.told(name));
    }

    #[test]
    fn an_outage_that_is_over_is_nobodys_own() {
        let mut breaker = Breaker::default();
        let down = unreachable(Phase::Connect);
        fails(&mut breaker, Kind::ManifestHead, &down);
        fails(&mut breaker, Kind::ManifestHead, &down);
        breaker.answered();
        assert!(breaker.lame("library/nginx").is_none(), "nobody was there");
        fails(
            &mut breaker,
            Kind::ManifestHead,
            &unreachable(Phase::FirstByte),
        );
        breaker.answered();
        assert!(breaker.lame("library/nginx").is_none(), "asked only once");
    }

    #[test]
    fn the_next_that_fails_with_errors_is_known_at_once_and_so_many_are() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            fails(&mut breaker, Kind::Tags, &status(500));
        }
        breaker.answered();
        for number in 0..LAME {
            let asked = question_of(Kind::Tags, &format!("library/r{number}"));
            let watch = breaker.watch();
            assert!(!breaker.failed(&asked, watch, &status(500), NOW));
            assert!(breaker.lame(asked.repository()).is_some());
        }
        assert!(breaker.outage().is_none());
        assert!(breaker.lame("library/nginx").is_none(), "forgotten");
        assert_eq!(breaker.lame.len(), LAME);
    }

    #[test]
    fn what_is_not_implemented_is_an_answer() {
        assert_eq!(needed(Kind::ManifestHead, || status(501)), 0);
        assert!(speaks(501) && speaks(404) && !speaks(500) && !speaks(503));
    }
}
