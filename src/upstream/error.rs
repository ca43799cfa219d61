//! Why an upstream could not answer, in terms of what the caller can do about it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How far a request came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The host's name could not be resolved.
    Resolve,
    /// No connection to the host.
    Connect,
    /// The TLS handshake failed: unknown authority, wrong name, expired certificate.
    Tls,
    /// Connected, but no answer within the time limit.
    FirstByte,
    /// The answer broke off.
    Body,
    /// No byte of the answer for the stall limit.
    Stall,
    /// No free connection slot within the time limit.
    Slot,
}

/// What went wrong, for a person.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "its name could not be resolved",
            Self::Connect => "no connection",
            Self::Tls => "TLS failed",
            Self::FirstByte => "no answer in time",
            Self::Body => "the answer broke off",
            Self::Stall => "the answer stalled",
            Self::Slot => "no free connection slot",
        })
    }
}

/// An upstream request that did not yield what was asked for. Every variant names the host that was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The upstream says that this does not exist. Final.
    #[error("{host} does not have it")]
    NotFound {
        /// The host that answered.
        host: String,
    },
    /// The upstream refuses access, with a valid token in hand. Final for this repository.
    #[error("{host} refuses access (HTTP {status})")]
    Denied {
        /// The host that answered.
        host: String,
        /// 401 or 403.
        status: u16,
    },
    /// The configured credentials are wrong. Final until the configuration changes. Its text names no user: clients
    /// read it.
    #[error("{host} refused the credentials that this mirror has for it")]
    CredentialsRefused {
        /// The host that answered: the token endpoint, or the registry itself.
        host: String,
        /// The configured user.
        username: String,
    },
    /// The upstream asks for fewer requests. Passing.
    #[error("{host} limits the rate of requests")]
    RateLimited {
        /// The host that answered.
        host: String,
        /// How long it asks us to wait, when it says so.
        retry_after: Option<Duration>,
    },
    /// The host could not be reached, or the connection broke. Passing.
    #[error("{host} could not be reached: {phase} ({reason})")]
    Unreachable {
        /// The host that was asked: the registry, the token endpoint or a redirect's target.
        host: String,
        /// How far the request came.
        phase: Phase,
        /// The cause, in words.
        reason: String,
    },
    /// The upstream answered with an error of its own. Passing.
    #[error("{host} answered HTTP {status}")]
    Status {
        /// The host that answered.
        host: String,
        /// The status, 5xx as a rule; 416 when there is nothing at the offset asked for.
        status: u16,
    },
    /// Nothing was asked: this host has just failed, and is being probed. Passing.
    #[error("{host} is not asked for now: {cause}")]
    Suspended {
        /// The host that would have been asked.
        host: String,
        /// What it failed with.
        cause: Arc<Self>,
    },
    /// Nothing was asked: the configuration says that no upstream is. Final.
    #[error("{host} is not asked: this mirror is offline")]
    Offline {
        /// The host that would have been asked.
        host: String,
    },
    /// The upstream answered with something that is not what was asked for. Not worth an immediate retry.
    #[error("{host} gave a bad answer: {reason}")]
    BadAnswer {
        /// The host that answered.
        host: String,
        /// What was wrong with it.
        reason: String,
    },
}
