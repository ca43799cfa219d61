//! What single values cannot show: settings that contradict each other or mean something else than intended.

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use super::diagnostic::Report;
use super::settings::known_token_url;
use super::value::{is_any_port, quoted_list};
use super::{Diagnostic, Origins, Place, Settings, UpstreamSettings, suggest};

/// Checks the whole, and brings it into its final form.
pub(super) fn all(settings: &mut Settings, origins: &Origins, report: &mut Report) {
    listeners(settings, origins, report);
    let is_exposed = settings.access.anonymous_private;
    for (name, upstream) in &mut settings.upstreams {
        let mut check = UpstreamCheck {
            name,
            upstream,
            origins,
            report,
        };
        check.normalise_urls();
        check.own_token_url();
        check.credential_sources();
        check.credential_pair();
        check.plain_text();
        if is_exposed {
            check.exposure();
        }
    }
}

/// Each listener has an address of its own and an upstream that there is.
fn listeners(settings: &Settings, origins: &Origins, report: &mut Report) {
    for (number, listener) in settings.listeners.iter().enumerate() {
        let origin = |field: &str| origins.get(&format!("listener[{number}].{field}")).cloned();
        let address = &listener.address;
        if settings.server.listen.contains(address) && !is_any_port(address) {
            let message = format!("listener.address: \"{address}\" is in server.listen too");
            let error = Diagnostic::error(message).at(origin("address"));
            report.push(error.help("remove one of them"));
        }
        let Some(name) = &listener.repository else {
            continue;
        };
        if !settings.upstreams.contains_key(name) {
            let known: Vec<_> = settings.upstreams.keys().map(String::as_str).collect();
            let help = match suggest::closest(name, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("write {}, or configure that upstream", quoted_list(&known)),
            };
            let message = format!("listener.repository: no upstream {name:?} is configured");
            report.push(
                Diagnostic::error(message)
                    .at(origin("repository"))
                    .help(help),
            );
        }
    }
}

struct UpstreamCheck<'a> {
    name: &'a str,
    upstream: &'a mut UpstreamSettings,
    origins: &'a Origins,
    report: &'a mut Report,
}

impl UpstreamCheck<'_> {
    /// The API's own prefix is added to the URLs: written there it would be doubled.
    fn normalise_urls(&mut self) {
        if let Some(url) = self.normalised("url", &self.upstream.url.clone()) {
            self.upstream.url = url;
        }
        for at in 0..self.upstream.mirrors.len() {
            let url = self.upstream.mirrors.get(at).cloned();
            let url = url.and_then(|url| self.normalised("mirrors", &url));
            if let (Some(slot), Some(url)) = (self.upstream.mirrors.get_mut(at), url) {
                *slot = url;
            }
        }
    }

    fn normalised(&mut self, key: &str, url: &Uri) -> Option<Uri> {
        let base = url.path().trim_end_matches('/');
        let without_prefix = base.strip_suffix("/v2");
        let url = with_path(url, without_prefix.unwrap_or(base))?;
        if without_prefix.is_some() {
            let message = format!("{} ends in /v2, using {}", self.path(key), display(&url));
            let warning = Diagnostic::warning(message)
                .at(self.origin(key))
                .help("leave /v2 out: it is part of every request");
            self.report.push(warning);
        }
        Some(url)
    }

    /// A token endpoint that is known is trusted with the credentials of its own registry alone.
    fn own_token_url(&mut self) {
        if self.origin("token_url").is_none() {
            self.upstream.token_url = known_token_url(&self.upstream.url);
        }
    }

    /// An account is written down or looked up, not both.
    fn credential_sources(&mut self) {
        if self.upstream.credentials.is_none() {
            return;
        }
        let written = ["username", "password"]
            .into_iter()
            .find_map(|key| Some((key, self.origin(key)?)));
        if let Some((key, place)) = written {
            let message = format!(
                "{} contradicts the {key} at {place}",
                self.path("credentials")
            );
            let error = Diagnostic::error(message).at(self.origin("credentials"));
            self.report.push(error.help("remove one of them"));
        }
    }

    /// Said only when nothing else is wrong: the other half may be the misspelt key of another message.
    fn credential_pair(&mut self) {
        if self.report.has_errors() {
            return;
        }
        match (self.origin("username"), self.origin("password")) {
            (Some(_), Some(_)) | (None, None) => {}
            (Some(place), None) => self.lonely("username", "password", place),
            (None, Some(place)) => self.lonely("password", "username", place),
        }
    }

    fn lonely(&mut self, given: &str, missing: &str, place: Place) {
        let message = format!("{} is set without a {missing}", self.path(given));
        let help = format!(
            "set {} too, or remove the {given} to pull anonymously",
            self.path(missing)
        );
        self.report
            .push(Diagnostic::error(message).at(place).help(help));
    }

    fn plain_text(&mut self) {
        if !self.upstream.has_credentials() {
            return;
        }
        let urls = [
            ("url", Some(&self.upstream.url)),
            ("token_url", self.upstream.token_url.as_ref()),
        ];
        let plain = urls.into_iter().find(|(_, url)| {
            url.is_some_and(|url| url.scheme() == Some(&Scheme::HTTP) && !is_loopback(url))
        });
        if let Some((key, _)) = plain {
            let message = format!(
                "the password travels unencrypted: {} is http",
                self.path(key)
            );
            let warning = Diagnostic::warning(message)
                .at(self.origin(key))
                .help("use https");
            self.report.push(warning);
        }
    }

    /// Private content goes to everyone on request only, but the request may have been a slip.
    fn exposure(&mut self) {
        if !self.upstream.has_credentials() {
            return;
        }
        let whose = match &self.upstream.username {
            Some(username) => format!("{username:?}"),
            None => "its accounts".to_owned(),
        };
        let message = format!(
            "everyone who can reach this mirror can pull what {whose} can pull from {}, private images included",
            self.name
        );
        let keys = ["password", "credentials", "logins"];
        let place = keys.into_iter().find_map(|key| self.origin(key));
        let warning = Diagnostic::warning(message).at(place).help(
            "remove access.anonymous_private, or use an account that sees public images only",
        );
        self.report.push(warning);
    }

    fn path(&self, key: &str) -> String {
        format!("upstreams.{:?}.{key}", self.name)
    }

    fn origin(&self, key: &str) -> Option<Place> {
        self.origins.get(&self.path(key)).cloned()
    }
}

/// The same URL with another path. `None` when they do not fit together, which no valid URL's own path does.
fn with_path(url: &Uri, path: &str) -> Option<Uri> {
    let mut parts = url.clone().into_parts();
    let path = if path.is_empty() { "/" } else { path };
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

fn display(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_owned()
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
