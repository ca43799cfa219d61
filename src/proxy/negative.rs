//! What the upstream does not have, remembered for a while.
//!
//! Invariants:
//! - for at most `negative_ttl` a client is told so without asking, also across a restart, unless it was refused for
//!   want of rights; a word from the future has
//!   no age, and does not count;
//! - it ends early when the thing turns out to exist;
//! - that a tag was deleted stays known until it exists again, so that no failure of the upstream brings it back;
//! - the disk is written once for each answer of the upstream, not for each client.

use std::fmt;
use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tracing::warn;

use super::Inner;
use super::failure::Failure;
use crate::index::Index;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::registry::{MEMO_LIMIT, MemoError, Noted, Topic};
use crate::sys::clock::Timestamp;
use crate::sys::tasks;

/// What may be absent in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Manifest(Reference),
    /// Apart from manifests: clients that miss one of the two by digest go on to the other.
    Blob(Digest),
    List(String),
}

/// What the upstream said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// That it does not exist.
    Gone,
    /// That it is not for us.
    Denied,
}

/// That the upstream does not have something, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Absence {
    pub(super) verdict: Verdict,
    /// When it was first noticed.
    pub(super) first: Timestamp,
    /// When the upstream last said so.
    pub(super) last: Timestamp,
}

/// What is known of absences; `None` stands for nothing, on disk either.
pub(super) struct Negatives(Cache<Key, Option<Absence>>);

type Key = (RepositoryName, Subject);

impl Negatives {
    pub(super) fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(MEMO_LIMIT)
            .eviction_policy(EvictionPolicy::lru());
        Self(cache.build())
    }
}

impl Inner {
    /// The newest word on the absence of something, however old.
    pub(super) async fn absence(&self, name: &RepositoryName, subject: Subject) -> Option<Absence> {
        let key = (name.clone(), subject);
        if let Some(known) = self.negatives.0.get(&key) {
            return known;
        }
        let (index, text) = (Arc::clone(&self.parts.index), self.negative_key(&key));
        let noted = tasks::blocking(move || index.recall(Topic::Negative, &text)).await;
        let noted = noted.unwrap_or_else(|error| {
            warn!(%error, "what the upstream does not have cannot be looked up");
            None
        });
        let absence = noted.as_ref().and_then(Absence::parse);
        // What this process noted meanwhile is newer.
        self.negatives.0.entry(key).or_insert(absence).into_value()
    }

    /// Whether the upstream said so recently enough not to be asked again.
    pub(super) async fn is_absent(&self, name: &RepositoryName, subject: Subject) -> bool {
        let absence = self.absence(name, subject).await;
        absence.is_some_and(|absence| self.is_in_force(&absence))
    }

    pub(super) fn is_in_force(&self, absence: &Absence) -> bool {
        if absence.verdict == Verdict::Denied && absence.last < self.parts.refusals_since {
            return false;
        }
        let age = self.parts.clock.wall().since(absence.last);
        age.is_some_and(|age| age < self.settings.freshness.negative_ttl)
    }

    /// Notes an upstream's no; any other failure says nothing about absence.
    pub(super) async fn note_absence(
        &self,
        name: &RepositoryName,
        subject: Subject,
        failure: &Failure,
    ) {
        let tag = match &subject {
            Subject::Manifest(Reference::Tag(tag)) => Some(tag),
            _ => None,
        };
        let Some(verdict) = failure.verdict().filter(|_| !self.passes(name, tag)) else {
            return;
        };
        let now = self.parts.clock.wall();
        let before = self.absence(name, subject.clone()).await;
        let first = before
            .map(|before| before.first)
            .filter(|first| *first <= now);
        let absence = Absence {
            verdict,
            first: first.unwrap_or(now),
            last: now,
        };
        let key = (name.clone(), subject);
        let (text, noted) = (self.negative_key(&key), absence.noted());
        self.negatives.0.insert(key, Some(absence));
        self.write_negative(move |index| index.remember(Topic::Negative, &text, &noted))
            .await;
    }

    /// Forgets what was said about things that exist after all.
    pub(super) async fn end_absences(
        &self,
        name: &RepositoryName,
        subjects: impl IntoIterator<Item = Subject>,
    ) {
        let mut ended = Vec::new();
        for subject in subjects {
            let key = (name.clone(), subject);
            // What was never looked up may be on the disk.
            if self.negatives.0.get(&key) != Some(None) {
                ended.push(self.negative_key(&key));
                self.negatives.0.insert(key, None);
            }
        }
        if ended.is_empty() {
            return;
        }
        self.write_negative(move |index| {
            let forget = |key: &String| index.forget(Topic::Negative, key);
            ended.iter().try_for_each(forget)
        })
        .await;
    }

    /// The same for the tags that a list names, which are in byte order.
    pub(super) async fn end_absences_of_tags(&self, name: &RepositoryName, tags: &[String]) {
        let is_listed = |tag: &str| tags.binary_search_by(|it| it.as_str().cmp(tag)).is_ok();
        let listed: Vec<_> = self
            .negatives
            .0
            .iter()
            .filter(|(key, known)| key.0 == *name && known.is_some())
            .map(|(key, _)| key.1.clone())
            .filter(|subject| {
                matches!(subject, Subject::Manifest(Reference::Tag(tag)) if is_listed(tag.as_str()))
            })
            .collect();
        self.end_absences(name, listed).await;
    }

    async fn write_negative(
        &self,
        write: impl FnOnce(&dyn Index) -> Result<(), MemoError> + Send + 'static,
    ) {
        let index = Arc::clone(&self.parts.index);
        if let Err(error) = tasks::blocking(move || write(&*index)).await {
            warn!(%error, "what the upstream does not have is remembered in memory only");
        }
    }

    /// `docker.io/library/nginx:1.0`, `...@sha256:...`, or `...#tags`: nothing of this can be in a name.
    fn negative_key(&self, (name, subject): &Key) -> String {
        format!("{}/{name}{subject}", self.upstream_name())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(Reference::Tag(tag)) => write!(f, ":{tag}"),
            Self::Manifest(Reference::Digest(digest)) => write!(f, "@{digest}"),
            Self::Blob(digest) => write!(f, "#blobs/{digest}"),
            Self::List(list) => write!(f, "#{list}"),
        }
    }
}

impl Absence {
    /// `gone 1700000000000`: the verdict, and when it was first given.
    fn noted(&self) -> Noted {
        Noted {
            value: format!("{} {}", self.verdict.label(), self.first.as_millis()),
            at: self.last,
        }
    }

    fn parse(noted: &Noted) -> Option<Self> {
        let (verdict, first) = noted.value.split_once(' ')?;
        let verdicts = [Verdict::Gone, Verdict::Denied];
        Some(Self {
            verdict: verdicts.into_iter().find(|it| it.label() == verdict)?,
            first: Timestamp::from_millis(first.parse().ok()?),
            last: noted.at,
        })
    }
}

impl Verdict {
    const fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Denied => "denied",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_can_be_read_again() {
        let absence = Absence {
            verdict: Verdict::Denied,
            first: Timestamp::from_millis(5),
            last: Timestamp::from_millis(7),
        };
        assert_eq!(Absence::parse(&absence.noted()), Some(absence));
        for value in ["", "gone", "gone x", "lost 5"] {
            let noted = Noted {
                value: value.to_owned(),
                at: Timestamp::from_millis(7),
            };
            assert_eq!(Absence::parse(&noted), None, "{value:?}");
        }
    }
}
