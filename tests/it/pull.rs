//! The main job: an image is pulled through once, and served from then on.

use std::time::Duration;

use crate::client::End;
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Image, ImageSpec};

/// Pulls like dockerd does: tag, index, manifest, then config and layers.
async fn pull(mirror: &TestMirror, image: &Image) {
    let head = mirror.head("/v2/library/nginx/manifests/latest").await;
    assert_eq!(
        (head.status, head.header("docker-content-digest")),
        (200, Some(&*image.digest))
    );
    let index = mirror.manifest("library/nginx", &image.digest).await;
    assert_eq!((index.status, &index.body[..]), (200, &image.bytes[..]));
    assert_eq!(index.header("content-type"), Some(&*image.media_type));
    let platform = image.first();
    let manifest = mirror.manifest("library/nginx", &platform.digest).await;
    assert_eq!(
        (manifest.status, &manifest.body[..]),
        (200, &platform.bytes[..])
    );
    for blob in platform.blobs() {
        let answer = mirror.blob("library/nginx", &blob.digest).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert_eq!(&answer.body[..], &blob.bytes[..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ten_layer_image_costs_the_upstream_what_it_must_and_then_nothing() {
    let hub = FakeHub::start().await;
    let image = hub.push_image("library/nginx", "latest", ImageSpec::layers(10));
    let mirror = TestMirror::start(&hub).await;

    pull(&mirror, &image).await;
    let summary = hub.take_summary();
    let mut expected = vec![
        "token GET library/nginx:pull".to_owned(),
        "registry GET library/nginx/manifests/latest".to_owned(),
        "registry GET library/nginx/manifests/amd64.manifest".to_owned(),
    ];
    let layers = (0..10).map(|layer| format!("amd64.layer{layer}"));
    for blob in ["amd64.config".to_owned()].into_iter().chain(layers) {
        expected.push(format!("registry GET library/nginx/blobs/{blob}"));
        expected.push(format!("cdn GET {blob}"));
    }
    assert_eq!(summary, expected);

    pull(&mirror, &image).await;
    let mirror = mirror.restart().await;
    pull(&mirror, &image).await;
    assert_eq!(hub.take_summary(), [""; 0], "warm, also after a restart");

    mirror.clock.advance(Duration::from_secs(61));
    pull(&mirror, &image).await;
    assert_eq!(
        hub.take_summary(),
        [
            "token GET library/nginx:pull",
            "registry HEAD library/nginx/manifests/latest"
        ]
    );
}

#[tokio::test]
async fn what_the_upstream_and_the_downloads_did_is_in_the_metrics() {
    let hub = FakeHub::start().await;
    let image = hub.push_image("library/nginx", "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    pull(&mirror, &image).await;
    let page = String::from_utf8(mirror.get("/metrics").await.body).unwrap();
    for line in [
        "mirror_upstream_requests_total{upstream=\"docker.io\",kind=\"manifest_get\",code=\"success\"} 2",
        "mirror_upstream_requests_total{upstream=\"docker.io\",kind=\"blob_get\",code=\"redirect\"} 2",
        "mirror_upstream_ratelimit_limit{upstream=\"docker.io\",credential=\"anonymous\"} 100",
        "mirror_upstream_ratelimit_remaining{upstream=\"docker.io\",credential=\"anonymous\"} 98",
        "mirror_fetch_ends_total{end=\"complete\"} 2",
        "mirror_cache_requests_total{kind=\"blob\",result=\"miss\"} 2",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is not in\n{page}"
        );
    }
}

/// Where a blob's bytes are on disk.
fn file_of(mirror: &TestMirror, digest: &str) -> std::path::PathBuf {
    let hex = digest.strip_prefix("sha256:").expect("a SHA-256 digest");
    mirror.data().join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[tokio::test]
async fn a_small_blob_is_served_from_memory_once_it_was_read() {
    let hub = FakeHub::start().await;
    let image = hub.push_image("library/nginx", "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    pull(&mirror, &image).await;
    pull(&mirror, &image).await;
    hub.take_summary();
    let config = &image.first().config;
    std::fs::remove_file(file_of(&mirror, &config.digest)).unwrap();
    let whole = mirror.blob("library/nginx", &config.digest).await;
    assert_eq!((whole.status, &whole.body[..]), (200, &config.bytes[..]));
    let path = format!("/v2/library/nginx/blobs/{}", config.digest);
    let part = mirror.get_with(&path, &[("range", "bytes=10-19")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &config.bytes[10..20]));
    let stranger = mirror.blob("library/other", &config.digest).await;
    assert_eq!(stranger.status, 404, "membership counts in memory too");
}

#[tokio::test]
async fn a_small_blob_that_is_damaged_on_disk_is_fetched_again() {
    let hub = FakeHub::start().await;
    let image = hub.push_image("library/nginx", "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    pull(&mirror, &image).await;
    let config = &image.first().config;
    mirror.wait_until_cached(&config.digest).await;
    hub.take_summary();
    let mut damaged = config.bytes.to_vec();
    damaged[5] ^= 1;
    std::fs::write(file_of(&mirror, &config.digest), damaged).unwrap();
    let again = mirror.blob("library/nginx", &config.digest).await;
    assert_eq!((again.status, &again.body[..]), (200, &config.bytes[..]));
    assert_eq!(
        again.header("x-mirror-cache"),
        Some("miss; reason=lost; upstream=docker.io")
    );
    assert_eq!(
        hub.take_summary(),
        [
            "registry GET library/nginx/blobs/amd64.config",
            "cdn GET amd64.config"
        ]
    );
    mirror.wait_until_cached(&config.digest).await;
}
