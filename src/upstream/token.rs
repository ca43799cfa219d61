//! Bearer tokens: asked for once per scope however many need one, kept, and renewed early.
//!
//! Source: the distribution project's `token/jwt.md`. The endpoint is asked without following redirects, with the
//! credentials only where they belong, and its answer is bounded.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method};
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use reqwest::Url;
use serde::Deserialize;

use super::base64;
use super::door::Errand;
use super::failure::Failure;
use super::ledger::retry_after;
use super::redirect::host_of;
use super::refusals::Refusals;
use super::request::{base_headers, read};
use super::retry::retried;
use super::transport::{Arrived, Control, Deadline, Outgoing, Transport as _};
use super::{Kind, Phase, UpstreamError};
use crate::oci::scope::Scope;
use crate::sys::clock::Clock;
use crate::sys::secret::Secret;
use crate::sys::single_flight::SingleFlight;
use crate::sys::tasks::Tasks;

/// The most bytes of a token endpoint's answer.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// The longest token in bytes; a longer one would not fit into the headers of most servers.
const TOKEN_LIMIT: usize = 64 * 1024;
/// The most bytes of tokens that are kept.
const KEPT_LIMIT: u64 = 8 * 1024 * 1024;
/// How long a token lives that does not say so, and the least that is believed (`token/jwt.md`).
const SHORTEST_LIFE: Duration = Duration::from_mins(1);
/// The longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// A token endpoint, and what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    /// Whether the credentials may be sent there.
    pub(super) trusted: bool,
}

impl Endpoint {
    fn url(&self, scope: &Scope) -> Url {
        let mut url = self.realm.clone();
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &scope.to_string());
        drop(query);
        url
    }
}

/// A token as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    header: HeaderValue,
    obtained: Duration,
    life: Duration,
}

impl Token {
    /// The value of `Authorization`.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Whether it is young enough to be used without asking for its successor: 80 % of its life.
    fn young(&self, now: Duration) -> bool {
        now.saturating_sub(self.obtained) < self.life * 4 / 5
    }

    fn alive(&self, now: Duration) -> bool {
        now.saturating_sub(self.obtained) < self.life
    }
}

/// A token, and where it came from.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) token: Token,
    pub(super) endpoint: Endpoint,
    /// Whether the endpoint was asked for this very request.
    pub(super) fresh: bool,
}

/// The user that tokens are asked for.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: String,
    /// Name and password as the value of `Authorization`, marked as not to be shown.
    pub(super) basic: HeaderValue,
}

impl User {
    /// A user who proves to be `name` by `password`.
    pub(super) fn new(name: &str, password: &Secret) -> Option<Self> {
        Some(Self {
            name: name.into(),
            basic: basic(name, password)?,
        })
    }
}

/// The value of `Authorization` or `Proxy-Authorization` (RFC 7617), marked as not to be shown.
pub(super) fn basic(name: &str, password: &Secret) -> Option<HeaderValue> {
    let pair = base64::encode(format!("{name}:{}", password.expose()).as_bytes());
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

type Key = (Endpoint, Scope);

/// The tokens of one login.
pub(super) struct Tokens {
    flights: SingleFlight<Key, Result<Token, UpstreamError>>,
    asker: Arc<Asker>,
}

impl Tokens {
    /// Asks by `control`, as `user` where that is allowed, each question within `timeout`.
    pub(super) fn new(
        control: Control,
        user: Option<User>,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        limits: Limits,
    ) -> Self {
        let kept = Cache::builder()
            .max_capacity(KEPT_LIMIT)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|(endpoint, scope): &Key, token: &Token| {
                let size = endpoint.realm.as_str().len() + scope.name.len() + token.header.len();
                u32::try_from(size).unwrap_or(u32::MAX)
            })
            .build();
        let refusals = Refusals::new(Arc::clone(&clock));
        let asker = Asker {
            control,
            user,
            clock,
            limits,
            kept,
            refusals,
        };
        Self {
            flights: SingleFlight::new(tasks),
            asker: Arc::new(asker),
        }
    }

    /// A token of `endpoint` for `scope`: a kept one for as long as it lives, else a new one.
    ///
    /// The successor of one that is no longer young is asked for meanwhile, and nobody waits for it.
    pub(super) async fn grant(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        deadline: &Deadline,
    ) -> Result<Grant, UpstreamError> {
        let key = (endpoint.clone(), scope.clone());
        let grant = |token, fresh| Grant {
            token,
            endpoint: endpoint.clone(),
            fresh,
        };
        if let Some(token) = self.kept(&key) {
            return Ok(grant(token, false));
        }
        let token = match deadline.errand() {
            Errand::Question => self.renewed(key, deadline).await?,
            // The flight of those who wait may be what is not answered.
            Errand::Trial | Errand::Probe => {
                Arc::clone(&self.asker).renew(key, Some(deadline)).await?
            }
        };
        Ok(grant(token, true))
    }

    /// The kept token if it lives. Starts its renewal when it is no longer young.
    fn kept(&self, key: &Key) -> Option<Token> {
        let now = self.asker.clock.monotonic();
        let token = self.asker.kept.get(key).filter(|token| token.alive(now))?;
        if !token.young(now) {
            // The flight is a task of its own from its first poll on.
            drop(self.flight(key.clone()).now_or_never());
        }
        Some(token)
    }

    /// Forgets a token that the registry refused, unless a newer one has taken its place.
    pub(super) fn forget(&self, refused: &Grant, scope: &Scope) {
        let key = (refused.endpoint.clone(), scope.clone());
        self.asker
            .kept
            .entry(key)
            .and_compute_with(|kept| match kept {
                Some(kept) if *kept.value() == refused.token => Op::Remove,
                _ => Op::Nop,
            });
    }

    async fn renewed(&self, key: Key, deadline: &Deadline) -> Result<Token, UpstreamError> {
        let host = host_of(&key.0.realm);
        match deadline.limit(self.flight(key)).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(UpstreamError::Unreachable {
                host,
                phase: Phase::FirstByte,
                reason: "the process is closing".into(),
            }),
            Err(_) => Err(deadline.missed(&host, Phase::FirstByte)),
        }
    }

    /// The one renewal of `key` that runs, started by the first who asks; `None` when the process is closing.
    async fn flight(&self, key: Key) -> Option<Result<Token, UpstreamError>> {
        let asker = Arc::clone(&self.asker);
        let flight = self.flights.run(key.clone(), || asker.renew(key, None));
        flight.await.0
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// How long and how often a token endpoint is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) timeout: Duration,
    pub(super) stall: Duration,
    pub(super) retries: u32,
}

/// Asks token endpoints, and keeps what they give.
struct Asker {
    control: Control,
    user: Option<User>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    kept: Cache<Key, Token>,
    refusals: Refusals,
}

impl Asker {
    fn young(&self, key: &Key) -> Option<Token> {
        let now = self.clock.monotonic();
        self.kept.get(key).filter(|token| token.young(now))
    }

    /// Asks for a token: once, and within the deadline of a `probe`; else again and again within a limit.
    async fn renew(
        self: Arc<Self>,
        key: Key,
        probe: Option<&Deadline>,
    ) -> Result<Token, UpstreamError> {
        // Another flight may have landed between the caller's look and this one's start.
        if let Some(token) = self.young(&key) {
            return Ok(token);
        }
        let (endpoint, scope) = &key;
        let user = self.user.as_ref().filter(|_| endpoint.trusted);
        if let Some(error) = user.and_then(|_| self.refusals.recent()) {
            return Err(error);
        }
        // Less than a question may take in all, so that whoever waits for this hears which host is to blame.
        let own = Deadline::after(self.limits.timeout * 3 / 4, Arc::clone(&self.clock));
        let (deadline, retries) = match probe {
            Some(probe) => (probe.clone(), 0),
            None => (own, self.limits.retries),
        };
        let url = endpoint.url(scope);
        let result = retried(retries, &deadline, || self.ask(&url, user, &deadline)).await;
        let result = result.map_err(|failure| failure.error);
        match &result {
            Ok(token) => {
                if user.is_some() {
                    self.refusals.accepted();
                }
                self.kept.insert(key, token.clone());
            }
            Err(error @ UpstreamError::CredentialsRefused { .. }) => self.refusals.refused(error),
            Err(_) => {}
        }
        result
    }

    async fn ask(
        &self,
        url: &Url,
        user: Option<&User>,
        deadline: &Deadline,
    ) -> Result<Token, Failure> {
        let mut headers = base_headers();
        if let Some(user) = user {
            headers.insert(AUTHORIZATION, user.basic.clone());
        }
        let request = Outgoing {
            kind: Kind::Token,
            method: Method::GET,
            url: url.clone(),
            headers,
            governor: None,
            repository: String::new(),
        };
        let obtained = self.clock.monotonic();
        let arrived = self.control.send(request, deadline).await?;
        if let Some(error) = self.refusal(&arrived, user) {
            if !arrived.status.is_server_error() {
                self.control.door().answered(deadline.errand());
            }
            arrived.discard().await;
            return Err(error.into());
        }
        let host = arrived.host();
        let answer = read(arrived, ANSWER_LIMIT, self.limits.stall, deadline).await?;
        let token = token(&answer, obtained).map_err(|reason| bad(host, reason))?;
        Ok(token)
    }

    /// What an answer without a token means.
    fn refusal<B>(&self, arrived: &Arrived<B>, user: Option<&User>) -> Option<UpstreamError> {
        let host = arrived.host();
        let status = arrived.status.as_u16();
        match (status, user) {
            (200..=299, _) => None,
            (401, Some(user)) => Some(UpstreamError::CredentialsRefused {
                host,
                username: user.name.clone(),
            }),
            // With good credentials 403 refuses the scope: registries say so of repositories that do not exist.
            (401 | 403, _) => Some(UpstreamError::Denied { host, status }),
            (429, _) => Some(UpstreamError::RateLimited {
                host,
                retry_after: retry_after(&arrived.headers, self.clock.wall()),
            }),
            (300..=399, _) => Some(bad(host, "the token endpoint redirects".into())),
            _ => Some(UpstreamError::Status { host, status }),
        }
    }
}

/// What a token endpoint answers. `issued_at` is not read: our own clock says when the token came.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

/// Reads the answer to a request that was sent at `obtained`.
fn token(answer: &[u8], obtained: Duration) -> Result<Token, String> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|_| "its token answer is not the JSON it should be")?;
    let value = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|value| !value.is_empty())
        .ok_or("its token answer holds no token")?;
    if value.len() > TOKEN_LIMIT {
        return Err(format!("its token is longer than {TOKEN_LIMIT} bytes"));
    }
    let mut header = HeaderValue::try_from(format!("Bearer {value}"))
        .map_err(|_| "its token is not fit for a header")?;
    header.set_sensitive(true);
    Ok(Token {
        header,
        obtained,
        life: life(answer.expires_in.as_ref()),
    })
}

fn life(expires_in: Option<&serde_json::Value>) -> Duration {
    let seconds = expires_in.and_then(serde_json::Value::as_f64);
    let longest = LONGEST_LIFE.as_secs_f64();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds.min(longest)).ok())
        .unwrap_or_default()
        .max(SHORTEST_LIFE)
}

fn bad(host: String, reason: String) -> UpstreamError {
    UpstreamError::BadAnswer { host, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_life(expires_in: &str) -> Duration {
        let answer = format!(r#"{{"token":"t","expires_in":{expires_in}}}"#);
        token(answer.as_bytes(), Duration::ZERO).unwrap().life
    }

    #[test]
    fn a_lifetime_is_believed_within_reason() {
        assert_eq!(read_life("300"), Duration::from_mins(5));
        for short in ["0", "-1", "59", "null", "\"300\"", "1e-400"] {
            assert_eq!(read_life(short), SHORTEST_LIFE, "{short}");
        }
        for long in ["86401", "1e300", "18446744073709551615"] {
            assert_eq!(read_life(long), LONGEST_LIFE, "{long}");
        }
    }

    #[test]
    fn a_token_is_renewed_at_80_percent_of_its_life() {
        let token = token(
            br#"{"access_token":"t","expires_in":100}"#,
            Duration::from_secs(7),
        )
        .unwrap();
        assert!(token.young(Duration::from_millis(86_999)));
        assert!(!token.young(Duration::from_secs(87)));
        assert!(token.alive(Duration::from_millis(106_999)));
        assert!(!token.alive(Duration::from_secs(107)));
    }

    #[test]
    fn an_answer_without_a_usable_token_says_so() {
        for (answer, reason) in [
            ("<html>", "its token answer is not the JSON it should be"),
            ("[]", "its token answer is not the JSON it should be"),
            ("{}", "its token answer holds no token"),
            (
                r#"{"token":"","access_token":null}"#,
                "its token answer holds no token",
            ),
            (
                r#"{"token":"a\nHost: evil.test"}"#,
                "its token is not fit for a header",
            ),
        ] {
            assert_eq!(
                token(answer.as_bytes(), Duration::ZERO),
                Err(reason.into()),
                "{answer}"
            );
        }
        let long = format!(r#"{{"token":"{}"}}"#, "t".repeat(TOKEN_LIMIT + 1));
        assert!(token(long.as_bytes(), Duration::ZERO).is_err());
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = token(br#"{"token":"hunter2"}"#, Duration::ZERO).unwrap();
        assert_eq!(token.header(), "Bearer hunter2");
        assert!(!format!("{token:?}").contains("hunter2"));
    }

    #[test]
    fn the_realms_own_query_is_kept() {
        let endpoint = Endpoint {
            realm: Url::parse("https://auth.test/token?tenant=1").unwrap(),
            service: Some("registry.docker.io".into()),
            trusted: true,
        };
        let scope = Scope::pull(&"library/nginx".parse().unwrap());
        let expected = "https://auth.test/token?tenant=1&service=registry.docker.io\
                        &scope=repository%3Alibrary%2Fnginx%3Apull";
        assert_eq!(endpoint.url(&scope).as_str(), expected);
    }
}
