//! The names of upstreams: registry hosts as clients write them in front of a repository.

use super::suggest;
use super::value::Fault;

/// Other names under which people know Docker Hub.
const DOCKER_HUB_ALIASES: [&str; 4] = [
    "index.docker.io",
    "registry-1.docker.io",
    "registry.docker.io",
    "hub.docker.com",
];

/// The longest host name (RFC 1035, section 2.3.4).
const HOST_LIMIT: usize = 253;

/// The longest part of a host name between dots (RFC 1035, section 2.3.4).
const LABEL_LIMIT: usize = 63;

/// Whether this is Docker Hub under a name that it does not have here.
pub(super) fn is_docker_hub_alias(name: &str) -> bool {
    DOCKER_HUB_ALIASES.contains(&name)
}

/// Checks the name of an upstream: `host` or `host:port`, in lower case, and no name that could be the first component
/// of a repository (`github.com/distribution/reference`).
pub(super) fn check(name: &str) -> Result<(), Fault> {
    const EXAMPLE: &str =
        r#"write the registry's host, such as "ghcr.io" or "registry.example:5000""#;
    let fault =
        |what: &str, help: String| Err(Fault::new(format!("upstream {name:?} {what}"), help));
    if name.contains("://") {
        return fault("is a URL, not a host", EXAMPLE.to_owned());
    }
    let lower = name.to_ascii_lowercase();
    let (host, port) = match name.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (name, None),
    };
    if is_host(&lower) && lower != name {
        return fault("has to be in lower case", format!("write {lower:?}"));
    }
    if !is_host(host) || !port.is_none_or(is_port) {
        return fault("is not the host of a registry", EXAMPLE.to_owned());
    }
    if name != "localhost" && !name.contains(['.', ':']) {
        let help = match suggest::closest(name, ["localhost"]) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("{EXAMPLE}: with a dot, a port, or as \"localhost\""),
        };
        return fault("could be the beginning of a repository's name", help);
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        (1..=LABEL_LIMIT).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= HOST_LIMIT && host.split('.').all(is_label)
}

fn is_port(port: &str) -> bool {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    digits && port.parse::<u16>().is_ok()
}

/// The name as a part of a variable's name: what is neither letter nor digit becomes `_`.
pub(super) fn in_variable(name: &str) -> String {
    let part = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    name.chars().map(part).collect()
}
