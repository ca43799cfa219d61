//! What is asked to find out who may see a repository.

use std::sync::Arc;

use super::super::Inner;
use super::super::failure::{Failure, Wanted};
use super::Visibility;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::upstream::{Upstream, UpstreamError};

/// What a client wants of a repository, and so what is asked for without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Probe {
    Manifest(Reference),
    Blob(Digest),
    Tags,
    Referrers(Digest),
}

/// What the upstream answered to somebody without credentials.
#[derive(Clone, Debug)]
pub(in crate::proxy) enum Verdict {
    Decided(Visibility),
    /// It does not have what was asked for; of the repository that says nothing.
    Absent,
    Undecided(Failure),
}

/// What a flight found out, and what it asked for.
pub(in crate::proxy) type Probed = (Probe, Verdict);

impl Probe {
    pub(super) fn wanted<'a>(&'a self, name: &'a RepositoryName) -> Wanted<'a> {
        match self {
            Self::Manifest(reference) => Wanted::Manifest(name, reference),
            Self::Blob(digest) => Wanted::Blob(name, *digest),
            Self::Tags | Self::Referrers(_) => Wanted::List(name),
        }
    }

    /// Whether it is one thing for ever, of which nobody has to be asked whether it has changed.
    pub(super) const fn is_immutable(&self) -> bool {
        matches!(self, Self::Manifest(Reference::Digest(_)) | Self::Blob(_))
    }

    /// Asks the registry itself for it, without fetching it.
    async fn ask(&self, upstream: &Upstream, name: &RepositoryName) -> Result<(), UpstreamError> {
        let answered = match self {
            Self::Manifest(reference) => answers(upstream, name, reference).await?,
            Self::Referrers(digest) => answers(upstream, name, &(*digest).into()).await?,
            // One that redirects everybody has promised nothing before the target has answered.
            Self::Blob(digest) => upstream.head_own_blob(name, *digest).await?.is_some(),
            Self::Tags => false,
        };
        if answered {
            return Ok(());
        }
        upstream.tags(name, Some(1), None).await.map(drop)
    }
}

/// Whether a `HEAD` is answered with the manifest's digest: a registry may not answer `HEAD` at all, whoever asks.
async fn answers(
    upstream: &Upstream,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<bool, UpstreamError> {
    let head = upstream.head_own_manifest(name, reference).await?;
    Ok(head.digest.is_some())
}

impl Inner {
    /// Asks the upstream without credentials, once for a repository however many ask. A client gains nothing from the
    /// absence of what another wants, and asks for its own then.
    pub(super) async fn probed(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Verdict {
        if self.is_probed_absent(name, probe) {
            return Verdict::Absent;
        }
        let (asked, verdict) = self.probe_once(name, probe, None).await;
        if asked == *probe || !matches!(verdict, Verdict::Absent) {
            return verdict;
        }
        self.probe_once(name, probe, Some(probe.clone())).await.1
    }

    async fn probe_once(
        self: &Arc<Self>,
        name: &RepositoryName,
        probe: &Probe,
        alone: Option<Probe>,
    ) -> Probed {
        let question = || {
            let (inner, name, probe) = (Arc::clone(self), name.clone(), probe.clone());
            async move {
                let verdict = inner.find_out(&name, &probe).await;
                Ok((probe, verdict))
            }
        };
        let (answer, _) = self.probing.run((name.clone(), alone), question).await;
        let busy = |failure| (probe.clone(), Verdict::Undecided(failure));
        answer.unwrap_or(Err(Failure::Busy)).unwrap_or_else(busy)
    }

    async fn find_out(&self, name: &RepositoryName, probe: &Probe) -> Verdict {
        let former = self.decision(name).await;
        let now = self.parts.clock.wall();
        // Decided between the look at the decision and the start of this task.
        if let Some(former) = former
            && now
                .since(former.at)
                .is_some_and(|age| age < self.visibility_ttl(probe))
        {
            return Verdict::Decided(former.visibility);
        }
        let former = former.map(|former| former.visibility);
        let verdict = match probe.ask(&self.parts.upstream.anonymous(), name).await {
            Ok(()) => Verdict::Decided(Visibility::Public),
            Err(error) if is_refusal(&error) && former == Some(Visibility::Public) => {
                self.compared(name, probe).await
            }
            Err(UpstreamError::Denied { .. }) => Verdict::Decided(Visibility::Private),
            Err(UpstreamError::NotFound { .. }) => Verdict::Absent,
            Err(error) => Verdict::Undecided(error.into()),
        };
        match &verdict {
            Verdict::Decided(visibility) => self.decide(name, *visibility, former).await,
            Verdict::Absent => self.note_probed_absent(name, probe),
            Verdict::Undecided(failure) => self.note_doubt(name, failure),
        }
        verdict
    }

    /// What was public is refused to somebody without credentials. If it is there with ours it is private now; else it
    /// was deleted, for everybody, and what is held of it was public.
    async fn compared(&self, name: &RepositoryName, probe: &Probe) -> Verdict {
        match probe.ask(&self.parts.upstream, name).await {
            Ok(()) => Verdict::Decided(Visibility::Private),
            Err(error) if is_refusal(&error) => Verdict::Absent,
            Err(error) => Verdict::Undecided(error.into()),
        }
    }
}

/// Whether the upstream said for sure that this is not to be had by whoever asked.
fn is_refusal(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::NotFound { .. } | UpstreamError::Denied { .. }
    )
}
