//! Blobs: from the cache, or from the flight that fetches them.

use std::sync::Arc;

use tracing::warn;

use super::Inner;
use super::failure::{Failure, Wanted};
use super::negative::Subject;
use super::small::{self, Small};
use super::source::RepositorySource;
use crate::blobs::{FileBody, HeldBlob, Lookup};
use crate::fetch::{Reader, Role};
use crate::index::Membership;
use crate::oci::{ByteRange, Digest, RepositoryName, Span};
use crate::registry::{Answer, BlobContent, BlobFacts, MissReason, Outcome, RegistryError};

impl Inner {
    pub(super) async fn blob_facts(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Answer<BlobFacts>, RegistryError> {
        let found = if self.passes(name, None) {
            self.passed_facts(name, digest).await
        } else {
            self.find_facts(name, digest).await
        };
        found.map_err(|failure| failure.registry_error(Wanted::Blob(name, digest)))
    }

    async fn find_facts(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Answer<BlobFacts>, Failure> {
        let held = self.parts.blobs.size(digest).await?;
        let member = self.member(name, digest).await;
        if let (Some(size), Some(_)) = (held, member) {
            return Ok(self.answer(BlobFacts { digest, size }, Outcome::Hit));
        }
        let told = self.prove_blob(name, digest).await?;
        let stated = member.and_then(|membership| membership.size);
        let size = held.or(stated).or(told);
        let size = size.ok_or_else(|| self.without_length(digest))?;
        let outcome = match held {
            Some(_) => Outcome::Revalidated,
            None => Outcome::Miss(MissReason::Absent),
        };
        Ok(self.answer(BlobFacts { digest, size }, outcome))
    }

    pub(super) async fn blob(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Result<Answer<BlobContent>, RegistryError> {
        if self.passes(name, None) {
            return self.passed_blob(name, digest, range).await;
        }
        let member = self.member(name, digest).await;
        match self.held_blob(name, digest, member, range).await? {
            Ok(answer) => Ok(answer),
            Err(reason) => self.flown_blob(name, digest, member, range, reason).await,
        }
    }

    /// The blob from the cache, or the reason why it is not there.
    pub(super) async fn held_blob(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        member: Option<Membership>,
        range: Option<ByteRange>,
    ) -> Result<Result<Answer<BlobContent>, MissReason>, RegistryError> {
        if let Some(bytes) = self.memory.blob(digest).filter(|_| member.is_some()) {
            // Or its file would be the first to be evicted.
            self.parts.blobs.note_use(digest);
            let content = small::content(digest, &bytes, range)?;
            return Ok(Ok(self.answer(content, Outcome::Hit)));
        }
        let held = match self.parts.blobs.open(digest).await {
            Ok(Lookup::Held(held)) => held,
            Ok(Lookup::Absent) => return Ok(Err(MissReason::Absent)),
            Ok(Lookup::Lost) => return Ok(Err(MissReason::Lost)),
            // The upstream still has what this disk cannot give.
            Err(error) => {
                warn!(%digest, %error, "a blob cannot be looked up");
                return Ok(Err(MissReason::Lost));
            }
        };
        // Looked up only now: whoever fetched the blob a moment ago has noted membership by now.
        let outcome = self.entitle(name, digest).await;
        let outcome =
            outcome.map_err(|failure| failure.registry_error(Wanted::Blob(name, digest)))?;
        let content = match self.read_small(digest, &held).await {
            Small::Kept(bytes) => small::content(digest, &bytes, range)?,
            Small::Large => held_content(digest, held, range)?,
            Small::Damaged => {
                return Ok(Err(MissReason::Lost));
            }
        };
        Ok(Ok(self.answer(content, outcome)))
    }

    /// The blob from the flight that fetches it.
    async fn flown_blob(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        member: Option<Membership>,
        range: Option<ByteRange>,
        reason: MissReason,
    ) -> Result<Answer<BlobContent>, RegistryError> {
        let failed = |failure: Failure| failure.registry_error(Wanted::Blob(name, digest));
        if self.is_absent(name, Subject::Blob(digest)).await {
            return Err(failed(Failure::Remembered));
        }
        let mut reader = self.join(name, digest, member);
        let opened = reader.opened().await;
        let total = opened.map_err(|error| failed(error.into()))?;
        let outcome = match (reader.bypass(), reader.role()) {
            (Some(reason), _) => Outcome::Bypass(reason),
            (None, Role::Leader) => Outcome::Miss(reason),
            (None, Role::Follower) => Outcome::Coalesced,
        };
        // The flight may be another repository's. Our own source, once it answered, has noted membership.
        self.entitle(name, digest).await.map_err(failed)?;
        let content = flight_content(digest, reader, total, range).await;
        let content = content.map_err(|error| match error {
            Unstreamable::Range(error) => error,
            Unstreamable::Fetch(failure) => failed(failure),
        })?;
        Ok(self.answer(content, outcome))
    }

    pub(super) fn source(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
    ) -> Arc<RepositorySource> {
        Arc::new(RepositorySource {
            inner: Arc::clone(self),
            name: name.clone(),
            digest,
        })
    }

    fn join(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        member: Option<Membership>,
    ) -> Reader {
        let size = member.and_then(|membership| membership.size);
        let source = self.source(name, digest);
        self.parts.fetch.join(digest, size, source)
    }

    /// Makes sure that the blob belongs to the repository, asking the upstream if that is not known.
    async fn entitle(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Outcome, Failure> {
        if self.member(name, digest).await.is_some() {
            return Ok(Outcome::Hit);
        }
        self.prove_blob(name, digest).await?;
        Ok(Outcome::Revalidated)
    }

    pub(super) fn without_length(&self, digest: Digest) -> Failure {
        let upstream = self.upstream_name();
        Failure::bad(format!("{upstream} does not tell the length of {digest}"))
    }

    /// Asks the upstream by `HEAD`, with the repository's own rights, whether the blob is there; yields its length
    /// if that is told.
    pub(super) async fn prove_blob(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<u64>, Failure> {
        if self.is_absent(name, Subject::Blob(digest)).await {
            return Err(Failure::Remembered);
        }
        let question = || {
            let (inner, name) = (Arc::clone(self), name.clone());
            async move {
                match inner.parts.upstream.head_blob(&name, digest).await {
                    Ok(told) => {
                        inner.admit(&name, digest, None).await;
                        Ok(told)
                    }
                    Err(error) => {
                        let (subject, failure) = (Subject::Blob(digest), error.into());
                        inner.note_absence(&name, subject, &failure).await;
                        Err(failure)
                    }
                }
            }
        };
        let (answer, _) = self
            .proving_blobs
            .run((name.clone(), digest), question)
            .await;
        answer.unwrap_or(Err(Failure::Busy))
    }
}

/// Why a running flight cannot be streamed to this client.
enum Unstreamable {
    Range(RegistryError),
    Fetch(Failure),
}

fn held_content(
    digest: Digest,
    held: HeldBlob,
    range: Option<ByteRange>,
) -> Result<BlobContent, RegistryError> {
    let size = held.size;
    let span = span(range, size)?;
    let whole = Span {
        start: 0,
        end: size,
    };
    let body = Box::pin(FileBody::new(held, span.unwrap_or(whole)));
    Ok(BlobContent {
        digest,
        size: Some(size),
        span,
        body,
    })
}

async fn flight_content(
    digest: Digest,
    mut reader: Reader,
    total: Option<u64>,
    range: Option<ByteRange>,
) -> Result<BlobContent, Unstreamable> {
    let size = match (total, range) {
        // A range can be placed only in a blob whose length is known.
        (None, Some(_)) => {
            let size = reader.completed().await;
            Some(size.map_err(|error| Unstreamable::Fetch(error.into()))?)
        }
        (total, _) => total,
    };
    let span = match size {
        Some(size) => span(range, size).map_err(Unstreamable::Range)?,
        None => None,
    };
    let body = Box::pin(reader.stream(span, size));
    Ok(BlobContent {
        digest,
        size,
        span,
        body,
    })
}

pub(super) fn span(range: Option<ByteRange>, size: u64) -> Result<Option<Span>, RegistryError> {
    let resolved = range.map(|range| range.resolve(size)).transpose();
    resolved.map_err(|_| RegistryError::RangeNotSatisfiable { size })
}
