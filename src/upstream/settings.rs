//! What an upstream must be told to be asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use reqwest::Url;

use super::mirrors;
use super::proxy::ProxyChoice;
use crate::oci::name::RepositoryName;
use crate::sys::secret::Secret;

/// The registry that names without a host mean.
const DOCKER_HUB: &str = "docker.io";
/// What Docker Hub calls itself in its challenges.
const DOCKER_HUB_SERVICE: &str = "registry.docker.io";

/// Settings of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The registry's name as clients write it: `docker.io`.
    pub name: Arc<str>,
    /// Where its API is, without `/v2`: `https://registry-1.docker.io`.
    pub url: Uri,
    /// The token endpoint that may have the credentials besides the registry's own host.
    pub token_url: Option<Uri>,
    /// As whom the upstream is asked. A repository that none of them is for is asked for anonymously.
    pub logins: Vec<Login>,
    /// Docker's `config.json`, for what `logins` do not say; without it Docker's logins are not used. It need not exist.
    pub docker_config: Option<PathBuf>,
    /// Registries with the same content that are asked before it, in this order, for manifests and blobs: anonymously,
    /// and without being waited for for long. However one fails, the next is asked, and the upstream at last.
    pub mirrors: Vec<Uri>,
    /// How its hosts are reached: its own, its token endpoints', its CDNs' and its mirrors'.
    pub proxy: ProxyChoice,
    /// Certificate authorities that are trusted besides the system's, each one or more certificates as PEM.
    pub ca: Vec<Vec<u8>>,
    /// How long connecting and waiting for the first byte may take, all attempts of one question together.
    pub timeout: Duration,
    /// How long a body may pause.
    pub stall: Duration,
    /// How often a question that failed in passing is repeated. Blob transfers are not repeated here.
    pub retries: u32,
    /// How many blob transfers may run at once, at least one.
    pub max_connections: usize,
    /// Nothing is asked, ever.
    pub offline: bool,
    /// How many pulls are left to clients: with no more than these there is no background work.
    pub rate_reserve: u64,
}

/// A user of an upstream, for all of its repositories or for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The first components of the repositories that it is for: `acme` is for `acme/app` and not for `acmecorp/app`.
    /// The longest prefix that fits wins; a login without one is for the rest.
    pub prefix: Option<RepositoryName>,
    /// The user's name.
    pub username: String,
    /// The password or personal access token.
    pub password: Secret,
}

/// Why an upstream's settings are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Not a URL that can be asked.
    #[error(
        "{url} is not an absolute http or https URL without a user (nor, for a registry, a query)"
    )]
    Url {
        /// The URL as configured.
        url: String,
    },
    /// Not a certificate authority.
    #[error("the certificate authority is unusable: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// Not a proxy that can be asked.
    #[error("the proxy {proxy} cannot be used: {reason}")]
    Proxy {
        /// Its host, or the variable of the environment that names it.
        proxy: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS library refuses to start.
    #[error("TLS is not available: {reason}")]
    Tls {
        /// Why.
        reason: String,
    },
}

impl Settings {
    /// Whether anything is asked with an account.
    pub fn has_logins(&self) -> bool {
        !self.logins.is_empty() || self.docker_config.is_some()
    }

    /// What a mirror of several registries knows this one by: the host that images are named by.
    pub(super) fn namespace(&self) -> String {
        let host = self.url.authority().map(ToString::to_string);
        match host {
            Some(host) if &*self.name != DOCKER_HUB => host,
            _ => self.name.to_string(),
        }
    }

    /// The settings of its mirror at `url`.
    pub(super) fn of_mirror(&self, url: &Uri) -> Self {
        Self {
            url: url.clone(),
            token_url: None,
            logins: Vec::new(),
            docker_config: None,
            mirrors: Vec::new(),
            timeout: self.timeout.min(mirrors::ANSWER_LIMIT),
            retries: 0,
            ..self.clone()
        }
    }

    /// The `service` that tokens are asked for before the registry has named one itself.
    pub(super) fn known_service(&self) -> Option<&'static str> {
        (&*self.name == DOCKER_HUB).then_some(DOCKER_HUB_SERVICE)
    }
}

/// Where the registry's API is.
pub(super) fn base_url(uri: &Uri) -> Result<Url, BuildError> {
    let base = endpoint_url(uri)?;
    match base.query() {
        None => Ok(base),
        Some(_) => Err(BuildError::Url {
            url: uri.to_string(),
        }),
    }
}

/// `uri` as a URL that requests can be made of.
pub(super) fn endpoint_url(uri: &Uri) -> Result<Url, BuildError> {
    let usable = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
    };
    let unusable = || BuildError::Url {
        url: uri.to_string(),
    };
    Url::parse(&uri.to_string())
        .ok()
        .filter(usable)
        .ok_or_else(unusable)
}
