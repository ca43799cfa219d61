//! Where a redirect may lead.
//!
//! Redirects are followed by this code alone: `Authorization` goes to the registry's own origin (scheme, host and
//! port) and, once an answer has led elsewhere, to nobody; https never leads to http; at most five hops, and never
//! in a circle.

use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use reqwest::Url;

/// The most redirects that are followed for one answer.
const HOP_LIMIT: usize = 5;

/// The way of one request so far.
#[derive(Debug)]
pub(super) struct Trail {
    visited: Vec<Url>,
    at_home: bool,
}

impl Trail {
    /// A way that begins at the registry.
    pub(super) fn from(registry: Url) -> Self {
        Self {
            visited: vec![registry],
            at_home: true,
        }
    }

    /// Whether no redirect has led away from the registry's origin.
    pub(super) fn at_home(&self) -> bool {
        self.at_home
    }

    /// Goes on to where `headers` point.
    ///
    /// # Errors
    /// Why the redirect is not followed, in words.
    pub(super) fn follow(&mut self, from: &Url, headers: &HeaderMap) -> Result<Url, String> {
        let target = target(from, headers)?;
        if from.scheme() == "https" && target.scheme() != "https" {
            let host = host_of(&target);
            return Err(format!("it redirects from https to http, to {host}"));
        }
        if self.visited.contains(&target) {
            return Err("its redirects go in a circle".into());
        }
        if self.visited.len() > HOP_LIMIT {
            return Err(format!("it redirects more than {HOP_LIMIT} times"));
        }
        self.at_home &= from.origin() == target.origin();
        self.visited.push(target.clone());
        Ok(target)
    }
}

/// Whether `status` asks for the same request at another place.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The host of `url` as errors name it, with its port unless that goes without saying.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.into(),
    }
}

/// Where `Location` points, seen from `from` (RFC 9110 section 10.2.2).
fn target(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = headers
        .get(LOCATION)
        .ok_or("it redirects without saying where")?;
    let mut target = location
        .to_str()
        .ok()
        .and_then(|location| from.join(location).ok())
        .filter(|target| matches!(target.scheme(), "http" | "https"))
        .ok_or("it redirects to something that is not a URL")?;
    if !target.username().is_empty() || target.password().is_some() {
        return Err("it redirects to a URL with a user in it".into());
    }
    target.set_fragment(None);
    Ok(target)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const HOME: &str = "https://registry.test/v2/a/blobs/x";

    fn location(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(LOCATION, HeaderValue::from_str(value).unwrap())])
    }

    fn step(from: &str, to: &str) -> (Result<String, String>, bool) {
        let from = Url::parse(from).unwrap();
        let mut trail = Trail::from(from.clone());
        let next = trail.follow(&from, &location(to)).map(String::from);
        (next, trail.at_home())
    }

    #[test]
    fn only_the_same_scheme_host_and_port_are_home() {
        for (to, expected, home) in [
            (
                "/elsewhere?a=%2F",
                "https://registry.test/elsewhere?a=%2F",
                true,
            ),
            ("y#part", "https://registry.test/v2/a/blobs/y", true),
            (
                "https://REGISTRY.test:443/z",
                "https://registry.test/z",
                true,
            ),
            ("//cdn.test/z", "https://cdn.test/z", false),
            (
                "https://registry.test:8443/z",
                "https://registry.test:8443/z",
                false,
            ),
            (
                "https://registry.test.evil.test/z",
                "https://registry.test.evil.test/z",
                false,
            ),
        ] {
            assert_eq!(step(HOME, to), (Ok(expected.into()), home), "{to}");
        }
        let upgraded = step("http://registry.test/x", "https://registry.test/x");
        assert_eq!(upgraded, (Ok("https://registry.test/x".into()), false));
    }

    #[test]
    fn a_way_that_has_left_home_never_comes_back() {
        let home = Url::parse(HOME).unwrap();
        let mut trail = Trail::from(home.clone());
        let away = trail.follow(&home, &location("https://cdn.test/")).unwrap();
        trail
            .follow(&away, &location("https://registry.test/y"))
            .unwrap();
        assert!(!trail.at_home());
    }

    #[test]
    fn what_must_not_be_followed_is_not() {
        for (to, reason) in [
            (
                "http://registry.test/x",
                "it redirects from https to http, to registry.test",
            ),
            (HOME, "its redirects go in a circle"),
            (
                "ftp://cdn.test/x",
                "it redirects to something that is not a URL",
            ),
            ("https://", "it redirects to something that is not a URL"),
            (
                "https://me:secret@cdn.test/x",
                "it redirects to a URL with a user in it",
            ),
        ] {
            assert_eq!(step(HOME, to).0, Err(reason.into()), "{to}");
        }
        let home = Url::parse(HOME).unwrap();
        let nowhere = Trail::from(home.clone()).follow(&home, &HeaderMap::new());
        assert_eq!(nowhere, Err("it redirects without saying where".into()));
    }

    #[test]
    fn the_sixth_redirect_is_not_followed() {
        let mut at = Url::parse(HOME).unwrap();
        let mut trail = Trail::from(at.clone());
        for hop in 1..=HOP_LIMIT {
            at = trail
                .follow(&at, &location(&format!("/hop/{hop}")))
                .unwrap();
        }
        let sixth = trail.follow(&at, &location("/hop/6"));
        assert_eq!(sixth, Err("it redirects more than 5 times".into()));
    }
}
