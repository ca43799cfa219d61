//! From a request to the repository that answers it: the one place that knows how names are spread over
//! registries, and what of them may be pulled.
//!
//! Whatever names an upstream (`?ns=`, a path prefix, the first component of a name) is a key to look up, never a
//! host to dial: an unknown one is refused here, before anything leaves the process. The first match wins:
//!
//! 1. `?ns=<host>` of an upstream other than the default one;
//! 2. `/<host>/v2/<name>`, as dockerd and containerd write a mirror with a path, or `/v2/<host>/<name>`, as `BuildKit`
//!    and podman do;
//! 3. what a name without any of these means: Docker Hub with `?ns=docker.io`, else what the listener says, else
//!    Docker Hub.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::oci::name::{Reference, RepositoryName, Tag};
use crate::oci::request::{Parsed, Request};
use crate::registry::{Caller, Registry, RegistryError};

pub use rules::Rules;

/// The upstream of names that name none.
const DOCKER_HUB: &str = "docker.io";

/// The other names under which clients know it.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// All registries behind this server.
pub struct Directory {
    upstreams: BTreeMap<String, Entry>,
}

/// A registry behind this server.
pub struct Entry {
    /// The registry.
    pub registry: Arc<dyn Registry>,
    /// What of it may be pulled.
    pub rules: Rules,
}

/// Where a request goes.
pub struct Route<'a> {
    /// The upstream whose content it is.
    pub upstream: &'a str,
    /// The registry that answers.
    pub registry: &'a dyn Registry,
    /// The repository's name in that registry.
    pub name: RepositoryName,
    /// The `ns` that scoped the lookup, to be sent back as `OCI-Namespace`.
    pub namespace_echo: Option<String>,
}

/// An upstream that was looked up.
#[derive(Clone, Copy)]
struct Found<'a> {
    name: &'a str,
    entry: &'a Entry,
}

impl Directory {
    /// A directory of these upstreams, by the names under which clients know them: hosts in lower case, with a port
    /// where they have one.
    pub const fn new(upstreams: BTreeMap<String, Entry>) -> Self {
        Self { upstreams }
    }

    /// The registry and name that answer `parsed`; `listener` is the upstream that a name without one means on the
    /// port where the request came in, where that differs from Docker Hub.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] for what changes content and for what is about no repository,
    /// [`RegistryError::UpstreamUnknown`] for an upstream that is not configured, [`RegistryError::NameUnknown`] for
    /// names that no registry has, [`RegistryError::Denied`] for what may not be pulled.
    pub fn route(
        &self,
        _caller: &Caller,
        parsed: &Parsed,
        listener: Option<&str>,
    ) -> Result<Route<'_>, RegistryError> {
        let (name, tag) = pulled(&parsed.request)?;
        let namespace = self.named(parsed.namespace.as_deref())?;
        let prefix = self.named(parsed.upstream_prefix.as_deref())?;
        let foreign = namespace.filter(|found| found.name != DOCKER_HUB);
        let (found, name) = match (foreign.or(prefix), self.split(name)) {
            (Some(found), Some((first, rest))) if first.name == found.name => (found, rest),
            (Some(found), _) => (found, name.clone()),
            (None, Some(split)) => split,
            (None, None) => {
                let host = listener.filter(|_| namespace.is_none());
                (self.find(host.unwrap_or(DOCKER_HUB))?, name.clone())
            }
        };
        let name = self.as_known_there(found, name)?;
        found.entry.rules.admit(found.name, &name, tag)?;
        let scoped = namespace.is_some_and(|namespace| namespace.name == found.name);
        Ok(Route {
            upstream: found.name,
            registry: &*found.entry.registry,
            name,
            namespace_echo: parsed.namespace.clone().filter(|_| scoped),
        })
    }

    fn named(&self, host: Option<&str>) -> Result<Option<Found<'_>>, RegistryError> {
        host.map(|host| self.find(host)).transpose()
    }

    fn find(&self, host: &str) -> Result<Found<'_>, RegistryError> {
        self.lookup(host)
            .ok_or_else(|| RegistryError::UpstreamUnknown { host: host.into() })
    }

    /// Host names have no case, and Docker Hub has three.
    fn lookup(&self, host: &str) -> Option<Found<'_>> {
        let host = host.to_ascii_lowercase();
        let is_alias = DOCKER_HUB_ALIASES.contains(&host.as_str());
        let host = if is_alias { DOCKER_HUB } else { &host };
        let (name, entry) = self.upstreams.get_key_value(host)?;
        Some(Found { name, entry })
    }

    /// The upstream that the first component names, and the rest.
    fn split(&self, name: &RepositoryName) -> Option<(Found<'_>, RepositoryName)> {
        let (first, rest) = name.strip_first();
        Some((self.lookup(first)?, rest?))
    }

    /// `nginx` and `library/nginx` are one repository of Docker Hub, which has no namespace with a dot: such a name is
    /// meant for another registry, and must not be asked of this one.
    fn as_known_there(
        &self,
        found: Found<'_>,
        name: RepositoryName,
    ) -> Result<RepositoryName, RegistryError> {
        if found.name != DOCKER_HUB {
            return Ok(name);
        }
        match name.strip_first() {
            (host, Some(_)) if host.contains('.') => {
                self.find(host)?;
                Err(RegistryError::NameUnknown { name })
            }
            _ => Ok(name.with_library()),
        }
    }
}

/// The repository that a pull is from, and the tag if it is by tag.
fn pulled(request: &Request) -> Result<(&RepositoryName, Option<&Tag>), RegistryError> {
    match request {
        Request::ManifestGet { name, reference } | Request::ManifestHead { name, reference } => {
            match reference {
                Reference::Tag(tag) => Ok((name, Some(tag))),
                Reference::Digest(_) => Ok((name, None)),
            }
        }
        Request::BlobGet { name, .. }
        | Request::BlobHead { name, .. }
        | Request::TagsList { name, .. }
        | Request::Referrers { name, .. } => Ok((name, None)),
        Request::Version | Request::Catalog { .. } => {
            Err(unsupported("this registry does not list its repositories"))
        }
        Request::ManifestPut { .. }
        | Request::ManifestDelete { .. }
        | Request::BlobDelete { .. }
        | Request::UploadStart { .. }
        | Request::UploadChunk { .. }
        | Request::UploadFinish { .. }
        | Request::UploadStatus { .. }
        | Request::UploadCancel { .. } => Err(unsupported(
            "this is a read-only mirror: push to the registry that it mirrors",
        )),
    }
}

fn unsupported(message: &str) -> RegistryError {
    RegistryError::Unsupported {
        message: message.into(),
    }
}
