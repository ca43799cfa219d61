//! Between the mirror and its upstreams: mirrors of these, Docker's logins, and the system's authorities.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::mirror::TestMirror;
use crate::process::Launch;
use crate::support::{At, FakeHub, Fault, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";
const LAYER: usize = 300_000;

/// A hub, another hub that is its mirror, and a mirror of our own in front of both.
struct Chain {
    hub: FakeHub,
    other: FakeHub,
    mirror: TestMirror,
    image: Image,
}

impl Chain {
    async fn new() -> Self {
        let (hub, other) = (FakeHub::start().await, FakeHub::start().await);
        let spec = || ImageSpec::layer_sizes(&[LAYER]);
        let image = hub.push_image(NGINX, "latest", spec());
        other.push_image(NGINX, "latest", spec());
        let url = other.registry_url();
        let mirror = TestMirror::start_with(&hub, |settings| {
            let upstream = settings.upstreams.get_mut("docker.io").unwrap();
            upstream.mirrors = vec![url.parse().unwrap()];
        })
        .await;
        Self {
            hub,
            other,
            mirror,
            image,
        }
    }

    /// What the CDNs of the other hub and of the hub itself were asked since the last call.
    fn sent(&self) -> (Vec<String>, Vec<String>) {
        let at_cdn = |hub: &FakeHub| {
            let lines = hub.take_summary().into_iter();
            lines.filter(|line| line.starts_with("cdn")).collect()
        };
        (at_cdn(&self.other), at_cdn(&self.hub))
    }
}

#[tokio::test]
async fn a_whole_image_comes_from_a_mirror() {
    let chain = Chain::new().await;
    let platform = chain.image.first();
    for reference in ["latest", &platform.digest] {
        assert_eq!(chain.mirror.manifest(NGINX, reference).await.status, 200);
    }
    for blob in platform.blobs() {
        let answer = chain.mirror.blob(NGINX, &blob.digest).await;
        assert!(answer.status == 200 && answer.body == blob.bytes);
    }
    assert_eq!(chain.hub.summary(), Vec::<String>::new());
}

#[tokio::test]
async fn a_small_blob_with_wrong_bytes_comes_from_the_upstream_at_once() {
    let chain = Chain::new().await;
    let config = &chain.image.first().config;
    chain.other.on(Origin::Cdn).fault(Fault::FlipBit { at: 3 });
    let answer = chain.mirror.blob(NGINX, &config.digest).await;
    assert!(answer.status == 200 && answer.body == config.bytes);
    let line = vec![format!("cdn GET {}", chain.hub.short(&config.digest))];
    assert_eq!(chain.sent(), (line.clone(), line));
}

#[tokio::test]
async fn a_mirror_is_not_asked_for_the_same_wrong_bytes_again() {
    let chain = Chain::new().await;
    let layer = &chain.image.first().layers[0];
    chain.other.on(Origin::Cdn).fault(Fault::FlipBit { at: 0 });
    let line = vec![format!("cdn GET {}", chain.hub.short(&layer.digest))];
    // Its beginning has gone out: this download cannot be mended.
    let answer = chain.mirror.blob(NGINX, &layer.digest).await;
    assert!(answer.body.len() < LAYER, "wrong bytes, to the end");
    assert_eq!(chain.sent(), (line.clone(), Vec::new()));
    let answer = chain.mirror.blob(NGINX, &layer.digest).await;
    assert!(answer.status == 200 && answer.body == layer.bytes);
    assert_eq!(chain.sent(), (Vec::new(), line));
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_from_the_upstream() {
    for fault in [
        Fault::Truncate(At::Percent(50)),
        Fault::TruncateChunked(At::Percent(50)),
        Fault::Reset(At::Percent(50)),
        Fault::Stall(At::Percent(50)),
    ] {
        let chain = Chain::new().await;
        let layer = &chain.image.first().layers[0];
        for reference in ["latest", &chain.image.first().digest] {
            chain.mirror.manifest(NGINX, reference).await;
        }
        chain.sent();
        chain.other.on(Origin::Cdn).fault(fault.clone());
        let answer = chain.mirror.blob(NGINX, &layer.digest).await;
        assert!(
            answer.status == 200 && answer.body == layer.bytes,
            "{fault:?}"
        );
        let (other, hub) = chain.sent();
        assert_eq!((other.len(), hub.len()), (1, 1), "{fault:?}");
        let resumed = format!("cdn GET {} bytes=", chain.hub.short(&layer.digest));
        assert!(hub[0].starts_with(&resumed), "{hub:?}");
    }
}

#[tokio::test]
async fn a_mirror_of_another_length_is_passed_over() {
    let chain = Chain::new().await;
    let layer = &chain.image.first().layers[0];
    for reference in ["latest", &chain.image.first().digest] {
        chain.mirror.manifest(NGINX, reference).await;
    }
    chain.other.on(Origin::Cdn).fault(Fault::WrongLength(1));
    let answer = chain.mirror.blob(NGINX, &layer.digest).await;
    assert!(answer.status == 200 && answer.body == layer.bytes);
}

/// A program `docker-credential-test` in `directory` that knows alice's login for `host`.
fn write_helper(directory: &Path, host: &str) {
    let helper = directory.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\n[ \"$1 $(cat)\" = 'get {host}' ] || exit 1\n\
         echo '{{\"ServerURL\":\"{host}\",\"Username\":\"alice\",\"Secret\":\"correct\"}}'\n"
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#);
    fs::write(directory.join("config.json"), config).unwrap();
}

#[tokio::test]
async fn a_credential_helper_is_asked_for_the_login() {
    let hub = FakeHub::builder().user("alice", "correct").start().await;
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    let url = hub.registry_url();
    write_helper(directory.path(), url.split_once("://").unwrap().1);
    let path = format!("PATH={place}:{}", std::env::var("PATH").unwrap());
    let mirror = Launch::of(&hub, &directory.path().join("data"))
        .set("UPSTREAMS__DOCKER_IO__CREDENTIALS", "docker")
        .set("ACCESS__ANONYMOUS_PRIVATE", "true")
        .within(&["env", &path, &format!("DOCKER_CONFIG={place}")])
        .start()
        .await;
    assert_eq!(mirror.manifest(NGINX, "latest").await.status, 200);
    assert_eq!(hub.summary()[0], "token GET library/nginx:pull (alice)");
    let log = mirror.stop().await.stderr;
    assert!(!log.contains("correct"), "{log}");
}

#[tokio::test]
async fn an_authority_of_the_system_is_trusted_by_api_token_and_cdn_hosts() {
    let hub = FakeHub::builder().tls(true).start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    fs::write(&file, hub.ca_pem()).unwrap();
    let mirror = Launch::of(&hub, &directory.path().join("data"))
        .within(&["env", &format!("SSL_CERT_FILE={}", file.display())])
        .start()
        .await;
    assert_eq!(mirror.manifest(NGINX, "latest").await.status, 200);
    let config = &image.first().config;
    let answer = mirror.blob(NGINX, &config.digest).await;
    assert!(answer.status == 200 && answer.body == config.bytes);
    let asked = |origin| hub.requests().iter().any(|it| it.origin == origin);
    assert!(
        [Origin::Registry, Origin::Token, Origin::Cdn]
            .into_iter()
            .all(asked)
    );
}
