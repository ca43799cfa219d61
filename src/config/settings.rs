//! The settings, and what they are when nobody sets them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::{ByteSize, ListenAddress};
use crate::blobs::{Expiry, Limits, Share};
use crate::oci::ImagePatterns;
use crate::sys::secret::Secret;
pub use crate::sys::telemetry::Settings as LogSettings;

/// The upstream of names that name none, and the only one so far.
pub const DEFAULT_UPSTREAM: &str = "docker.io";

const DOCKER_HUB: &str = "https://registry-1.docker.io";
const DOCKER_HUB_TOKENS: &str = "https://auth.docker.io/token";

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[storage]`
    pub storage: StorageSettings,
    /// `[cache]`
    pub cache: CacheSettings,
    /// `[upstreams."<name>"]`, by name. `docker.io` is always there.
    pub upstreams: BTreeMap<String, UpstreamSettings>,
    /// `[log]`
    pub log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        let docker_hub = UpstreamSettings::default();
        Self {
            server: ServerSettings::default(),
            storage: StorageSettings::default(),
            cache: CacheSettings::default(),
            upstreams: BTreeMap::from([(DEFAULT_UPSTREAM.to_owned(), docker_hub)]),
            log: LogSettings::default(),
        }
    }
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
        }
    }
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
    /// A PEM file with further certificate authorities.
    pub ca: Option<PathBuf>,
    /// Limit for connecting and for the first byte of an answer. Not zero.
    pub timeout: Duration,
    /// No byte for this long: the transfer is resumed. Not zero.
    pub stall: Duration,
    /// How often a failed request is tried again.
    pub retries: u32,
    /// Blob transfers at a time, at least 1.
    pub max_connections: u32,
}

impl UpstreamSettings {
    /// Whether this is Docker Hub itself, whose token endpoint is known.
    pub(super) fn is_docker_hub(&self) -> bool {
        self.url.host() == Uri::from_static(DOCKER_HUB).host()
    }
}

/// Docker Hub, anonymously.
impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            url: Uri::from_static(DOCKER_HUB),
            token_url: Some(Uri::from_static(DOCKER_HUB_TOKENS)),
            username: None,
            password: None,
            ca: None,
            timeout: Duration::from_secs(30),
            stall: Duration::from_secs(10),
            retries: 5,
            max_connections: 32,
        }
    }
}
