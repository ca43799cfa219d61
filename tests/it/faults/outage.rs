//! An upstream that cannot be reached, says nothing, or wants to be left alone: with a copy and without.

use std::time::Duration;

use futures_util::future::join_all;
use mirror::config::{Settings, UpstreamSettings};

use super::tagged::{GET, HEAD, TOKEN, Tagged};
use super::{NGINX, NOTHING, Stage, Told, assert_error, at_registry, fetch, host, outcome};
use crate::client::Response;
use crate::support::{At, FakeHub, Fault, Origin};

fn upstream(settings: &mut Settings) -> &mut UpstreamSettings {
    settings.upstreams.get_mut("docker.io").unwrap()
}

/// A failure is not repeated.
fn once(settings: &mut Settings) {
    upstream(settings).retries = 0;
}

/// Silence is not waited for long, and not met twice.
fn impatient(settings: &mut Settings) {
    once(settings);
    upstream(settings).timeout = Duration::from_secs(1);
}

/// 503, when to come back, and which host is not there.
#[track_caller]
fn assert_unreachable(answer: &Response, culprit: &str) {
    assert_error(answer, 503, "UNKNOWN", culprit);
    assert_eq!(answer.header("retry-after"), Some("5"));
}

#[tokio::test]
async fn a_refused_connection_without_a_copy_is_503() {
    let tagged = Tagged::absent(once).await;
    tagged.assert_served(&tagged.pull_by_digest().await);
    tagged.hub.take_requests();
    tagged.hub.stop().await;
    let registry = host(&tagged.hub, Origin::Registry);
    assert_unreachable(&tagged.pull().await, &registry);
    let absent = &tagged.image.first().digest;
    assert_unreachable(&tagged.mirror.manifest(NGINX, absent).await, &registry);
    let layer = &tagged.image.first().layers[0].digest;
    assert_unreachable(&tagged.mirror.blob(NGINX, layer).await, &registry);
    let tags = format!("/v2/{NGINX}/tags/list");
    assert_unreachable(&tagged.mirror.get(&tags).await, &registry);
    tagged.assert_asked([]);
    assert_eq!(tagged.mirror.cached(), [""; 0]);
    tagged.hub.restart().await;
    tagged.assert_noticed([HEAD]).await;
    tagged.assert_next_pull([GET]).await;
}

#[tokio::test]
async fn a_refused_connection_with_a_copy_is_stale() {
    let tagged = Tagged::expired(once).await;
    tagged.hub.stop().await;
    let answer = tagged.pull().await;
    let registry = host(&tagged.hub, Origin::Registry);
    tagged.assert_stale(&answer, "unreachable", &registry);
    let by_digest = tagged.pull_by_digest().await;
    tagged.assert_served(&by_digest);
    assert_eq!(outcome(&by_digest), "hit; upstream=docker.io");
    tagged.assert_asked([]);
    tagged.hub.restart().await;
    tagged.assert_recovers([HEAD, HEAD]).await;
}

#[tokio::test]
async fn a_copy_outlives_a_restart_without_an_upstream() {
    let mut tagged = Tagged::expired(once).await;
    let layer = tagged.image.first().layers[0].clone();
    super::assert_complete(&tagged.mirror.blob(NGINX, &layer.digest).await, &layer);
    tagged.mirror.wait_until_cached(&layer.digest).await;
    tagged.hub.take_requests();
    tagged.hub.stop().await;
    tagged.mirror = tagged.mirror.restart().await;
    let token = host(&tagged.hub, Origin::Token);
    tagged.assert_stale(&tagged.pull().await, "unreachable", &token);
    super::assert_complete(&tagged.mirror.blob(NGINX, &layer.digest).await, &layer);
    tagged.assert_asked([]);
    tagged.hub.restart().await;
    tagged.assert_recovers([TOKEN, HEAD, HEAD]).await;
}

#[tokio::test]
async fn a_black_hole_without_a_copy_is_504() {
    let tagged = Tagged::absent(impatient).await;
    tagged.registry().fault(Fault::BlackHole);
    let registry = host(&tagged.hub, Origin::Registry);
    assert_error(&tagged.pull().await, 504, "UNKNOWN", &registry);
    tagged.assert_asked([TOKEN, GET]);
    tagged.assert_noticed([HEAD]).await;
    tagged.assert_next_pull([GET]).await;
}

#[tokio::test]
async fn a_black_hole_with_a_copy_is_stale() {
    let tagged = Tagged::expired(impatient).await;
    tagged.registry().fault(Fault::BlackHole);
    let answer = tagged.pull().await;
    tagged.assert_stale(&answer, "timeout", &host(&tagged.hub, Origin::Registry));
    tagged.assert_asked([HEAD]);
    tagged.assert_recovers([HEAD, HEAD]).await;
}

#[tokio::test]
async fn a_client_with_a_copy_waits_no_longer_than_it_must() {
    let wait = Duration::from_millis(300);
    let tagged = Tagged::expired(|settings| settings.cache.revalidate_timeout = wait).await;
    let gate = tagged.registry().hold(At::Head);
    let answer = tagged.pull().await;
    tagged.assert_stale(&answer, "timeout", "no answer within 300ms");
    tagged.assert_asked([HEAD]);
    // The question went on, and its answer counts for those who come later.
    gate.release();
    while !outcome(&tagged.pull().await).starts_with("hit;") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tagged.assert_next_pull([]).await;
}

#[tokio::test]
async fn a_black_hole_for_a_blob_is_504() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let change = |upstream: &mut UpstreamSettings| {
            upstream.retries = 1;
            upstream.timeout = Duration::from_secs(1);
        };
        let stage = Stage::with(FakeHub::start().await, told, change).await;
        stage.registry().fault(Fault::BlackHole);
        let answer = stage.pull().await;
        assert_error(&answer, 504, "UNKNOWN", &host(&stage.hub, Origin::Registry));
        stage.assert_asked([at_registry()]);
        stage.assert_nothing_kept();
        stage.assert_noticed("registry GET /v2/").await;
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_cdn_that_is_a_black_hole_once_is_asked_again() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let second = Duration::from_secs(1);
        let hub = FakeHub::start().await;
        let stage = Stage::with(hub, told, |upstream| upstream.timeout = second).await;
        stage.cdn().times(1).fault(Fault::BlackHole);
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_cdn_that_refuses_connections_is_named() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::start().await;
        let stage = Stage::with(hub, told, |upstream| upstream.retries = 1).await;
        stage.hub.stop_origin(Origin::Cdn).await;
        let answer = stage.pull().await;
        assert_unreachable(&answer, &host(&stage.hub, Origin::Cdn));
        stage.assert_asked([at_registry(), at_registry()]);
        stage.assert_nothing_kept();
        stage.hub.restart_origin(Origin::Cdn).await;
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_rate_limit_without_a_copy_is_503_and_says_when_to_come_back() {
    for (retry_after, told) in [(Some(17), "17"), (None, "60")] {
        let tagged = Tagged::absent(|_| {}).await;
        tagged
            .hub
            .rate_limited(true, retry_after.map(Duration::from_secs));
        let answer = tagged.pull().await;
        let registry = host(&tagged.hub, Origin::Registry);
        assert_error(&answer, 503, "TOOMANYREQUESTS", &registry);
        assert_eq!(answer.header("retry-after"), Some(told));
        tagged.assert_asked([TOKEN, GET]);
        tagged.hub.rate_limited(false, None);
        let wait = Duration::from_secs(retry_after.unwrap_or_default());
        tagged.mirror.clock.advance(wait);
        tagged.assert_next_pull([GET]).await;
    }
}

#[tokio::test]
async fn a_rate_limit_with_a_copy_is_stale() {
    let tagged = Tagged::expired(|_| {}).await;
    tagged.registry().fault(Fault::status(429));
    let answer = tagged.pull().await;
    tagged.assert_stale(
        &answer,
        "rate_limited",
        &host(&tagged.hub, Origin::Registry),
    );
    tagged.assert_asked([HEAD]);
    tagged.assert_recovers([HEAD]).await;
}

#[tokio::test]
async fn a_tag_that_moved_while_the_limit_is_used_up_is_stale() {
    let tagged = Tagged::expired(|_| {}).await;
    let other = &tagged.image.architecture("arm64").digest;
    tagged.hub.move_tag(NGINX, "latest", other);
    tagged.hub.rate_limited(true, None);
    let answer = tagged.pull().await;
    tagged.assert_stale(
        &answer,
        "rate_limited",
        &host(&tagged.hub, Origin::Registry),
    );
    let by_digest = "registry GET library/nginx/manifests/arm64.manifest";
    tagged.assert_asked([HEAD, by_digest]);
    tagged.hub.rate_limited(false, None);
    let registry = host(&tagged.hub, Origin::Registry);
    tagged.assert_stale(&tagged.pull().await, "rate_limited", &registry);
    tagged.assert_asked([]);
    // The limit that the upstream has lifted is found out about by the next question, which comes by itself.
    let moved = async {
        while tagged.pull().await.header("docker-content-digest") != Some(&**other) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tagged.mirror.clock.advance(Duration::from_millis(20));
        }
    };
    let soon = tokio::time::timeout(Duration::from_secs(10), moved).await;
    soon.expect("the tag has moved within ten seconds");
    let asked = tagged.hub.take_summary();
    assert_eq!(
        asked.last().map(String::as_str),
        Some(by_digest),
        "{asked:?}"
    );
    let pulls = asked.iter().filter(|line| *line == by_digest).count();
    assert_eq!(pulls, 1, "{asked:?}");
}

#[tokio::test]
async fn a_burst_of_5xx_with_a_copy_is_outlasted_or_stale() {
    let tagged = Tagged::expired(|settings| upstream(settings).retries = 2).await;
    tagged.registry().times(2).fault(Fault::status(503));
    let answer = tagged.pull().await;
    tagged.assert_served(&answer);
    assert_eq!(outcome(&answer), "revalidated; upstream=docker.io");
    tagged.assert_asked([HEAD, HEAD, HEAD]);

    tagged.mirror.clock.advance(Duration::from_secs(61));
    tagged.registry().fault(Fault::status(503));
    let answer = tagged.pull().await;
    tagged.assert_stale(
        &answer,
        "upstream_error",
        &host(&tagged.hub, Origin::Registry),
    );
    tagged.assert_asked([HEAD, HEAD, HEAD]);
    tagged.assert_recovers([HEAD]).await;
}

#[tokio::test]
async fn a_list_of_tags_outlives_its_upstream() {
    let tagged = Tagged::absent(once).await;
    let path = format!("/v2/{NGINX}/tags/list");
    let list = tagged.mirror.get(&path).await;
    assert_eq!(
        (list.status, &list.json()["tags"]),
        (200, &["latest"].as_slice().into())
    );
    tagged.mirror.clock.advance(Duration::from_secs(61));
    tagged.hub.stop().await;
    let stale = tagged.mirror.get(&path).await;
    assert_eq!((stale.status, &stale.body), (200, &list.body));
    assert_eq!(
        outcome(&stale),
        "stale; reason=unreachable; age=61; upstream=docker.io"
    );
    let warning = stale.header("warning").unwrap();
    assert!(
        warning.contains(&host(&tagged.hub, Origin::Registry)),
        "{warning}"
    );
}
