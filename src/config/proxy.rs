//! How an upstream is reached: by the environment's proxy, by another one, or directly.

use http::Uri;
use percent_encoding::percent_decode_str;

use super::value::{Fault, Value};
use crate::sys::secret::Secret;

/// The proxy between the mirror and an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// As `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one, whatever the environment says.
    Via(ProxySettings),
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Where it is: http or https, a host and perhaps a port, and nothing else.
    pub url: Uri,
    /// The user and the password for it.
    pub credentials: Option<(String, Secret)>,
}

impl Value {
    /// A proxy's URL, which may hold a user and a password, or `direct`. No message shows any of it.
    pub(super) fn proxy(&self) -> Result<ProxyChoice, Fault> {
        const HELP: &str =
            r#"write a URL such as "http://proxy.example:3128", or "direct" for no proxy"#;
        let text = self.str_or("a proxy's URL", HELP)?;
        if matches!(text, "direct" | "none") {
            return Ok(ProxyChoice::Direct);
        }
        let fault = |what: &str| Fault::new(what, HELP);
        let uri: Uri = text.parse().map_err(|_| fault("is not a URL"))?;
        let Some(scheme @ ("http" | "https")) = uri.scheme_str() else {
            return Err(fault("is not an http or https URL"));
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
            return Err(fault("has more than a host and a port"));
        }
        let authority = uri.authority().ok_or_else(|| fault("names no host"))?;
        let (user, place) = match authority.as_str().rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority.as_str()),
        };
        let url: Uri = format!("{scheme}://{place}")
            .parse()
            .map_err(|_| fault("is not a URL"))?;
        let has_port = !place.ends_with(']') && place.contains(':');
        if url.host().is_none_or(str::is_empty) || (has_port && url.port_u16().is_none()) {
            return Err(fault("names no host and port"));
        }
        let credentials = user.map(credentials).transpose()?;
        Ok(ProxyChoice::Via(ProxySettings { url, credentials }))
    }
}

/// `user:password`, each with its special characters as in any URL (RFC 3986, section 3.2.1).
fn credentials(text: &str) -> Result<(String, Secret), Fault> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |text: &str| {
        decoded(text)
            .filter(|text| !text.chars().any(char::is_control))
            .ok_or_else(|| {
                Fault::new(
                    "holds a user or a password that cannot be read",
                    "write special characters as in a URL, such as %40 for @",
                )
            })
    };
    Ok((decode(user)?, Secret::new(decode(password)?)))
}

/// The text without percent-encoding; `None` when it is broken or no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let is_whole = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !text.split('%').skip(1).all(is_whole) {
        return None;
    }
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}
