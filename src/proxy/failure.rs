//! Why the proxy has no fresh answer, and what that means for the client.
//!
//! `docs/design/0005-fresh-stale-absent.md` has the table: absence only when the upstream said so, never a bare 401
//! or 429, and a message that names the host.

use std::sync::Arc;
use std::time::Duration;

use super::negative::Verdict;
use super::recheck::Trouble;
use crate::blobs::BlobsError;
use crate::fetch::FetchError;
use crate::index::IndexError;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::registry::{RegistryError, StaleReason};
use crate::upstream::{Phase, UpstreamError};

/// Why there is no fresh answer. Cheap to clone: it reaches everyone who waited.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The upstream could not answer.
    Upstream(Arc<UpstreamError>),
    /// The upstream's answer cannot be used.
    Bad(Arc<str>),
    /// A blob's download ended without it.
    Fetch(Arc<FetchError>),
    /// The index or the disk failed.
    Local(Arc<str>),
    /// No client waits longer. The question goes on.
    Late(Duration),
    /// The upstream said a moment ago that it is not to be had, and was not asked again.
    Remembered,
    /// The question was not asked to the end: too many are under way, or the process is closing.
    Busy,
}

/// What the client asked for, to say what is unknown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    Manifest(&'a RepositoryName, &'a Reference),
    Blob(&'a RepositoryName, Digest),
    List(&'a RepositoryName),
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(Arc::new(error))
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Refused(error) | FetchError::Upstream(error) => error.into(),
            error => Self::Fetch(Arc::new(error)),
        }
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        Self::Local(error.to_string().into())
    }
}

impl From<BlobsError> for Failure {
    fn from(error: BlobsError) -> Self {
        Self::Local(error.to_string().into())
    }
}

impl Failure {
    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Self::Bad(reason.into().into())
    }

    /// Whether the upstream said for sure that this is not to be had: it does not exist, or not for us.
    pub(super) fn is_absence(&self) -> bool {
        self.verdict().is_some()
    }

    /// How the upstream said no, if it did.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let Self::Upstream(error) = self else {
            return None;
        };
        match **error {
            UpstreamError::NotFound { .. } => Some(Verdict::Gone),
            UpstreamError::Denied { .. } => Some(Verdict::Denied),
            _ => None,
        }
    }

    /// Whether nothing was asked because the configuration says so.
    pub(super) fn is_offline(&self) -> bool {
        matches!(self, Self::Upstream(error) if matches!(**error, UpstreamError::Offline { .. }))
    }

    /// Whether this is about the upstream, and not about this process or its configuration.
    pub(super) fn says_something_of_the_upstream(&self) -> bool {
        let is_ours = matches!(self, Self::Local(_) | Self::Busy | Self::Remembered);
        !is_ours && !self.is_absence() && !self.is_offline()
    }

    /// What is wrong with a tag whose new manifest could not be had.
    pub(super) fn trouble(&self) -> Trouble {
        let Self::Upstream(error) = self else {
            return Trouble::Content;
        };
        match **error {
            UpstreamError::RateLimited { .. }
            | UpstreamError::Unreachable { .. }
            | UpstreamError::Status { .. }
            | UpstreamError::Suspended { .. } => Trouble::Upstream,
            _ => Trouble::Content,
        }
    }

    /// The reason for serving a stale copy instead.
    pub(super) fn stale_reason(&self) -> StaleReason {
        match self {
            Self::Upstream(error) => stale_reason(error),
            Self::Late(_) => StaleReason::Timeout,
            _ => StaleReason::UpstreamError,
        }
    }

    /// What the client is told when there is no copy.
    pub(super) fn registry_error(&self, wanted: Wanted<'_>) -> RegistryError {
        match self {
            Self::Upstream(error) => from_upstream(error, wanted),
            Self::Bad(reason) => RegistryError::BadUpstream {
                message: reason.to_string(),
            },
            Self::Fetch(error) => from_fetch(error),
            Self::Local(reason) => RegistryError::Internal {
                message: reason.to_string(),
            },
            Self::Remembered => wanted.remembered(),
            Self::Late(_) => RegistryError::Timeout {
                message: self.to_string(),
            },
            Self::Busy => RegistryError::Unreachable {
                message: "the server is too busy, or about to end; try again".to_owned(),
            },
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upstream(error) => error.fmt(f),
            Self::Bad(reason) | Self::Local(reason) => f.write_str(reason),
            Self::Fetch(error) => error.fmt(f),
            Self::Late(limit) => {
                write!(f, "no answer within {}", humantime::format_duration(*limit))
            }
            Self::Remembered => f.write_str("the upstream did not have it a moment ago"),
            Self::Busy => f.write_str("too many questions are under way"),
        }
    }
}

impl Wanted<'_> {
    /// The answer for what the upstream said a moment ago that it does not have.
    pub(super) fn remembered(self) -> RegistryError {
        RegistryError::Negative {
            unknown: Box::new(self.unknown()),
        }
    }

    /// The answer for what does not exist, as far as this client may know.
    pub(super) fn unknown(self) -> RegistryError {
        match self {
            Self::Manifest(name, reference) => RegistryError::ManifestUnknown {
                name: name.clone(),
                reference: reference.clone(),
            },
            Self::Blob(name, digest) => RegistryError::BlobUnknown {
                name: name.clone(),
                digest,
            },
            Self::List(name) => RegistryError::NameUnknown { name: name.clone() },
        }
    }
}

fn stale_reason(error: &UpstreamError) -> StaleReason {
    match error {
        UpstreamError::RateLimited { .. } => StaleReason::RateLimited,
        UpstreamError::Unreachable { phase, .. } if is_timeout(*phase) => StaleReason::Timeout,
        UpstreamError::Unreachable { .. } => StaleReason::Unreachable,
        UpstreamError::Denied { .. } | UpstreamError::CredentialsRefused { .. } => {
            StaleReason::Denied
        }
        UpstreamError::Suspended { cause, .. } => stale_reason(cause),
        UpstreamError::Offline { .. } => StaleReason::Offline,
        _ => StaleReason::UpstreamError,
    }
}

fn is_timeout(phase: Phase) -> bool {
    matches!(phase, Phase::FirstByte | Phase::Stall | Phase::Slot)
}

fn from_upstream(error: &UpstreamError, wanted: Wanted<'_>) -> RegistryError {
    let message = error.to_string();
    match error {
        UpstreamError::NotFound { .. }
        | UpstreamError::Denied { .. }
        | UpstreamError::Offline { .. } => wanted.unknown(),
        UpstreamError::Suspended { cause, .. } => from_upstream(cause, wanted),
        UpstreamError::RateLimited { retry_after, .. } => RegistryError::RateLimited {
            message: format!("{message}, and no copy is held here; try again later"),
            retry_after: *retry_after,
        },
        UpstreamError::Unreachable { phase, .. } if is_timeout(*phase) => {
            RegistryError::Timeout { message }
        }
        UpstreamError::Unreachable { .. } | UpstreamError::Status { .. } => {
            RegistryError::Unreachable { message }
        }
        _ => RegistryError::BadUpstream { message },
    }
}

fn from_fetch(error: &FetchError) -> RegistryError {
    let message = error.to_string();
    match error {
        FetchError::Disk { .. } => RegistryError::Internal { message },
        FetchError::Abandoned | FetchError::Closing => RegistryError::Unreachable { message },
        _ => RegistryError::BadUpstream { message },
    }
}
