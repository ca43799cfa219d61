//! A tag that is pulled by way of a mirror, and what the tests ask about it.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

use std::time::Duration;

use mirror::config::Settings;

use super::{NGINX, PATIENCE, outcome, patient};
use crate::client::{End, Response};
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Image, ImageSpec, Origin, Rule};

/// The upstream's `nginx:latest`, and a mirror.
pub(super) struct Tagged {
    pub(super) hub: FakeHub,
    pub(super) mirror: TestMirror,
    pub(super) image: Image,
}

impl Tagged {
    /// A mirror that holds nothing, and no token either.
    pub(super) async fn absent(change: impl FnOnce(&mut Settings)) -> Self {
        Self::absent_of(FakeHub::start().await, change).await
    }

    /// The same, of that hub.
    pub(super) async fn absent_of(hub: FakeHub, change: impl FnOnce(&mut Settings)) -> Self {
        let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
        let change = |settings: &mut Settings| {
            patient(settings);
            change(settings);
        };
        let mirror = TestMirror::start_with(&hub, change).await;
        Self { hub, mirror, image }
    }

    /// A mirror that holds the tag's index, but would ask before it serves the tag.
    pub(super) async fn expired(change: impl FnOnce(&mut Settings)) -> Self {
        Self::expired_of(FakeHub::start().await, change).await
    }

    /// The same, of that hub.
    pub(super) async fn expired_of(hub: FakeHub, change: impl FnOnce(&mut Settings)) -> Self {
        let tagged = Self::absent_of(hub, change).await;
        tagged.assert_served(&tagged.pull().await);
        tagged.mirror.clock.advance(Duration::from_secs(61));
        tagged.hub.take_requests();
        tagged
    }

    /// A rule for manifests at the registry.
    pub(super) fn registry(&self) -> Rule<'_> {
        self.hub.on(Origin::Registry).manifests()
    }

    pub(super) async fn pull(&self) -> Response {
        self.by("latest").await
    }

    pub(super) async fn pull_by_digest(&self) -> Response {
        self.by(&self.image.digest).await
    }

    async fn by(&self, reference: &str) -> Response {
        let pull = self.mirror.manifest(NGINX, reference);
        tokio::time::timeout(PATIENCE, pull).await.unwrap()
    }

    #[track_caller]
    pub(super) fn assert_asked<const N: usize>(&self, expected: [&str; N]) {
        assert_eq!(self.hub.take_summary(), expected);
    }

    #[track_caller]
    pub(super) fn assert_served(&self, response: &Response) {
        assert_eq!(
            (response.status, response.end),
            (200, End::Complete),
            "{response:?}"
        );
        assert_eq!(response.body, self.image.bytes);
        let header = |name| response.header(name);
        assert_eq!(header("docker-content-digest"), Some(&*self.image.digest));
        assert_eq!(header("content-type"), Some(&*self.image.media_type));
    }

    /// The client got the copy, and was told that and why it is an old one.
    #[track_caller]
    pub(super) fn assert_stale(&self, response: &Response, reason: &str, culprit: &str) {
        self.assert_served(response);
        let expected = format!("stale; reason={reason}; age=61; upstream=docker.io");
        assert_eq!(outcome(response), expected);
        let warning = response.header("warning").unwrap();
        assert!(warning.starts_with("299 - \""), "{warning}");
        assert!(warning.contains(culprit), "{warning} names no {culprit}");
    }

    /// Until the upstream's no is not remembered any more.
    pub(super) fn forget_absence(&self) {
        self.mirror.clock.advance(Duration::from_secs(30));
    }

    /// With the upstream in order again, the tag is asked for without a client, for `cost`, and nobody waits: whoever
    /// comes before the answer gets the copy, and whoever comes after it gets what the upstream said.
    pub(super) async fn assert_recovers<const N: usize>(&self, cost: [&str; N]) {
        self.hub.clear_faults();
        let recovery = async {
            loop {
                let answer = self.pull().await;
                self.assert_served(&answer);
                if outcome(&answer).starts_with("hit;") {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let fresh = tokio::time::timeout(RECOVERY, recovery).await.unwrap();
        assert_eq!(fresh.header("warning"), None);
        self.assert_asked(cost);
    }

    /// With the upstream in order again, the mirror notices by itself, which costs `probe`.
    pub(super) async fn assert_noticed<const N: usize>(&self, probe: [&str; N]) {
        self.hub.clear_faults();
        self.mirror.wait_until_upstream_answers().await;
        self.assert_asked(probe);
    }

    /// With the upstream in order again, the next pull costs `cost`, and the one after it nothing.
    pub(super) async fn assert_next_pull<const N: usize>(&self, cost: [&str; N]) {
        self.hub.clear_faults();
        let next = self.pull().await;
        self.assert_served(&next);
        assert_eq!(next.header("warning"), None);
        self.assert_asked(cost);
        let warm = self.pull().await;
        self.assert_served(&warm);
        assert_eq!(outcome(&warm), "hit; age=0; upstream=docker.io");
        self.assert_asked([]);
    }
}

/// Within this time of an upstream's recovery a tag is fresh.
const RECOVERY: Duration = Duration::from_secs(10);

pub(super) const TOKEN: &str = "token GET library/nginx:pull";
pub(super) const GET: &str = "registry GET library/nginx/manifests/latest";
pub(super) const HEAD: &str = "registry HEAD library/nginx/manifests/latest";
pub(super) const BY_DIGEST: &str = "registry GET library/nginx/manifests/index";
