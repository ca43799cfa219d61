//! From the transport's errors to [`UpstreamError`]: which host, how far, and why.

use std::error::Error;
use std::io;

use super::breaker::speaks;
use super::{Phase, UpstreamError};

/// What hyper-util's connector, which both clients use, calls a name that it could not resolve. Its type is private.
const RESOLVE_FAILED: &str = "dns error";

/// The longest chain of causes that is looked at.
const CAUSES_LIMIT: usize = 16;

/// A request that did not get what it wanted, and whether it may be tried again at once.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: UpstreamError,
    pub(super) passing: bool,
    /// Whether it happened where a redirect of the registry had led.
    pub(super) away: bool,
}

impl Failure {
    /// A failure of a request to the registry's own origin, or away from it.
    pub(super) fn at(mut error: UpstreamError, at_home: bool) -> Self {
        if !at_home {
            blame_the_way(&mut error);
        }
        Self {
            away: !at_home,
            ..error.into()
        }
    }

    /// Whether the registry had sent us on, and only then something went wrong: a signature that is for `GET` alone,
    /// a CDN that is down or lacks a copy.
    pub(super) fn is_only_the_cdns(&self) -> bool {
        let theirs = matches!(
            self.error,
            UpstreamError::Status { .. } | UpstreamError::Unreachable { .. }
        );
        self.away && theirs
    }

    /// Whether the upstream has said so of what it was asked.
    pub(super) fn is_final(&self) -> bool {
        match &self.error {
            UpstreamError::Unreachable { .. } => self.away,
            UpstreamError::Suspended { .. } | UpstreamError::Offline { .. } => false,
            UpstreamError::Status { status, .. } => self.away || speaks(*status),
            _ => true,
        }
    }

    /// A failure that was already retried where it happened.
    pub(super) fn settled(error: UpstreamError) -> Self {
        Self {
            error,
            passing: false,
            away: false,
        }
    }
}

/// Connections that broke and errors of the server's own pass; what was said clearly does not.
impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        let passing = match &error {
            UpstreamError::Unreachable { phase, .. } => !matches!(phase, Phase::Slot | Phase::Tls),
            // 501 and 505 say that it will never work.
            UpstreamError::Status { status, .. } => {
                *status == 408 || (*status >= 500 && !matches!(status, 501 | 505))
            }
            _ => false,
        };
        Self {
            error,
            passing,
            away: false,
        }
    }
}

/// Adds what is the usual cause when a CDN cannot be reached though the registry can: its name is on no list.
fn blame_the_way(error: &mut UpstreamError) {
    if let UpstreamError::Unreachable { phase, reason, .. } = error
        && matches!(
            phase,
            Phase::Resolve | Phase::Connect | Phase::Tls | Phase::FirstByte
        )
    {
        reason.push_str(
            "; the registry redirects there, and a firewall or an egress list may block it",
        );
    }
}

/// An error of the transport while talking to `host`, which had come as far as `phase`.
pub(super) fn broken(host: &str, phase: Phase, error: &(dyn Error + 'static)) -> UpstreamError {
    let causes = || Causes { next: Some(error) }.take(CAUSES_LIMIT);
    let reason = causes().last().map(ToString::to_string).unwrap_or_default();
    let garbled = |cause: &(dyn Error + 'static)| {
        cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
    };
    if causes().any(garbled) {
        return UpstreamError::BadAnswer {
            host: host.into(),
            reason: format!("it does not speak HTTP: {reason}"),
        };
    }
    let connecting = |cause: &(dyn Error + 'static)| {
        cause
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
    };
    let phase = if causes().any(<dyn Error>::is::<rustls::Error>) {
        Phase::Tls
    } else if !causes().any(connecting) {
        phase
    } else if causes().any(|cause| cause.to_string() == RESOLVE_FAILED) {
        Phase::Resolve
    } else {
        Phase::Connect
    };
    UpstreamError::Unreachable {
        host: host.into(),
        phase,
        reason,
    }
}

/// An error and its causes. Unlike `source` alone this also opens the errors that an [`io::Error`] wraps.
struct Causes<'a> {
    next: Option<&'a (dyn Error + 'static)>,
}

impl<'a> Iterator for Causes<'a> {
    type Item = &'a (dyn Error + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let error = self.next.take()?;
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        self.next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
        Some(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_error_is_found_however_often_it_is_wrapped() {
        let refused = rustls::Error::NoCertificatesPresented;
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, refused));
        let UpstreamError::Unreachable { phase, reason, .. } =
            broken("registry.test", Phase::FirstByte, &wrapped)
        else {
            panic!("not unreachable");
        };
        assert_eq!(phase, Phase::Tls);
        assert_eq!(reason, "peer sent no certificates");
    }

    #[test]
    fn an_unknown_error_stays_in_the_phase_it_happened_in() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let error = broken("cdn.test:8443", Phase::Body, &reset);
        let expected =
            "cdn.test:8443 could not be reached: the answer broke off (connection reset)";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_passes_is_told_from_what_was_said_clearly() {
        let host = || "registry.test".to_owned();
        let unreachable = |phase| UpstreamError::Unreachable {
            host: host(),
            phase,
            reason: String::new(),
        };
        let status = |status| UpstreamError::Status {
            host: host(),
            status,
        };
        for passing in [
            unreachable(Phase::Connect),
            unreachable(Phase::Body),
            status(503),
            status(408),
        ] {
            assert!(Failure::from(passing.clone()).passing, "{passing}");
        }
        let limited = UpstreamError::RateLimited {
            host: host(),
            retry_after: None,
        };
        for clear in [
            unreachable(Phase::Tls),
            unreachable(Phase::Slot),
            status(400),
            status(501),
            limited,
        ] {
            assert!(!Failure::from(clear.clone()).passing, "{clear}");
        }
    }
}
