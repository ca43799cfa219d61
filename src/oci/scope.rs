//! Token scopes: `repository[(class)]:<name>:<action>,<action>` of the distribution project's `token/scope.md`.
//!
//! A name may hold a colon (a host's port), so the type is split off from the left and the actions from the right.

use std::fmt;
use std::str::FromStr;

use super::name::RepositoryName;

/// The longest scope in bytes that is looked at.
const LIMIT: usize = 1024;

/// The most actions in one scope.
const ACTIONS_LIMIT: usize = 16;

/// What a token lets its bearer do with one resource.
///
/// ```
/// use mirror::oci::Scope;
///
/// let scope: Scope = "repository:localhost:5000/app:pull,push".parse().unwrap();
/// assert_eq!(scope.name, "localhost:5000/app");
/// assert_eq!(scope.actions, ["pull", "push"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// `repository` or `registry`.
    pub resource_type: String,
    /// What Docker Hub once put in parentheses: `repository(plugin)`.
    pub class: Option<String>,
    /// The resource's name, a repository's for example.
    pub name: String,
    /// `pull`, `push`, `delete` or `*`, in the order in which they were written.
    pub actions: Vec<String>,
}

/// A text that is not a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is written <type>:<name>:<action>[,<action>...]")]
pub struct ScopeError;

impl Scope {
    /// The scope that reads one repository.
    pub fn pull(name: &RepositoryName) -> Self {
        Self {
            resource_type: "repository".into(),
            class: None,
            name: name.as_str().into(),
            actions: vec!["pull".into()],
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if text.len() > LIMIT {
            return Err(ScopeError);
        }
        let (kind, rest) = text.split_once(':').ok_or(ScopeError)?;
        let (name, actions) = rest.rsplit_once(':').ok_or(ScopeError)?;
        let (resource_type, class) = split_class(kind)?;
        let printable = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable {
            return Err(ScopeError);
        }
        let class = class.map(Into::into);
        Ok(Self {
            resource_type: resource_type.into(),
            class,
            name: name.into(),
            actions: split_actions(actions)?,
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource_type)?;
        if let Some(class) = &self.class {
            write!(f, "({class})")?;
        }
        write!(f, ":{}:{}", self.name, self.actions.join(","))
    }
}

/// `repository` or `repository(plugin)`
fn split_class(kind: &str) -> Result<(&str, Option<&str>), ScopeError> {
    let (resource_type, class) = match kind.strip_suffix(')') {
        Some(open) => open
            .split_once('(')
            .map(|(kind, class)| (kind, Some(class)))
            .ok_or(ScopeError)?,
        None => (kind, None),
    };
    if is_word(resource_type) && class.is_none_or(is_word) {
        Ok((resource_type, class))
    } else {
        Err(ScopeError)
    }
}

/// A comma list; an empty one asks for nothing, which is legal.
fn split_actions(actions: &str) -> Result<Vec<String>, ScopeError> {
    if actions.is_empty() {
        return Ok(Vec::new());
    }
    let known = |action: &str| action == "*" || is_word(action);
    if actions.split(',').count() > ACTIONS_LIMIT || !actions.split(',').all(known) {
        return Err(ScopeError);
    }
    Ok(actions.split(',').map(Into::into).collect())
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
