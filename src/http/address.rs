//! Addresses to listen on.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// `sun_path` holds 108 bytes, the last of them zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Where the server listens: `host:port`, `[::]:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp {
        /// An IP address, IPv6 without brackets, or a name that resolves to some.
        host: String,
        /// The port; 0 lets the system choose one.
        port: u16,
    },
    /// A unix socket at this path.
    Unix(PathBuf),
}

/// Not an address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListenAddress {
    /// A URL.
    #[error("an address to listen on has no scheme; write host:port")]
    Scheme,
    /// Nothing in front of the port.
    #[error(
        "the host is missing; write 0.0.0.0 or [::] for all addresses, 127.0.0.1 for this machine alone"
    )]
    NoHost,
    /// Neither an IP address nor a host name.
    #[error("the host is neither an IP address nor a name")]
    Host,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets, such as [::1]:5000")]
    Brackets,
    /// No port, or none between 0 and 65535.
    #[error("a port between 0 and 65535 is missing, such as 127.0.0.1:5000")]
    Port,
    /// `unix:` without a path.
    #[error("a path is missing, such as unix:/run/mirror.sock")]
    NoPath,
    /// A path that does not fit a socket address.
    #[error("the path of a unix socket has at most {MAX_SOCKET_PATH} bytes")]
    LongPath,
}

impl ListenAddress {
    /// The IP address and port, where these are written and no name has to be looked up.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { host, port } => host.parse().ok().map(|ip: IpAddr| (ip, *port).into()),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        match text.strip_prefix("unix:") {
            Some(path) => unix(path),
            None if text.contains("://") => Err(InvalidListenAddress::Scheme),
            None => tcp(text),
        }
    }
}

fn unix(path: &str) -> Result<ListenAddress, InvalidListenAddress> {
    match path.len() {
        0 => Err(InvalidListenAddress::NoPath),
        1..=MAX_SOCKET_PATH => Ok(ListenAddress::Unix(PathBuf::from(path))),
        _ => Err(InvalidListenAddress::LongPath),
    }
}

fn tcp(text: &str) -> Result<ListenAddress, InvalidListenAddress> {
    let (host, port) = text.rsplit_once(':').ok_or(InvalidListenAddress::Port)?;
    let host = host_of(host)?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits => Ok(ListenAddress::Tcp { host, port }),
        _ => Err(InvalidListenAddress::Port),
    }
}

fn host_of(host: &str) -> Result<String, InvalidListenAddress> {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => Ok(inner.to_owned()),
        None if host.is_empty() => Err(InvalidListenAddress::NoHost),
        None if host.contains(':') => Err(InvalidListenAddress::Brackets),
        None if is_name(host) => Ok(host.to_owned()),
        Some(_) | None => Err(InvalidListenAddress::Host),
    }
}

/// A DNS name or an IPv4 address (RFC 1123, section 2.1).
fn is_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let dotted_digits = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    host.len() <= 253
        && host.bytes().all(allowed)
        && (!dotted_digits || host.parse::<IpAddr>().is_ok())
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(host: &str, port: u16) -> ListenAddress {
        let host = host.to_owned();
        ListenAddress::Tcp { host, port }
    }

    #[test]
    fn hosts_ports_and_paths_are_told_apart() {
        let parse = |text: &str| text.parse::<ListenAddress>().unwrap();
        assert_eq!(parse("127.0.0.1:5000"), tcp("127.0.0.1", 5000));
        assert_eq!(parse("localhost:0"), tcp("localhost", 0));
        assert_eq!(parse("[::]:443"), tcp("::", 443));
        assert_eq!(
            parse("unix:/run/a:1"),
            ListenAddress::Unix("/run/a:1".into())
        );
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_the_reason() {
        use InvalidListenAddress::{Brackets, Host, NoHost, NoPath, Port, Scheme};
        let cases = [
            ("", Port),
            ("5000", Port),
            ("localhost", Port),
            ("localhost:", Port),
            ("localhost:65536", Port),
            ("localhost:+1", Port),
            (":5000", NoHost),
            ("*:5000", Host),
            ("1.2.3:5000", Host),
            ("[::1:5000", Brackets),
            ("[localhost]:1", Host),
            ("::1:5000", Brackets),
            ("http://localhost:5000", Scheme),
            ("unix:", NoPath),
        ];
        for (text, reason) in cases {
            assert_eq!(text.parse::<ListenAddress>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_socket_path_has_at_most_107_bytes() {
        let longest = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH - 1));
        assert!(longest.parse::<ListenAddress>().is_ok());
        let longer = format!("{longest}x");
        let error = longer.parse::<ListenAddress>();
        assert_eq!(error, Err(InvalidListenAddress::LongPath));
    }

    proptest! {
        #[test]
        fn what_parses_reads_back(text in "(\\[?[0-9a-f:.]{1,12}\\]?|[a-z.-]{0,8}|unix:/?[a-z]*):?[0-9]{0,5}") {
            if let Ok(address) = text.parse::<ListenAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
