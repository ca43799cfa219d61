//! Tags whose check failed: nobody waits for them, and they are asked for again in the background.
//!
//! Invariants:
//! - while a tag is in trouble its clients get what is held at once;
//! - it is asked for again, at most once in [`PERIOD`] and never less often than every five seconds, as long as clients
//!   come; so what the upstream says after an outage is known within ten seconds;
//! - at most [`TENDED`] tags are asked for without a client; the others when one comes;
//! - where the upstream does answer, but not with something to be served, it is asked once in the tag's time to live:
//!   that may cost a pull each time.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Inner;
use super::failure::Failure;
use super::spending::Spender;
use crate::index::TagRecord;
use crate::oci::{RepositoryName, Tag};
use crate::sys::{clock, random, tasks};

/// How often a tag in trouble is asked for again, at least.
const PERIOD: Duration = Duration::from_secs(4);

/// How much longer it may take, so that tags do not ask in step.
const SPREAD: Duration = Duration::from_millis(800);

/// How long one of these questions may take: the next one may meet an upstream that has recovered.
const PATIENCE: Duration = Duration::from_secs(4);

/// One in so many of these questions goes on after that: the upstream may have become slow for good.
const UNHURRIED: u32 = 15;

/// How long a tag is asked for that nobody pulls any more.
const INTEREST: Duration = Duration::from_mins(10);

/// How long a failure counts that nothing was asked after.
const MEMORY: Duration = Duration::from_secs(10);

/// How many tags are asked for without a client.
const TENDED: usize = 16;

/// How many tags may be in trouble.
const TROUBLED: u64 = 10_000;

/// What is wrong with a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The upstream does not answer.
    Upstream,
    /// It does, but what the tag names cannot be had.
    Content,
}

/// The tags in trouble.
pub(super) struct Troubles {
    marks: Cache<Key, Arc<Mark>>,
    tending: Arc<Semaphore>,
}

type Key = (RepositoryName, Tag);

type Mark = Mutex<State>;

/// All times are monotonic.
struct State {
    trouble: Trouble,
    failure: Failure,
    /// When a client last came.
    wanted: Duration,
    /// When the tag was last asked for.
    asked: Duration,
    /// Whether a task asks for it again and again.
    is_tended: bool,
}

/// What a client of a tag in trouble finds.
enum Found {
    /// The failure is to be served; somebody else asks.
    Failing(Failure),
    /// The same, and it is time to ask.
    Due(Failure),
    /// The failure was too long ago to say anything.
    Outdated,
}

impl Troubles {
    pub(super) fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(TROUBLED)
            .eviction_policy(EvictionPolicy::lru());
        Self {
            marks: cache.build(),
            tending: Arc::new(Semaphore::new(TENDED)),
        }
    }

    fn is_marked(&self, key: &Key, mark: &Arc<Mark>) -> bool {
        let marked = self.marks.get(key);
        marked.is_some_and(|marked| Arc::ptr_eq(&marked, mark))
    }
}

impl Inner {
    /// The failure that a client of this tag is told at once, if there is one.
    pub(super) fn trouble(self: &Arc<Self>, name: &RepositoryName, tag: &Tag) -> Option<Failure> {
        let key = (name.clone(), tag.clone());
        let mark = self.troubles.marks.get(&key)?;
        let now = self.parts.clock.monotonic();
        let found = change(&mark, |state| {
            state.wanted = now;
            state.found(now, self.tag_ttl(tag))
        });
        match found {
            Found::Failing(failure) => Some(failure),
            Found::Due(failure) => {
                self.ask_again(key, &mark);
                Some(failure)
            }
            Found::Outdated => {
                self.troubles.marks.invalidate(&key);
                None
            }
        }
    }

    /// Notes that a tag known as `known` could not be confirmed.
    pub(super) async fn note_trouble(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        known: TagRecord,
        failure: &Failure,
        trouble: Trouble,
    ) {
        let age = self.parts.clock.wall().since(known.checked);
        let is_served = self.settings.freshness.outlasts_failure(age);
        // A later question may have been answered sooner.
        let is_newest = self.tag_record(name, tag).await == Some(known);
        if is_served && is_newest && failure.says_something_of_the_upstream() {
            self.mark(name, tag, failure, trouble);
        }
    }

    /// Notes that a client waited in vain, and yields what it is told.
    pub(super) fn late(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        limit: Duration,
    ) -> Failure {
        let failure = Failure::Late(limit);
        self.mark(name, tag, &failure, Trouble::Upstream);
        failure
    }

    /// Notes that the upstream has answered for a tag.
    pub(super) fn end_trouble(&self, name: &RepositoryName, tag: &Tag) {
        let key = (name.clone(), tag.clone());
        self.troubles.marks.invalidate(&key);
    }

    fn mark(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        failure: &Failure,
        trouble: Trouble,
    ) {
        let now = self.parts.clock.monotonic();
        let fresh = || {
            Arc::new(Mutex::new(State {
                trouble,
                failure: failure.clone(),
                wanted: now,
                asked: now,
                is_tended: false,
            }))
        };
        let key = (name.clone(), tag.clone());
        let marks = &self.troubles.marks;
        let mark = marks.entry(key.clone()).or_insert_with(fresh).into_value();
        let is_tended = change(&mark, |state| {
            state.trouble = trouble;
            state.failure = failure.clone();
            state.asked = now;
            state.is_tended
        });
        if trouble == Trouble::Upstream && !is_tended {
            self.begin_to_tend(key, &mark);
        }
    }

    /// Asks for a tag in the background: from now on again and again if there is room for that, else once.
    fn ask_again(self: &Arc<Self>, key: Key, mark: &Arc<Mark>) {
        if self.begin_to_tend(key.clone(), mark) {
            return;
        }
        let inner = Arc::clone(self);
        self.parts.background.spawn("recheck", async move {
            let closing = inner.parts.background.closing();
            tasks::until(closing, inner.check_once(&key)).await;
        });
    }

    fn begin_to_tend(self: &Arc<Self>, key: Key, mark: &Arc<Mark>) -> bool {
        let Ok(place) = Arc::clone(&self.troubles.tending).try_acquire_owned() else {
            return false;
        };
        if change(mark, |state| std::mem::replace(&mut state.is_tended, true)) {
            return true;
        }
        let (inner, mark) = (Arc::clone(self), Arc::clone(mark));
        self.parts.background.spawn("tend", async move {
            let closing = inner.parts.background.closing();
            tasks::until(closing, inner.tend(key, mark, place)).await;
        });
        true
    }

    /// Asks for a tag until the upstream answers for it, or nobody wants it any more.
    async fn tend(self: &Arc<Self>, key: Key, mark: Arc<Mark>, _place: OwnedSemaphorePermit) {
        self.rest().await;
        let mut round = 0_u32;
        while self.is_to_be_tended(&key, &mark) {
            round = round.wrapping_add(1);
            let asked = async {
                if round.is_multiple_of(UNHURRIED) {
                    self.check_at_leisure(&key).await;
                } else {
                    self.check_once(&key).await;
                }
            };
            // The pause runs beside the question: a slow one makes the next no later.
            future::join(self.rest(), asked).await;
        }
        change(&mark, |state| state.is_tended = false);
    }

    /// The pause between two questions. It ends early when the upstream is asked again, for others or for this.
    async fn rest(&self) {
        let recovered = pin!(self.parts.upstream.recovered());
        future::select(pin!(clock::sleep(pause())), recovered).await;
    }

    fn is_to_be_tended(&self, key: &Key, mark: &Arc<Mark>) -> bool {
        if !self.troubles.is_marked(key, mark) {
            return false;
        }
        let now = self.parts.clock.monotonic();
        let (is_wanted, trouble) = change(mark, |state| {
            let is_wanted = now.saturating_sub(state.wanted) < INTEREST;
            (is_wanted, state.trouble)
        });
        if !is_wanted {
            // Whoever comes then is to learn what the upstream says by then.
            self.troubles.marks.invalidate(key);
        }
        is_wanted && trouble == Trouble::Upstream
    }

    /// Begins a question that takes as long as the upstream gives it, and waits no longer for it than for others.
    async fn check_at_leisure(self: &Arc<Self>, (name, tag): &Key) {
        drop(
            clock::timeout(
                PATIENCE,
                Box::pin(self.resolve(name, tag, Spender::Background)),
            )
            .await,
        );
    }

    async fn check_once(self: &Arc<Self>, (name, tag): &Key) {
        // What comes of it is noted where it is asked.
        drop(Box::pin(self.check(name, tag, Spender::Background, Some(PATIENCE))).await);
    }
}

impl State {
    fn found(&mut self, now: Duration, ttl: Duration) -> Found {
        let since = now.saturating_sub(self.asked);
        let failure = self.failure.clone();
        match self.trouble {
            Trouble::Upstream if self.is_tended || since < PERIOD => Found::Failing(failure),
            Trouble::Upstream if since < MEMORY => {
                self.asked = now;
                Found::Due(failure)
            }
            Trouble::Content if since < ttl.max(PERIOD) => Found::Failing(failure),
            Trouble::Upstream | Trouble::Content => Found::Outdated,
        }
    }
}

fn change<T>(mark: &Mark, change: impl FnOnce(&mut State) -> T) -> T {
    change(&mut mark.lock().unwrap_or_else(PoisonError::into_inner))
}

fn pause() -> Duration {
    PERIOD + random::jittered(SPREAD)
}
