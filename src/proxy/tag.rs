//! Manifests by tag: fresh, revalidated, moved, stale, or gone.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tracing::{info, warn};

use super::Inner;
use super::failure::{Failure, Wanted};
use super::negative::{Absence, Subject, Verdict};
use super::recheck::Trouble;
use super::spending::Spender;
use crate::index::{IndexError, TagRecord};
use crate::oci::{Digest, Reference, RepositoryName, Tag};
use crate::registry::{Answer, ManifestContent, MissReason, Outcome, RegistryError, StaleReason};
use crate::sys::clock::Timestamp;
use crate::sys::single_flight::Role;
use crate::sys::{clock, tasks};
use crate::upstream::ManifestHead;

/// How long a tag that is served although the upstream does not have it is not asked for: what holds after the end of any
/// outage holds after this one.
const RESTORABLE: Duration = Duration::from_secs(5);

/// A tag as the upstream sees it now.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    manifest: ManifestContent,
    outcome: Outcome,
}

/// A tag that is held with its manifest, and what is known of it.
struct HeldTag {
    manifest: ManifestContent,
    checked: Timestamp,
    age: Option<Duration>,
    /// The upstream's no, if that is newer than its last confirmation.
    absence: Option<Absence>,
}

impl Inner {
    pub(super) async fn manifest_by_tag(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        spender: Spender,
    ) -> Result<Answer<ManifestContent>, RegistryError> {
        let reference = Reference::Tag(tag.clone());
        let wanted = Wanted::Manifest(name, &reference);
        let held = self.held_tag(name, tag).await;
        if let Some(held) = &held
            && self.is_fresh(held.age, name, tag)
        {
            let mut answer = self.answer(held.manifest.clone(), Outcome::Hit);
            answer.age = held.age;
            return Ok(answer);
        }
        let absence = self.absence(name, subject(tag)).await;
        let Some(mut held) = held else {
            if absence.is_some_and(|absence| self.is_in_force(&absence)) {
                return Err(wanted.remembered());
            }
            let resolved = self.resolve(name, tag, spender).await;
            return resolved
                .map(|resolved| self.answer(resolved.manifest, resolved.outcome))
                .map_err(|failure| failure.registry_error(wanted));
        };
        held.absence = absence.filter(|absence| absence.last >= held.checked);
        if absence.is_some_and(|absence| self.is_known_deleted(&held, &absence)) {
            return self
                .deleted(name, tag, held)
                .ok_or_else(|| wanted.remembered());
        }
        self.revalidated(name, tag, held, spender)
            .await
            .map_err(|failure| failure.registry_error(wanted))
    }

    async fn held_tag(&self, name: &RepositoryName, tag: &Tag) -> Option<HeldTag> {
        let TagRecord { digest, checked } = self.tag_record(name, tag).await?;
        Some(HeldTag {
            manifest: self.held_manifest(digest).await?,
            checked,
            age: self.parts.clock.wall().since(checked),
            absence: None,
        })
    }

    pub(super) async fn tag_record(&self, name: &RepositoryName, tag: &Tag) -> Option<TagRecord> {
        if let Some(record) = self.memory.tag(name, tag) {
            return Some(record);
        }
        let (key, wanted) = (self.key(name), tag.clone());
        let record = self.fact(move |index| index.tag(&key, &wanted)).await?;
        self.memory.keep_tag(name, tag, record);
        Some(record)
    }

    /// Has an expired tag confirmed. When that takes too long or fails the client gets what is held; the question
    /// goes on, and its answer counts for the next client. One that comes while the upstream fails does not wait.
    async fn revalidated(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        held: HeldTag,
        spender: Spender,
    ) -> Result<Answer<ManifestContent>, Failure> {
        let asked = if !self.outlasts_failure(&held) {
            // There is nothing to be served instead: as if it were not held.
            self.resolve(name, tag, spender).await
        } else if let Some(failure) = self.trouble(name, tag) {
            Err(failure)
        } else {
            let limit = self.settings.revalidate_timeout;
            let watch = self.parts.upstream.watch();
            let asked = clock::timeout(limit, self.resolve(name, tag, spender)).await;
            asked.unwrap_or_else(|_| {
                let reference = Reference::Tag(tag.clone());
                let upstream = &self.parts.upstream;
                upstream.suspect(watch, name, &reference, limit);
                Err(self.late(name, tag, limit))
            })
        };
        match asked {
            Ok(resolved) => Ok(self.answer(resolved.manifest, resolved.outcome)),
            Err(failure) => self.instead(name, tag, held, failure).await,
        }
    }

    /// The tag as it is held, if that may be served when `why` is the reason for not asking for it.
    pub(super) async fn tag_as_held(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        why: Failure,
    ) -> Option<Answer<ManifestContent>> {
        if self.passes(name, Some(tag)) {
            return None;
        }
        let mut held = self.held_tag(name, tag).await?;
        if self.is_fresh(held.age, name, tag) {
            let mut answer = self.answer(held.manifest, Outcome::Hit);
            answer.age = held.age;
            return Some(answer);
        }
        let absence = self.absence(name, subject(tag)).await;
        held.absence = absence.filter(|absence| absence.last >= held.checked);
        self.instead(name, tag, held, why).await.ok()
    }

    /// What is held, when the upstream's answer was this.
    async fn instead(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        mut held: HeldTag,
        failure: Failure,
    ) -> Result<Answer<ManifestContent>, Failure> {
        if failure.is_absence() {
            held.absence = self.absence(name, subject(tag)).await;
            return self.deleted(name, tag, held).ok_or(failure);
        }
        if !failure.is_offline() && !self.outlasts_failure(&held) {
            return Err(failure);
        }
        let reason = failure.stale_reason();
        Ok(self.stale(name, tag, held, reason, &failure.to_string()))
    }

    /// Whether a copy may be served when the upstream fails.
    fn outlasts_failure(&self, held: &HeldTag) -> bool {
        match &held.absence {
            Some(absence) => self.outlasts_deletion(held, absence),
            None => self.settings.freshness.outlasts_failure(held.age),
        }
    }

    /// Whether a copy may be served that the upstream has no longer.
    fn outlasts_deletion(&self, held: &HeldTag, absence: &Absence) -> bool {
        let noticed = self.parts.clock.wall().since(absence.first);
        let age = held.age.or(noticed);
        absence.verdict == Verdict::Gone
            && age.is_none_or(|age| age <= self.settings.freshness.stale_if_deleted)
    }

    /// Whether the upstream said so recently enough not to be asked again. While the copy is served, that is soon: the
    /// tag may be restored.
    fn is_known_deleted(&self, held: &HeldTag, absence: &Absence) -> bool {
        let age = self.parts.clock.wall().since(absence.last);
        self.is_in_force(absence)
            && (!self.outlasts_deletion(held, absence) || age.is_some_and(|age| age < RESTORABLE))
    }

    /// The copy of a tag that the upstream has no longer, while it is served.
    fn deleted(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        held: HeldTag,
    ) -> Option<Answer<ManifestContent>> {
        let absence = held.absence?;
        if !self.outlasts_deletion(&held, &absence) {
            return None;
        }
        let first = UNIX_EPOCH.checked_add(Duration::from_millis(absence.first.as_millis()))?;
        let since = humantime::format_rfc3339_seconds(first);
        let why = format!("{} has not had it since {since}", self.upstream_name());
        Some(self.stale(name, tag, held, StaleReason::Deleted, &why))
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
    pub(super) async fn resolve(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        spender: Spender,
    ) -> Result<Resolved, Failure> {
        let question = || {
            let (inner, name, tag) = (Arc::clone(self), name.clone(), tag.clone());
            async move { inner.check(&name, &tag, spender, None).await }
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

    /// Asks where a tag points, and notes what follows from the answer. A `HEAD` gets `patience`, or as long as the
    /// upstream gives it.
    pub(super) async fn check(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        spender: Spender,
        patience: Option<Duration>,
    ) -> Result<Resolved, Failure> {
        let answer = match self.tag_record(name, tag).await {
            Some(known) => self.confirm(name, tag, known, spender, patience).await,
            // Its client wants the manifest next.
            None => self.get(name, tag, None, spender).await,
        };
        match &answer {
            Ok(_) => self.end_trouble(name, tag),
            Err(failure) if failure.is_absence() => {
                self.note_absence(name, subject(tag), failure).await;
                self.end_trouble(name, tag);
            }
            Err(_) => {}
        }
        answer
    }

    /// Has a known tag confirmed by `HEAD`, which Docker Hub does not count, and only a moved one fetched.
    async fn confirm(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        known: TagRecord,
        spender: Spender,
        patience: Option<Duration>,
    ) -> Result<Resolved, Failure> {
        // Confirmed between the look into the cache and the start of this task.
        if let Some(confirmed) = self.confirmed(name, tag, known).await {
            return Ok(confirmed);
        }
        let told = match self.head(name, tag, patience).await {
            Ok(head) => head.digest,
            Err(failure) => {
                self.note_trouble(name, tag, known, &failure, Trouble::Upstream)
                    .await;
                return Err(failure);
            }
        };
        // Another question was asked later, and answered sooner.
        if let Some(newer) = self.tag_record(name, tag).await
            && newer != known
            && let Some(confirmed) = self.confirmed(name, tag, newer).await
        {
            return Ok(confirmed);
        }
        let followed = match told {
            Some(digest) => match self.follow(name, tag, known, digest, spender).await {
                // The tag is there, so what it was said to name was deleted just now, or never existed.
                Err(failure) if failure.is_absence() => {
                    self.get(name, tag, Some(known), spender).await
                }
                followed => followed,
            },
            None => self.get(name, tag, Some(known), spender).await,
        };
        if let Err(failure) = &followed {
            self.note_trouble(name, tag, known, failure, failure.trouble())
                .await;
        }
        followed
    }

    /// The tag as it was confirmed a moment ago, if it was.
    async fn confirmed(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        known: TagRecord,
    ) -> Option<Resolved> {
        let age = self.parts.clock.wall().since(known.checked);
        if !self.is_fresh(age, name, tag) {
            return None;
        }
        Some(Resolved {
            manifest: self.held_manifest(known.digest).await?,
            outcome: Outcome::Coalesced,
        })
    }

    async fn head(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        patience: Option<Duration>,
    ) -> Result<ManifestHead, Failure> {
        let reference = Reference::Tag(tag.clone());
        let asked = self.parts.upstream.head_manifest(name, &reference);
        let Some(patience) = patience else {
            return Ok(asked.await?);
        };
        match clock::timeout(patience, asked).await {
            Ok(head) => Ok(head?),
            Err(_) => Err(Failure::Late(patience)),
        }
    }

    /// Points the tag at `digest`, fetching that manifest only if it is not held.
    async fn follow(
        self: &Arc<Self>,
        name: &RepositoryName,
        tag: &Tag,
        known: TagRecord,
        digest: Digest,
        spender: Spender,
    ) -> Result<Resolved, Failure> {
        let (manifest, outcome) = if let Some(manifest) = self.held_manifest(digest).await {
            // The upstream has just answered for this manifest, in this repository.
            self.admit(name, digest, Some(manifest.bytes.len() as u64))
                .await;
            (manifest, Outcome::Revalidated)
        } else if spender == Spender::Background && !self.parts.upstream.affords_background() {
            // The pulls that are left are for clients: the next one asks, and gets it.
            self.end_trouble(name, tag);
            return Err(Failure::Busy);
        } else {
            let (manifest, _) = self.fetch_manifest(name, digest, spender).await?;
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
        spender: Spender,
    ) -> Result<Resolved, Failure> {
        let body = self
            .pull(spender, name, &Reference::Tag(tag.clone()))
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
        self.end_absences(name, [subject(tag)]).await;
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

/// A tag as something that may be absent.
fn subject(tag: &Tag) -> Subject {
    Subject::Manifest(Reference::Tag(tag.clone()))
}
