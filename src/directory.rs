//! From a request to the repository that answers it: the one place that knows how names are spread over
//! registries.
//!
//! Whatever names an upstream (`?ns=`, a path prefix, the first component of a name) is a key to look up, never a
//! host to dial: an unknown one is refused here, before anything leaves the process.

use std::sync::Arc;

use crate::oci::name::RepositoryName;
use crate::oci::request::{Parsed, Request};
use crate::registry::{Caller, Registry, RegistryError};

/// The names under which clients know Docker Hub.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// All registries behind this server.
pub struct Directory {
    default: Arc<dyn Registry>,
}

/// Where a request goes.
pub struct Route<'a> {
    /// The registry that answers.
    pub registry: &'a dyn Registry,
    /// The repository's name in that registry.
    pub name: RepositoryName,
    /// The `ns` that scoped the lookup, to be sent back as `OCI-Namespace`.
    pub namespace_echo: Option<String>,
}

impl Directory {
    /// A directory of one registry, Docker Hub's.
    pub fn new(default: Arc<dyn Registry>) -> Self {
        Self { default }
    }

    /// The registry and name that answer `parsed`.
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] for what changes content and for what is about no repository,
    /// [`RegistryError::NameUnknown`] for an upstream that is not configured.
    pub fn route(&self, _caller: &Caller, parsed: &Parsed) -> Result<Route<'_>, RegistryError> {
        let name = pulled(&parsed.request)?;
        if !is_default(parsed.namespace.as_deref())
            || !is_default(parsed.upstream_prefix.as_deref())
        {
            return Err(RegistryError::NameUnknown { name: name.clone() });
        }
        Ok(Route {
            registry: &*self.default,
            name: in_docker_hub(name),
            namespace_echo: parsed.namespace.clone(),
        })
    }
}

/// The repository that a pull is from.
fn pulled(request: &Request) -> Result<&RepositoryName, RegistryError> {
    match request {
        Request::ManifestGet { name, .. }
        | Request::ManifestHead { name, .. }
        | Request::BlobGet { name, .. }
        | Request::BlobHead { name, .. }
        | Request::TagsList { name, .. }
        | Request::Referrers { name, .. } => Ok(name),
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

fn is_default(host: Option<&str>) -> bool {
    host.is_none_or(|host| DOCKER_HUB.contains(&host))
}

/// `nginx`, `docker.io/nginx` and `library/nginx` are one repository.
fn in_docker_hub(name: &RepositoryName) -> RepositoryName {
    match name.strip_first() {
        (host, Some(rest)) if DOCKER_HUB.contains(&host) => rest.with_library(),
        _ => name.with_library(),
    }
}
