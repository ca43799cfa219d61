//! `NO_PROXY`: what is asked directly although the environment names a proxy.
//!
//! As curl and Go read it: entries between commas or spaces; a domain stands for itself and for everything below it,
//! with or without a dot in front; an address, a network (`10.0.0.0/8`), each perhaps with a port; `*` for everything.
//! Domains are not resolved, so a network is for targets that are written as addresses.

use std::net::IpAddr;

use reqwest::Url;

/// The list, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NoProxy(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    host: Host,
    /// Only this port; `None` for all.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// In lower case, without a dot at either end.
    Domain(String),
    Network(IpAddr, u8),
}

impl NoProxy {
    /// Reads the list; an entry that is nothing matches nothing.
    pub(super) fn parse(list: &str) -> Self {
        let entries = list.split(|it: char| it == ',' || it.is_ascii_whitespace());
        Self(entries.filter_map(Entry::parse).collect())
    }

    /// Whether `url` is asked directly.
    pub(super) fn covers(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let address = address(host);
        let port = url.port_or_known_default();
        let fits = |entry: &Entry| {
            entry.port.is_none_or(|only| Some(only) == port) && entry.host.covers(host, address)
        };
        self.0.iter().any(fits)
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            // Otherwise an address of version 6 would lose its end.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().ok()?))
            }
            _ => (text, None),
        };
        Some(Self {
            host: Host::parse(host)?,
            port,
        })
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Some(address) = address(text) {
            return Some(Self::Network(address, bits(address)));
        }
        if let Some((network, length)) = text.split_once('/') {
            let (network, length) = (address(network)?, length.parse().ok()?);
            return (length <= bits(network)).then_some(Self::Network(network, length));
        }
        let domain = text.strip_prefix('*').unwrap_or(text);
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        (!domain.is_empty()).then_some(Self::Domain(domain))
    }

    fn covers(&self, host: &str, address: Option<IpAddr>) -> bool {
        match self {
            Self::Any => true,
            Self::Domain(domain) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                let above = host.strip_suffix(domain.as_str());
                address.is_none()
                    && above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            Self::Network(network, length) => {
                address.is_some_and(|address| shares(address, *network, *length))
            }
        }
    }
}

/// Whether `url` is this machine itself, which no proxy of the environment is asked for.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    if let Some(address) = address(host) {
        return address.is_loopback();
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// The address, perhaps in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address: IpAddr = bare.unwrap_or(text).parse().ok()?;
    Some(address.to_canonical())
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Whether the first `length` bits of both are the same.
fn shares(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let (address, network) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let wide = |address: std::net::Ipv4Addr| u128::from(address.to_bits()) << 96;
            (wide(address), wide(network))
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits()),
        _ => return false,
    };
    let differing = address ^ network;
    differing.leading_zeros() >= u32::from(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(list: &str, url: &str) -> bool {
        NoProxy::parse(list).covers(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_domain_is_for_itself_and_what_is_below_it() {
        for list in [
            "corp.test",
            ".corp.test",
            "*.corp.test",
            "x, CORP.TEST. ,y",
            "x corp.test",
        ] {
            assert!(covered(list, "https://corp.test/"), "{list}");
            assert!(covered(list, "https://registry.corp.test:5000/"), "{list}");
            assert!(!covered(list, "https://notcorp.test/"), "{list}");
            assert!(!covered(list, "https://corp.test.evil.test/"), "{list}");
            assert!(!covered(list, "https://test/"), "{list}");
        }
    }

    #[test]
    fn addresses_and_networks_are_for_addresses() {
        assert!(covered("10.0.0.0/8", "http://10.255.0.1:5000/"));
        assert!(!covered("10.0.0.0/8", "http://11.0.0.1/"));
        assert!(!covered("10.0.0.0/8", "http://10.example.test/"));
        assert!(covered("192.0.2.7", "http://192.0.2.7/"));
        assert!(!covered("192.0.2.7", "http://192.0.2.70/"));
        assert!(covered("0.0.0.0/0", "http://192.0.2.7/"));
        assert!(!covered("0.0.0.0/0", "http://[2001:db8::1]/"));
        assert!(covered("2001:db8::/32", "http://[2001:db8:1::1]/"));
        assert!(!covered("2001:db8::/32", "http://[2001:db9::1]/"));
        assert!(covered("2001:db8::1", "http://[2001:db8::1]:81/"));
        assert!(covered("[2001:db8::1]:81", "http://[2001:db8::1]:81/"));
        assert!(!covered("[2001:db8::1]:81", "http://[2001:db8::1]/"));
        assert!(!covered("2.7", "http://192.0.2.7/"));
    }

    #[test]
    fn a_port_narrows_an_entry() {
        assert!(covered("corp.test:5000", "http://a.corp.test:5000/"));
        assert!(!covered("corp.test:5000", "http://corp.test/"));
        assert!(covered("corp.test:443", "https://corp.test/"));
        assert!(covered("10.0.0.0/8:5000", "http://10.0.0.1:5000/"));
    }

    #[test]
    fn a_star_is_for_everything_and_nonsense_for_nothing() {
        assert!(covered("*", "https://registry.test/"));
        assert!(covered("*", "https://192.0.2.7/"));
        for odd in [
            "",
            ",, ,",
            ".",
            "10.0.0.0/33",
            "registry.test:port",
            "::1/129",
        ] {
            assert_eq!(NoProxy::parse(odd), NoProxy::default(), "{odd}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        let loopback = |url| is_loopback(&Url::parse(url).unwrap());
        for url in [
            "http://localhost/",
            "http://LOCALHOST.:5000/",
            "http://app.localhost/",
            "http://127.1.2.3/",
            "http://[::1]:5000/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(loopback(url), "{url}");
        }
        for url in [
            "http://localhost.test/",
            "http://128.0.0.1/",
            "http://[::2]/",
        ] {
            assert!(!loopback(url), "{url}");
        }
    }
}
