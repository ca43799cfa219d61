//! Small facts that survive a restart: what an upstream said of its rate limit, what it does not have, what is
//! private there.

use std::fmt::Debug;

use crate::sys::clock::Timestamp;

/// The most facts that are kept of one topic; those noted longest ago give way.
pub const MEMO_LIMIT: u64 = 10_000;

/// What a fact is about. Topics do not see each other's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What an upstream said of its rate limit, by upstream and credential.
    RateLimit,
    /// What an upstream does not have, by upstream, repository and reference.
    Negative,
    /// Which repositories anyone may see, by upstream, its host, and repository.
    Visibility,
    /// Which repositories not everybody may see, by the same. Apart from the former: of these anyone can make up names.
    Private,
    /// For which repositories an upstream was ever asked with credentials, by upstream and prefix.
    Login,
    /// Who spent an upstream's budget.
    Spending,
}

impl Topic {
    /// The topic's name where facts are kept.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::Negative => "negative",
            Self::Visibility => "visibility",
            Self::Private => "private",
            Self::Login => "login",
            Self::Spending => "spending",
        }
    }
}

/// A fact, and when it was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The fact, in whatever form its topic writes it.
    pub value: String,
    /// When it was noted, by the wall clock.
    pub at: Timestamp,
}

/// A memo could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct MemoError(pub String);

/// A place for small facts. Every call blocks: async code goes through
/// [`tasks::blocking`](crate::sys::tasks::blocking).
pub trait Memo: Debug + Send + Sync {
    /// What was last noted under `key`, if it is still kept.
    ///
    /// # Errors
    /// [`MemoError`]: the place cannot be read.
    fn recall(&self, topic: Topic, key: &str) -> Result<Option<Noted>, MemoError>;

    /// Notes a fact, replacing the former one of this key. At most [`MEMO_LIMIT`] facts of a topic are kept.
    ///
    /// # Errors
    /// [`MemoError`]: the place cannot be written; the former fact stays.
    fn remember(&self, topic: Topic, key: &str, noted: &Noted) -> Result<(), MemoError>;

    /// Forgets a fact; one that was never noted is fine.
    ///
    /// # Errors
    /// [`MemoError`]: the place cannot be written; the fact stays.
    fn forget(&self, topic: Topic, key: &str) -> Result<(), MemoError>;
}
