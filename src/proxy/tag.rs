//! Manifests by tag: fresh, revalidated, moved, or stale.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Inner;
use super::failure::{Failure, Wanted};
use crate::index::{IndexError, TagRecord};
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::registry::{Answer, ManifestContent, MissReason, Outcome, RegistryError, StaleReason};
use crate::sys::single_flight::Role;
use crate::sys::{clock, tasks};

/// A tag as the upstream sees it now.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    manifest: ManifestContent,
    outcome: Outcome,
}

/// A tag that is held with its manifest.
struct HeldTag {
    manifest: ManifestContent,
    age: Option<Duration>,
}

impl Inner {
    pub(super) async fn manifest_by_tag(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Answer<ManifestContent>, RegistryError> {
        let reference = Reference::Tag(tag.clone());
        let failed = |failure: Failure| failure.registry_error(Wanted::Manifest(name, &reference));
        match self.held_tag(name, tag).await {
            Some(held) if held.age.is_some_and(|age| age < self.settings.tag_ttl) => {
                let mut answer = self.answer(held.manifest, Outcome::Hit);
                answer.age = held.age;
                Ok(answer)
            }
            Some(held) => self.revalidated(name, tag, held).await.map_err(failed),
            None => {
                let resolved = self.resolve(name, tag).await.map_err(failed)?;
                Ok(self.answer(resolved.manifest, resolved.outcome))
            }
        }
    }

    async fn held_tag(&self, name: &RepositoryName, tag: &Tag) -> Option<HeldTag> {
        let record = self.tag_record(name, tag).await?;
        let age = self.parts.clock.wall().since(record.checked);
        let manifest = self.held_manifest(record.digest).await?;
        Some(HeldTag { manifest, age })
    }

    async fn tag_record(&self, name: &RepositoryName, tag: &Tag) -> Option<TagRecord> {
        if let Some(record) = self.memory.tag(name, tag) {
            return Some(record);
        }
        let (key, wanted) = (self.key(name), tag.clone());
        let record = self.fact(move |index| index.tag(&key, &wanted)).await?;
        self.memory.keep_tag(name, tag, record);
        Some(record)
    }

    /// Has an expired tag confirmed. When that takes too long or fails the client gets what is held; the question
    /// goes on, and its answer counts for the next client.
    async fn revalidated(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        held: HeldTag,
    ) -> Result<Answer<ManifestContent>, Failure> {
        let limit = self.settings.revalidate_timeout;
        match clock::timeout(limit, self.resolve(name, tag)).await {
            Ok(Ok(resolved)) => Ok(self.answer(resolved.manifest, resolved.outcome)),
            Ok(Err(failure)) if failure.is_absence() => Err(failure),
            Ok(Err(failure)) => Ok(self.stale(
                name,
                tag,
                held,
                failure.stale_reason(),
                &failure.to_string(),
            )),
            Err(_) => {
                let waited = format!("no answer within {}", humantime::format_duration(limit));
                Ok(self.stale(name, tag, held, StaleReason::Timeout, &waited))
            }
        }
    }

    fn stale(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        held: HeldTag,
        reason: StaleReason,
        why: &str,
    ) -> Answer<ManifestContent> {
        info!(%name, %tag, why, "serving a stale tag");
        let age = held.age.map_or_else(String::new, |age| {
            let whole = Duration::from_secs(age.as_secs());
            format!(", last confirmed {} ago", humantime::format_duration(whole))
        });
        let mut answer = self.answer(held.manifest, Outcome::Stale(reason));
        answer.age = held.age;
        answer.warning = Some(format!("{name}:{tag} is served from the cache{age}: {why}"));
        answer
    }

    /// Asks the upstream where a tag points, once however many ask.
    async fn resolve(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Resolved, Failure> {
        let question = || {
            let (inner, name, tag) = (Arc::clone(self), name.clone(), tag.clone());
            async move { inner.ask(&name, &tag).await }
        };
        let (answer, role) = self
            .resolving
            .run((name.clone(), tag.clone()), question)
            .await;
        let mut resolved = answer.unwrap_or(Err(Failure::Busy))?;
        if role == Role::Follower {
            resolved.outcome = Outcome::Coalesced;
        }
        Ok(resolved)
    }

    /// A tag that was never seen is fetched by `GET`: its client wants the manifest next. A known one is confirmed
    /// by `HEAD`, which Docker Hub does not count, and only a moved one fetched.
    async fn ask(self: &Arc<Self>, name: &RepositoryName, tag: &Tag) -> Result<Resolved, Failure> {
        let Some(known) = self.tag_record(name, tag).await else {
            return self.get(name, tag, None).await;
        };
        // Confirmed between the look into the cache and the start of this task.
        if self
            .parts
            .clock
            .wall()
            .since(known.checked)
            .is_some_and(|age| age < self.settings.tag_ttl)
            && let Some(manifest) = self.held_manifest(known.digest).await
        {
            return Ok(Resolved {
                manifest,
                outcome: Outcome::Coalesced,
            });
        }
        let reference = Reference::Tag(tag.clone());
        match self
            .parts
            .upstream
            .head_manifest(name, &reference)
            .await?
            .digest
        {
            Some(digest) => match self.follow(name, tag, known, digest).await {
                // The tag is there, so what it was said to name was deleted just now, or never existed.
                Err(failure) if failure.is_absence() => self.get(name, tag, Some(known)).await,
                followed => followed,
            },
            None => self.get(name, tag, Some(known)).await,
        }
    }

    /// Points the tag at `digest`, fetching that manifest only if it is not held.
    async fn follow(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        known: TagRecord,
        digest: Digest,
    ) -> Result<Resolved, Failure> {
        let (manifest, outcome) = if let Some(manifest) = self.held_manifest(digest).await {
            // The upstream has just answered for this manifest, in this repository.
            self.admit(name, digest, Some(manifest.bytes.len() as u64))
                .await;
            (manifest, Outcome::Revalidated)
        } else {
            let (manifest, _) = self.fetch_manifest(name, digest).await?;
            let reason = if digest == known.digest {
                MissReason::Lost
            } else {
                MissReason::Moved
            };
            (manifest, Outcome::Miss(reason))
        };
        self.point(name, tag, digest).await;
        Ok(Resolved { manifest, outcome })
    }

    /// Fetches the manifest that a tag names, whatever it was `known` to name before.
    async fn get(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        known: Option<TagRecord>,
    ) -> Result<Resolved, Failure> {
        let body = self
            .parts
            .upstream
            .get_manifest(name, &Reference::Tag(tag.clone()))
            .await?;
        let confirmed = (tag.clone(), self.parts.clock.wall());
        let manifest = self.keep(name, body, None, Some(confirmed)).await?;
        let outcome = match known {
            Some(known) if known.digest == manifest.digest => Outcome::Revalidated,
            Some(_) => Outcome::Miss(MissReason::Moved),
            None => Outcome::Miss(MissReason::Absent),
        };
        Ok(Resolved { manifest, outcome })
    }

    async fn point(&self, name: &RepositoryName, tag: &Tag, digest: Digest) {
        let record = TagRecord {
            digest,
            checked: self.parts.clock.wall(),
        };
        self.memory.keep_tag(name, tag, record);
        let (index, key, moved) = (Arc::clone(&self.parts.index), self.key(name), tag.clone());
        let blobs = self.parts.blobs.clone();
        let written = tasks::blocking(move || {
            index.set_tag(&key, &moved, record)?;
            blobs.image_changed(&key);
            Ok::<_, IndexError>(())
        })
        .await;
        if let Err(error) = written {
            warn!(%name, %tag, %error, "a tag's freshness is kept in memory only");
        }
    }
}
