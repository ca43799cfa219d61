//! What pulls cost of the upstream's rate limit.

#![expect(clippy::print_stdout, reason = "the test shows what was asked")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use crate::client::{End, Response};
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Fault, Image, ImageSpec, Origin};

const APP: &str = "library/app";
const TAGS: [&str; 5] = ["1.0", "1.1", "2.0", "2.1", "latest"];
const CLIENTS: usize = 200;

/// How often the tags expire.
const PERIODS: usize = 3;

#[track_caller]
fn assert_got(answer: &Response, bytes: &[u8]) {
    assert_eq!(
        (answer.status, answer.end),
        (200, End::Complete),
        "{}",
        answer.head
    );
    assert!(answer.body == bytes, "wrong bytes");
}

/// Pulls one platform as containerd does.
async fn pull(mirror: &TestMirror, tag: &str, image: &Image) {
    let index = mirror.manifest(APP, tag).await;
    assert_got(&index, &image.bytes);
    let platform = image.first();
    let manifest = mirror.manifest(APP, &platform.digest).await;
    assert_got(&manifest, &platform.bytes);
    let blobs = platform.blobs().map(async |blob| {
        assert_got(&mirror.blob(APP, &blob.digest).await, &blob.bytes);
    });
    join_all(blobs).await;
}

/// 200 clients at once, each of which pulls every tag, beginning with another one.
async fn pull_all(mirror: &TestMirror, images: &[(&str, Image)]) {
    let clients = (0..CLIENTS).map(async |number| {
        for step in 0..images.len() {
            let (tag, image) = &images[(number + step) % images.len()];
            pull(mirror, tag, image).await;
        }
    });
    join_all(clients).await;
}

/// How often each line was asked for.
fn counted(lines: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line).or_default() += 1;
    }
    counts
}

fn of(lines: &[String], method: &str) -> usize {
    let is_manifest = |line: &&String| {
        line.starts_with(&format!("registry {method}")) && line.contains("/manifests/")
    };
    lines.iter().filter(is_manifest).count()
}

async fn assert_ten_pulls_are_enough(latency: Option<Duration>, period: Duration) {
    let hub = FakeHub::start().await;
    let images: Vec<_> = (0..)
        .zip(TAGS)
        .map(|(seed, tag)| {
            (
                tag,
                hub.push_image(APP, tag, ImageSpec::layers(1).seed(seed)),
            )
        })
        .collect();
    let mirror = TestMirror::start(&hub).await;
    // Every manifest GET counts, and the eleventh is refused.
    hub.set_rate_limit(Some(10));
    if let Some(latency) = latency {
        for origin in Origin::ALL {
            hub.on(origin).fault(Fault::Delay(latency));
        }
    }
    let mut gets = 0;
    for number in 1..=PERIODS {
        pull_all(&mirror, &images).await;
        let lines = hub.take_summary();
        println!("period {number} of {period:?}, latency {latency:?}:");
        for (line, count) in counted(lines.clone()) {
            println!("  {count} x {line}");
        }
        gets += of(&lines, "GET");
        assert!(of(&lines, "HEAD") <= TAGS.len(), "{lines:#?}");
        mirror.clock.advance(period);
    }
    assert_eq!(gets, 10);
    // There is none left, not even to ask, and every pull still succeeds.
    hub.rate_limited(true, None);
    hub.on(Origin::Registry).fault(Fault::status(429));
    pull_all(&mirror, &images).await;
    assert_eq!(of(&hub.take_summary(), "GET"), 0);
}

/// How long a tag is fresh.
const TTL: Duration = Duration::from_secs(61);

/// How long a tag is fresh with no pull left.
const STRETCHED: Duration = Duration::from_secs(16 * 60 + 1);

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_of_five_tags_cost_ten_pulls() {
    for period in [TTL, STRETCHED] {
        assert_ten_pulls_are_enough(None, period).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_of_five_tags_cost_ten_pulls_of_a_slow_upstream() {
    for period in [TTL, STRETCHED] {
        assert_ten_pulls_are_enough(Some(Duration::from_millis(800)), period).await;
    }
}

#[tokio::test]
async fn tags_are_fresh_for_longer_as_pulls_become_few() {
    let hub = FakeHub::start().await;
    hub.set_rate_limit(Some(20));
    let mirror = TestMirror::start(&hub).await;
    for (spent, factor) in [
        (10, 1),
        (11, 2),
        (15, 2),
        (16, 4),
        (18, 4),
        (19, 8),
        (20, 16),
    ] {
        let pulled = 20 - left(&mirror).await.unwrap_or(20);
        for number in pulled..spent {
            let tag = format!("v{number}");
            hub.push_image(APP, &tag, ImageSpec::layers(1).seed(number));
            assert_eq!(mirror.manifest(APP, &tag).await.status, 200);
        }
        // The tag is confirmed, and then asked for again within and after its time.
        mirror.clock.advance(TTL * 20);
        assert_eq!(mirror.manifest(APP, "v0").await.status, 200);
        hub.take_summary();
        mirror.clock.advance(Duration::from_secs(60 * factor - 1));
        assert_eq!(mirror.manifest(APP, "v0").await.status, 200);
        assert_eq!(hub.take_summary(), [""; 0], "{spent} of 20 spent");
        mirror.clock.advance(Duration::from_secs(1));
        assert_eq!(mirror.manifest(APP, "v0").await.status, 200);
        let asked = "registry HEAD library/app/manifests/v0".to_owned();
        assert!(hub.take_summary().contains(&asked), "{spent} of 20 spent");
    }
}

/// The pulls that are left, as the metrics have it.
async fn left(mirror: &TestMirror) -> Option<u64> {
    let page = String::from_utf8(mirror.get("/metrics").await.body).ok()?;
    let mut lines = page.lines();
    let line = lines.find(|line| line.starts_with("mirror_upstream_ratelimit_remaining{"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// What clients and the mirror itself want during a limit costs no more than its probes.
#[tokio::test(flavor = "multi_thread")]
async fn tags_in_trouble_and_misses_cost_one_request_in_five_seconds_of_a_limit() {
    const TAGS_IN_TROUBLE: usize = 16;
    const MISSES: usize = 50;
    let hub = FakeHub::start().await;
    let image = hub.push_image(APP, "latest", ImageSpec::layers(1));
    let tags: Vec<_> = (0..TAGS_IN_TROUBLE).map(|it| format!("t{it}")).collect();
    for tag in &tags {
        hub.move_tag(APP, tag, &image.digest);
    }
    for number in 0..MISSES {
        hub.push_image(&format!("library/r{number}"), "1", ImageSpec::layers(1));
    }
    let mirror = TestMirror::start(&hub).await;
    for tag in &tags {
        assert_got(&mirror.manifest(APP, tag).await, &image.bytes);
    }
    mirror.clock.advance(Duration::from_secs(61));
    hub.take_requests();
    hub.on(Origin::Registry).fault(Fault::status(429));
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(16) {
        let held = tags.iter().map(async |tag| {
            assert_got(&mirror.manifest(APP, tag).await, &image.bytes);
        });
        let missed = (0..MISSES).map(async |number| {
            let name = format!("library/r{number}");
            let by_tag = mirror.manifest(&name, "1").await;
            let blob = &image.first().layers[0].digest;
            let layer = mirror.blob(&name, blob).await;
            assert!(by_tag.status != 200 && by_tag.status != 429);
            assert!(layer.status != 429);
        });
        join_all(held).await;
        join_all(missed).await;
        mirror.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let seen = hub.take_requests();
    let registry: Vec<_> = seen
        .iter()
        .filter(|it| it.origin == Origin::Registry)
        .map(|it| format!("{} {}", it.method, it.path))
        .collect();
    // Those that were on their way when the first was refused, eight at most, and then a probe in five seconds.
    println!("{registry:#?}");
    assert!(registry.len() <= 8 + 4, "{registry:#?}");
}
