//! Manifests by digest, and keeping those that arrive.

use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::Inner;
use super::failure::{Failure, Wanted};
use super::negative::Subject;
use super::spending::Spender;
use crate::index::{Index, IndexError, ManifestArrival, ManifestRecord, Membership, TagRecord};
use crate::oci::{Algorithm, Digest, Manifest, Reference, RepositoryName, Tag};
use crate::registry::{Answer, ManifestContent, MissReason, Outcome, RegistryError};
use crate::sys::clock::Timestamp;
use crate::sys::single_flight::Role;
use crate::sys::tasks;
use crate::upstream::ManifestBody;

impl Inner {
    pub(super) async fn manifest_by_digest(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        spender: Spender,
    ) -> Result<Answer<ManifestContent>, RegistryError> {
        let reference = Reference::Digest(digest);
        let wanted = Wanted::Manifest(name, &reference);
        let failed = |failure: Failure| failure.registry_error(wanted);
        let held = self.held_manifest(digest).await;
        if let Some(held) = &held
            && self.member(name, digest).await.is_some()
        {
            return Ok(self.answer(held.clone(), Outcome::Hit));
        }
        if self.is_absent(name, manifest_subject(digest)).await {
            return Err(wanted.remembered());
        }
        if let Some(held) = held {
            self.prove_manifest(name, digest, held.bytes.len() as u64)
                .await
                .map_err(failed)?;
            return Ok(self.answer(held, Outcome::Revalidated));
        }
        let (fetched, role) = self
            .fetch_manifest(name, digest, spender)
            .await
            .map_err(failed)?;
        let outcome = match role {
            Role::Leader => Outcome::Miss(MissReason::Absent),
            Role::Follower => Outcome::Coalesced,
        };
        Ok(self.answer(fetched, outcome))
    }

    /// Asks the index. One that fails knows nothing: the upstream is asked instead, and no pull fails for it.
    pub(super) async fn fact<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Index) -> Result<Option<T>, IndexError> + Send + 'static,
    ) -> Option<T> {
        let index = Arc::clone(&self.parts.index);
        let answer = tasks::blocking(move || question(&*index)).await;
        answer.unwrap_or_else(|error| {
            warn!(%error, "the index does not answer");
            None
        })
    }

    /// The manifest, if it is held in memory or in the index. Says nothing about who may have it.
    pub(super) async fn held_manifest(&self, digest: Digest) -> Option<ManifestContent> {
        if let Some(manifest) = self.memory.manifest(digest) {
            return Some(manifest);
        }
        let ManifestRecord { media_type, bytes } =
            self.fact(move |index| index.manifest(digest)).await?;
        let manifest = ManifestContent {
            digest,
            media_type,
            bytes,
        };
        self.memory.keep_manifest(&manifest);
        Some(manifest)
    }

    /// Whether a digest belongs to a repository.
    pub(super) async fn member(&self, name: &RepositoryName, digest: Digest) -> Option<Membership> {
        if let Some(membership) = self.memory.member(name, digest) {
            return Some(membership);
        }
        let key = self.key(name);
        let membership = self.fact(move |index| index.member(&key, digest)).await?;
        self.memory.keep_member(name, digest, membership);
        Some(membership)
    }

    /// Notes that a digest belongs to a repository, unless nothing of that is kept.
    pub(super) async fn admit(&self, name: &RepositoryName, digest: Digest, size: Option<u64>) {
        if self.passes(name, None) {
            return;
        }
        self.memory.keep_member(name, digest, Membership { size });
        self.end_absences(name, subjects(digest)).await;
        let (index, key) = (Arc::clone(&self.parts.index), self.key(name));
        let written = tasks::blocking(move || index.insert_member(&key, digest, size)).await;
        if let Err(error) = written {
            warn!(%name, %digest, %error, "membership is kept in memory only");
        }
    }

    /// Asks the upstream by `HEAD`, with the repository's own rights, whether it has a manifest that is held here
    /// with `size` bytes.
    async fn prove_manifest(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        size: u64,
    ) -> Result<(), Failure> {
        let question = || {
            let (inner, name) = (Arc::clone(self), name.clone());
            async move {
                let upstream = &inner.parts.upstream;
                if let Err(error) = upstream.head_manifest(&name, &digest.into()).await {
                    let failure = Failure::from(error);
                    inner
                        .note_absence(&name, manifest_subject(digest), &failure)
                        .await;
                    return Err(failure);
                }
                // The length that the upstream names is not proved by that, the one held here is.
                inner.admit(&name, digest, Some(size)).await;
                Ok(())
            }
        };
        let (answer, _) = self
            .proving_manifests
            .run((name.clone(), digest), question)
            .await;
        answer.unwrap_or(Err(Failure::Busy))
    }

    /// Fetches a manifest by digest, once however many ask.
    pub(super) async fn fetch_manifest(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        spender: Spender,
    ) -> Result<(ManifestContent, Role), Failure> {
        let question = || {
            let (inner, name) = (Arc::clone(self), name.clone());
            async move {
                // Fetched between the look into the cache and the start of this task.
                let (held, member) = (
                    inner.held_manifest(digest).await,
                    inner.member(&name, digest).await,
                );
                if let (Some(held), Some(_)) = (held, member) {
                    return Ok(held);
                }
                match inner.pull(spender, &name, &digest.into()).await {
                    Ok(body) => inner.keep(&name, body, Some(digest), None).await,
                    Err(error) => {
                        let failure = Failure::from(error);
                        inner
                            .note_absence(&name, manifest_subject(digest), &failure)
                            .await;
                        Err(failure)
                    }
                }
            }
        };
        let (answer, role) = self.fetching.run((name.clone(), digest), question).await;
        answer
            .unwrap_or(Err(Failure::Busy))
            .map(|manifest| (manifest, role))
    }

    /// Verifies a manifest that came from the upstream, and keeps it with what follows from it.
    ///
    /// `wanted` is the digest asked for, `tag` the tag it was fetched by. A manifest that cannot be written is
    /// served all the same.
    pub(super) async fn keep(
        self: &Arc<Self>,
        name: &RepositoryName,
        body: ManifestBody,
        wanted: Option<Digest>,
        tag: Option<(Tag, Timestamp)>,
    ) -> Result<ManifestContent, Failure> {
        let (manifest, content) = self.verified(body, wanted)?;
        let members = members(&manifest);
        self.remember(name, &content, &members, tag.as_ref());
        let named = members.iter().map(|(digest, _)| *digest);
        let ended = named.chain([content.digest]).flat_map(subjects);
        let pointed = tag
            .iter()
            .map(|(tag, _)| Subject::Manifest(Reference::Tag(tag.clone())));
        self.end_absences(name, ended.chain(pointed)).await;
        let (inner, name, kept) = (Arc::clone(self), name.clone(), content.clone());
        let written =
            tasks::blocking(move || inner.record(&name, &kept, &members, tag.as_ref())).await;
        if let Err(error) = written {
            warn!(digest = %content.digest, %error, "a manifest is kept in memory only");
        }
        Ok(content)
    }

    /// A manifest that came from the upstream, if it is what was asked for.
    pub(super) fn verified(
        &self,
        body: ManifestBody,
        wanted: Option<Digest>,
    ) -> Result<(Manifest, ManifestContent), Failure> {
        let (manifest, digest) = verify(self.upstream_name(), body, wanted)?;
        let content = ManifestContent {
            digest,
            media_type: manifest.media_type().as_str().into(),
            bytes: manifest.bytes().clone(),
        };
        Ok((manifest, content))
    }

    fn remember(
        &self,
        name: &RepositoryName,
        content: &ManifestContent,
        members: &[(Digest, u64)],
        tag: Option<&(Tag, Timestamp)>,
    ) {
        let own = (content.digest, content.bytes.len() as u64);
        for (digest, size) in members.iter().copied().chain([own]) {
            self.memory
                .keep_member(name, digest, Membership { size: Some(size) });
        }
        self.memory.keep_manifest(content);
        if let Some((tag, checked)) = tag {
            let record = TagRecord {
                digest: content.digest,
                checked: *checked,
            };
            self.memory.keep_tag(name, tag, record);
        }
    }

    fn record(
        &self,
        name: &RepositoryName,
        content: &ManifestContent,
        members: &[(Digest, u64)],
        tag: Option<&(Tag, Timestamp)>,
    ) -> Result<(), IndexError> {
        let record = ManifestRecord {
            media_type: Arc::clone(&content.media_type),
            bytes: content.bytes.clone(),
        };
        self.parts.index.insert_manifest(&ManifestArrival {
            repository: &self.key(name),
            digest: content.digest,
            record: &record,
            members,
            tag: tag.map(|(tag, checked)| (tag, *checked)),
        })?;
        self.parts.blobs.image_changed(&self.key(name));
        Ok(())
    }
}

/// The manifest and its digest, if it is what was asked for.
fn verify(
    upstream: &str,
    body: ManifestBody,
    wanted: Option<Digest>,
) -> Result<(Manifest, Digest), Failure> {
    let expected = wanted.or(body.claimed);
    let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let digest = digest_of(algorithm, &body.bytes);
    if let Some(expected) = expected
        && expected != digest
    {
        let reason = format!("{upstream} sent the manifest {digest} for {expected}");
        return Err(Failure::bad(reason));
    }
    let manifest = Manifest::parse(body.bytes, body.media_type.as_deref())
        .map_err(|error| Failure::bad(format!("{upstream} sent no manifest: {error}")))?;
    Ok((manifest, digest))
}

fn digest_of(algorithm: Algorithm, bytes: &Bytes) -> Digest {
    Digest::of(algorithm, bytes)
}

/// What a manifest names, with the sizes it states.
fn members(manifest: &Manifest) -> Vec<(Digest, u64)> {
    let named = manifest.children().iter().chain(manifest.blobs());
    named
        .map(|descriptor| (descriptor.digest, descriptor.size))
        .collect()
}

fn manifest_subject(digest: Digest) -> Subject {
    Subject::Manifest(Reference::Digest(digest))
}

/// What exists when a digest belongs to a repository.
fn subjects(digest: Digest) -> [Subject; 2] {
    [manifest_subject(digest), Subject::Blob(digest)]
}
