//! The logins of Docker's configuration, as of when it was last read.
//!
//! It is read when a login is first needed, again after a while in the background, and again when what it said is
//! refused: a `docker login` is noticed without a restart. A login that has not changed keeps its tokens. What cannot be
//! read changes nothing: before the first success there may be any login. Reading goes on when who began it goes away: a
//! helper may take longer than a question.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;

use super::docker_config::{self, Address, Problem};
use super::logins::{AuthBuilder, Entry};
use crate::sys::fs::Disk;
use crate::sys::single_flight::SingleFlight;

/// How long it is believed.
const BELIEVED: Duration = Duration::from_mins(5);
/// How long it is not read again however often its logins are refused.
const PAUSE: Duration = Duration::from_secs(5);

/// The logins of one registry in Docker's configuration.
pub(super) struct DockerLogins {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    address: Address,
    builder: AuthBuilder,
    /// Held by the one who reads.
    turn: tokio::sync::Mutex<()>,
    readings: SingleFlight<Reason, Arc<Vec<Entry>>>,
    state: Mutex<State>,
}

/// Why it is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Reason {
    /// Nothing is known yet, or what is known is old.
    Need,
    /// A login was refused.
    Refusal,
}

#[derive(Default)]
struct State {
    /// `None` before the first reading that succeeded.
    entries: Option<Arc<Vec<Entry>>>,
    /// When it was last read, or tried to be.
    read: Duration,
    /// Whether it was tried, and never succeeded.
    fails: bool,
    /// What the log has said already.
    said: Option<Problem>,
}

impl DockerLogins {
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, builder: AuthBuilder) -> Arc<Self> {
        Arc::new(Self {
            disk,
            path,
            address: Address::of(&builder.trust.registry),
            readings: SingleFlight::new(builder.tasks.clone()),
            builder,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// The logins. Only the first reading is waited for; `None` when the process is closing before its end.
    pub(super) async fn entries(self: &Arc<Self>) -> Option<Arc<Vec<Entry>>> {
        let Some(entries) = self.known() else {
            return self.reading(Reason::Need, None).await;
        };
        if self.is_due(BELIEVED) {
            // It is a task of its own from its first poll on.
            let old = Some(Arc::clone(&entries));
            drop(self.reading(Reason::Need, old).now_or_never());
        }
        Some(entries)
    }

    /// The logins as they are now that one of them was refused; `None` when they were read just now.
    pub(super) async fn after_refusal(self: &Arc<Self>) -> Option<Arc<Vec<Entry>>> {
        // Where nothing is known it was tried for the question that was refused.
        let old = self.known()?;
        if !self.is_due(PAUSE) {
            return None;
        }
        self.reading(Reason::Refusal, Some(old)).await
    }

    /// The one reading for `reason` that runs, by a task that ends when the process closes.
    async fn reading(
        self: &Arc<Self>,
        reason: Reason,
        old: Option<Arc<Vec<Entry>>>,
    ) -> Option<Arc<Vec<Entry>>> {
        let this = Arc::clone(self);
        let read = || async move { this.renewed(old.as_ref()).await };
        self.readings.run(reason, read).await.0
    }

    /// The logins as they were last read; `None` before the first success.
    pub(super) fn known(&self) -> Option<Arc<Vec<Entry>>> {
        self.state().entries.clone()
    }

    /// Whether the last reading was longer ago than `age`. If so, the caller is the one who reads.
    fn is_due(&self, age: Duration) -> bool {
        let now = self.builder.clock.monotonic();
        let mut state = self.state();
        let due = now.saturating_sub(state.read) >= age;
        if due {
            state.read = now;
        }
        due
    }

    /// Reads again, unless somebody has since `old` was read.
    async fn renewed(&self, old: Option<&Arc<Vec<Entry>>>) -> Arc<Vec<Entry>> {
        let _turn = self.turn.lock().await;
        let known = self.known();
        if let Some(known) = &known
            && old.is_none_or(|old| !Arc::ptr_eq(old, known))
        {
            return Arc::clone(known);
        }
        if self.failed_just_now() {
            return Arc::default();
        }
        let read = docker_config::read(Arc::clone(&self.disk), &self.path, &self.address).await;
        let (entries, problem) = match read {
            Ok(reading) => {
                let kept = known.unwrap_or_default();
                let entries = reading.logins.into_iter();
                let entries = entries.map(|login| self.builder.entry(login, &kept));
                (Some(Arc::new(entries.collect())), reading.problem)
            }
            Err(problem) => (known, Some(problem)),
        };
        self.note(entries.clone(), problem);
        entries.unwrap_or_default()
    }

    /// Whether nothing is known, and it would be too soon to try again.
    fn failed_just_now(&self) -> bool {
        let now = self.builder.clock.monotonic();
        let state = self.state();
        state.fails && now.saturating_sub(state.read) < PAUSE
    }

    fn note(&self, entries: Option<Arc<Vec<Entry>>>, problem: Option<Problem>) {
        let mut state = self.state();
        state.fails = entries.is_none();
        state.entries = entries;
        state.read = self.builder.clock.monotonic();
        if let Some(problem) = problem.as_ref().filter(|_| problem != state.said) {
            let path = self.path.display();
            tracing::warn!(%path, %problem, "a login of Docker's configuration cannot be used");
        }
        state.said = problem;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
