//! Logins from Docker's configuration: `config.json`, and the credential helpers that it names.
//!
//! Sources: docker/cli `cli/config`, docker/docker-credential-helpers, and containers-auth.json(5) for keys with a
//! path. A helper is run for one registry, without a shell, and bounded in time and output. Nothing of what a file or
//! a helper says is ever shown, only which of them cannot be used.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use super::base64;
use super::redirect::host_of;
use super::settings::Login;
use crate::oci::name::RepositoryName;
use crate::sys::fs::{Disk, read_small};
use crate::sys::secret::Secret;
use crate::sys::{command, tasks};

/// What Docker Hub is called by whoever logs in to it.
const HUB: &str = "https://index.docker.io/v1/";
/// The hosts that are Docker Hub.
pub(super) const HUB_HOSTS: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];
/// The largest configuration that is read.
const FILE_LIMIT: usize = 1024 * 1024;
/// The most that a helper may print.
const ANSWER_LIMIT: usize = 64 * 1024;
/// The longest that a helper may take.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The longest name of a helper.
const HELPER_LIMIT: usize = 64;
/// The most logins of one registry.
const LOGINS_LIMIT: usize = 1000;
/// The user name that says that the secret is no password.
const IDENTITY_TOKEN: &str = "<token>";

/// Why Docker's configuration yields no login. Says nothing of its contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is not the JSON it should be")]
    NotJson,
    #[error("it names a credential helper by something that is not a name")]
    HelperName,
    #[error("docker-credential-{name} cannot be used: {reason}")]
    Helper { name: String, reason: String },
    #[error(
        "it holds an identity token for {address}, which is not supported: log in with a password or an access token"
    )]
    IdentityToken { address: String },
}

/// A registry as Docker's configuration names it.
#[derive(Clone, Debug)]
pub(super) struct Address(String);

impl Address {
    /// Of the registry whose API is at `base`: what credentials are for is told by who gets them.
    pub(super) fn of(base: &Url) -> Self {
        let host = host_of(base);
        let is_hub = HUB_HOSTS.contains(&host.as_str());
        Self(if is_hub { HUB.into() } else { host })
    }

    /// Which of this registry's repositories `key` is about; `None` when it is about another registry.
    fn matched(&self, key: &str) -> Option<Part> {
        let bare = key
            .strip_prefix("https://")
            .or_else(|| key.strip_prefix("http://"));
        let (host, path) = bare
            .unwrap_or(key)
            .split_once('/')
            .unwrap_or((bare.unwrap_or(key), ""));
        let same = match self.0.as_str() {
            HUB => HUB_HOSTS
                .iter()
                .any(|known| host.eq_ignore_ascii_case(known)),
            own => host.eq_ignore_ascii_case(own),
        };
        match path.trim_matches('/') {
            _ if !same => None,
            "" | "v1" | "v2" => Some(Part::Whole),
            prefix => Some(Part::Below(prefix.parse().ok()?)),
        }
    }
}

/// Repositories of one registry.
#[derive(PartialEq, Eq)]
enum Part {
    Whole,
    Below(RepositoryName),
}

impl Part {
    fn prefix(self) -> Option<RepositoryName> {
        match self {
            Self::Whole => None,
            Self::Below(prefix) => Some(prefix),
        }
    }
}

/// The part of the file that is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    auths: BTreeMap<String, Option<Record>>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

/// What `docker login` writes without a helper.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Record {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// What a configuration says of one registry.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) logins: Vec<Login>,
    /// What was left out.
    pub(super) problem: Option<Problem>,
}

/// The logins for `address` in the configuration at `path`; none where there is no file.
///
/// # Errors
/// [`Problem`]: what it would say is not known.
pub(super) async fn read(
    disk: Arc<dyn Disk>,
    path: &Path,
    address: &Address,
) -> Result<Reading, Problem> {
    let path = path.to_owned();
    let content = tasks::blocking(move || read_small(&*disk, &path, FILE_LIMIT)).await;
    let content = match content {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reading::default()),
        Err(error) => return Err(Problem::Unreadable(error.to_string())),
    };
    let document: Document = serde_json::from_slice(&content).map_err(|_| Problem::NotJson)?;
    let mut reading = Reading::default();
    if let Some(name) = document.helper(address) {
        match ask(name, address).await {
            Ok(login) => reading.logins.extend(login),
            Err(problem @ Problem::IdentityToken { .. }) => reading.problem = Some(problem),
            Err(problem) => return Err(problem),
        }
    }
    document.add_written(address, &mut reading);
    Ok(reading)
}

impl Document {
    /// The helper that knows the login for all of `address`.
    fn helper(&self, address: &Address) -> Option<&str> {
        let own = self
            .helpers
            .iter()
            .find(|(key, _)| address.matched(key) == Some(Part::Whole));
        let name = own.map(|(_, name)| name).or(self.store.as_ref());
        name.map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Adds the logins that are in the file itself.
    fn add_written(&self, address: &Address, reading: &mut Reading) {
        // The key that `docker login` writes goes before others that mean the same.
        let exact = self.auths.get_key_value(&address.0);
        for (key, record) in exact.into_iter().chain(&self.auths) {
            let (Some(part), Some(record)) = (address.matched(key), record) else {
                continue;
            };
            let prefix = part.prefix();
            let known = reading.logins.iter().any(|login| login.prefix == prefix);
            if known || reading.logins.len() >= LOGINS_LIMIT {
                continue;
            }
            match record.pair(address) {
                Ok(Some((username, password))) => reading.logins.push(Login {
                    prefix,
                    username,
                    password,
                }),
                Ok(None) => {}
                Err(problem) => reading.problem = Some(problem),
            }
        }
    }
}

impl Record {
    /// User and password, if it holds any. One that only says where the user has logged in is empty.
    fn pair(&self, address: &Address) -> Result<Option<(String, Secret)>, Problem> {
        let written = |token: &&Secret| !token.expose().is_empty();
        if self.identitytoken.iter().any(|token| written(&token)) {
            return Err(identity_token(address));
        }
        if let Some(auth) = self.auth.as_ref().filter(written) {
            let decoded = base64::decode(auth.expose().trim());
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or(Problem::NotJson)?;
            let (username, password) = text.split_once(':').ok_or(Problem::NotJson)?;
            // Old versions of Docker fill the field up.
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some((username.to_owned(), password)));
        }
        let username = self.username.clone().filter(|name| !name.is_empty());
        Ok(username.zip(self.password.clone()))
    }
}

/// Asks a helper for the login of `address`.
async fn ask(name: &str, address: &Address) -> Result<Option<Login>, Problem> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > HELPER_LIMIT || !name.bytes().all(word) {
        return Err(Problem::HelperName);
    }
    let failed = |reason: String| Problem::Helper {
        name: name.into(),
        reason,
    };
    let program = format!("docker-credential-{name}");
    let input = address.0.as_bytes();
    let answered = command::answer(&program, &["get"], input, ANSWER_LIMIT, ANSWER_TIME).await;
    let (succeeded, answer) = answered.map_err(|error| failed(error.to_string()))?;
    if !succeeded {
        // The one thing that helpers are bound to say when they have none.
        if answer.starts_with(b"credentials not found") {
            return Ok(None);
        }
        return Err(failed("it fails".into()));
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| failed("its answer is not the JSON it should be".into()))?;
    if answer.username == IDENTITY_TOKEN {
        return Err(identity_token(address));
    }
    let login = Login {
        prefix: None,
        username: answer.username,
        password: answer.secret,
    };
    Ok((!login.username.is_empty()).then_some(login))
}

fn identity_token(address: &Address) -> Problem {
    Problem::IdentityToken {
        address: address.0.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(base: &str) -> Address {
        Address::of(&Url::parse(base).unwrap())
    }

    fn written(address: &Address, json: &str) -> Vec<(Option<String>, String, String)> {
        let document: Document = serde_json::from_str(json).unwrap();
        let mut reading = Reading::default();
        document.add_written(address, &mut reading);
        assert_eq!(reading.problem, None);
        let shown = |login: Login| {
            let prefix = login.prefix.map(|prefix| prefix.to_string());
            (prefix, login.username, login.password.expose().to_owned())
        };
        reading.logins.into_iter().map(shown).collect()
    }

    fn login(
        prefix: Option<&str>,
        username: &str,
        password: &str,
    ) -> (Option<String>, String, String) {
        (prefix.map(Into::into), username.into(), password.into())
    }

    #[test]
    fn docker_hub_is_known_by_the_key_of_its_index() {
        let hub = address("https://registry-1.docker.io");
        assert_eq!(hub.0, "https://index.docker.io/v1/");
        // alice:correct:horse and bob:battery
        let json = r#"{"auths": {
            "docker.io": {"auth": "Ym9iOmJhdHRlcnk="},
            "https://index.docker.io/v1/": {"auth": "YWxpY2U6Y29ycmVjdDpob3JzZQ=="},
            "ghcr.io": {"username": "carol", "password": "x"}
        }}"#;
        assert_eq!(written(&hub, json), [login(None, "alice", "correct:horse")]);
        let corp = address("https://registry.corp.test:5000/hub");
        assert_eq!(corp.0, "registry.corp.test:5000");
        assert_eq!(written(&corp, json), []);
    }

    #[test]
    fn hosts_may_have_a_scheme_and_a_path() {
        let ghcr = address("https://ghcr.io");
        let one = r#"{"username": "a", "password": "x"}"#;
        for key in [
            "ghcr.io",
            "https://ghcr.io",
            "https://GHCR.io/v2/",
            "ghcr.io/v1/",
        ] {
            let json = format!(r#"{{"auths": {{"{key}": {one}}}}}"#);
            assert_eq!(written(&ghcr, &json), [login(None, "a", "x")], "{key}");
        }
        for key in [
            "ghcr.io:444",
            "ghcr.io.evil.test",
            "evil.test/ghcr.io",
            "http://x.ghcr.io",
        ] {
            let json = format!(r#"{{"auths": {{"{key}": {one}}}}}"#);
            assert_eq!(written(&ghcr, &json), [], "{key}");
        }
    }

    #[test]
    fn a_path_is_for_a_part_of_the_registry() {
        let json = r#"{"auths": {
            "ghcr.io": {"username": "a", "password": "x"},
            "ghcr.io/acme": {"username": "b", "password": "y"},
            "ghcr.io/acme/UPPER": {"username": "c", "password": "z"}
        }}"#;
        let expected = [login(None, "a", "x"), login(Some("acme"), "b", "y")];
        assert_eq!(written(&address("https://ghcr.io"), json), expected);
    }

    #[test]
    fn an_entry_that_is_empty_is_no_login() {
        let json =
            r#"{"auths": {"ghcr.io": {}, "ghcr.io/a": null, "ghcr.io/b": {"auth": ""}}, "x": 1}"#;
        assert_eq!(written(&address("https://ghcr.io"), json), []);
    }

    #[test]
    fn what_cannot_be_used_is_said_without_showing_it() {
        let ghcr = address("https://ghcr.io");
        let problem = |record: &str| {
            let json = format!(r#"{{"auths": {{"ghcr.io": {record}}}}}"#);
            let document: Document = serde_json::from_str(&json).unwrap();
            let mut reading = Reading::default();
            document.add_written(&ghcr, &mut reading);
            assert!(reading.logins.is_empty());
            reading.problem.unwrap()
        };
        let token = problem(r#"{"auth": "YTpi", "identitytoken": "hunter2"}"#);
        assert!(matches!(token, Problem::IdentityToken { .. }));
        assert!(!format!("{token} {token:?}").contains("hunter2"));
        // hunter2, without a colon
        for odd in ["aHVudGVyMg==", "hunter2!"] {
            let problem = problem(&format!(r#"{{"auth": "{odd}"}}"#));
            assert_eq!(problem, Problem::NotJson);
        }
    }

    #[test]
    fn the_registrys_own_helper_goes_before_the_store() {
        let json =
            r#"{"credHelpers": {"ghcr.io": "own", "quay.io": "other"}, "credsStore": "all"}"#;
        let document: Document = serde_json::from_str(json).unwrap();
        assert_eq!(document.helper(&address("https://ghcr.io")), Some("own"));
        assert_eq!(document.helper(&address("https://gcr.io")), Some("all"));
        assert_eq!(
            document.helper(&address("https://quay.io:444")),
            Some("all")
        );
        assert_eq!(
            Document::default().helper(&address("https://ghcr.io")),
            None
        );
    }

    #[tokio::test]
    async fn a_helper_is_named_by_a_word() {
        let long = "a".repeat(HELPER_LIMIT + 1);
        for odd in ["../evil", "a b", "a;b", "Upper", "a.b", long.as_str()] {
            let asked = ask(odd, &address("https://ghcr.io")).await;
            assert_eq!(asked.unwrap_err(), Problem::HelperName, "{odd}");
        }
        let missing = ask("no-such-helper", &address("https://ghcr.io")).await;
        assert!(matches!(missing, Err(Problem::Helper { .. })));
    }
}
