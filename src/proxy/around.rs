//! Around the cache: what `cache.never_cache` names is asked of the upstream each time, and nothing of it is kept.
//!
//! Manifests that are asked for at the same time are asked for once. A blob is a transfer of its own for each client,
//! also where its bytes are held for another repository; its tail waits for the digest as always.

use std::sync::Arc;

use super::Inner;
use super::failure::{Failure, Wanted};
use super::spending::Spender;
use crate::oci::{ByteRange, Digest, Reference, RepositoryName, Span, Tag};
use crate::registry::{
    Answer, BlobContent, BlobFacts, BypassReason, ManifestContent, Outcome, RegistryError,
};

/// What is decided about everything here.
pub(super) const PASSED: Outcome = Outcome::Bypass(BypassReason::NeverCache);

impl Inner {
    /// Whether nothing is kept of what is asked for by `tag`; `None` stands for what belongs to no one tag: manifests by
    /// digest, blobs and lists.
    pub(super) fn passes(&self, name: &RepositoryName, tag: Option<&Tag>) -> bool {
        let patterns = &self.settings.never_cache;
        !patterns.is_empty() && patterns.matches(self.upstream_name(), name, tag)
    }

    pub(super) async fn passed_manifest(
        self: &Arc<Self>,
        name: &RepositoryName,
        reference: &Reference,
        spender: Spender,
    ) -> Result<Answer<ManifestContent>, RegistryError> {
        let question = || {
            let (inner, name, reference) = (Arc::clone(self), name.clone(), reference.clone());
            async move {
                let body = inner.pull(spender, &name, &reference).await?;
                let (_, content) = inner.verified(body, reference.digest())?;
                Ok(content)
            }
        };
        let key = (name.clone(), reference.clone());
        let (answer, _) = self.passing.run(key, question).await;
        let manifest = answer.unwrap_or(Err(Failure::Busy)).map_err(|failure| {
            let wanted = Wanted::Manifest(name, reference);
            failure.registry_error(wanted)
        })?;
        Ok(self.answer(manifest, PASSED))
    }

    pub(super) async fn passed_facts(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Answer<BlobFacts>, Failure> {
        let size = self.prove_blob(name, digest).await?;
        let size = size.ok_or_else(|| self.without_length(digest))?;
        Ok(self.answer(BlobFacts { digest, size }, PASSED))
    }

    pub(super) async fn passed_blob(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Result<Answer<BlobContent>, RegistryError> {
        let failed = |failure: Failure| failure.registry_error(Wanted::Blob(name, digest));
        let placed = match range {
            Some(range) => self.placed(name, digest, range).await?,
            None => None,
        };
        let mut reader = self.parts.fetch.around(digest, self.source(name, digest));
        let opened = match placed {
            Some((span, _)) => reader.opened_at(span).await,
            None => reader.opened().await,
        };
        let total = opened.map_err(|error| failed(error.into()))?;
        let (span, size) = match placed {
            Some((span, size)) => (Some(span), Some(size)),
            None => (None, total),
        };
        let content = BlobContent {
            digest,
            size,
            span,
            body: Box::pin(reader.stream(span, size)),
        };
        Ok(self.answer(content, PASSED))
    }

    /// The bytes that `range` selects, and the blob's length: asked for by `HEAD`, so that no transfer begins at the
    /// wrong place. `None` where no length is told: the client gets the whole blob, as RFC 9110 has it.
    async fn placed(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        range: ByteRange,
    ) -> Result<Option<(Span, u64)>, RegistryError> {
        let told = self.prove_blob(name, digest).await;
        let told = told.map_err(|failure| failure.registry_error(Wanted::Blob(name, digest)))?;
        let Some(size) = told else { return Ok(None) };
        let span = super::blob::span(Some(range), size)?;
        Ok(span.map(|span| (span, size)))
    }
}
