//! Every fault of an upstream is survived. Each test asserts what the client got (complete and right, or cut, never
//! complete and wrong), the exact list of what the upstream was asked, what is in the cache afterwards, and what the
//! next pull costs.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

mod answer;
mod credentials;
mod manifest;
mod outage;
mod range;
mod redirect;
mod tagged;
mod token;
mod transfer;

use std::path::PathBuf;
use std::time::Duration;

use mirror::config::{Settings, UpstreamSettings};
use mirror::sys::secret::Secret;

use crate::client::{Download, End, Response};
use crate::mirror::TestMirror;
use crate::support::{Blob, FakeHub, Image, ImageSpec, Origin, Rule};

const NGINX: &str = "library/nginx";

/// What an upstream sends beyond a blob's end.
const EXCESS: &[u8] = b"and more";

/// How much of a blob no client gets before its digest matched.
const HELD_BACK: usize = 64 * 1024;

/// How long a client waits before its test fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a manifest has told about the layer before it is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Its length, and that it belongs to the repository.
    Length,
    /// Nothing: no manifest was pulled.
    Nothing,
}

/// A mirror that holds an image's config, and a layer of half a mebibyte that is yet to be pulled.
struct Stage {
    hub: FakeHub,
    mirror: TestMirror,
    image: Image,
    told: Told,
}

impl Stage {
    async fn new(told: Told) -> Self {
        Self::with(FakeHub::start().await, told, |_| {}).await
    }

    /// Both ways to come to a layer.
    async fn both() -> [Self; 2] {
        [
            Self::new(Told::Length).await,
            Self::new(Told::Nothing).await,
        ]
    }

    async fn with(hub: FakeHub, told: Told, change: impl FnOnce(&mut UpstreamSettings)) -> Self {
        let image = hub.push_image(NGINX, "latest", ImageSpec::layer_sizes(&[512 * 1024]));
        let mirror = TestMirror::start_with(&hub, |settings| change(patient(settings))).await;
        let stage = Self {
            hub,
            mirror,
            image,
            told,
        };
        let platform = stage.image.first();
        if told == Told::Length {
            let manifest = stage.mirror.manifest(NGINX, &platform.digest).await;
            assert_eq!(manifest.status, 200);
        }
        let config = stage.mirror.blob(NGINX, &platform.config.digest).await;
        assert_complete(&config, &platform.config);
        let cached = stage.mirror.wait_until_cached(&platform.config.digest);
        cached.await;
        stage.hub.take_requests();
        stage
    }

    fn layer(&self) -> &Blob {
        &self.image.first().layers[0]
    }

    /// The offset at `percent` of the layer, as a reset there counts.
    fn at(&self, percent: usize) -> usize {
        self.layer().bytes.len() * percent / 100
    }

    /// A rule for the layer at the CDN.
    fn cdn(&self) -> Rule<'_> {
        self.hub.on(Origin::Cdn).digest(&self.layer().digest)
    }

    /// A rule for the layer at the registry.
    fn registry(&self) -> Rule<'_> {
        self.hub.on(Origin::Registry).digest(&self.layer().digest)
    }

    async fn pull(&self) -> Response {
        let pull = self.mirror.blob(NGINX, &self.layer().digest);
        tokio::time::timeout(PATIENCE, pull).await.unwrap()
    }

    /// A client that asks for the layer, and reads as its test says.
    async fn begin(&self) -> Download {
        let path = format!("/v2/{NGINX}/blobs/{}", self.layer().digest);
        Download::begin(&self.mirror.url(&path), &[]).await
    }

    /// What the upstream was asked since the last call.
    fn asked(&self) -> Vec<String> {
        self.hub.take_summary()
    }

    #[track_caller]
    fn assert_asked<const N: usize>(&self, expected: [Vec<String>; N]) {
        let expected: Vec<_> = expected.into_iter().flatten().collect();
        assert_eq!(self.asked(), expected, "told: {:?}", self.told);
    }

    #[track_caller]
    fn assert_complete(&self, response: &Response) {
        assert_complete(response, self.layer());
    }

    /// The client got less than the layer, all of it right, and cannot take it for the layer.
    #[track_caller]
    fn assert_not_delivered(&self, response: &Response) {
        assert_not_delivered(response, &host(&self.hub, Origin::Cdn));
        if response.status == 200 {
            let got = response.body.len();
            assert!(got < self.layer().bytes.len());
            assert!(response.body == self.layer().bytes[..got], "wrong bytes");
        }
    }

    /// The client got at most what may be had before the digest is known; all of it, but for one byte, right.
    #[track_caller]
    fn assert_tail_held_back(&self, response: &Response, wrong: Option<usize>) {
        assert_not_delivered(response, &host(&self.hub, Origin::Cdn));
        if response.status == 200 {
            let got = response.body.len();
            // What a fault adds at the end is of the tail too.
            assert!(got <= self.layer().bytes.len() + EXCESS.len() - HELD_BACK);
            let mut sent = self.layer().bytes.to_vec();
            if let Some(at) = wrong {
                sent[at] ^= 1;
            }
            assert!(response.body == sent[..got], "wrong bytes");
        }
    }

    /// Nothing of the layer is kept, neither as a blob nor as a part.
    #[track_caller]
    fn assert_nothing_kept(&self) {
        assert_eq!(self.mirror.cached(), [self.config()]);
        assert_eq!(self.mirror.spooled(), Vec::<PathBuf>::new());
    }

    /// Nothing is served from the cache, but what came is kept to be resumed.
    #[track_caller]
    fn assert_part_kept(&self) {
        assert_eq!(self.mirror.cached(), [self.config()]);
        assert_eq!(self.mirror.spooled().len(), 1);
    }

    fn config(&self) -> String {
        self.image.first().config.digest.clone()
    }

    /// With the upstream in order again, the mirror notices by itself, which costs `probe`.
    async fn assert_noticed(&self, probe: &str) {
        self.hub.clear_faults();
        self.mirror.wait_until_upstream_answers().await;
        assert_eq!(self.asked(), [probe]);
    }

    /// With the upstream in order again, the next pull gets the layer for `cost`, and the one after it for nothing.
    async fn assert_next_pull<const N: usize>(&self, cost: [Vec<String>; N]) {
        self.hub.clear_faults();
        self.assert_complete(&self.pull().await);
        self.assert_asked(cost);
        self.mirror.wait_until_cached(&self.layer().digest).await;
        let mut held = [self.config(), self.layer().digest.clone()];
        held.sort_unstable();
        assert_eq!(self.mirror.cached(), held);
        let warm = self.pull().await;
        self.assert_complete(&warm);
        assert_eq!(outcome(&warm), "hit; upstream=docker.io");
        assert_eq!(self.asked(), [""; 0]);
    }
}

/// No limit that a busy machine could meet: whoever tests a limit sets it. Who may see what is not asked here.
fn patient(settings: &mut Settings) -> &mut UpstreamSettings {
    settings.access.anonymous_private = true;
    settings.cache.revalidate_timeout = PATIENCE;
    let upstream = settings.upstreams.get_mut("docker.io").unwrap();
    upstream.timeout = PATIENCE;
    upstream.stall = PATIENCE;
    upstream
}

/// `alice`, whom [`alices_hub`] knows with this password.
fn as_alice(upstream: &mut UpstreamSettings) {
    upstream.username = Some("alice".to_owned());
    upstream.password = Some(Secret::new("secret"));
}

/// A request for the layer at the registry, and the one that its redirect leads to.
fn fetch() -> Vec<String> {
    [at_registry(), at_cdn()].concat()
}

/// The same from an offset on.
fn resume(offset: usize) -> Vec<String> {
    let range = |line: &String| format!("{line} bytes={offset}-");
    fetch().iter().map(range).collect()
}

fn at_registry() -> Vec<String> {
    line("registry GET library/nginx/blobs/amd64.layer0")
}

fn at_cdn() -> Vec<String> {
    line("cdn GET amd64.layer0")
}

fn token() -> Vec<String> {
    line("token GET library/nginx:pull")
}

fn line(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

/// Nothing is asked.
const NOTHING: [Vec<String>; 0] = [];

/// The host of an origin, as messages name it.
fn host(hub: &FakeHub, origin: Origin) -> String {
    let url = hub.url(origin);
    let (_, host) = url.split_once("://").unwrap();
    host.to_owned()
}

#[track_caller]
fn assert_complete(response: &Response, blob: &Blob) {
    assert_eq!(
        (response.status, response.end),
        (200, End::Complete),
        "{}",
        response.head
    );
    assert!(response.body == blob.bytes, "wrong bytes");
    assert_eq!(
        response.header("docker-content-digest"),
        Some(&*blob.digest)
    );
}

/// The answer was cut so that no client takes it for the whole. Where the download failed before the answer began,
/// it is an error that names `culprit`.
#[track_caller]
fn assert_not_delivered(response: &Response, culprit: &str) {
    match response.status {
        200 => assert_ne!(response.end, End::Complete),
        status @ (502..=504) => assert_error(response, status, "UNKNOWN", culprit),
        _ => panic!("{response:?}"),
    }
}

/// The client got an error in the form of the specification, whose message names `culprit`.
#[track_caller]
fn assert_error(response: &Response, status: u16, code: &str, culprit: &str) {
    assert_eq!(
        (response.status, response.end),
        (status, End::Complete),
        "{response:?}"
    );
    assert_eq!(response.header("content-type"), Some("application/json"));
    let body = response.json();
    let errors = body["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["code"]), (1, &code.into()));
    let message = errors[0]["message"].as_str().unwrap();
    assert!(message.contains(culprit), "{message:?} names no {culprit}");
}

fn outcome(response: &Response) -> &str {
    response.header("x-mirror-cache").unwrap()
}
