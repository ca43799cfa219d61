//! Mirrors of a registry: asked in order before the registry itself, for manifests and blobs.
//!
//! A mirror is asked anonymously, once, and within limits of its own; no credentials of the registry reach it. However
//! it fails, the next one is asked, and the registry at last. What it says of a tag is believed, as containerd does;
//! what it sends for a digest has to have that digest. One that could not be reached is left alone for a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::doubt::Doubts;
use super::redirect::host_of;
use super::request::bad_host;
use super::{BlobBody, Counters, ManifestBody, ManifestHead, Phase, Upstream, UpstreamError};
use crate::oci::digest::Digest;
use crate::oci::manifest::Manifest;
use crate::oci::name::{Reference, RepositoryName};
use crate::sys::clock::Clock;
use crate::sys::tasks;

/// The longest that connecting to a mirror may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The longest that a mirror may take to answer a question.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a mirror that could not be reached, or that limits the rate of requests, is left alone.
const REST: Duration = Duration::from_secs(30);

/// The mirrors of one registry, in the order in which they are asked.
#[derive(Default)]
pub(super) struct Mirrors(Vec<Mirror>);

/// One mirror.
pub(super) struct Mirror {
    upstream: Upstream,
    clock: Arc<dyn Clock>,
    /// Until when it is left alone.
    rests: Mutex<Duration>,
    doubts: Arc<Doubts>,
}

impl Mirrors {
    /// No mirrors.
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    /// `mirrors` ask their registries as nobody, without mirrors of their own.
    pub(super) fn new(mirrors: Vec<Upstream>, clock: &Arc<dyn Clock>) -> Self {
        let mirror = |upstream| Mirror {
            upstream,
            clock: Arc::clone(clock),
            rests: Mutex::default(),
            doubts: Doubts::new(Arc::clone(clock)),
        };
        Self(mirrors.into_iter().map(mirror).collect())
    }

    /// The first mirror's answer that tells the digest of `reference`.
    pub(super) async fn head_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Option<ManifestHead> {
        for mirror in self.awake() {
            let asked = mirror.upstream.0.head_manifest(name, reference).await;
            let told = asked.and_then(|head| mirror.told(head, reference));
            if let Some(head) = mirror.noted(told) {
                return Some(head);
            }
        }
        None
    }

    /// The first mirror's manifest that is one, and that has the digest asked for.
    pub(super) async fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Option<ManifestBody> {
        for mirror in self.awake() {
            let verified = match mirror.upstream.0.get_manifest(name, reference).await {
                Ok(body) => mirror.verified(body, reference.digest()).await,
                Err(error) => Err(error),
            };
            if let Some(body) = mirror.noted(verified) {
                return Some(body);
            }
        }
        None
    }

    /// What the first mirror that has the blob says of its length.
    pub(super) async fn head_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Option<Option<u64>> {
        for mirror in self.awake().filter(|mirror| !mirror.doubts.holds(digest)) {
            let asked = mirror.upstream.0.head_blob(name, digest).await;
            if let Some(length) = mirror.noted(asked) {
                return Some(length);
            }
        }
        None
    }

    /// The body of the first mirror that begins one. Its bytes are nobody's word for the digest.
    pub(super) async fn open_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
        offset: u64,
    ) -> Option<BlobBody> {
        for mirror in self.awake().filter(|mirror| !mirror.doubts.holds(digest)) {
            let opened = mirror.upstream.0.open_blob(name, digest, offset).await;
            if let Some(body) = mirror.noted(opened) {
                return Some(body.doubted(mirror.doubts.about(digest)));
            }
        }
        None
    }

    /// How much each was asked, by its host.
    pub(super) fn counters(&self) -> Vec<(String, Counters)> {
        let counted = |mirror: &Mirror| (mirror.host(), mirror.upstream.counters());
        self.0.iter().map(counted).collect()
    }

    /// Those that are not left alone.
    fn awake(&self) -> impl Iterator<Item = &Mirror> {
        self.0.iter().filter(|mirror| !mirror.is_left_alone())
    }
}

impl Mirror {
    fn is_left_alone(&self) -> bool {
        self.clock.monotonic() < *self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if it is one; else the reason decides how long the mirror is left alone.
    fn noted<T>(&self, answer: Result<T, UpstreamError>) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        tracing::debug!(mirror = self.host(), %error, "a mirror has no answer");
        if is_lasting(&error) {
            let until = self.clock.monotonic().saturating_add(REST);
            *self.rests.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
        None
    }

    /// Refuses an answer that names no digest, or another than was asked for.
    fn told(&self, head: ManifestHead, asked: &Reference) -> Result<ManifestHead, UpstreamError> {
        let right = match asked.digest() {
            Some(digest) => head.digest == Some(digest),
            None => head.digest.is_some(),
        };
        let other = || bad_host(&self.host(), "it does not tell the digest asked for".into());
        right.then_some(head).ok_or_else(other)
    }

    /// Refuses what is no manifest, and what has another digest than was asked for or claimed.
    async fn verified(
        &self,
        body: ManifestBody,
        asked: Option<Digest>,
    ) -> Result<ManifestBody, UpstreamError> {
        let expected = asked.or(body.claimed);
        let (bytes, media_type) = (body.bytes.clone(), body.media_type.clone());
        let reason = tasks::blocking(
            move || match Manifest::parse(bytes, media_type.as_deref()) {
                Err(error) => Some(error.to_string()),
                Ok(manifest) => expected
                    .filter(|expected| manifest.digest(expected.algorithm()) != *expected)
                    .map(|expected| format!("its manifest is not {expected}")),
            },
        );
        match reason.await {
            None => Ok(body),
            Some(reason) => Err(bad_host(&self.host(), reason)),
        }
    }

    fn host(&self) -> String {
        host_of(&self.upstream.0.base)
    }
}

/// Whether the mirror will not do better at the next question.
const fn is_lasting(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Unreachable { phase, .. } => !matches!(phase, Phase::Slot),
        UpstreamError::RateLimited { .. } => true,
        _ => false,
    }
}
