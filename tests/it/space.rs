//! The limit on the data directory: never passed, and never a reason to fail a pull.

use std::time::Duration;

use mirror::blobs::{Limits, Share};

use crate::client::End;
use crate::du::Watch;
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Image, ImageSpec};

const MIB: u64 = 1024 * 1024;
const NGINX: &str = "library/nginx";

async fn limited(hub: &FakeHub, bytes: u64) -> TestMirror {
    TestMirror::start_with(hub, |settings| {
        settings.cache.limits = Limits {
            max_size: Share::Bytes(bytes),
            min_free: Share::Bytes(0),
        };
    })
    .await
}

fn images(hub: &FakeHub, number: u64, layer: u64) -> Vec<Image> {
    let size = usize::try_from(layer).expect("a small layer");
    let push = |seed: u64| {
        let spec = ImageSpec::layer_sizes(&[size, size]).seed(seed);
        hub.push_image(NGINX, &format!("v{seed}"), spec)
    };
    (0..number).map(push).collect()
}

async fn pull(mirror: &TestMirror, image: &Image) {
    let platform = image.first();
    assert_eq!(mirror.manifest(NGINX, &image.digest).await.status, 200);
    let manifest = mirror.manifest(NGINX, &platform.digest).await;
    assert_eq!(manifest.body[..], platform.bytes[..]);
    for blob in platform.blobs() {
        let answer = mirror.blob(NGINX, &blob.digest).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body[..] == blob.bytes[..], "wrong bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_never_takes_more_than_its_limit_and_every_pull_is_right() {
    let hub = FakeHub::start().await;
    let images = images(&hub, 40, MIB);
    let mirror = limited(&hub, 24 * MIB).await;
    let watch = Watch::start(mirror.data());
    for round in images.chunks(8) {
        futures_util::future::join_all(round.iter().map(|image| pull(&mirror, image))).await;
        // In daily use, so it outlives what is pulled once.
        pull(&mirror, &images[0]).await;
    }
    let most = watch.stop().peak;
    assert!(most <= 24 * MIB, "{most} bytes at the most");
    assert!(most >= 12 * MIB, "the limit was not even near: {most}");
    let held = mirror.cached();
    assert!(
        held.contains(&images[0].first().layers[0].digest),
        "used again and again"
    );
    assert!(
        !held.contains(&images[1].first().layers[0].digest),
        "used once, longest ago"
    );
}

#[tokio::test]
async fn what_does_not_fit_passes_through() {
    let hub = FakeHub::start().await;
    let images = images(&hub, 1, 8 * MIB);
    let mirror = limited(&hub, 4 * MIB).await;
    for _ in 0..2 {
        pull(&mirror, &images[0]).await;
        let layer = &images[0].first().layers[0];
        let answer = mirror.blob(NGINX, &layer.digest).await;
        assert_eq!(
            answer.header("x-mirror-cache"),
            Some("bypass; reason=no_room; upstream=docker.io")
        );
        assert!(!mirror.cached().contains(&layer.digest));
    }
}

#[tokio::test]
async fn the_order_of_eviction_outlives_a_restart() {
    let hub = FakeHub::start().await;
    let images = images(&hub, 12, MIB);
    let mirror = limited(&hub, 12 * MIB).await;
    pull(&mirror, &images[0]).await;
    pull(&mirror, &images[1]).await;
    mirror.clock.advance(Duration::from_secs(1));
    pull(&mirror, &images[0]).await;
    let mirror = mirror.restart().await;
    for image in &images[2..] {
        mirror.clock.advance(Duration::from_secs(1));
        pull(&mirror, image).await;
    }
    let held = mirror.cached();
    assert!(
        held.contains(&images[0].first().layers[0].digest),
        "used again before the restart"
    );
    assert!(
        !held.contains(&images[1].first().layers[0].digest),
        "used once"
    );
}
