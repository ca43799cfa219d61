//! What the client of a registry sends, to whom, and what it makes of the answers.
//!
//! The exact list of requests is part of each promise: a request too many is a fault as much as a wrong byte.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod blobs;
mod breaker;
mod control;
mod credentials;
mod docker;
mod governor;
mod logins;
mod mirrors;
mod offline;
mod proxies;
mod redirects;
mod tls;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirror::oci::{Digest, Reference, RepositoryName};
use mirror::registry::{Memo, MemoError, Noted, Topic};
use mirror::sys::clock::{ManualClock, Timestamp};
use mirror::sys::secret::Secret;
use mirror::sys::tasks::Tasks;
use mirror::upstream::{BlobBody, Login, ProxyChoice, Settings, Upstream, UpstreamError};

use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";

/// Longer than any test waits for anything, unless it waits for the limit itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of a hub, as it is configured for Docker Hub.
fn settings(hub: &FakeHub) -> Settings {
    Settings {
        name: "docker.io".into(),
        url: hub.registry_url().parse().unwrap(),
        token_url: Some(hub.token_url().parse().unwrap()),
        logins: Vec::new(),
        docker_config: None,
        mirrors: Vec::new(),
        proxy: ProxyChoice::Direct,
        ca: Vec::new(),
        timeout: PATIENCE,
        stall: PATIENCE,
        retries: 3,
        max_connections: 32,
        offline: false,
        rate_reserve: 10,
    }
}

/// The same, for a registry of which nothing is known but its address.
fn stranger(hub: &FakeHub) -> Settings {
    Settings {
        name: "registry.test".into(),
        token_url: None,
        ..settings(hub)
    }
}

fn alice(password: &str) -> Login {
    Login {
        prefix: None,
        username: "alice".into(),
        password: Secret::new(password),
    }
}

fn clock() -> Arc<ManualClock> {
    ManualClock::starting_at(Timestamp::from_millis(1_800_000_000_000))
}

fn upstream(settings: Settings) -> Upstream {
    upstream_at(settings, &clock())
}

fn upstream_at(settings: Settings, clock: &Arc<ManualClock>) -> Upstream {
    let clock = Arc::<ManualClock>::clone(clock);
    Upstream::new(settings, clock, Tasks::new(), TestMemo::new()).unwrap()
}

/// Facts that outlive an upstream.
#[derive(Debug, Default)]
struct TestMemo(Mutex<HashMap<(Topic, String), Noted>>);

impl TestMemo {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The keys that something is noted under.
    fn keys(&self) -> Vec<String> {
        let facts = self.0.lock().unwrap();
        let mut keys: Vec<_> = facts.keys().map(|(_, key)| key.clone()).collect();
        keys.sort_unstable();
        keys
    }
}

impl Memo for TestMemo {
    fn recall(&self, topic: Topic, key: &str) -> Result<Option<Noted>, MemoError> {
        let key = (topic, key.to_owned());
        Ok(self.0.lock().unwrap().get(&key).cloned())
    }

    fn remember(&self, topic: Topic, key: &str, noted: &Noted) -> Result<(), MemoError> {
        let key = (topic, key.to_owned());
        self.0.lock().unwrap().insert(key, noted.clone());
        Ok(())
    }

    fn forget(&self, topic: Topic, key: &str) -> Result<(), MemoError> {
        self.0.lock().unwrap().remove(&(topic, key.to_owned()));
        Ok(())
    }
}

/// Waits until the upstream is no longer suspended.
async fn until_answered(upstream: &Upstream) {
    let waiting = async {
        while upstream.is_suspended() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

fn host(url: &str) -> String {
    url.split_once("://").unwrap().1.to_owned()
}

async fn nginx() -> (FakeHub, Image) {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(3));
    (hub, image)
}

/// A hub with one blob, and its client.
struct OneBlob {
    hub: FakeHub,
    upstream: Upstream,
    digest: Digest,
    bytes: Vec<u8>,
}

impl OneBlob {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let hub = FakeHub::start().await;
        let bytes = seeded_bytes(7, 200_000).to_vec();
        let pushed = hub.push_blob(NGINX, bytes.clone());
        hub.name(&pushed, "blob");
        let mut settings = settings(&hub);
        change(&mut settings);
        Self {
            upstream: upstream(settings),
            digest: digest(&pushed),
            hub,
            bytes,
        }
    }

    async fn open(&self, offset: u64) -> Result<BlobBody, UpstreamError> {
        let name = name(NGINX);
        self.upstream.open_blob(&name, self.digest, offset).await
    }

    /// What the next pull gets: the whole blob.
    async fn assert_whole(&self) {
        let (bytes, error) = read(self.open(0).await.unwrap()).await;
        assert!(error.is_none(), "{error:?}");
        assert!(bytes == self.bytes, "other bytes than were pushed");
    }
}

/// What a body yields up to its end, and the error that ended it.
async fn read(mut body: BlobBody) -> (Vec<u8>, Option<UpstreamError>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next_chunk().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => {
                assert!(body.next_chunk().await.is_none(), "more after an error");
                return (bytes, Some(error));
            }
        }
    }
    (bytes, None)
}

/// Fails if anyone but the token endpoint and the registry was sent an `Authorization`.
fn assert_secrets_stayed_home(hub: &FakeHub) {
    for request in hub.requests() {
        let trusted = matches!(request.origin, Origin::Registry | Origin::Token);
        let sent = request.header("authorization");
        assert!(
            trusted || sent.is_none(),
            "{} was sent {sent:?}",
            request.origin
        );
    }
}
