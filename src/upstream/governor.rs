//! What may be asked of an upstream that limits the rate, for one credential.
//!
//! After a 429 questions are refused here: until `Retry-After` says, and then until a probe is answered. At most one
//! probe in [`PACE`] is sent, however many ask. What Docker Hub counts is `GET`s of manifests, and `HEAD`s tell how
//! many are left; so a limit of pulls leaves blobs alone, and tag checks once one of them was answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::door::Errand;
use super::ledger::{LONGEST_WAIT, Ledger, later, retry_after, tells_what_is_left};
use super::request::Question;
use super::{Kind, UpstreamError};
use crate::registry::{Memo, Noted, Topic};
use crate::sys::clock::{Clock, Timestamp};

/// The least time between two probes.
pub(super) const PACE: Duration = Duration::from_secs(5);

/// The most users of one upstream whose ledgers are kept.
const USERS: usize = 64;

/// What is refused, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Scope {
    /// `GET`s of manifests: tag checks are answered, and say that no pull is left.
    Pulls,
    /// Everything but blobs: the pulls are used up, and no tag check was answered since.
    Control,
    /// Everything.
    Everything,
}

/// A limit that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    scope: Scope,
    /// Until when the upstream asked not to be asked.
    until: Option<Timestamp>,
    /// What was refused.
    kind: Kind,
    /// When it was met.
    since: Timestamp,
}

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Admission {
    /// It is asked.
    Passes(Errand),
    /// It is not; so long the upstream asked to be left alone.
    Refused(Option<Duration>),
}

/// The ledger and the limit of one credential at one upstream.
#[derive(Debug)]
pub(super) struct Governor {
    /// Under which it is remembered.
    key: String,
    username: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    limit: Option<Limit>,
    /// The question that was refused, to probe with where nothing better is known.
    offender: Option<Question>,
    /// A manifest that was told.
    good: Option<Question>,
    /// When a probe was last sent, by the monotonic clock.
    tried: Option<Duration>,
    /// Whether a question has served as a probe since the last one from the background.
    tried_by_question: bool,
    unwritten: Unwritten,
    /// Whether a task is about to write.
    writing: bool,
}

/// What has changed since it was last remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Unwritten {
    #[default]
    Nothing,
    Counts,
    Limit,
}

/// When a change is to be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remember {
    /// Nothing has changed, or somebody is about to.
    No,
    /// In a while.
    Soon,
    /// At once.
    Now,
}

/// A ledger as it is remembered.
#[derive(Serialize, Deserialize)]
struct Kept {
    limit: Option<u64>,
    remaining: Option<u64>,
    window_seconds: Option<u64>,
    source: Option<String>,
    updated: Option<u64>,
    limited: Option<KeptLimit>,
}

#[derive(Serialize, Deserialize)]
struct KeptLimit {
    scope: Scope,
    until: Option<u64>,
    since: u64,
}

/// The governors of one upstream, by user.
#[derive(Debug)]
pub(super) struct Governors {
    upstream: Arc<str>,
    memo: Option<Arc<dyn Memo>>,
    clock: Arc<dyn Clock>,
    all: Mutex<BTreeMap<Option<String>, Arc<Governor>>>,
}

impl Governors {
    /// The governors of `users` and of nobody, with what `memo` knows of them.
    pub(super) fn new<'a>(
        upstream: &Arc<str>,
        memo: Option<Arc<dyn Memo>>,
        clock: &Arc<dyn Clock>,
        users: impl Iterator<Item = &'a str>,
    ) -> Arc<Self> {
        let governors = Self {
            upstream: Arc::clone(upstream),
            memo,
            clock: Arc::clone(clock),
            all: Mutex::default(),
        };
        for user in users.map(Some).chain([None]) {
            governors.of(user);
        }
        Arc::new(governors)
    }

    /// Where ledgers are remembered.
    pub(super) const fn memo(&self) -> Option<&Arc<dyn Memo>> {
        self.memo.as_ref()
    }

    /// The governor of `user`, or of nobody.
    pub(super) fn of(&self, user: Option<&str>) -> Arc<Governor> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let key = user.map(ToOwned::to_owned);
        if let Some(known) = all.get(&key) {
            return Arc::clone(known);
        }
        while all.len() >= USERS
            && let Some(other) = all.keys().find(|user| user.is_some()).cloned()
        {
            all.remove(&other);
        }
        let governor = Arc::new(self.recalled(user));
        all.insert(key, Arc::clone(&governor));
        governor
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Governor>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }

    /// Reads one row, once per user: no task is worth that.
    fn recalled(&self, user: Option<&str>) -> Governor {
        let governor = Governor::new(&self.upstream, user);
        let memo = self.memo.as_ref();
        match memo.map(|memo| memo.recall(Topic::RateLimit, governor.key())) {
            Some(Ok(Some(noted))) => governor.recall(&noted, self.clock.wall()),
            Some(Err(error)) => tracing::warn!(%error, "a rate limit is not recalled"),
            _ => {}
        }
        governor
    }
}

impl Limit {
    fn refuses(&self, kind: Kind) -> bool {
        match self.scope {
            Scope::Pulls => kind == Kind::ManifestGet,
            Scope::Control => !kind.is_blob(),
            Scope::Everything => true,
        }
    }

    /// How long the upstream still asks to be left alone. More than it could have asked for means that the clock was
    /// set back.
    fn wait(&self, now: Timestamp) -> Option<Duration> {
        let left = self.until?.since(now)?;
        (!left.is_zero() && left <= LONGEST_WAIT).then_some(left)
    }
}

impl Governor {
    /// The governor of `username`, or of nobody, at `upstream`.
    pub(super) fn new(upstream: &str, username: Option<&str>) -> Self {
        Self {
            key: match username {
                Some(username) => format!("{upstream} {username}"),
                None => upstream.to_owned(),
            },
            username: username.map(Into::into),
            state: Mutex::default(),
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// As whom it is asked, for metrics.
    pub(super) fn credential(&self) -> Arc<str> {
        self.username.as_deref().unwrap_or("anonymous").into()
    }

    /// Whether `question` is asked, and what for. `now` is by the monotonic clock, `wall` by the other.
    pub(super) fn admit(&self, question: &Question, wall: Timestamp, now: Duration) -> Admission {
        let mut state = self.state();
        let Some(limit) = state.limit.filter(|limit| limit.refuses(question.kind())) else {
            return Admission::Passes(Errand::Question);
        };
        if question.is_resumption() {
            return Admission::Passes(Errand::Question);
        }
        state.offender.get_or_insert_with(|| question.clone());
        let wait = limit.wait(wall);
        // What no tag check promises is not tried.
        if wait.is_some() || limit.scope == Scope::Pulls || !state.may_try(now) {
            return Admission::Refused(wait);
        }
        state.tried = Some(now);
        state.tried_by_question = true;
        Admission::Passes(Errand::Trial)
    }

    /// Whether a request of `kind` may be sent that has been admitted before.
    pub(super) fn pass(
        &self,
        kind: Kind,
        host: &str,
        wall: Timestamp,
    ) -> Result<(), UpstreamError> {
        match self.state().limit.filter(|limit| limit.refuses(kind)) {
            None => Ok(()),
            Some(limit) => Err(UpstreamError::RateLimited {
                host: host.into(),
                retry_after: limit.wait(wall),
            }),
        }
    }

    /// Enters an answer of the registry itself.
    pub(super) fn enter(
        &self,
        kind: Kind,
        status: StatusCode,
        headers: &HeaderMap,
        now: Timestamp,
    ) {
        let mut state = self.state();
        if state.ledger.enter(headers, now) {
            state.note(Unwritten::Counts);
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            let pulls = kind == Kind::ManifestGet && tells_what_is_left(headers);
            state.meet(kind, pulls, retry_after(headers, now), now);
        } else if status.as_u16() < 400 {
            state.answered(kind, tells_what_is_left(headers));
        }
    }

    /// The token endpoint limits the rate.
    pub(super) fn enter_token(&self, wait: Option<Duration>, now: Timestamp) {
        self.state().meet(Kind::Token, false, wait, now);
    }

    /// A question failed because of the limit.
    pub(super) fn refused(&self, question: &Question) {
        self.state().offender = Some(question.clone());
    }

    /// A question was answered.
    pub(super) fn told(&self, question: &Question) {
        if question.kind().is_manifest() {
            self.state().good = Some(question.clone());
        }
    }

    /// How much is refused.
    pub(super) fn scope(&self) -> Option<Scope> {
        self.state().limit.map(|limit| limit.scope)
    }

    /// Whether anything is refused.
    pub(super) fn is_limiting(&self) -> bool {
        self.state().limit.is_some()
    }

    /// The question to probe with now. `None` while the upstream asks to be left alone, and when a client's question
    /// has just been the probe.
    pub(super) fn probe(&self, wall: Timestamp, now: Duration) -> Option<Question> {
        let mut state = self.state();
        let limit = state.limit?;
        if limit.wait(wall).is_some() || std::mem::take(&mut state.tried_by_question) {
            return None;
        }
        state.tried = Some(now);
        state.good.clone().or_else(|| state.offender.clone())
    }

    /// A probe was answered with something that says nothing of the limit.
    pub(super) fn inconclusive(&self) {
        let mut state = self.state();
        if state.good.take().is_none() && state.limit.take().is_some() {
            state.note(Unwritten::Limit);
        }
    }

    /// The ledger, as far as it is to be believed.
    pub(super) fn ledger(&self, now: Timestamp) -> Ledger {
        let state = self.state();
        let mut ledger = state.ledger.believed(now);
        let limit = state.limit.as_ref();
        ledger.limited_until = limit
            .filter(|limit| limit.wait(now).is_some())
            .and_then(|limit| limit.until);
        ledger
    }

    /// When what has changed is to be remembered. Whoever is told to has to call [`noted`](Self::noted).
    pub(super) fn remember(&self) -> Remember {
        let mut guard = self.state();
        let state = &mut *guard;
        match state.unwritten {
            Unwritten::Limit => {
                state.unwritten = Unwritten::Nothing;
                Remember::Now
            }
            Unwritten::Counts if !std::mem::replace(&mut state.writing, true) => Remember::Soon,
            _ => Remember::No,
        }
    }

    /// What is to be remembered.
    pub(super) fn noted(&self, now: Timestamp) -> Option<Noted> {
        let mut state = self.state();
        state.unwritten = Unwritten::Nothing;
        state.writing = false;
        let ledger = &state.ledger;
        let kept = Kept {
            limit: ledger.limit,
            remaining: ledger.remaining,
            window_seconds: ledger.window.map(|window| window.as_secs()),
            source: ledger.source.clone(),
            updated: ledger.updated.map(Timestamp::as_millis),
            limited: state.limit.map(|limit| KeptLimit {
                scope: limit.scope,
                until: limit.until.map(Timestamp::as_millis),
                since: limit.since.as_millis(),
            }),
        };
        let value = serde_json::to_string(&kept).ok()?;
        Some(Noted { value, at: now })
    }

    /// Takes up what was remembered, as far as it is to be believed.
    pub(super) fn recall(&self, noted: &Noted, now: Timestamp) {
        let Ok(kept) = serde_json::from_str::<Kept>(&noted.value) else {
            return;
        };
        let mut state = self.state();
        let ledger = Ledger {
            limit: kept.limit,
            remaining: kept.remaining,
            window: kept.window_seconds.map(Duration::from_secs),
            source: kept.source,
            updated: kept.updated.map(Timestamp::from_millis),
            limited_until: None,
        };
        state.ledger = ledger.believed(now);
        let limit = kept.limited.map(|limit| Limit {
            scope: limit.scope,
            until: limit.until.map(Timestamp::from_millis),
            kind: Kind::ManifestGet,
            since: Timestamp::from_millis(limit.since),
        });
        let recent = |limit: &Limit| now.since(limit.since).is_some_and(|age| age < LONGEST_WAIT);
        state.limit = limit.filter(recent);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_try(&self, now: Duration) -> bool {
        self.tried
            .is_none_or(|tried| now.saturating_sub(tried) >= PACE)
    }

    fn meet(&mut self, kind: Kind, pulls: bool, wait: Option<Duration>, now: Timestamp) {
        let scope = match (pulls, self.limit) {
            (false, _) => Scope::Everything,
            (true, Some(limit)) => limit.scope,
            (true, None) => Scope::Control,
        };
        self.limit = Some(Limit {
            scope,
            until: wait.map(|wait| later(now, wait)),
            kind,
            since: now,
        });
        self.note(Unwritten::Limit);
    }

    /// The registry answered a question of `kind`.
    fn answered(&mut self, kind: Kind, counts: bool) {
        let Some(limit) = &mut self.limit else {
            return;
        };
        if !kind.is_manifest() && kind != limit.kind {
            return;
        }
        if counts && self.ledger.remaining == Some(0) {
            limit.scope = Scope::Pulls;
        } else {
            self.limit = None;
        }
        self.note(Unwritten::Limit);
    }

    fn note(&mut self, what: Unwritten) {
        self.unwritten = self.unwritten.max(what);
    }
}

/// By how much freshness is stretched where so much is left; 1 where nothing is known. While a limit is in force a
/// check costs nothing, and whoever is served the copy is told that it is stale.
pub(super) fn stretch(ledger: &Ledger, limited: bool) -> u32 {
    match (ledger.limit, ledger.remaining) {
        _ if limited => 1,
        (_, Some(0)) => 16,
        (Some(limit), Some(left)) => match () {
            () if left.saturating_mul(2) >= limit => 1,
            () if left.saturating_mul(4) >= limit => 2,
            () if left.saturating_mul(10) >= limit => 4,
            () => 8,
        },
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use reqwest::Url;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const START: Duration = Duration::ZERO;

    fn question(kind: Kind) -> Question {
        let url = Url::parse("https://registry.test/v2/x").unwrap();
        Question::new(kind, url, &"library/nginx".parse().unwrap(), "*/*")
    }

    fn headers(remaining: Option<&'static str>, retry_after: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("ratelimit-remaining", remaining),
            ("retry-after", retry_after),
        ] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        headers
    }

    fn limited(kind: Kind, headers: &HeaderMap) -> Governor {
        let governor = Governor::new("docker.io", None);
        governor.enter(kind, StatusCode::TOO_MANY_REQUESTS, headers, NOW);
        governor
    }

    /// What of a `HEAD`, a `GET` and a blob is asked as usual.
    fn passing(governor: &Governor) -> [bool; 3] {
        [Kind::ManifestHead, Kind::ManifestGet, Kind::BlobGet]
            .map(|kind| governor.pass(kind, "registry.test", NOW).is_ok())
    }

    #[test]
    fn what_is_refused_follows_from_what_was_refused() {
        let pulls = limited(Kind::ManifestGet, &headers(Some("0;w=21600"), None));
        assert_eq!(passing(&pulls), [false, false, true]);
        pulls.enter(
            Kind::ManifestHead,
            StatusCode::OK,
            &headers(Some("0;w=21600"), None),
            NOW,
        );
        assert_eq!(passing(&pulls), [true, false, true]);
        let few = headers(Some("3;w=21600"), None);
        pulls.enter(Kind::ManifestHead, StatusCode::OK, &few, NOW);
        assert_eq!(passing(&pulls), [true, true, true]);

        let silent = limited(Kind::ManifestGet, &headers(None, None));
        assert_eq!(passing(&silent), [false, false, false]);
        // A blob says nothing of manifests, and a redirect is an answer.
        silent.enter(Kind::BlobGet, StatusCode::OK, &headers(None, None), NOW);
        assert_eq!(passing(&silent), [false, false, false]);
        silent.enter(Kind::ManifestGet, StatusCode::OK, &headers(None, None), NOW);
        assert!(!silent.is_limiting());
        let blobs = limited(Kind::BlobGet, &headers(None, None));
        let redirect = StatusCode::TEMPORARY_REDIRECT;
        blobs.enter(Kind::BlobGet, redirect, &headers(None, None), NOW);
        assert!(!blobs.is_limiting());
    }

    #[test]
    fn one_probe_in_five_seconds() {
        let governor = limited(Kind::ManifestGet, &headers(None, None));
        let tried = |now: Duration| {
            let admission = governor.admit(&question(Kind::ManifestHead), NOW, now);
            matches!(admission, Admission::Passes(Errand::Trial))
        };
        assert!(tried(START));
        assert!(!tried(Duration::from_millis(4_999)));
        // The background sees that somebody has just tried.
        assert!(governor.probe(NOW, START).is_none());
        assert!(governor.probe(NOW, PACE).is_some());
        assert!(!tried(Duration::from_millis(9_999)));
        assert!(tried(PACE * 2));
    }

    #[test]
    fn nothing_is_tried_before_retry_after_and_nothing_waits_for_a_clock_that_was_set() {
        let governor = limited(Kind::ManifestGet, &headers(None, Some("90")));
        let waits = |wall| match governor.admit(&question(Kind::ManifestGet), wall, START) {
            Admission::Refused(wait) => wait,
            Admission::Passes(_) => None,
        };
        assert_eq!(waits(NOW), Some(Duration::from_secs(90)));
        assert!(governor.probe(NOW, START).is_none());
        let later = later(NOW, Duration::from_secs(90));
        assert_eq!(waits(later), None);
        assert!(governor.probe(Timestamp::from_millis(0), PACE).is_none());
        assert!(governor.probe(Timestamp::from_millis(0), PACE).is_some());
    }

    #[test]
    fn what_is_remembered_is_recalled_within_its_window() {
        let sent = headers(Some("0;w=21600"), Some("90"));
        let governor = limited(Kind::ManifestGet, &sent);
        assert_eq!(governor.remember(), Remember::Now);
        assert_eq!(governor.remember(), Remember::No);
        let noted = governor.noted(NOW).unwrap();
        let recalled = |at| {
            let governor = Governor::new("docker.io", None);
            governor.recall(&noted, at);
            (governor.ledger(at).remaining, governor.is_limiting())
        };
        assert_eq!(recalled(NOW), (Some(0), true));
        assert_eq!(recalled(later(NOW, LONGEST_WAIT)), (None, false));
        assert_eq!(recalled(Timestamp::from_millis(0)), (None, false));
        let odd = Noted {
            value: "{".into(),
            at: NOW,
        };
        governor.recall(&odd, NOW);
        assert!(governor.is_limiting(), "odd facts change nothing");
    }

    #[test]
    fn counts_are_remembered_together() {
        let governor = Governor::new("docker.io", Some("alice"));
        assert_eq!(governor.key(), "docker.io alice");
        for _ in 0..2 {
            let sent = headers(Some("76;w=21600"), None);
            governor.enter(Kind::ManifestHead, StatusCode::OK, &sent, NOW);
        }
        assert_eq!(governor.remember(), Remember::Soon);
        assert_eq!(governor.remember(), Remember::No);
        assert!(governor.noted(NOW).is_some());
        assert_eq!(governor.remember(), Remember::No);
    }

    #[test]
    fn freshness_is_stretched_as_pulls_become_few() {
        let of = |limit, remaining| {
            let ledger = Ledger {
                limit,
                remaining,
                ..Ledger::default()
            };
            stretch(&ledger, false)
        };
        for (left, expected) in [
            (100, 1),
            (50, 1),
            (49, 2),
            (25, 2),
            (24, 4),
            (10, 4),
            (9, 8),
            (1, 8),
            (0, 16),
        ] {
            assert_eq!(of(Some(100), Some(left)), expected, "{left}");
        }
        assert_eq!(of(None, None), 1);
        assert_eq!(of(None, Some(1)), 1);
        assert_eq!(stretch(&Ledger::default(), true), 1);
        let none = Ledger {
            remaining: Some(0),
            ..Ledger::default()
        };
        assert_eq!((stretch(&none, false), stretch(&none, true)), (16, 1));
    }
}
