//! What a request to the registry is authorised with, and how its challenges are answered.
//!
//! The credentials go to two places: the registry's own origin and the configured token endpoint's. A challenge that
//! names another token endpoint is answered without them, and not at all when that would mean http for a registry
//! that is spoken to by https (CVE-2026-33540 is what happens otherwise).

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use reqwest::Url;

use super::UpstreamError;
use super::redirect::host_of;
use super::refusals::Refusals;
use super::token::{Endpoint, Grant, Tokens, User};
use super::transport::{Arrived, Deadline};
use crate::oci::challenge::{Bearer, Challenge, parse_challenges};
use crate::oci::scope::Scope;

/// What a request is authorised with.
#[derive(Debug)]
pub(super) enum Access {
    /// Nothing.
    Anonymous,
    /// The credentials themselves.
    Basic(User),
    /// A token.
    Bearer(Grant),
}

impl Access {
    /// The value of `Authorization`, marked as not to be shown.
    pub(super) fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::Anonymous => None,
            Self::Basic(user) => Some(&user.basic),
            Self::Bearer(grant) => Some(grant.token.header()),
        }
    }
}

/// How the registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer(Endpoint),
}

/// How the registry is asked before it says anything to a request.
#[derive(Clone, Debug)]
enum Known {
    /// Nothing is known: the first request goes out as it is, and its challenge tells.
    Nothing,
    /// What the configuration lets us suppose.
    Supposed(Scheme),
    /// What the registry has accepted in answer to its challenge.
    Learnt(Scheme),
}

/// Whom the credentials may be sent to.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// The registry.
    pub(super) registry: Url,
    /// The configured token endpoint.
    pub(super) token_url: Option<Url>,
}

impl Trust {
    /// The token endpoint that a challenge names.
    ///
    /// # Errors
    /// Why it is not asked, in words.
    fn endpoint(&self, bearer: Bearer) -> Result<Endpoint, String> {
        let mut realm = Url::parse(&bearer.realm)
            .ok()
            .filter(|realm| matches!(realm.scheme(), "http" | "https"))
            .filter(|realm| realm.username().is_empty() && realm.password().is_none())
            .ok_or("its challenge names a token endpoint that is not a URL")?;
        realm.set_fragment(None);
        let same = |known: &Url| known.origin() == realm.origin();
        let trusted = same(&self.registry) || self.token_url.as_ref().is_some_and(same);
        if !trusted && self.registry.scheme() == "https" && realm.scheme() != "https" {
            let host = host_of(&realm);
            return Err(format!(
                "its challenge names a token endpoint that is not https, at {host}"
            ));
        }
        Ok(Endpoint {
            realm,
            service: bearer.service,
            trusted,
        })
    }

    /// The way to answer the challenges in `headers`: a token where one will do, else the credentials.
    fn scheme(&self, headers: &HeaderMap) -> Result<Option<Scheme>, String> {
        let values = headers.get_all(WWW_AUTHENTICATE);
        let challenges = parse_challenges(values.iter().filter_map(|value| value.to_str().ok()));
        let basic = challenges.iter().any(Challenge::is_basic);
        let bearer = challenges.iter().find_map(Challenge::bearer);
        match bearer.map(|bearer| self.endpoint(bearer)) {
            Some(Ok(endpoint)) => Ok(Some(Scheme::Bearer(endpoint))),
            Some(Err(reason)) if !basic => Err(reason),
            _ => Ok(basic.then_some(Scheme::Basic)),
        }
    }
}

/// Authorises the requests to one registry that are made with one login, or with none.
pub(super) struct Auth {
    trust: Trust,
    user: Option<User>,
    /// What the registry itself said of the credentials.
    refusals: Refusals,
    /// Spares a request that is only spent on being refused.
    known: Mutex<Known>,
    tokens: Tokens,
}

impl Auth {
    /// `refusals` is for what the registry itself says of `user`. With a configured token endpoint and a `service` to ask it for, even
    /// the first request carries a token.
    pub(super) fn new(
        trust: Trust,
        user: Option<User>,
        refusals: Refusals,
        service: Option<&str>,
        tokens: Tokens,
    ) -> Self {
        let known = match (trust.token_url.clone(), service) {
            (Some(realm), Some(service)) => Known::Supposed(Scheme::Bearer(Endpoint {
                realm,
                service: Some(service.into()),
                trusted: true,
            })),
            _ => Known::Nothing,
        };
        Self {
            trust,
            user,
            refusals,
            known: Mutex::new(known),
            tokens,
        }
    }

    /// The user who is asked as; `None` is nobody.
    pub(super) fn username(&self) -> Option<&str> {
        self.user.as_ref().map(|user| &*user.name)
    }

    /// What to send with a request for `scope` before the registry has said anything to it.
    pub(super) async fn access(
        &self,
        scope: &Scope,
        deadline: &Deadline,
    ) -> Result<Access, UpstreamError> {
        let known = self.known().clone();
        match known {
            Known::Nothing => Ok(Access::Anonymous),
            Known::Learnt(scheme) => self.grant(&scheme, scope, deadline).await,
            Known::Supposed(scheme) => match self.grant(&scheme, scope, deadline).await {
                // A mirror of Docker Hub may issue its tokens for another service: its challenge will say.
                Err(error) if is_refusal(&error) => Ok(Access::Anonymous),
                granted => granted,
            },
        }
    }

    /// What to send instead of `used`, which the registry refused with 401; `None` when there is nothing better.
    ///
    /// # Errors
    /// No token can be had, the challenge cannot be answered, or the credentials are wrong.
    pub(super) async fn respond(
        &self,
        refusal: &Arrived<()>,
        used: &Access,
        scope: &Scope,
        deadline: &Deadline,
    ) -> Result<Option<Access>, UpstreamError> {
        if let Access::Bearer(used) = used {
            self.tokens.forget(used, scope);
        }
        let scheme = self.trust.scheme(&refusal.headers);
        let scheme = scheme.map_err(|reason| UpstreamError::BadAnswer {
            host: refusal.host(),
            reason,
        })?;
        match (scheme, used) {
            (None | Some(Scheme::Basic), Access::Basic(refused)) => {
                Err(self.refused(refusal.host(), refused))
            }
            (None, _) => Ok(None),
            (Some(Scheme::Basic), _) if self.user.is_none() => Ok(None),
            (Some(Scheme::Bearer(endpoint)), Access::Bearer(used))
                if used.fresh && used.endpoint == endpoint =>
            {
                Ok(None)
            }
            (Some(scheme), _) => self.grant(&scheme, scope, deadline).await.map(Some),
        }
    }

    /// The registry did not answer 401: if it was asked with the credentials, they are good.
    pub(super) fn accepted(&self, access: &Access) {
        if let Access::Basic(_) = access {
            self.refusals.accepted();
        }
    }

    /// The registry at `host` answered 401 to the credentials of `user`.
    pub(super) fn refused(&self, host: String, user: &User) -> UpstreamError {
        let error = UpstreamError::CredentialsRefused {
            host,
            username: user.name.clone(),
        };
        self.refusals.refused(&error);
        error
    }

    /// Remembers that the registry accepted `access`, which answered its challenge.
    pub(super) fn learn(&self, access: &Access) {
        self.accepted(access);
        let scheme = match access {
            Access::Anonymous => return,
            Access::Basic(_) => Scheme::Basic,
            Access::Bearer(grant) => Scheme::Bearer(grant.endpoint.clone()),
        };
        *self.known() = Known::Learnt(scheme);
    }

    async fn grant(
        &self,
        scheme: &Scheme,
        scope: &Scope,
        deadline: &Deadline,
    ) -> Result<Access, UpstreamError> {
        match scheme {
            Scheme::Basic => match (self.user.clone(), self.refusals.recent()) {
                (None, _) => Ok(Access::Anonymous),
                (Some(_), Some(error)) => Err(error),
                (Some(user), None) => Ok(Access::Basic(user)),
            },
            Scheme::Bearer(endpoint) => {
                let grant = self.tokens.grant(endpoint, scope, deadline).await?;
                Ok(Access::Bearer(grant))
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("trust", &self.trust)
            .field("known", &*self.known())
            .finish_non_exhaustive()
    }
}

/// Whether a token endpoint answered that it does not give tokens for what it was asked.
fn is_refusal(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Denied { .. } | UpstreamError::BadAnswer { .. } => true,
        UpstreamError::Status { status, .. } => (400..=499).contains(status),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(registry: &str) -> Trust {
        Trust {
            registry: Url::parse(registry).unwrap(),
            token_url: Some(Url::parse("https://auth.test/token").unwrap()),
        }
    }

    fn scheme(trust: &Trust, challenge: &str) -> Result<Option<Scheme>, String> {
        let value = HeaderValue::from_str(challenge).unwrap();
        trust.scheme(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]))
    }

    fn trusted(registry: &str, realm: &str) -> Result<bool, String> {
        match scheme(&trust(registry), &format!("Bearer realm=\"{realm}\""))? {
            Some(Scheme::Bearer(endpoint)) => Ok(endpoint.trusted),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn credentials_are_for_the_registry_and_the_configured_endpoint() {
        for (realm, expected) in [
            ("https://auth.test/token", true),
            ("https://auth.test:443/other?x=y", true),
            ("https://registry.test/v2/token", true),
            ("https://auth.test:8443/token", false),
            ("https://auth.test.evil.test/token", false),
            ("https://evil.test/token", false),
        ] {
            assert_eq!(
                trusted("https://registry.test", realm),
                Ok(expected),
                "{realm}"
            );
        }
    }

    #[test]
    fn https_is_never_downgraded() {
        let refused = |host| {
            Err(format!(
                "its challenge names a token endpoint that is not https, at {host}"
            ))
        };
        let registry = "https://registry.test";
        assert_eq!(
            trusted(registry, "http://auth.test/token"),
            refused("auth.test")
        );
        assert_eq!(
            trusted(registry, "http://registry.test/token"),
            refused("registry.test")
        );
        assert_eq!(
            trusted(registry, "http://evil.test:81/"),
            refused("evil.test:81")
        );
        assert_eq!(
            trusted("http://127.0.0.1:5000", "http://evil.test/"),
            Ok(false)
        );
    }

    #[test]
    fn a_realm_that_is_no_url_is_refused() {
        for realm in [
            "token",
            "//auth.test/token",
            "ftp://auth.test/",
            "https://me:pw@auth.test/",
        ] {
            assert!(trusted("https://registry.test", realm).is_err(), "{realm}");
        }
    }

    #[test]
    fn a_token_is_preferred_to_the_password_itself() {
        let trust = trust("https://registry.test");
        assert_eq!(scheme(&trust, "Basic realm=\"x\""), Ok(Some(Scheme::Basic)));
        assert_eq!(scheme(&trust, "Negotiate"), Ok(None));
        let both = scheme(
            &trust,
            "Basic realm=\"x\", Bearer realm=\"https://auth.test/t\",service=s",
        );
        assert!(matches!(both, Ok(Some(Scheme::Bearer(_)))), "{both:?}");
        let downgraded = scheme(
            &trust,
            "Bearer realm=\"http://evil.test/\", Basic realm=\"x\"",
        );
        assert_eq!(downgraded, Ok(Some(Scheme::Basic)));
    }
}
