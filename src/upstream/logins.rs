//! As whom each repository is asked for.
//!
//! A login holds for the repositories below its prefix; the longest prefix wins, and a login without one is for the
//! rest. What is learnt of a login (how it is challenged, its tokens, its refusal) belongs to that login alone: wrong
//! credentials of one stop no other, and no token is used for a repository that another login stands for.

use std::fmt;
use std::sync::Arc;

use super::auth::{Auth, Trust};
use super::docker_logins::DockerLogins;
use super::refusals::Refusals;
use super::settings::{Login, Settings};
use super::token::{Limits, Tokens, User};
use super::transport::Control;
use crate::oci::name::RepositoryName;
use crate::sys::clock::Clock;
use crate::sys::fs::OsDisk;
use crate::sys::tasks::Tasks;

/// What all logins of one registry have in common.
#[derive(Clone)]
pub(super) struct AuthBuilder {
    pub(super) trust: Trust,
    /// The `service` that tokens are asked for before the registry has named one itself.
    pub(super) service: Option<&'static str>,
    pub(super) control: Control,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    pub(super) limits: Limits,
}

impl AuthBuilder {
    /// Asks as `user`, or as nobody; nothing is known or kept yet.
    pub(super) fn build(&self, user: Option<User>) -> Arc<Auth> {
        let tokens = Tokens::new(
            self.control.clone(),
            user.clone(),
            Arc::clone(&self.clock),
            self.tasks.clone(),
            self.limits,
        );
        let refusals = Refusals::new(Arc::clone(&self.clock));
        let trust = self.trust.clone();
        Arc::new(Auth::new(trust, user, refusals, self.service, tokens))
    }

    /// Asks as `login` says, with what is known of it if it is one of `kept`.
    pub(super) fn entry(&self, login: Login, kept: &[Entry]) -> Entry {
        let same = kept.iter().find(|entry| entry.login == login);
        let user = || User::new(&login.username, &login.password);
        let auth = same.map_or_else(|| self.build(user()), |same| Arc::clone(&same.auth));
        Entry { login, auth }
    }
}

/// The logins of one registry.
pub(super) struct Logins {
    configured: Vec<Entry>,
    docker: Option<Arc<DockerLogins>>,
    nobody: Arc<Auth>,
}

/// As whom a repository is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// As nobody.
    Nobody,
    /// Perhaps with one of Docker's logins, which could not be read yet.
    Unread,
    /// With the login for what is below this prefix, or for everything.
    Login(Option<RepositoryName>),
}

/// A login with what is known of it.
pub(super) struct Entry {
    login: Login,
    auth: Arc<Auth>,
}

impl Logins {
    /// Asks as `settings` say, and as nobody where no login fits.
    pub(super) fn new(settings: &Settings, builder: &AuthBuilder) -> Self {
        let configured = settings.logins.iter();
        let docker = settings.docker_config.clone();
        Self {
            configured: configured
                .map(|login| builder.entry(login.clone(), &[]))
                .collect(),
            docker: docker.map(|path| DockerLogins::new(Arc::new(OsDisk), path, builder.clone())),
            nobody: builder.build(None),
        }
    }

    /// As whom `repository` is asked for; `None` when the process is closing before that is known.
    pub(super) async fn of(&self, repository: &str) -> Option<Arc<Auth>> {
        let docker = match &self.docker {
            Some(docker) => docker.entries().await?,
            None => Arc::default(),
        };
        Some(self.chosen(&docker, repository))
    }

    /// As whom `repository` is asked for now that `refused` was refused: there may be a new login on this machine.
    pub(super) async fn instead_of(
        &self,
        refused: &Arc<Auth>,
        repository: &str,
    ) -> Option<Arc<Auth>> {
        let docker = self.docker.as_ref()?.after_refusal().await?;
        let chosen = self.chosen(&docker, repository);
        (!Arc::ptr_eq(&chosen, refused)).then_some(chosen)
    }

    /// As whom `repository` would be asked for now.
    pub(super) fn credentials_for(&self, repository: &str) -> Credentials {
        let docker = self.docker.as_ref().map(|docker| docker.known());
        let is_read = !matches!(docker, Some(None));
        let docker = docker.flatten().unwrap_or_default();
        match fitting(self.configured.iter().chain(&*docker), repository) {
            Some(entry) => Credentials::Login(entry.login.prefix.clone()),
            None if is_read => Credentials::Nobody,
            None => Credentials::Unread,
        }
    }

    /// As which user `repository` is asked for, as far as that is known; `None` is nobody.
    pub(super) fn user_of(&self, repository: &str) -> Option<String> {
        let docker = self.docker.as_ref().and_then(|docker| docker.known());
        let docker = docker.unwrap_or_default();
        let entry = fitting(self.configured.iter().chain(&*docker), repository);
        entry.map(|entry| entry.login.username.clone())
    }

    /// The user for whatever no prefix is for; `None` is nobody.
    pub(super) fn main_user(&self) -> Option<String> {
        let docker = self.docker.as_ref().and_then(|docker| docker.known());
        let docker = docker.unwrap_or_default();
        let mut all = self.configured.iter().chain(&*docker);
        let main = all.find(|entry| entry.login.prefix.is_none());
        main.map(|entry| entry.login.username.clone())
    }

    /// What is configured goes before what Docker knows.
    fn chosen(&self, docker: &[Entry], repository: &str) -> Arc<Auth> {
        let entry = fitting(self.configured.iter().chain(docker), repository);
        Arc::clone(entry.map_or(&self.nobody, |entry| &entry.auth))
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.configured.iter();
        f.debug_map()
            .entries(entries.map(|entry| (&entry.login.prefix, &entry.auth)))
            .finish()
    }
}

/// The entry with the longest prefix that `repository` has; the first of those that are equally long.
fn fitting<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    repository: &str,
) -> Option<&'a Entry> {
    let length = |entry: &Entry| {
        entry
            .login
            .prefix
            .as_ref()
            .map_or(0, |prefix| prefix.as_str().len())
    };
    let fits = |entry: &&Entry| match &entry.login.prefix {
        None => true,
        Some(prefix) => is_below(prefix, repository),
    };
    let longer = |best: &'a Entry, next: &'a Entry| {
        if length(next) > length(best) {
            next
        } else {
            best
        }
    };
    entries.into_iter().filter(fits).reduce(longer)
}

/// Whether the components of `prefix` are the first ones of `repository`.
fn is_below(prefix: &RepositoryName, repository: &str) -> bool {
    let rest = repository.strip_prefix(prefix.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_components_are_a_prefix() {
        let below = |prefix: &str, name| is_below(&prefix.parse().unwrap(), name);
        assert!(below("acme", "acme/app"));
        assert!(below("acme", "acme"));
        assert!(below("acme/team", "acme/team/app"));
        assert!(!below("acme", "acmecorp/app"));
        assert!(!below("acme/team", "acme/app"));
        assert!(!below("acme/team", "acme"));
        assert!(!below("team", "acme/team"));
    }
}
