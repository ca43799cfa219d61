//! What of an upstream may be pulled.

use crate::oci::ImagePatterns;
use crate::oci::name::{RepositoryName, Tag};
use crate::registry::RegistryError;

/// Patterns over the images of one upstream. What they refuse is not asked of the upstream, and not served from the
/// cache either.
///
/// What is pulled by digest, and blobs and lists, belong to no one tag: there the repository alone decides, and one
/// that is closed or open for some tags only is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What may be pulled; `None` for everything.
    pub allow: Option<ImagePatterns>,
    /// What may not be pulled, allowed or not.
    pub deny: ImagePatterns,
}

impl Rules {
    /// # Errors
    /// [`RegistryError::Denied`], which names the key that refuses.
    pub(super) fn admit(
        &self,
        upstream: &str,
        name: &RepositoryName,
        tag: Option<&Tag>,
    ) -> Result<(), RegistryError> {
        if !self.deny.is_empty() && self.deny.matches(upstream, name, tag) {
            return Err(denied(upstream, name, tag, "is refused by", "deny"));
        }
        let listed = |allow: &ImagePatterns| match tag {
            Some(_) => allow.matches(upstream, name, tag),
            None => allow.matches_repository(upstream, name),
        };
        if self.allow.as_ref().is_none_or(listed) {
            return Ok(());
        }
        Err(denied(upstream, name, tag, "is not among", "allow"))
    }
}

fn denied(
    upstream: &str,
    name: &RepositoryName,
    tag: Option<&Tag>,
    why: &str,
    key: &str,
) -> RegistryError {
    let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
    RegistryError::Denied {
        message: format!(
            "{upstream}/{name}{tag} {why} upstreams.{upstream:?}.{key} of this mirror"
        ),
    }
}
