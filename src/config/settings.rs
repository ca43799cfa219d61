//! The settings, and what they are when nobody sets them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::{ByteSize, ListenAddress, ProxyChoice};
use crate::blobs::{Expiry, Limits, Share};
use crate::oci::{ImagePatterns, TagPattern};
use crate::sys::secret::Secret;
pub use crate::sys::telemetry::Settings as LogSettings;
use crate::upstream::ProxyEnvironment;

/// The upstream of names that name none. It is always there.
pub const DEFAULT_UPSTREAM: &str = "docker.io";

const DOCKER_HUB: &str = "https://registry-1.docker.io";
const DOCKER_HUB_TOKENS: &str = "https://auth.docker.io/token";

/// Registries whose token endpoint is on another host that may see the credentials, by their own host.
const TOKEN_ENDPOINTS: [(&str, &str); 2] = [
    ("registry-1.docker.io", DOCKER_HUB_TOKENS),
    ("registry.gitlab.com", "https://gitlab.com/jwt/auth"),
];

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[[listener]]`; no address twice, nor one of `server.listen`.
    pub listeners: Vec<ListenerSettings>,
    /// `[storage]`
    pub storage: StorageSettings,
    /// `[cache]`
    pub cache: CacheSettings,
    /// `[upstreams."<name>"]`, by name. `docker.io` is always there.
    pub upstreams: BTreeMap<String, UpstreamSettings>,
    /// `[access]`
    pub access: AccessSettings,
    /// `[log]`
    pub log: LogSettings,
    /// What the process was started in.
    pub ambient: AmbientSettings,
}

impl Default for Settings {
    fn default() -> Self {
        let docker_hub = UpstreamSettings::default();
        Self {
            server: ServerSettings::default(),
            listeners: Vec::new(),
            storage: StorageSettings::default(),
            cache: CacheSettings::default(),
            upstreams: BTreeMap::from([(DEFAULT_UPSTREAM.to_owned(), docker_hub)]),
            access: AccessSettings::default(),
            log: LogSettings::default(),
            ambient: AmbientSettings::default(),
        }
    }
}

/// What the environment says to every program, not only to this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AmbientSettings {
    /// The proxies for upstreams whose own is [`ProxyChoice::Environment`].
    pub proxy: ProxyEnvironment,
    /// Docker's `config.json`, for upstreams whose credentials are [`CredentialSource::Docker`].
    pub docker_config: Option<PathBuf>,
}

/// Who may connect, and how the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where to listen; at least one address, none twice.
    pub listen: Vec<ListenAddress>,
    /// How long running transfers may go on after SIGTERM.
    pub drain: Duration,
    /// How long to wait for another process to let go of the data directory.
    pub lock_wait: Duration,
    /// Client connections at a time, at least 1.
    pub max_connections: u32,
    /// Whether no upstream is ever asked.
    pub offline: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let listen = ListenAddress::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 5000,
        };
        Self {
            listen: vec![listen],
            drain: Duration::from_secs(30),
            lock_wait: Duration::from_secs(30),
            max_connections: 10_000,
            offline: false,
        }
    }
}

/// A further port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where to listen.
    pub address: ListenAddress,
    /// The upstream that names without a registry mean here, one of [`Settings::upstreams`]; `None` for
    /// [`DEFAULT_UPSTREAM`].
    pub repository: Option<String>,
}

/// Who gets what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// Whether anonymous clients get what an upstream gives to our credentials alone.
    pub anonymous_private: bool,
}

/// Where the data lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSettings {
    /// The data directory.
    pub dir: PathBuf,
    /// What is synced to the disk before it counts as stored.
    pub fsync: Fsync,
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/mirror"),
            fsync: Fsync::Hosted,
        }
    }
}

/// What is synced to the disk before it counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// What was pushed here; cached content can be fetched again.
    Hosted,
    /// Everything.
    Always,
    /// Nothing: for disks that are thrown away.
    Never,
}

/// How cached content is kept fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Memory for manifests and small blobs; 0 keeps none there.
    pub memory: ByteSize,
    /// How much the data directory may take, and how much stays free beside it.
    pub limits: Limits,
    /// When blobs go that are in nobody's way.
    pub expiry: Expiry,
    /// How often every blob is read again; `None` for never.
    pub scrub: Option<Duration>,
    /// How long a tag is served without asking upstream; zero asks each time.
    pub tag_ttl: Duration,
    /// How long a client waits for an expired tag's revalidation before it gets the stale answer. Not zero.
    pub revalidate_timeout: Duration,
    /// How long past its freshness a tag is served while the upstream fails.
    pub stale_if_error: Duration,
    /// How long a tag is served that the upstream has deleted.
    pub stale_if_deleted: Duration,
    /// How long it is believed that the upstream does not have something; zero asks each time.
    pub negative_ttl: Duration,
    /// A download that nobody reads any more is finished when at most this much is missing.
    pub finish_abandoned: ByteSize,
    /// Images that are passed through and not kept.
    pub never_cache: ImagePatterns,
    /// Images that are not evicted.
    pub pin: ImagePatterns,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            memory: ByteSize::bytes(32 << 20),
            limits: Limits {
                max_size: Share::Percent(80),
                min_free: Share::Percent(5),
            },
            expiry: Expiry::default(),
            scrub: Some(Duration::from_hours(30 * 24)),
            tag_ttl: Duration::from_mins(1),
            revalidate_timeout: Duration::from_secs(3),
            stale_if_error: Duration::from_hours(30 * 24),
            stale_if_deleted: Duration::from_hours(24),
            negative_ttl: Duration::from_secs(30),
            finish_abandoned: ByteSize::bytes(1 << 30),
            never_cache: ImagePatterns::default(),
            pin: ImagePatterns::default(),
        }
    }
}

/// One registry that content is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Base URL without a trailing slash and without `/v2`; http or https, neither user information nor query.
    pub url: Uri,
    /// The one token endpoint besides the upstream's own host that may see the credentials.
    pub token_url: Option<Uri>,
    /// User name; set if and only if `password` is.
    pub username: Option<String>,
    /// Password or access token.
    pub password: Option<Secret>,
    /// Where else the account comes from; not set together with `username`.
    pub credentials: Option<CredentialSource>,
    /// Accounts for parts of the registry: the first whose prefix fits is the one to use, the account above where none
    /// does. The longest prefix comes first, none twice.
    pub logins: Vec<LoginSettings>,
    /// Registries that are asked before this one, in this order; URLs like `url`.
    pub mirrors: Vec<Uri>,
    /// How the registry is reached.
    pub proxy: ProxyChoice,
    /// A PEM file with further certificate authorities.
    pub ca: Option<PathBuf>,
    /// How long a tag is served without asking, instead of [`CacheSettings::tag_ttl`].
    pub tag_ttl: Option<Duration>,
    /// The same for some tags: the first rule that is about a tag decides.
    pub tag_rules: Vec<TagRule>,
    /// Images that may be asked for; `None` for all.
    pub allow: Option<ImagePatterns>,
    /// Images that may not be asked for, even if `allow` has them.
    pub deny: ImagePatterns,
    /// Background work rests when no more pulls than this are left of the registry's limit.
    pub rate_reserve: u64,
    /// Limit for connecting and for the first byte of an answer. Not zero.
    pub timeout: Duration,
    /// No byte for this long: the transfer is resumed. Not zero.
    pub stall: Duration,
    /// How often a failed request is tried again.
    pub retries: u32,
    /// Blob transfers at a time, at least 1.
    pub max_connections: u32,
}

/// An account that the configuration does not hold itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// Docker's `config.json` and the helpers that it names.
    Docker,
}

/// An account for a part of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSettings {
    /// The first components of the names of the repositories that it is for; in the grammar of a repository's name.
    pub prefix: String,
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: Secret,
}

/// How long some tags are fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRule {
    /// The tags.
    pub pattern: TagPattern,
    /// How long they are served without asking; zero asks each time.
    pub ttl: Duration,
}

impl UpstreamSettings {
    /// An upstream of which only the name is known: `host` or `host:port`. `None` when that makes no URL.
    pub fn named(host: &str) -> Option<Self> {
        if host == DEFAULT_UPSTREAM {
            return Some(Self::default());
        }
        let url: Uri = format!("https://{host}").parse().ok()?;
        Some(Self {
            token_url: known_token_url(&url),
            url,
            ..Self::default()
        })
    }

    /// Whether anything is asked with credentials.
    pub(super) fn has_credentials(&self) -> bool {
        self.password.is_some() || self.credentials.is_some() || !self.logins.is_empty()
    }
}

/// The token endpoint that belongs to the registry at `url`, where that is known.
pub(super) fn known_token_url(url: &Uri) -> Option<Uri> {
    let host = url.host()?;
    let known = TOKEN_ENDPOINTS.iter().find(|(known, _)| *known == host);
    known.map(|(_, endpoint)| Uri::from_static(endpoint))
}

/// Docker Hub, anonymously.
impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            url: Uri::from_static(DOCKER_HUB),
            token_url: Some(Uri::from_static(DOCKER_HUB_TOKENS)),
            username: None,
            password: None,
            credentials: None,
            logins: Vec::new(),
            mirrors: Vec::new(),
            proxy: ProxyChoice::Environment,
            ca: None,
            tag_ttl: None,
            tag_rules: Vec::new(),
            allow: None,
            deny: ImagePatterns::default(),
            rate_reserve: 10,
            timeout: Duration::from_secs(30),
            stall: Duration::from_secs(10),
            retries: 5,
            max_connections: 32,
        }
    }
}
