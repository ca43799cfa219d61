//! Proxies between the mirror and an upstream: which one, if any, a request goes by.
//!
//! It is the same for API, token and CDN hosts and for both transports: decided by the request's URL, here. A proxy's
//! user and password go to that proxy alone: with `CONNECT` for https, with the request itself for http.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::no_proxy::{NoProxy, is_loopback};
use super::redirect::host_of;
use super::token::basic;
use super::{BuildError, Phase, UpstreamError};
use crate::sys::secret::Secret;

/// How the hosts of an upstream are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// Directly.
    #[default]
    Direct,
    /// As the environment says.
    Environment(ProxyEnvironment),
    /// By this proxy, whatever the environment says.
    Via(ProxyServer),
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyServer {
    /// Where it is: http or https, a host and perhaps a port.
    pub url: Uri,
    /// The user and the password for it.
    pub credentials: Option<(String, Secret)>,
}

/// What the environment says of proxies, as curl reads it. The values may hold passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyEnvironment {
    /// For https URLs: `HTTPS_PROXY`.
    pub https: Option<Secret>,
    /// For http URLs: `HTTP_PROXY`.
    pub http: Option<Secret>,
    /// Where the one for the scheme is missing: `ALL_PROXY`.
    pub all: Option<Secret>,
    /// What is asked directly: `NO_PROXY`.
    pub no: Option<String>,
}

impl ProxyEnvironment {
    /// Reads the variables. One in lower case wins over the same in upper case; an empty one is not set.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let either = |name: &str| set(&name.to_ascii_lowercase()).or_else(|| set(name));
        Self {
            https: either("HTTPS_PROXY").map(Secret::from),
            http: either("HTTP_PROXY").map(Secret::from),
            all: either("ALL_PROXY").map(Secret::from),
            no: either("NO_PROXY"),
        }
    }
}

/// A proxy that can be asked.
pub(super) struct Proxy {
    /// Without its user.
    pub(super) url: Uri,
    /// With its user, for who reads it from there.
    url_with_user: Url,
    /// The value of `Proxy-Authorization`, marked as not to be shown.
    pub(super) authorization: Option<HeaderValue>,
    host: String,
}

/// The proxies of one upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    https: Option<Arc<Proxy>>,
    http: Option<Arc<Proxy>>,
    /// What is asked directly; `None` where nothing is.
    except: Option<NoProxy>,
}

impl Proxies {
    /// # Errors
    /// What should be a proxy is none, or not of a kind that can be asked.
    pub(super) fn new(choice: &ProxyChoice) -> Result<Self, BuildError> {
        match choice {
            ProxyChoice::Direct => Ok(Self::default()),
            ProxyChoice::Environment(environment) => Self::of_environment(environment),
            ProxyChoice::Via(server) => {
                let proxy = Arc::new(Proxy::of_server(server)?);
                Ok(Self {
                    https: Some(Arc::clone(&proxy)),
                    http: Some(proxy),
                    except: None,
                })
            }
        }
    }

    fn of_environment(environment: &ProxyEnvironment) -> Result<Self, BuildError> {
        let read = |name, value: &Option<Secret>| {
            let value = value.as_ref().map(|value| (name, value));
            let value = value.or(environment.all.as_ref().map(|all| ("ALL_PROXY", all)));
            let proxy = value.map(|(name, value)| Proxy::of_variable(name, value));
            proxy.transpose().map(|proxy| proxy.map(Arc::new))
        };
        Ok(Self {
            https: read("HTTPS_PROXY", &environment.https)?,
            http: read("HTTP_PROXY", &environment.http)?,
            except: Some(NoProxy::parse(
                environment.no.as_deref().unwrap_or_default(),
            )),
        })
    }

    /// The proxy that `url` is asked by; `None` for directly.
    pub(super) fn of(&self, url: &Url) -> Option<&Arc<Proxy>> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref()?,
            _ => self.http.as_ref()?,
        };
        let direct = |except: &NoProxy| is_loopback(url) || except.covers(url);
        (!self.except.as_ref().is_some_and(direct)).then_some(proxy)
    }

    /// The same for who takes a URL with a user in it.
    pub(super) fn url_of(&self, url: &Url) -> Option<Url> {
        self.of(url).map(|proxy| proxy.url_with_user.clone())
    }
}

impl Proxy {
    /// Of a value of the environment: a URL, or a host and a port, perhaps with a user.
    fn of_variable(name: &str, value: &Secret) -> Result<Self, BuildError> {
        let unusable = |reason: &str| BuildError::Proxy {
            proxy: name.into(),
            reason: reason.into(),
        };
        let value = value.expose().trim();
        let url = if value.contains("://") {
            Url::parse(value)
        } else {
            Url::parse(&format!("http://{value}"))
        };
        let url = url.map_err(|_| unusable("it is not a URL"))?;
        Self::of_url(url).map_err(|reason| unusable(&reason))
    }

    fn of_server(server: &ProxyServer) -> Result<Self, BuildError> {
        let unusable = |reason: &str| BuildError::Proxy {
            proxy: server.url.authority().map_or("it", |it| it.as_str()).into(),
            reason: reason.into(),
        };
        // An authority with a user in it is not to be shown.
        if server
            .url
            .authority()
            .is_some_and(|it| it.as_str().contains('@'))
        {
            return Err(BuildError::Proxy {
                proxy: server.url.host().unwrap_or_default().into(),
                reason: "its URL holds a user".into(),
            });
        }
        let mut url =
            Url::parse(&server.url.to_string()).map_err(|_| unusable("it is not a URL"))?;
        if let Some((user, password)) = &server.credentials {
            let named = url.set_username(user);
            named
                .and_then(|()| url.set_password(Some(password.expose())))
                .map_err(|()| unusable("it can have no user"))?;
        }
        let mut proxy = Self::of_url(url).map_err(|reason| unusable(&reason))?;
        if let Some((user, password)) = &server.credentials {
            proxy.authorization = basic(user, password);
        }
        Ok(proxy)
    }

    /// # Errors
    /// What is wrong with it, in words that do not show it.
    fn of_url(url: Url) -> Result<Self, String> {
        match url.scheme() {
            "http" | "https" => {}
            scheme => {
                return Err(format!(
                    "{scheme} proxies are not supported, only http and https"
                ));
            }
        }
        let host = url.host_str().ok_or("it names no host")?;
        let port = url.port_or_known_default().ok_or("it names no port")?;
        let address = format!("{}://{host}:{port}", url.scheme());
        let authorization = (!url.username().is_empty()).then(|| {
            let decoded = |text: &str| decoded(text).ok_or("its user or password is not UTF-8");
            let password = Secret::new(decoded(url.password().unwrap_or_default())?);
            let value = basic(&decoded(url.username())?, &password);
            value.ok_or("its user or password is unfit for a header")
        });
        Ok(Self {
            authorization: authorization.transpose()?,
            url: address.parse().map_err(|_| "it is not a URI")?,
            host: host_of(&url),
            url_with_user: url,
        })
    }

    /// `error`, which says that a host was not reached, when this was the way to it.
    pub(super) fn blamed(&self, error: UpstreamError) -> UpstreamError {
        let on_the_way = |phase| match phase {
            Phase::Resolve | Phase::Connect => true,
            // Whose certificate it was is not told.
            Phase::Tls => self.url.scheme_str() == Some("https"),
            _ => false,
        };
        match error {
            UpstreamError::Unreachable {
                host,
                phase,
                reason,
            } if on_the_way(phase) => UpstreamError::Unreachable {
                host,
                phase,
                reason: format!("through the proxy {}: {reason}", self.host),
            },
            error => error,
        }
    }

    /// What to say when this refuses its credentials, or the lack of them, on the way to `host`.
    pub(super) fn refused(&self, host: &str) -> UpstreamError {
        self.blamed(UpstreamError::Unreachable {
            host: host.into(),
            phase: Phase::Connect,
            reason: "proxy authorization required".into(),
        })
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.url).finish()
    }
}

/// The text without percent-encoding; what only looks like it stays.
fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> ProxyEnvironment {
        ProxyEnvironment::read(|name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn way(pairs: &[(&str, &str)], url: &str) -> Option<String> {
        let proxies = Proxies::new(&ProxyChoice::Environment(environment(pairs))).unwrap();
        let proxy = proxies.of(&Url::parse(url).unwrap());
        proxy.map(|proxy| proxy.url.to_string())
    }

    #[test]
    fn the_environment_has_a_proxy_per_scheme() {
        let both = [
            ("HTTPS_PROXY", "http://s.test:1"),
            ("HTTP_PROXY", "p.test:2"),
        ];
        assert_eq!(
            way(&both, "https://hub.test/"),
            Some("http://s.test:1/".into())
        );
        assert_eq!(
            way(&both, "http://hub.test/"),
            Some("http://p.test:2/".into())
        );
        let all = [
            ("ALL_PROXY", "https://a.test"),
            ("HTTP_PROXY", "http://p.test"),
        ];
        assert_eq!(
            way(&all, "https://hub.test/"),
            Some("https://a.test:443/".into())
        );
        assert_eq!(
            way(&all, "http://hub.test/"),
            Some("http://p.test:80/".into())
        );
        assert_eq!(way(&[], "https://hub.test/"), None);
    }

    #[test]
    fn lower_case_wins_and_empty_is_not_set() {
        let both = [
            ("HTTPS_PROXY", "http://upper.test"),
            ("https_proxy", "http://lower.test"),
        ];
        assert_eq!(
            way(&both, "https://hub.test/"),
            Some("http://lower.test:80/".into())
        );
        let emptied = [("HTTPS_PROXY", "http://upper.test"), ("https_proxy", "")];
        assert_eq!(
            way(&emptied, "https://hub.test/"),
            Some("http://upper.test:80/".into())
        );
    }

    #[test]
    fn exceptions_and_this_machine_are_asked_directly() {
        let pairs = [
            ("HTTPS_PROXY", "http://p.test"),
            ("no_proxy", ".corp.test,10.0.0.0/8"),
        ];
        assert!(way(&pairs, "https://hub.test/").is_some());
        for direct in [
            "https://registry.corp.test/",
            "https://10.1.2.3/",
            "https://127.0.0.1:5000/",
            "https://localhost/",
            "https://[::1]/",
        ] {
            assert_eq!(way(&pairs, direct), None, "{direct}");
        }
    }

    #[test]
    fn a_proxys_password_is_read_and_never_shown() {
        let choice = ProxyChoice::Environment(environment(&[(
            "HTTPS_PROXY",
            "http://us%40er:hunter%3A2@p.test:3128",
        )]));
        let proxies = Proxies::new(&choice).unwrap();
        let url = Url::parse("https://hub.test/").unwrap();
        let proxy = proxies.of(&url).unwrap();
        let expected = basic("us@er", &Secret::new("hunter:2"));
        assert_eq!(proxy.authorization, expected);
        let via = ProxyChoice::Via(ProxyServer {
            url: "http://p.test:3128".parse().unwrap(),
            credentials: Some(("us@er".into(), Secret::new("hunter:2"))),
        });
        let configured = Proxies::new(&via).unwrap();
        assert_eq!(configured.of(&url).unwrap().authorization, expected);
        assert_eq!(configured.url_of(&url), proxies.url_of(&url));
        let shown = format!("{choice:?} {proxies:?} {via:?} {configured:?}");
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn what_cannot_be_asked_is_refused_without_showing_it() {
        for odd in [
            "socks5://me:hunter2@p.test:1080",
            "http://me:hunter2@",
            "http://me:hunter2@p.test:port",
        ] {
            let choice = ProxyChoice::Environment(environment(&[("ALL_PROXY", odd)]));
            let error = Proxies::new(&choice).unwrap_err().to_string();
            assert!(error.contains("ALL_PROXY"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let choice = ProxyChoice::Via(ProxyServer {
            url: "http://me:hunter2@p.test".parse().unwrap(),
            credentials: None,
        });
        let error = Proxies::new(&choice).unwrap_err().to_string();
        assert_eq!(
            error,
            "the proxy p.test cannot be used: its URL holds a user"
        );
    }
}
