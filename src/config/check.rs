//! What single values cannot show: settings that contradict each other or mean something else than intended.

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use super::diagnostic::Report;
use super::{Diagnostic, Origins, Place, Settings, UpstreamSettings};

/// Checks the whole, and brings it into its final form.
pub(super) fn all(settings: &mut Settings, origins: &Origins, report: &mut Report) {
    for (name, upstream) in &mut settings.upstreams {
        let mut check = UpstreamCheck {
            name,
            upstream,
            origins,
            report,
        };
        check.normalise_url();
        check.forget_foreign_token_url();
        check.credential_pair();
        check.credential_characters();
        check.plain_text();
        check.exposure();
    }
}

struct UpstreamCheck<'a> {
    name: &'a str,
    upstream: &'a mut UpstreamSettings,
    origins: &'a Origins,
    report: &'a mut Report,
}

impl UpstreamCheck<'_> {
    /// The API's own prefix is added to the URL: written there it would be doubled.
    fn normalise_url(&mut self) {
        let path = self.upstream.url.path();
        let base = path.trim_end_matches('/');
        let without_prefix = base.strip_suffix("/v2");
        let Some(url) = with_path(&self.upstream.url, without_prefix.unwrap_or(base)) else {
            return;
        };
        if without_prefix.is_some() {
            let message = format!("{} ends in /v2, using {}", self.path("url"), display(&url));
            let warning = Diagnostic::warning(message)
                .at(self.origin("url"))
                .help("leave /v2 out: it is part of every request");
            self.report.push(warning);
        }
        self.upstream.url = url;
    }

    /// Docker Hub's token endpoint is trusted with Docker Hub's credentials alone.
    fn forget_foreign_token_url(&mut self) {
        if self.origin("token_url").is_none() && !self.upstream.is_docker_hub() {
            self.upstream.token_url = None;
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

    fn credential_characters(&mut self) {
        // RFC 7617, section 2: the first colon ends the user name.
        if self
            .upstream
            .username
            .as_ref()
            .is_some_and(|name| name.contains(':'))
        {
            self.error(
                "username",
                "contains a colon",
                "a user name for HTTP has none",
            );
        }
        let is_broken = |text: &str| text.chars().any(char::is_control);
        if self.upstream.username.as_deref().is_some_and(is_broken) {
            self.error(
                "username",
                "contains a control character",
                "write it on one line",
            );
        }
        if self
            .upstream
            .password
            .as_ref()
            .is_some_and(|it| is_broken(it.expose()))
        {
            self.error(
                "password",
                "contains a control character",
                "a secret is one line of text",
            );
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

    fn error(&mut self, key: &str, what: &str, help: &str) {
        let message = format!("{}: {what}", self.path(key));
        let error = Diagnostic::error(message).at(self.origin(key)).help(help);
        self.report.push(error);
    }

    fn plain_text(&mut self) {
        if self.upstream.password.is_none() {
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

    /// Nothing tells private content from public yet: whoever may connect may pull what the account may pull.
    fn exposure(&mut self) {
        let (Some(username), Some(_)) = (&self.upstream.username, &self.upstream.password) else {
            return;
        };
        let message = format!(
            "everyone who can reach this mirror can pull what {username:?} can pull from {}, private images included",
            self.name
        );
        let warning = Diagnostic::warning(message)
            .at(self.origin("password"))
            .help("use an account that sees public images only, or listen where only trusted clients reach it");
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
