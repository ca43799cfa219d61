//! Downloads hold no tag check up: their connections are not its own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use mirror::config::Settings;

use crate::client::Download;
use crate::mirror::TestMirror;
use crate::support::image::seeded_bytes;
use crate::support::{FakeHub, Fault, ImageSpec, Origin, Outcome, Recorded};

const NGINX: &str = "library/nginx";

/// Blob transfers at a time: the default.
const SLOTS: usize = 32;

/// The bytes of a blob that takes minutes at 1 KiB/s.
const LENGTH: usize = 256 * 1024;

/// Tag checks that are measured.
const CHECKS: usize = 21;

/// What a tag check may take more while downloads hold all of their slots: the one figure that is promised.
const MORE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_tag_check_waits_for_no_download() {
    let hub = FakeHub::start().await;
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let [idle, busy] = [
        TestMirror::start_with(&hub, always_expired).await,
        TestMirror::start_with(&hub, always_expired).await,
    ];
    for mirror in [&idle, &busy] {
        mirror.manifest(NGINX, "latest").await;
    }
    let downloads = hold_all_slots(&hub, &busy).await;

    let before = checks(&hub);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // In turns, so that whatever else the machine does slows both.
    for _ in 0..CHECKS {
        without.push(check(&idle).await);
        with.push(check(&busy).await);
    }
    assert_eq!(checks(&hub), before + 2 * CHECKS);
    let (without, with) = (median(without), median(with));
    println!(
        "a tag check: {without:?} by itself, {with:?} beside {SLOTS} downloads and more that wait"
    );
    assert!(with < without + MORE, "{without:?}, then {with:?}");
    assert_eq!(held(&hub.requests()), SLOTS);
    assert!(downloads.iter().all(|it| it.so_far().body.len() < LENGTH));
}

fn always_expired(settings: &mut Settings) {
    settings.cache.tag_ttl = Duration::ZERO;
    let upstream = settings.upstreams.get_mut("docker.io").unwrap();
    assert_eq!(upstream.max_connections, u32::try_from(SLOTS).unwrap());
}

/// Begins two downloads more than there are slots, each of a blob of its own.
async fn hold_all_slots(hub: &FakeHub, mirror: &TestMirror) -> Vec<Download> {
    hub.on(Origin::Cdn).fault(Fault::Pace {
        bytes_per_second: 1024,
    });
    let mut downloads = Vec::new();
    for seed in 0..u64::try_from(SLOTS + 2).unwrap() {
        let digest = hub.push_blob(NGINX, seeded_bytes(seed, LENGTH));
        let url = mirror.url(&format!("/v2/{NGINX}/blobs/{digest}"));
        downloads.push(Download::begin(&url, &[]).await);
    }
    hub.wait_until("all slots are held", |all| held(all) == SLOTS)
        .await;
    downloads
}

/// The transfers that go on.
fn held(requests: &[Recorded]) -> usize {
    let going_on =
        |it: &&Recorded| it.origin == Origin::Cdn && it.outcome == Outcome::Pending && it.sent > 0;
    requests.iter().filter(going_on).count()
}

/// The time of a check of an expired tag, which costs the upstream one `HEAD`.
async fn check(mirror: &TestMirror) -> Duration {
    let path = format!("/v2/{NGINX}/manifests/latest");
    let began = Instant::now();
    let answer = mirror.head(&path).await;
    let time = began.elapsed();
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("x-mirror-cache"),
        Some("revalidated; upstream=docker.io")
    );
    time
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn checks(hub: &FakeHub) -> usize {
    let line = format!("registry HEAD {NGINX}/manifests/latest");
    hub.summary().iter().filter(|it| **it == line).count()
}
