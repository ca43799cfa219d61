//! What the hub holds and knows: repositories, users, tokens, signatures, limits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::faults::ArmedRule;
use super::record::{Names, Origin, Recorded};

/// A manifest or index, with the type it was pushed as.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
}

/// A repository: tags, manifests, and the blobs it may serve.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) tags: BTreeMap<String, String>,
    pub(super) manifests: BTreeMap<String, Manifest>,
    pub(super) blobs: BTreeSet<String>,
    /// The users who may pull; `None` is everyone.
    pub(super) readers: Option<BTreeSet<String>>,
}

impl Repository {
    pub(super) fn readable_by(&self, user: Option<&str>) -> bool {
        match (&self.readers, user) {
            (None, _) => true,
            (Some(readers), Some(user)) => readers.contains(user),
            (Some(_), None) => false,
        }
    }

    /// A manifest by tag or digest, with its digest.
    pub(super) fn manifest(&self, reference: &str) -> Option<(&str, &Manifest)> {
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        let (digest, manifest) = self.manifests.get_key_value(digest)?;
        Some((digest, manifest))
    }
}

/// What a token allows.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) repositories: BTreeSet<String>,
    pub(super) expires: Instant,
}

/// The pull limit of Docker Hub: manifest GETs in a window of six hours.
#[derive(Debug)]
pub(super) struct PullLimit {
    /// The number shown; `None` sends no rate-limit headers.
    pub(super) limit: Option<u64>,
    pub(super) used: u64,
    /// Whether 429 is answered when `limit` is used up.
    pub(super) enforced: bool,
    /// Every manifest GET is answered 429.
    pub(super) exhausted: bool,
    pub(super) retry_after: Option<Duration>,
}

impl PullLimit {
    pub(super) fn remaining(&self) -> u64 {
        if self.exhausted {
            return 0;
        }
        self.limit.unwrap_or(0).saturating_sub(self.used)
    }

    /// Counts one pull; `false` when there is none left.
    pub(super) fn take(&mut self) -> bool {
        let refused = self.enforced && self.limit.is_some() && self.remaining() == 0;
        if self.exhausted || refused {
            return false;
        }
        self.used += 1;
        true
    }
}

/// Everything behind the hub's lock.
pub(super) struct State {
    /// Scheme, host and port of each origin, without a slash at the end.
    pub(super) urls: BTreeMap<Origin, String>,
    pub(super) repositories: BTreeMap<String, Repository>,
    pub(super) blobs: HashMap<String, Bytes>,
    pub(super) users: HashMap<String, String>,
    pub(super) tokens: HashMap<String, Grant>,
    pub(super) token_ttl: Duration,
    /// The digests that signed addresses were issued for.
    pub(super) signatures: HashMap<String, String>,
    pub(super) limit: PullLimit,
    pub(super) referrers: bool,
    pub(super) direct_blobs: bool,
    /// The longest list of tags in one answer.
    pub(super) tags_page: Option<usize>,
    pub(super) rules: Vec<ArmedRule>,
    pub(super) names: Names,
    records: Vec<(u64, Recorded)>,
    next_number: u64,
    random: fastrand::Rng,
}

impl State {
    pub(super) fn new(token_ttl: Duration) -> Self {
        Self {
            urls: BTreeMap::new(),
            repositories: BTreeMap::new(),
            blobs: HashMap::new(),
            users: HashMap::new(),
            tokens: HashMap::new(),
            token_ttl,
            signatures: HashMap::new(),
            limit: PullLimit {
                limit: Some(100),
                used: 0,
                enforced: false,
                exhausted: false,
                retry_after: None,
            },
            referrers: true,
            direct_blobs: false,
            tags_page: None,
            rules: Vec::new(),
            names: Names::default(),
            records: Vec::new(),
            next_number: 0,
            random: fastrand::Rng::new(),
        }
    }

    pub(super) fn url(&self, origin: Origin) -> &str {
        &self.urls[&origin]
    }

    pub(super) fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    /// A number that was not given before.
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// An opaque word that was not given before and cannot be guessed from the last.
    pub(super) fn opaque(&mut self) -> String {
        let number = self.number();
        format!("{number:x}-{:032x}", self.random.u128(..))
    }

    /// A new address of a blob at that origin, signed for that digest.
    pub(super) fn signed_url(&mut self, origin: Origin, digest: &str) -> String {
        let signature = self.opaque();
        self.signatures.insert(signature.clone(), digest.to_owned());
        let path = super::request::signed_path(digest);
        let number = self.number();
        let base = self.url(origin);
        format!("{base}{path}?expires={number}&signature={signature}")
    }

    /// A new token for those repositories.
    pub(super) fn issue_token(&mut self, repositories: BTreeSet<String>, ttl: Duration) -> String {
        let token = self.opaque();
        let expires = Instant::now() + ttl;
        let grant = Grant {
            repositories,
            expires,
        };
        self.tokens.insert(token.clone(), grant);
        token
    }

    pub(super) fn record(&mut self, recorded: Recorded) -> u64 {
        let number = self.number();
        self.records.push((number, recorded));
        number
    }

    /// The record of that number, unless it was taken away.
    pub(super) fn recorded(&mut self, number: u64) -> Option<&mut Recorded> {
        self.records
            .iter_mut()
            .rev()
            .find(|(it, _)| *it == number)
            .map(|(_, recorded)| recorded)
    }

    pub(super) fn records(&self) -> Vec<Recorded> {
        self.records.iter().map(|(_, it)| it.clone()).collect()
    }

    pub(super) fn take_records(&mut self) -> Vec<Recorded> {
        self.records.drain(..).map(|(_, it)| it).collect()
    }
}
