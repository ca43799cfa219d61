//! How long what is held is served: without asking, and when the upstream fails or says no.

use std::time::Duration;

use super::Inner;
use crate::oci::{RepositoryName, Tag, TagPattern};

/// How long tags and lists are served, by what the upstream says.
///
/// A copy whose age is unknown, because the clock was set back, is never fresh, and never too old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How long a tag or a list is served without asking the upstream.
    pub tag_ttl: Duration,
    /// The same for some tags. The first rule that is about a tag decides.
    pub tag_rules: Vec<(TagPattern, Duration)>,
    /// How long after its last confirmation a copy is served when the upstream fails.
    pub stale_if_error: Duration,
    /// How long after its last confirmation a tag is served that the upstream has no longer.
    pub stale_if_deleted: Duration,
    /// How long it is remembered that the upstream does not have something.
    pub negative_ttl: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            tag_ttl: Duration::from_mins(1),
            tag_rules: Vec::new(),
            stale_if_error: Duration::from_hours(30 * 24),
            stale_if_deleted: Duration::from_hours(24),
            negative_ttl: Duration::from_secs(30),
        }
    }
}

impl Freshness {
    fn ttl(&self, tag: &Tag) -> Duration {
        let mut rules = self.tag_rules.iter();
        rules
            .find(|(pattern, _)| pattern.matches(tag))
            .map_or(self.tag_ttl, |(_, ttl)| *ttl)
    }

    /// Whether a copy that was confirmed so long ago may be served when the upstream fails.
    pub(super) fn outlasts_failure(&self, age: Option<Duration>) -> bool {
        age.is_none_or(|age| age <= self.stale_if_error)
    }
}

impl Inner {
    /// How long a tag is fresh, with pulls to spare.
    pub(super) fn tag_ttl(&self, tag: &Tag) -> Duration {
        self.settings.freshness.ttl(tag)
    }

    /// How long a list is fresh, with pulls to spare.
    pub(super) const fn list_ttl(&self) -> Duration {
        self.settings.freshness.tag_ttl
    }

    /// Whether a tag of this age is served without asking.
    pub(super) fn is_fresh(&self, age: Option<Duration>, name: &RepositoryName, tag: &Tag) -> bool {
        age.is_some_and(|age| self.is_within(age, self.tag_ttl(tag), name))
    }

    /// Whether a list of this age is.
    pub(super) fn is_fresh_list(&self, age: Option<Duration>, name: &RepositoryName) -> bool {
        age.is_some_and(|age| self.is_within(age, self.list_ttl(), name))
    }

    /// As the upstream's pulls become few everything is fresh for longer.
    fn is_within(&self, age: Duration, ttl: Duration, name: &RepositoryName) -> bool {
        // The ledger is looked at by those alone for whom it may matter: a warm pull takes no lock.
        age < ttl || age < ttl.saturating_mul(self.parts.upstream.stretch(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |pattern: &str, ttl| (pattern.parse().unwrap(), Duration::from_secs(ttl));
        let freshness = Freshness {
            tag_rules: vec![rule("1.*", 7), rule("1.2", 8), rule("latest", 0)],
            ..Freshness::default()
        };
        let ttl = |tag: &str| freshness.ttl(&tag.parse().unwrap());
        assert_eq!(ttl("1.2"), Duration::from_secs(7));
        assert_eq!(ttl("latest"), Duration::ZERO);
        assert_eq!(ttl("2"), freshness.tag_ttl);
    }

    #[test]
    fn a_copy_of_unknown_age_is_never_too_old() {
        let freshness = Freshness::default();
        let limit = freshness.stale_if_error;
        assert!(freshness.outlasts_failure(None));
        assert!(freshness.outlasts_failure(Some(limit)));
        assert!(!freshness.outlasts_failure(Some(limit + Duration::from_millis(1))));
    }
}
