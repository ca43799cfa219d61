//! Blobs that arrive damaged, short, long, slowly, or not at all.

use std::time::Duration;

use futures_util::future::join_all;

use super::{
    EXCESS, HELD_BACK, NOTHING, Stage, Told, assert_error, assert_not_delivered, at_cdn,
    at_registry, fetch, host, line, resume, token,
};
use crate::client::End;
use crate::support::{At, FakeHub, Fault, Origin};

#[tokio::test]
async fn a_flipped_bit_is_never_delivered_as_complete() {
    join_all(Stage::both().await.map(async |stage| {
        let last = stage.layer().bytes.len() - 1;
        for at in [0, 1000, last] {
            stage.cdn().fault(Fault::FlipBit { at: at as u64 });
            stage.assert_tail_held_back(&stage.pull().await, Some(at));
            stage.assert_asked([fetch()]);
            stage.assert_nothing_kept();
            stage.hub.clear_faults();
        }
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn all_but_the_tail_is_delivered_before_the_end_and_the_tail_not_before_the_digest() {
    join_all(Stage::both().await.map(async |stage| {
        let length = stage.layer().bytes.len();
        let gate = stage.cdn().times(1).hold(At::Percent(99));
        let at = length as u64 - 1;
        stage.cdn().times(1).fault(Fault::FlipBit { at });
        let mut client = stage.begin().await;
        client.receive(length - HELD_BACK).await;
        gate.release();
        let answer = client.finish().await;
        stage.assert_tail_held_back(&answer, Some(length - 1));
        assert_eq!(answer.body.len(), length - HELD_BACK);
        stage.assert_asked([fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_small_blob_with_a_flipped_bit_is_not_delivered_at_all() {
    let stage = Stage::new(Told::Nothing).await;
    let bytes = b"all of it is tail".to_vec();
    let digest = stage.hub.push_blob(super::NGINX, bytes.clone());
    stage.hub.name(&digest, "small");
    stage.hub.on(Origin::Cdn).fault(Fault::FlipBit { at: 3 });
    let answer = stage.mirror.blob(super::NGINX, &digest).await;
    assert_not_delivered(&answer, &host(&stage.hub, Origin::Cdn));
    assert!(answer.status == 502 || answer.body.is_empty());
    stage.assert_nothing_kept();
    stage.hub.clear_faults();
    let answer = stage.mirror.blob(super::NGINX, &digest).await;
    assert_eq!((answer.end, answer.body), (End::Complete, bytes));
    let once = ["registry GET library/nginx/blobs/small", "cdn GET small"];
    assert_eq!(stage.asked(), [once, once].concat());
}

#[tokio::test]
async fn a_truncated_blob_is_resumed() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().times(1).fault(Fault::Truncate(At::Percent(60)));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), resume(stage.at(60))]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_truncation_that_looks_like_the_end_is_noticed() {
    for fault in [
        Fault::TruncateChunked(At::Percent(60)),
        Fault::TruncateUntilClose(At::Percent(60)),
    ] {
        let [told, untold] = Stage::both().await;
        told.cdn().times(1).fault(fault.clone());
        told.assert_complete(&told.pull().await);
        told.assert_asked([fetch(), resume(told.at(60))]);
        told.assert_next_pull(NOTHING).await;

        // Nobody knows that more was to come, until the digest says so.
        untold.cdn().times(1).fault(fault);
        untold.assert_not_delivered(&untold.pull().await);
        untold.assert_asked([fetch()]);
        untold.assert_nothing_kept();
        untold.assert_next_pull([fetch()]).await;
    }
}

#[tokio::test]
async fn a_blob_that_is_truncated_every_time_is_given_up_and_resumed_later() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::start().await;
        let stage = Stage::with(hub, told, |upstream| upstream.retries = 2).await;
        stage.cdn().fault(Fault::Truncate(At::Byte(1000)));
        stage.assert_not_delivered(&stage.pull().await);
        stage.assert_asked([fetch(), resume(1000), resume(2000)]);
        stage.assert_part_kept();
        stage.assert_next_pull([resume(3000)]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_blob_without_a_single_byte_is_given_up() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::start().await;
        let stage = Stage::with(hub, told, |upstream| upstream.retries = 1).await;
        stage.cdn().fault(Fault::Truncate(At::Byte(0)));
        stage.assert_not_delivered(&stage.pull().await);
        stage.assert_asked([fetch(), fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_length_that_is_too_long_by_its_header() {
    let [told, untold] = Stage::both().await;
    told.cdn().fault(Fault::WrongLength(10));
    let answer = told.pull().await;
    assert_error(&answer, 502, "UNKNOWN", &host(&told.hub, Origin::Cdn));
    told.assert_asked([fetch()]);
    told.assert_nothing_kept();
    told.assert_next_pull([fetch()]).await;

    // The bytes are right, but the client was promised more of them.
    untold.cdn().fault(Fault::WrongLength(10));
    let answer = untold.pull().await;
    assert!(answer.end != End::Complete || answer.body == untold.layer().bytes);
    untold.assert_asked([fetch()]);
    untold
        .mirror
        .wait_until_cached(&untold.layer().digest)
        .await;
    untold.assert_next_pull(NOTHING).await;
}

#[tokio::test]
async fn a_length_that_is_too_short_by_its_header() {
    let [told, untold] = Stage::both().await;
    told.cdn().fault(Fault::WrongLength(-10));
    let answer = told.pull().await;
    assert_error(&answer, 502, "UNKNOWN", &host(&told.hub, Origin::Cdn));
    told.assert_asked([fetch()]);
    told.assert_nothing_kept();
    told.assert_next_pull([fetch()]).await;

    untold.cdn().fault(Fault::WrongLength(-10));
    untold.assert_tail_held_back(&untold.pull().await, None);
    untold.assert_asked([fetch()]);
    untold.assert_nothing_kept();
    untold.assert_next_pull([fetch()]).await;
}

#[tokio::test]
async fn a_blob_that_is_longer_than_its_manifest_says() {
    for fault in [Fault::Chunked, Fault::UntilClose] {
        let [told, untold] = Stage::both().await;
        for stage in [&told, &untold] {
            let bytes = [&stage.layer().bytes[..], EXCESS].concat();
            stage
                .cdn()
                .fault(Fault::body("application/octet-stream", bytes));
            stage.cdn().fault(fault.clone());
            stage.assert_tail_held_back(&stage.pull().await, None);
            stage.assert_asked([fetch()]);
            stage.assert_nothing_kept();
            stage.assert_next_pull([fetch()]).await;
        }
    }
}

#[tokio::test]
async fn a_missing_length_is_no_fault() {
    for fault in [Fault::Chunked, Fault::UntilClose] {
        for stage in Stage::both().await {
            stage.cdn().fault(fault.clone());
            let answer = stage.pull().await;
            stage.assert_complete(&answer);
            let length = stage.layer().bytes.len().to_string();
            let expected = (stage.told == Told::Length).then_some(&*length);
            assert_eq!(answer.header("content-length"), expected);
            stage.assert_asked([fetch()]);
            stage.assert_next_pull(NOTHING).await;
        }
    }
}

#[tokio::test]
async fn a_reset_at_60_percent_is_resumed() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), resume(stage.at(60))]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_reset_of_a_blob_without_a_length_is_resumed() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().times(1).fault(Fault::Chunked);
        stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), resume(stage.at(60))]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn three_resets_are_resumed_three_times() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().times(3).fault(Fault::Reset(At::Byte(100_000)));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), resume(100_000), resume(200_000), resume(300_000)]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_reset_before_the_answer_is_tried_again() {
    join_all(Stage::both().await.map(async |stage| {
        stage.registry().times(1).fault(Fault::Reset(At::Head));
        stage.cdn().times(1).fault(Fault::Reset(At::Head));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([at_registry(), fetch(), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_stall_is_broken_off_and_resumed() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let stage = stalling(told, 5).await;
        stage.cdn().times(1).fault(Fault::Stall(At::Percent(60)));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), resume(stage.at(60))]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_stall_that_comes_back_is_given_up_and_resumed_later() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let stage = stalling(told, 1).await;
        stage.cdn().fault(Fault::Stall(At::Byte(100_000)));
        stage.assert_not_delivered(&stage.pull().await);
        stage.assert_asked([fetch(), resume(100_000)]);
        stage.assert_part_kept();
        stage.assert_next_pull([resume(200_000)]).await;
    }))
    .await;
}

/// Half a second without a byte is too long.
async fn stalling(told: Told, retries: u32) -> Stage {
    let change = |upstream: &mut mirror::config::UpstreamSettings| {
        upstream.stall = Duration::from_millis(500);
        upstream.retries = retries;
    };
    Stage::with(FakeHub::start().await, told, change).await
}

#[tokio::test]
async fn a_slow_drip_is_no_stall() {
    let hub = FakeHub::start().await;
    let stall = Duration::from_secs(1);
    let stage = Stage::with(hub, Told::Length, |upstream| upstream.stall = stall).await;
    // 33 pieces: the whole takes longer than any pause may, and each pause is far from that.
    let (bytes, every) = (16 * 1024, Duration::from_millis(40));
    stage.cdn().fault(Fault::Drip { bytes, every });
    stage.assert_complete(&stage.pull().await);
    stage.assert_asked([fetch()]);
    stage.assert_next_pull(NOTHING).await;
}

#[tokio::test]
async fn a_burst_of_5xx_at_the_cdn_is_outlasted() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().times(2).fault(Fault::status(503));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), fetch(), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_burst_of_5xx_at_the_registry_is_outlasted() {
    join_all(Stage::both().await.map(async |stage| {
        stage.registry().times(2).fault(Fault::status(502));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([at_registry(), at_registry(), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_burst_of_5xx_in_the_middle_of_a_blob_is_outlasted() {
    join_all(Stage::both().await.map(async |stage| {
        let at = stage.at(60);
        stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
        let ranged = || stage.cdn().ranged(true);
        ranged().times(2).fault(Fault::status(500));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), resume(at), resume(at), resume(at)]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_cdn_that_fails_every_time_is_named() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::start().await;
        let stage = Stage::with(hub, told, |upstream| upstream.retries = 1).await;
        stage.cdn().fault(Fault::status(500));
        let answer = stage.pull().await;
        assert_error(&answer, 503, "UNKNOWN", &host(&stage.hub, Origin::Cdn));
        assert_eq!(answer.header("retry-after"), Some("5"));
        stage.assert_asked([fetch(), fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_signature_that_has_expired_is_renewed() {
    join_all(Stage::both().await.map(async |stage| {
        let gate = stage.registry().times(1).hold(At::Head);
        let expired = async {
            gate.wait_for(1).await;
            stage.hub.expire_signatures();
            gate.release();
        };
        let (answer, ()) = tokio::join!(stage.pull(), expired);
        stage.assert_complete(&answer);
        stage.assert_asked([fetch(), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_rate_limit_on_blobs_is_an_error_at_the_start_and_a_pause_in_the_middle() {
    join_all(Stage::both().await.map(async |stage| {
        let (code, retry_after) = (429, Some(7));
        stage.registry().fault(Fault::Status { code, retry_after });
        let answer = stage.pull().await;
        let registry = host(&stage.hub, Origin::Registry);
        assert_error(&answer, 503, "TOOMANYREQUESTS", &registry);
        assert_eq!(answer.header("retry-after"), Some("7"));
        stage.assert_asked([at_registry()]);
        stage.assert_nothing_kept();

        stage.hub.clear_faults();
        let early = stage.pull().await;
        assert_error(&early, 503, "TOOMANYREQUESTS", &registry);
        stage.assert_asked(NOTHING);
        stage.mirror.clock.advance(Duration::from_secs(7));
        stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
        let resumed = stage.registry().ranged(true);
        resumed.times(1).fault(Fault::status(429));
        stage.assert_complete(&stage.pull().await);
        let at = stage.at(60);
        let limited = format!("{} bytes={at}-", at_registry()[0]);
        stage.assert_asked([fetch(), line(&limited), resume(at)]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_download_without_a_slot_waits_for_one_that_is_slow() {
    let hub = FakeHub::start().await;
    let stage = Stage::with(hub, Told::Nothing, |upstream| {
        upstream.max_connections = 1;
        upstream.timeout = Duration::from_secs(2);
        upstream.retries = 0;
    })
    .await;
    // Twice as long as a wait for a slot.
    stage.cdn().fault(Fault::Pace {
        bytes_per_second: 128 * 1024,
    });
    let mut slow = stage.begin().await;
    slow.receive(1).await;
    let config = &stage.image.architecture("arm64").config;
    let waiting = stage.mirror.blob(super::NGINX, &config.digest);
    let (slow, waiting) = tokio::join!(slow.finish(), waiting);
    stage.assert_complete(&slow);
    super::assert_complete(&waiting, config);
    let after = [
        line("registry GET library/nginx/blobs/arm64.config"),
        line("cdn GET arm64.config"),
    ];
    stage.assert_asked([fetch(), after.concat()]);
}

#[tokio::test]
async fn a_blob_that_the_cdn_does_not_have_yet_is_asked_for_again() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().times(1).fault(Fault::status(404));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_blob_that_is_not_there_is_404_and_asked_for_again_after_a_while() {
    let stage = Stage::new(Told::Nothing).await;
    let absent = crate::support::digest_of(b"absent");
    let answer = stage.mirror.blob(super::NGINX, &absent).await;
    assert_error(&answer, 404, "BLOB_UNKNOWN", &absent);
    stage.hub.name(&absent, "absent");
    let asked = "registry GET library/nginx/blobs/absent";
    assert_eq!(stage.asked(), [asked]);
    stage.assert_nothing_kept();
    stage.hub.push_blob(super::NGINX, b"absent".to_vec());
    let remembered = stage.mirror.blob(super::NGINX, &absent).await;
    assert_error(&remembered, 404, "BLOB_UNKNOWN", &absent);
    assert_eq!(super::outcome(&remembered), "negative");
    assert_eq!(stage.asked(), [""; 0]);
    stage.mirror.clock.advance(Duration::from_secs(30));
    let answer = stage.mirror.blob(super::NGINX, &absent).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"absent"[..]));
    assert_eq!(stage.asked(), [asked, "cdn GET absent"]);
}

#[tokio::test]
async fn the_cdn_is_never_given_authorization() {
    let hub = FakeHub::builder().user("alice", "secret").start().await;
    let stage = Stage::with(hub, Told::Length, super::as_alice).await;
    let head = format!("/v2/{}/blobs/{}", super::NGINX, stage.layer().digest);
    assert_eq!(stage.mirror.head(&head).await.status, 200);
    stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
    stage.assert_complete(&stage.pull().await);
    stage.hub.revoke_tokens();
    let other = &stage.image.architecture("arm64").config;
    super::assert_complete(&stage.mirror.blob(super::NGINX, &other.digest).await, other);
    let requests = stage.hub.requests();
    let given = |origin| {
        let there = requests.iter().filter(move |it| it.origin == origin);
        there
            .map(|it| it.header("authorization").is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(given(Origin::Cdn), [false; 4]);
    assert_eq!(given(Origin::Registry), [true; 5]);
    let arm = |origin| line(&format!("{origin}arm64.config"));
    stage.assert_asked([
        line("registry HEAD library/nginx/blobs/amd64.layer0"),
        line("cdn HEAD amd64.layer0"),
        fetch(),
        resume(stage.at(60)),
        arm("registry GET library/nginx/blobs/"),
        vec![format!("{} (alice)", token()[0])],
        arm("registry GET library/nginx/blobs/"),
        arm("cdn GET "),
    ]);
}

#[tokio::test]
async fn an_answer_that_says_no_content_is_not_a_blob() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().fault(Fault::status(204));
        let answer = stage.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Cdn));
        stage.assert_asked([at_registry(), at_cdn()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}
