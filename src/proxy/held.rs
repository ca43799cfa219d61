//! What is held, for clients for whom nothing may be asked for now: who may see the repository is overdue.
//!
//! Nothing here asks an upstream.

use std::sync::Arc;

use super::Inner;
use super::failure::Failure;
use crate::oci::{ByteRange, Digest, Reference, RepositoryName};
use crate::registry::{
    Answer, BlobContent, BlobFacts, ManifestContent, Outcome, PageRequest, ReferrersContent,
    RegistryError, TagPage,
};

/// What is held; `None` where that is nothing.
pub(super) type Held<T> = Option<Result<Answer<T>, RegistryError>>;

impl Inner {
    pub(super) async fn manifest_as_held(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        why: Option<Failure>,
    ) -> Held<ManifestContent> {
        let digest = match reference {
            Reference::Tag(tag) => return self.tag_as_held(name, tag, why?).await.map(Ok),
            Reference::Digest(digest) => *digest,
        };
        if self.passes(name, None) {
            return None;
        }
        self.member(name, digest).await?;
        let manifest = self.held_manifest(digest).await?;
        Some(Ok(self.answer(manifest, Outcome::Hit)))
    }

    pub(super) async fn facts_as_held(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Held<BlobFacts> {
        if self.passes(name, None) {
            return None;
        }
        self.member(name, digest).await?;
        let size = self.parts.blobs.size(digest).await.ok()??;
        Some(Ok(self.answer(BlobFacts { digest, size }, Outcome::Hit)))
    }

    pub(super) async fn blob_as_held(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Held<BlobContent> {
        if self.passes(name, None) {
            return None;
        }
        let member = self.member(name, digest).await?;
        let held = self.held_blob(name, digest, Some(member), range).await;
        held.map(Result::ok).transpose()
    }

    pub(super) async fn tags_as_held(
        &self,
        name: &RepositoryName,
        page: &PageRequest,
        why: Option<Failure>,
    ) -> Held<TagPage> {
        let list = self.list_as_held(name, super::list::TAGS_KEY, why?).await?;
        Some(super::list::page_of(list, page, name))
    }

    pub(super) async fn referrers_as_held(
        &self,
        name: &RepositoryName,
        digest: Digest,
        artifact_type: Option<&str>,
        why: Option<Failure>,
    ) -> Held<ReferrersContent> {
        let key = super::list::referrers_key(digest);
        let list = self.list_as_held(name, &key, why?).await?;
        Some(super::list::referrers_of(list, artifact_type, name))
    }
}
