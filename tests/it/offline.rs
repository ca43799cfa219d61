//! A mirror that is to ask nobody: what it holds is served at once, however old; the rest does not exist.

use std::time::Duration;

use mirror::config::Settings;

use crate::client::{End, Response};
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Image, ImageSpec};

const NGINX: &str = "library/nginx";
const NOTHING: [&str; 0] = [];

/// A mirror that has pulled an image of one layer, and is offline since. Its clients wait long for a revalidation: no
/// test may.
async fn stage() -> (FakeHub, Image, TestMirror) {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    assert_pulled(&mirror, &image).await;
    for blob in image.first().blobs() {
        mirror.wait_until_cached(&blob.digest).await;
    }
    mirror.get("/v2/library/nginx/tags/list").await;
    let offline = |settings: &mut Settings| {
        settings.server.offline = true;
        settings.cache.revalidate_timeout = Duration::from_hours(1);
    };
    let mirror = mirror.restart_with(offline).await;
    hub.take_requests();
    (hub, image, mirror)
}

/// The whole image; returns the answer to the tag.
async fn assert_pulled(mirror: &TestMirror, image: &Image) -> Response {
    let tag = mirror.manifest(NGINX, "latest").await;
    assert_eq!((tag.status, &tag.body[..]), (200, &image.bytes[..]));
    let platform = image.first();
    let manifest = mirror.manifest(NGINX, &platform.digest).await;
    assert_eq!(
        (manifest.status, &manifest.body[..]),
        (200, &platform.bytes[..])
    );
    for blob in platform.blobs() {
        let answer = mirror.blob(NGINX, &blob.digest).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert_eq!(&answer.body[..], &blob.bytes[..]);
    }
    tag
}

#[tokio::test]
async fn what_is_held_is_served_however_old() {
    let (hub, image, mirror) = stage().await;
    for (age, reason) in [
        (Duration::ZERO, "hit"),
        (Duration::from_hours(1), "stale; reason=offline"),
        (Duration::from_hours(365 * 24), "stale; reason=offline"),
    ] {
        mirror.clock.advance(age);
        let tag = assert_pulled(&mirror, &image).await;
        let outcome = tag.header("x-mirror-cache").unwrap();
        assert!(outcome.starts_with(reason), "after {age:?}: {outcome}");
        let list = mirror.get("/v2/library/nginx/tags/list").await;
        assert_eq!(list.json()["tags"][0], "latest", "after {age:?}");
    }
    assert_eq!(hub.take_summary(), NOTHING);
}

#[tokio::test]
async fn what_is_not_held_does_not_exist() {
    let (hub, image, mirror) = stage().await;
    let absent = format!("sha256:{}", "0".repeat(64));
    for path in [
        "manifests/1.0".to_owned(),
        format!("manifests/{absent}"),
        format!("blobs/{absent}"),
        // Held, but for another platform than the one that was pulled.
        format!("blobs/{}", image.architecture("arm64").config.digest),
    ] {
        for repository in [NGINX, "library/other"] {
            let path = format!("/v2/{repository}/{path}");
            let answer = mirror.get(&path).await;
            assert_eq!(answer.status, 404, "{path}");
            assert_eq!(mirror.head(&path).await.status, 404, "{path}");
        }
    }
    // What another repository holds is not this one's.
    let layer = &image.first().layers[0].digest;
    assert_eq!(mirror.blob("library/other", layer).await.status, 404);
    assert_eq!(mirror.get("/v2/library/other/tags/list").await.status, 404);
    assert_eq!(hub.take_summary(), NOTHING);
}
