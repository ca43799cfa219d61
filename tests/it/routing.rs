//! Many upstreams behind one mirror: each request reaches the one that it names, and no other.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use mirror::config::{ListenerSettings, UpstreamSettings};
use mirror::oci::ImagePatterns;
use tokio::net::UnixStream;

use crate::client::{Download, End, Response, exchange};
use crate::mirror::{TestMirror, upstream};
use crate::support::image::seeded_bytes;
use crate::support::{At, FakeHub, Image, ImageSpec, Origin};

const UPSTREAMS: [&str; 3] = ["docker.io", "ghcr.io", "quay.io"];

/// Three registries, each with `acme/app:1` of its own, behind one mirror.
struct Three {
    hubs: [FakeHub; 3],
    images: [Image; 3],
    mirror: TestMirror,
}

impl Three {
    async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    /// The same on these listeners as well.
    async fn start_on(listeners: Vec<ListenerSettings>) -> Self {
        Self::start_as(|_, _| {}, listeners).await
    }

    /// The same after `change` of each upstream's settings.
    async fn start_with(change: impl Fn(&str, &mut UpstreamSettings)) -> Self {
        Self::start_as(change, Vec::new()).await
    }

    async fn start_as(
        change: impl Fn(&str, &mut UpstreamSettings),
        listeners: Vec<ListenerSettings>,
    ) -> Self {
        let hubs = [
            FakeHub::start().await,
            FakeHub::start().await,
            FakeHub::start().await,
        ];
        let mut seed = 0;
        let images = hubs.each_ref().map(|hub| {
            seed += 100;
            hub.push_image("acme/app", "1", ImageSpec::layers(1).seed(seed))
        });
        let mirror = TestMirror::start_with(&hubs[0], |settings| {
            settings.listeners = listeners;
            for (name, hub) in UPSTREAMS.iter().zip(&hubs) {
                let mut upstream = upstream(hub);
                change(name, &mut upstream);
                settings.upstreams.insert((*name).to_owned(), upstream);
            }
        })
        .await;
        Self {
            hubs,
            images,
            mirror,
        }
    }

    /// What each hub has seen since the last time.
    fn seen(&self) -> [Vec<String>; 3] {
        self.hubs.each_ref().map(FakeHub::take_summary)
    }

    #[track_caller]
    fn assert_image(&self, answer: &Response, upstream: usize) {
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(
            answer.body == self.images[upstream].bytes,
            "{}'s image was expected",
            UPSTREAMS[upstream]
        );
        let decided = answer.header("x-mirror-cache").unwrap();
        let from = format!("upstream={}", UPSTREAMS[upstream]);
        assert!(decided.ends_with(&from), "{decided}");
    }
}

/// The requests of a first question. Only Docker Hub's token service is known before it is named.
fn asked(upstream: usize, question: &str) -> Vec<String> {
    let (token, question) = ("token GET acme/app:pull".to_owned(), question.to_owned());
    match upstream {
        0 => vec![token, question],
        _ => vec![question.clone(), token, question],
    }
}

fn nothing() -> [Vec<String>; 3] {
    [vec![], vec![], vec![]]
}

#[tokio::test]
async fn every_form_of_an_address_reaches_its_upstream_and_no_other() {
    for (path, upstream, echo) in [
        ("/v2/acme/app/manifests/1", 0, None),
        (
            "/v2/acme/app/manifests/1?ns=docker.io",
            0,
            Some("docker.io"),
        ),
        (
            "/v2/acme/app/manifests/1?ns=index.docker.io",
            0,
            Some("index.docker.io"),
        ),
        (
            "/v2/acme/app/manifests/1?ns=registry-1.docker.io",
            0,
            Some("registry-1.docker.io"),
        ),
        ("/v2/docker.io/acme/app/manifests/1", 0, None),
        ("/docker.io/v2/acme/app/manifests/1", 0, None),
        ("/v2/acme/app/manifests/1?ns=ghcr.io", 1, Some("ghcr.io")),
        ("/v2/ghcr.io/acme/app/manifests/1", 1, None),
        ("/ghcr.io/v2/acme/app/manifests/1", 1, None),
        (
            "/v2/ghcr.io/acme/app/manifests/1?ns=ghcr.io",
            1,
            Some("ghcr.io"),
        ),
        ("/v2/acme/app/manifests/1?ns=quay.io", 2, Some("quay.io")),
        ("/v2/quay.io/acme/app/manifests/1", 2, None),
        ("/quay.io/v2/acme/app/manifests/1", 2, None),
    ] {
        let three = Three::start().await;
        let answer = three.mirror.get(path).await;
        three.assert_image(&answer, upstream);
        assert_eq!(answer.header("oci-namespace"), echo, "{path}");
        let mut expected = nothing();
        expected[upstream] = asked(upstream, "registry GET acme/app/manifests/1");
        assert_eq!(three.seen(), expected, "{path}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_configured_is_never_dialled() {
    let three = Three::start().await;
    let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listening.local_addr().unwrap().port();
    let digest = &three.images[0].digest;
    for path in [
        format!("/v2/acme/app/manifests/1?ns=127.0.0.1:{port}"),
        format!("/v2/acme/app/manifests/1?ns=localhost:{port}"),
        format!("/127.0.0.1:{port}/v2/acme/app/manifests/1"),
        format!("/v2/acme/app/manifests/{digest}?ns=127.0.0.1:{port}"),
        format!("/v2/acme/app/blobs/{digest}?ns=127.0.0.1:{port}"),
        format!("/v2/acme/app/tags/list?ns=127.0.0.1:{port}"),
        format!("/v2/acme/app/referrers/{digest}?ns=127.0.0.1:{port}"),
        "/v2/registry.k8s.io/pause/manifests/1".to_owned(),
        "/registry.k8s.io/v2/pause/manifests/1".to_owned(),
        "/v2/pause/manifests/1?ns=registry.k8s.io".to_owned(),
    ] {
        let answer = three.mirror.get(&path).await;
        let code = &answer.json()["errors"][0]["code"];
        assert_eq!((answer.status, code.as_str()), (404, Some("NAME_UNKNOWN")));
        let decided = answer.header("x-mirror-cache");
        assert_eq!(decided, Some("error; reason=not_found"), "{path}");
        assert_eq!(answer.header("oci-namespace"), None);
    }
    assert_eq!(three.seen(), nothing());
    let dialled = tokio::time::timeout(Duration::ZERO, listening.accept()).await;
    assert!(dialled.is_err(), "somebody was dialled");
}

#[tokio::test]
async fn one_tag_of_two_upstreams_is_two_tags() {
    let three = Three::start().await;
    for round in 0..2 {
        for (upstream, name) in UPSTREAMS.iter().enumerate() {
            let path = format!("/v2/acme/app/manifests/1?ns={name}");
            three.assert_image(&three.mirror.get(&path).await, upstream);
        }
        let first = [0, 1, 2].map(|it| asked(it, "registry GET acme/app/manifests/1"));
        assert_eq!(three.seen(), if round == 0 { first } else { nothing() });
    }
    // What was remembered on disk is kept apart as well.
    let mirror = three.mirror.restart().await;
    let three = Three { mirror, ..three };
    for (upstream, name) in UPSTREAMS.iter().enumerate() {
        let path = format!("/v2/{name}/acme/app/manifests/1");
        three.assert_image(&three.mirror.get(&path).await, upstream);
    }
    assert_eq!(three.seen(), nothing());
}

/// A blob that docker.io's and ghcr.io's `acme/app` both have.
fn shared_blob(three: &Three) -> (String, Bytes) {
    let bytes = seeded_bytes(9, 1 << 20);
    let digest = three.hubs[0].push_blob("acme/app", bytes.clone());
    three.hubs[1].push_blob("acme/app", bytes.clone());
    for hub in &three.hubs {
        hub.name(&digest, "blob");
    }
    (digest, bytes)
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_blob_of_two_upstreams_is_fetched_once_and_stored_once() {
    let three = Three::start().await;
    let (digest, bytes) = shared_blob(&three);
    let first = three.mirror.blob("acme/app", &digest).await;
    assert_eq!((first.status, first.end), (200, End::Complete));
    three.mirror.wait_until_cached(&digest).await;
    let fetched = lines(&[
        "token GET acme/app:pull",
        "registry GET acme/app/blobs/blob",
        "cdn GET blob",
    ]);
    assert_eq!(three.seen(), [fetched, vec![], vec![]]);

    // Bytes that are here are not yet ghcr.io's: it is asked whether it has them, and not for them.
    let second = three.mirror.blob("ghcr.io/acme/app", &digest).await;
    assert_eq!((second.status, second.end), (200, End::Complete));
    assert!(second.body == bytes, "wrong bytes");
    let decided = second.header("x-mirror-cache");
    assert_eq!(decided, Some("revalidated; upstream=ghcr.io"));
    let [hub, github, quay] = three.seen();
    let first = asked(1, "registry HEAD acme/app/blobs/blob");
    assert_eq!(github[..3], first);
    assert!(!github.iter().any(|line| line.starts_with("cdn GET")));
    assert_eq!((hub, quay), (vec![], vec![]));
    assert_eq!(three.mirror.cached(), [digest]);
}

#[tokio::test]
async fn what_one_upstream_has_is_not_another_ones() {
    let three = Three::start().await;
    let (digest, _) = shared_blob(&three);
    for upstream in ["docker.io", "ghcr.io"] {
        let name = format!("{upstream}/acme/app");
        assert_eq!(three.mirror.blob(&name, &digest).await.status, 200);
    }
    three.mirror.wait_until_cached(&digest).await;
    three.seen();
    let refused = three.mirror.blob("quay.io/acme/app", &digest).await;
    assert_eq!(refused.status, 404);
    let asked = asked(2, "registry HEAD acme/app/blobs/blob");
    assert_eq!(three.seen(), [vec![], vec![], asked]);

    // A manifest in memory is not handed to another upstream's repository either.
    let image = &three.images[0];
    let pulled = three.mirror.manifest("acme/app", &image.digest).await;
    assert_eq!(pulled.status, 200);
    three.seen();
    let refused = three.mirror.manifest("quay.io/acme/app", &image.digest);
    assert_eq!(refused.await.status, 404);
    let [hub, github, quay] = three.seen();
    assert_eq!((hub, github), (vec![], vec![]));
    assert!(!quay.is_empty(), "quay.io was not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_upstreams_asked_for_one_blob_at_once_share_a_download() {
    let three = Three::start().await;
    let (digest, bytes) = shared_blob(&three);
    let gate = three.hubs[0].on(Origin::Cdn).hold(At::Percent(50));
    let path = |upstream: &str| format!("/v2/{upstream}/acme/app/blobs/{digest}");
    let mut first = Download::begin(&three.mirror.url(&path("docker.io")), &[]).await;
    first.receive(1).await;
    let mut second = Download::begin(&three.mirror.url(&path("ghcr.io")), &[]).await;
    second.receive(1).await;
    gate.release();
    for answer in join_all([first.finish(), second.finish()]).await {
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == bytes, "wrong bytes");
    }
    let [hub, github, quay] = three.seen();
    assert_eq!(hub.iter().filter(|line| *line == "cdn GET blob").count(), 1);
    assert!(
        !github
            .iter()
            .any(|line| line.contains(" GET blob") || line.contains("GET acme/app/blobs"))
    );
    assert!(github.contains(&"registry HEAD acme/app/blobs/blob".to_owned()));
    assert_eq!(quay, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_upstream_takes_over_where_the_first_refuses() {
    let three = Three::start().await;
    let bytes = seeded_bytes(9, 1 << 20);
    // docker.io does not have it.
    let digest = three.hubs[1].push_blob("acme/app", bytes.clone());
    let gate = three.hubs[0].on(Origin::Registry).hold(At::Head);
    let path = |upstream: &str| format!("/v2/{upstream}/acme/app/blobs/{digest}");
    let both = async {
        let refused = three.mirror.url(&path("docker.io"));
        let refused = Download::begin(&refused, &[]).await;
        gate.wait_for(1).await;
        let served = three.mirror.url(&path("ghcr.io"));
        let served = Download::begin(&served, &[]).await;
        gate.release();
        join_all([refused.finish(), served.finish()]).await
    };
    let answers = both.await;
    let [refused, served] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert_eq!(refused.status, 404);
    assert_eq!((served.status, served.end), (200, End::Complete));
    assert!(served.body == bytes, "wrong bytes");
    three.mirror.wait_until_cached(&digest).await;
}

#[tokio::test]
async fn what_is_denied_is_neither_asked_for_nor_served_from_the_cache() {
    let three = Three::start_with(|name, upstream| {
        if name == "ghcr.io" {
            upstream.deny = ImagePatterns::parse(["ghcr.io/acme/**"]).unwrap();
        }
        if name == "quay.io" {
            upstream.allow = Some(ImagePatterns::parse(["quay.io/acme/app:2*"]).unwrap());
        }
    })
    .await;
    let image = &three.images[0];
    three.assert_image(&three.mirror.manifest("acme/app", "1").await, 0);
    three.seen();
    for (path, key) in [
        ("/v2/ghcr.io/acme/app/manifests/1".to_owned(), "deny"),
        ("/v2/acme/app/manifests/1?ns=ghcr.io".to_owned(), "deny"),
        (
            format!("/v2/ghcr.io/acme/app/manifests/{}", image.digest),
            "deny",
        ),
        (
            format!("/v2/ghcr.io/acme/app/blobs/{}", image.digest),
            "deny",
        ),
        ("/ghcr.io/v2/acme/app/tags/list".to_owned(), "deny"),
        ("/v2/quay.io/acme/app/manifests/1".to_owned(), "allow"),
        ("/v2/quay.io/other/app/tags/list".to_owned(), "allow"),
    ] {
        let answer = three.mirror.get(&path).await;
        let error = &answer.json()["errors"][0];
        let found = (answer.status, error["code"].as_str());
        assert_eq!(found, (403, Some("DENIED")), "{path}");
        let message = error["message"].as_str().unwrap();
        let named = message.contains(".io\".") && message.contains(&format!(".{key} "));
        assert!(named, "{message}");
        let decided = answer.header("x-mirror-cache");
        assert_eq!(decided, Some("error; reason=denied"), "{path}");
    }
    assert_eq!(three.seen(), nothing());
}

#[tokio::test]
async fn a_listener_says_what_a_name_without_an_upstream_means() {
    let socket = tempfile::tempdir().unwrap();
    let socket = socket.path().join("ghcr.sock");
    let address = format!("unix:{}", socket.display()).parse().unwrap();
    let three = Three::start_on(vec![ListenerSettings {
        address,
        repository: Some("ghcr.io".to_owned()),
    }])
    .await;
    for (path, upstream) in [
        ("/v2/acme/app/manifests/1", 1),
        ("/v2/quay.io/acme/app/manifests/1", 2),
        ("/v2/acme/app/manifests/1?ns=docker.io", 0),
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let answer = exchange(&mut stream, "GET", path, &[]).await;
        three.assert_image(&answer, upstream);
    }
    // The other port is as it was.
    three.assert_image(&three.mirror.manifest("acme/app", "1").await, 0);
}
