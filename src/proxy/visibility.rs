//! Who may see a repository: what needs our credentials is not for anonymous clients (`access.anonymous_private`).
//!
//! Invariants:
//! - what was ever asked for with credentials is guarded, also when they are gone;
//! - whether a repository is public is learnt by asking for what the client wants, without credentials, by `HEAD` or
//!   for a page of tags: nothing that counts as a pull;
//! - of a private repository nothing is looked up here and nothing is asked with our credentials, and it is answered
//!   like one that does not exist;
//! - a decision outlives outages and restarts: only another decision replaces it;
//! - a decision is renewed before the tag or list it is needed for is asked for. While it cannot be, nothing is asked
//!   with our credentials for a client, and it gets what is held. Clients that pull by digest alone renew it too,
//!   behind their answer, and cause no question while somebody pulls by tag.

mod decisions;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::Inner;
use super::failure::Failure;
use crate::oci::{Reference, RepositoryName};
use crate::registry::{Answer, RegistryError, Topic};
use crate::sys::clock::{self, Timestamp};
use crate::upstream::Credentials;

use decisions::Decision;
pub(super) use decisions::Decisions;
pub(super) use probe::{Probe, Probed, Verdict};

/// What Docker Hub shows to everyone.
const OFFICIAL: &str = "library/";

/// How often, at most, a decision is renewed for clients that pull by digest.
const DIGEST_PERIOD: Duration = Duration::from_hours(1);

/// Whether anyone may see a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    Public,
    Private,
}

impl Visibility {
    const fn label(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }

    const fn topic(self) -> Topic {
        match self {
            Self::Public => Topic::Visibility,
            Self::Private => Topic::Private,
        }
    }

    const fn opposite(self) -> Self {
        match self {
            Self::Public => Self::Private,
            Self::Private => Self::Public,
        }
    }
}

/// What may be done for a client.
enum Admission {
    /// Anything.
    Open,
    /// It may have what is held; before anything is asked for, the decision is to be renewed.
    Overdue,
    /// It may have what is held: the decision is overdue, and cannot be renewed for this reason.
    Held(Failure),
    /// Nothing.
    Closed(RegistryError),
}

/// How a client's wish is met.
pub(super) struct Work<W, H> {
    /// Does what it takes, with our credentials.
    pub(super) anyhow: W,
    /// Yields what is held; `None` where that is nothing. Told why nothing is asked, if that is known.
    pub(super) held: H,
}

impl Inner {
    /// Does `work` for a client without an account, if it may see the repository.
    pub(super) async fn guarded<T, W, H, F>(
        self: &Arc<Self>,
        name: &RepositoryName,
        probe: Probe,
        Work { anyhow, held }: Work<W, H>,
    ) -> Result<Answer<T>, RegistryError>
    where
        W: Future<Output = Result<Answer<T>, RegistryError>>,
        H: FnOnce(Option<Failure>) -> F,
        F: Future<Output = Option<Result<Answer<T>, RegistryError>>>,
    {
        let before = self.credentials(name).await;
        if self.is_guarded(name, &before).await {
            let admission = self.admission(name, &probe).await;
            return self.admitted(name, &probe, admission, anyhow, held).await;
        }
        let answer = anyhow.await;
        if before != Credentials::Nobody {
            return answer;
        }
        // A login may have come meanwhile, and have been used.
        let after = self.credentials(name).await;
        if answer.is_err() || after == before || !self.is_guarded(name, &after).await {
            return answer;
        }
        let admission = self.admission(name, &probe).await;
        let ready = std::future::ready(answer);
        self.admitted(name, &probe, admission, ready, held).await
    }

    async fn admitted<T, F>(
        self: &Arc<Self>,
        name: &RepositoryName,
        probe: &Probe,
        admission: Admission,
        work: impl Future<Output = Result<Answer<T>, RegistryError>>,
        held: impl FnOnce(Option<Failure>) -> F,
    ) -> Result<Answer<T>, RegistryError>
    where
        F: Future<Output = Option<Result<Answer<T>, RegistryError>>>,
    {
        match admission {
            Admission::Open => work.await,
            Admission::Closed(error) => Err(error),
            Admission::Held(failure) => {
                let held = held(Some(failure.clone())).await;
                held.unwrap_or_else(|| Err(self.undecided(name, probe, &failure)))
            }
            Admission::Overdue => {
                if let Some(held) = held(None).await {
                    self.probe_behind(name, probe);
                    return held;
                }
                match self.renewed(name, probe).await {
                    Admission::Open => work.await,
                    Admission::Closed(error) => Err(error),
                    Admission::Held(failure) => Err(self.undecided(name, probe, &failure)),
                    Admission::Overdue => Err(probe.wanted(name).unknown()),
                }
            }
        }
    }

    /// Whether there can be something in the repository that not everybody may see.
    async fn is_guarded(&self, name: &RepositoryName, credentials: &Credentials) -> bool {
        let has_logins = self.parts.upstream.has_logins();
        if !has_logins && !self.was_trusted().await {
            return false;
        }
        if self.settings.anonymous_private || self.is_official(name) {
            return false;
        }
        *credentials != Credentials::Nobody || self.was_asked_with_credentials(name).await
    }

    fn is_official(&self, name: &RepositoryName) -> bool {
        name.as_str().starts_with(OFFICIAL) && self.parts.upstream.is_docker_hub()
    }

    async fn admission(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Admission {
        let Some(decision) = self.decision(name).await else {
            return self.first_admission(name, probe).await;
        };
        let Decision { visibility, at } = decision;
        match visibility {
            Visibility::Public => self.public_admission(name, probe, at).await,
            Visibility::Private => self.private_admission(name, probe, at).await,
        }
    }

    async fn public_admission(
        self: &Arc<Self>,
        name: &RepositoryName,
        probe: &Probe,
        decided: Timestamp,
    ) -> Admission {
        let age = self.parts.clock.wall().since(decided);
        let older = |limit: Duration| age.is_none_or(|age| age >= limit);
        let ttl = self.visibility_ttl(probe);
        let is_old = older(ttl.saturating_mul(2).max(DIGEST_PERIOD));
        let is_due = older(ttl) && self.is_due(name, probe, decided).await;
        if !is_due && !is_old {
            return Admission::Open;
        }
        if let Some(failure) = self.doubt(name, probe) {
            return Admission::Held(failure);
        }
        if is_due {
            self.renewed(name, probe).await
        } else {
            Admission::Overdue
        }
    }

    async fn private_admission(
        self: &Arc<Self>,
        name: &RepositoryName,
        probe: &Probe,
        decided: Timestamp,
    ) -> Admission {
        let age = self.parts.clock.wall().since(decided);
        let hidden = Admission::Closed(probe.wanted(name).unknown());
        let is_old = age.is_none_or(|age| age >= self.visibility_ttl(probe));
        if !is_old || self.doubt(name, probe).is_some() {
            return hidden;
        }
        match self.asked(name, probe).await {
            Verdict::Decided(Visibility::Public) => Admission::Open,
            // Or each of the names that somebody makes up would be asked for.
            Verdict::Absent => {
                self.note_doubt(name, &Failure::Remembered);
                hidden
            }
            Verdict::Decided(Visibility::Private) | Verdict::Undecided(_) => hidden,
        }
    }

    /// How long a decision is not renewed.
    fn visibility_ttl(&self, probe: &Probe) -> Duration {
        match probe {
            Probe::Manifest(Reference::Tag(tag)) => self.tag_ttl(tag),
            _ => self.list_ttl(),
        }
    }

    /// Whether the upstream is to be asked for this anyway, or was when the decision of that time was overdue.
    async fn is_due(&self, name: &RepositoryName, probe: &Probe, decided: Timestamp) -> bool {
        match probe {
            Probe::Manifest(Reference::Tag(tag)) => {
                let Some(record) = self.tag_record(name, tag).await else {
                    return true;
                };
                let (ttl, age) = (
                    self.tag_ttl(tag),
                    self.parts.clock.wall().since(record.checked),
                );
                let later = record.checked.since(decided);
                !self.is_fresh(age, name, tag) || later.is_some_and(|later| later >= ttl)
            }
            _ => !probe.is_immutable(),
        }
    }

    fn probe_behind(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) {
        // The flight is a task of its own from its first poll on.
        drop(self.probed(name, probe).now_or_never());
    }

    /// Finds out about a repository of which nothing is known.
    async fn first_admission(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Admission {
        match self.probed(name, probe).await {
            Verdict::Decided(Visibility::Public) => Admission::Open,
            Verdict::Decided(Visibility::Private) | Verdict::Absent => {
                Admission::Closed(probe.wanted(name).unknown())
            }
            Verdict::Undecided(failure) => Admission::Closed(self.undecided(name, probe, &failure)),
        }
    }

    /// Absence would be final, and is not known.
    fn undecided(&self, name: &RepositoryName, probe: &Probe, failure: &Failure) -> RegistryError {
        let upstream = self.upstream_name();
        let message = format!(
            "whether {upstream}/{name} may be seen without an account there is not known yet: {failure}; try again later"
        );
        match failure.registry_error(probe.wanted(name)) {
            RegistryError::RateLimited { retry_after, .. } => RegistryError::RateLimited {
                message,
                retry_after,
            },
            _ => RegistryError::Unreachable { message },
        }
    }

    /// Asks again about a repository that was public. What it does not have, for us either, is nobody's secret.
    async fn renewed(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Admission {
        match self.asked(name, probe).await {
            Verdict::Decided(Visibility::Public) | Verdict::Absent => Admission::Open,
            Verdict::Decided(Visibility::Private) => {
                Admission::Closed(probe.wanted(name).unknown())
            }
            Verdict::Undecided(failure) => Admission::Held(failure),
        }
    }

    /// Asks again about a repository that is decided, for no longer than a client waits; the question goes on.
    async fn asked(self: &Arc<Self>, name: &RepositoryName, probe: &Probe) -> Verdict {
        let limit = self.settings.revalidate_timeout;
        let upstream = &self.parts.upstream;
        let watch = upstream.watch();
        let asked = clock::timeout(limit, self.probed(name, probe)).await;
        asked.unwrap_or_else(|_| {
            if let Probe::Manifest(reference) = probe {
                upstream.suspect(watch, name, reference, limit);
            }
            let late = Failure::Late(limit);
            self.note_doubt(name, &late);
            Verdict::Undecided(late)
        })
    }
}
