//! Whether the upstream is asked at all.
//!
//! Every question passes here before it waits for anything, and every control request once more before it is sent:
//! what was true when it began to wait for a slot may be so no longer. Offline means that nothing passes, not even a
//! probe; both transports see to that by themselves.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::sync::watch;
use tracing::{info, warn};

use super::breaker::{Breaker, Watch};
use super::failure::Failure;
use super::governor::PACE;
use super::request::Question;
use super::{Kind, Phase, UpstreamError};
use crate::sys::clock::{Clock, Timestamp};
use crate::sys::random;

/// The pause between two probes of an upstream that does not answer. With the longest probe it stays below ten
/// seconds, so that a recovery is noticed within these.
const OUTAGE_PAUSE: Duration = Duration::from_secs(3);
/// How much longer than [`PACE`] it is between two probes of one that limits the rate.
const LIMIT_SPREAD: Duration = Duration::from_millis(500);
/// How long an upstream is probed after somebody has last asked for something.
const IDLE_LIMIT: Duration = Duration::from_mins(15);

/// What a request is sent for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Errand {
    /// Somebody wants the answer.
    #[default]
    Question,
    /// The same of what would not be asked: it finds out whether it is answered. It waits for no slot that others hold.
    Trial,
    /// To find out whether the upstream answers, and nobody waits. It passes, and waits for no slot that others hold.
    Probe,
}

/// How an upstream is treated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Nothing is asked, ever.
    pub(super) offline: bool,
    /// It is left alone when it does not answer, and probed then.
    pub(super) suspends: bool,
}

/// A question that may be asked.
#[derive(Default)]
pub(super) struct Admission<'a> {
    pub(super) errand: Errand,
    /// Whether probing has to begin.
    pub(super) begin: bool,
    /// Held until it has been asked.
    pub(super) trial: Option<Trial<'a>>,
}

/// A question that is being asked although others like it are not.
pub(super) struct Trial<'a> {
    door: &'a Door,
    repository: String,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.door.state().breaker.end_trial(&self.repository);
    }
}

/// A question that is being asked.
pub(super) struct Asking<'a>(&'a AtomicU64);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets questions to one upstream pass, or not.
#[derive(Debug)]
pub(super) struct Door {
    upstream: Arc<str>,
    host: String,
    manner: Manner,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    refused: AtomicU64,
    /// Questions that are being asked.
    asking: AtomicU64,
    /// Counts the outages that a probe has ended.
    recoveries: watch::Sender<u64>,
    /// Counts the limits that a probe has eased, and the repositories that are answered again.
    eased: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    breaker: Breaker,
    /// When somebody last asked for something, by the monotonic clock.
    asked: Duration,
    /// Whether a task probes.
    probing: bool,
}

impl Door {
    /// The door to `upstream`, whose API is at `host`.
    pub(super) fn new(
        upstream: Arc<str>,
        host: String,
        manner: Manner,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            upstream,
            host,
            manner,
            clock,
            state: Mutex::default(),
            refused: AtomicU64::new(0),
            asking: AtomicU64::new(0),
            recoveries: watch::Sender::new(0),
            eased: watch::Sender::new(0),
        }
    }

    /// # Errors
    /// [`UpstreamError::Offline`], when nothing is asked.
    pub(super) fn online(&self, host: &str) -> Result<(), UpstreamError> {
        if self.manner.offline {
            return Err(UpstreamError::Offline { host: host.into() });
        }
        Ok(())
    }

    /// Counts a question as being asked until the returned value is dropped.
    pub(super) fn begin(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Asking(&self.asking)
    }

    /// Lets a question in, and says for what.
    ///
    /// # Errors
    /// Nothing is to be asked now.
    pub(super) fn admit(&self, question: &Question) -> Result<Admission<'_>, UpstreamError> {
        let admitted = self.admitted(question);
        if admitted.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn admitted(&self, question: &Question) -> Result<Admission<'_>, UpstreamError> {
        self.online(&self.host)?;
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.asked = now;
        let Some(refusal) = self.refusal(&state.breaker, question.repository()) else {
            return Ok(Admission::default());
        };
        if question.is_resumption() {
            return Ok(Admission::default());
        }
        let errand = Errand::Trial;
        // Nobody probes any more, so the first who comes does.
        let begin =
            state.breaker.outage().is_some() && !std::mem::replace(&mut state.probing, true);
        let trial = state.breaker.tries(question, now).then(|| Trial {
            door: self,
            repository: question.repository().to_owned(),
        });
        if begin || trial.is_some() {
            return Ok(Admission {
                errand,
                begin,
                trial,
            });
        }
        Err(refusal)
    }

    /// Why nothing of `repository` is asked, if so.
    fn refusal(&self, breaker: &Breaker, repository: &str) -> Option<UpstreamError> {
        let outage = breaker.outage().map(|outage| &outage.cause);
        let cause = outage.or_else(|| breaker.lame(repository))?;
        Some(UpstreamError::Suspended {
            host: self.host.clone(),
            cause: Arc::clone(cause),
        })
    }

    /// Whether a control request about `repository` that has its slot may be sent.
    ///
    /// # Errors
    /// Nothing is to be asked now.
    pub(super) fn pass(
        &self,
        kind: Kind,
        errand: Errand,
        host: &str,
        repository: &str,
    ) -> Result<(), UpstreamError> {
        self.online(host)?;
        if errand != Errand::Question || matches!(kind, Kind::Token | Kind::Redirected) {
            return Ok(());
        }
        match self.refusal(&self.state().breaker, repository) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    /// The present time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// The present moment.
    pub(super) fn watch(&self) -> Watch {
        self.state().breaker.watch()
    }

    /// Whether the upstream is left alone but for probes.
    pub(super) fn is_suspended(&self) -> bool {
        self.state().breaker.outage().is_some()
    }

    /// How many questions were refused here.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The upstream answered a request, and not with an error of its own.
    pub(super) fn answered(&self, errand: Errand) {
        let Some(outage) = self.state().breaker.answered() else {
            return;
        };
        let lasted = self.clock.monotonic().saturating_sub(outage.since);
        let lasted = humantime::format_duration(Duration::from_secs(lasted.as_secs()));
        info!(upstream = &*self.upstream, host = self.host, %lasted, "the upstream answers again");
        if errand != Errand::Question {
            self.recoveries.send_modify(|count| *count += 1);
        }
    }

    /// A question was answered with what the upstream has to say of its repository.
    pub(super) fn told(&self, question: &Question) {
        if question.kind() != Kind::Ping && self.state().breaker.told(question.repository()) {
            self.eased.send_modify(|count| *count += 1);
        }
    }

    /// Waits until a probe ends an outage, of the upstream or of a repository, or eases a limit.
    pub(super) async fn recovered(&self) {
        let (mut recoveries, mut easings) = (self.recoveries.subscribe(), self.eased.subscribe());
        let (recovered, eased) = (recoveries.changed(), easings.changed());
        futures_util::future::select(pin!(recovered), pin!(eased)).await;
    }

    /// A question that was begun at `watch` has failed. Returns whether probing has to begin.
    pub(super) fn failed(&self, question: &Question, watch: Watch, failure: &Failure) -> bool {
        if !self.manner.suspends {
            return false;
        }
        let now = self.clock.monotonic();
        let mut state = self.state();
        let begun = state.breaker.failed(question, watch, failure, now);
        self.report(begun, &mut state)
    }

    /// Somebody has waited since `watch`, for as long as `waited`. Returns whether probing has to begin.
    pub(super) fn suspect(&self, question: &Question, watch: Watch, waited: Duration) -> bool {
        // Who waits may still wait for a mirror of this one.
        if self.asking.load(Ordering::Relaxed) == 0 || !self.manner.suspends {
            return false;
        }
        let cause = UpstreamError::Unreachable {
            host: self.host.clone(),
            phase: Phase::FirstByte,
            reason: format!("nothing within {}", humantime::format_duration(waited)),
        };
        let now = self.clock.monotonic();
        let mut state = self.state();
        let begun = state.breaker.suspect(question, watch, cause, now);
        self.report(begun, &mut state)
    }

    fn report(&self, begun: bool, state: &mut State) -> bool {
        let Some(outage) = state.breaker.outage().filter(|_| begun) else {
            return false;
        };
        warn!(
            upstream = &*self.upstream,
            host = self.host,
            cause = %outage.cause,
            "the upstream is not asked until it answers a probe; what is cached is served"
        );
        !std::mem::replace(&mut state.probing, true)
    }

    /// How long to wait before the next probe.
    pub(super) fn pause(&self) -> Duration {
        if self.is_suspended() {
            return random::jittered(OUTAGE_PAUSE);
        }
        PACE + random::jittered(LIMIT_SPREAD)
    }

    /// Whether probing has to begin, for one who then begins it.
    pub(super) fn begin_probing(&self) -> bool {
        !std::mem::replace(&mut self.state().probing, true)
    }

    /// What to probe with in an outage.
    pub(super) fn outage_probe(&self, ping: &Url) -> Option<Question> {
        self.state().breaker.probe(ping)
    }

    /// The question that began the outage, as it is probed with.
    pub(super) fn outage_question(&self, ping: &Url) -> Option<Question> {
        let state = self.state();
        let outage = state.breaker.outage()?;
        Some(outage.question.clone().into_probe(ping))
    }

    /// Whether probing may go on for as long as something is wrong: somebody has asked for something lately. If
    /// not, or if all is well, it has ended with this.
    pub(super) fn goes_on(&self, limited: bool) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.state();
        let idle = now.saturating_sub(state.asked) >= IDLE_LIMIT;
        state.probing = !idle && (limited || state.breaker.outage().is_some());
        state.probing
    }

    /// Counts a question that was refused for the limit's sake.
    pub(super) fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A probe has shown that a limit refuses less.
    pub(super) fn limit_eased(&self) {
        self.eased.send_modify(|count| *count += 1);
    }

    /// Does `work` unless it is a question that has not been answered by the time that a probe is. `None` then: to
    /// begin it again takes less time than it may still wait.
    pub(super) async fn unless_overtaken<F: Future>(
        &self,
        kind: Kind,
        errand: Errand,
        work: F,
    ) -> Option<F::Output> {
        // A CDN's silence is not the registry's.
        if errand == Errand::Probe || kind == Kind::Redirected {
            return Some(work.await);
        }
        let mut recoveries = self.recoveries.subscribe();
        let recovered = pin!(recoveries.changed());
        match futures_util::future::select(pin!(work), recovered).await {
            futures_util::future::Either::Left((output, _)) => Some(output),
            futures_util::future::Either::Right(_) => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
