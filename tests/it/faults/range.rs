//! Resuming where ranges are ignored or lied about.

use futures_util::future::join_all;

use super::{HELD_BACK, NGINX, NOTHING, Stage, Told, assert_not_delivered, fetch, host, resume};
use crate::client::End;
use crate::support::{At, FakeHub, Fault, Origin};

/// The layer breaks at 60 %, and what is resumed has the fault.
fn broken_then(stage: &Stage, fault: Fault, times: usize) {
    stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
    stage.cdn().ranged(true).times(times).fault(fault);
}

#[tokio::test]
async fn a_range_that_is_ignored_costs_bytes_and_nothing_else() {
    join_all(Stage::both().await.map(async |stage| {
        broken_then(&stage, Fault::IgnoreRange, 1);
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([fetch(), resume(stage.at(60))]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_range_that_is_ignored_twice_is_skipped_twice() {
    join_all(Stage::both().await.map(async |stage| {
        broken_then(&stage, Fault::IgnoreRange, 2);
        // Of the whole, 30 %: less than is here already.
        let ranged = stage.cdn().ranged(true);
        ranged.times(1).fault(Fault::Reset(At::Percent(30)));
        stage.assert_complete(&stage.pull().await);
        let at = stage.at(60);
        stage.assert_asked([fetch(), resume(at), resume(at)]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_range_from_elsewhere_is_refused_and_asked_for_again() {
    for by in [500, -500] {
        join_all(Stage::both().await.map(async |stage| {
            broken_then(&stage, Fault::ShiftRange(by), 1);
            stage.assert_complete(&stage.pull().await);
            let at = stage.at(60);
            stage.assert_asked([fetch(), resume(at), resume(at)]);
            stage.assert_next_pull(NOTHING).await;
        }))
        .await;
    }
}

#[tokio::test]
async fn a_range_that_is_always_from_elsewhere_is_given_up() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::start().await;
        let stage = Stage::with(hub, told, |upstream| upstream.retries = 2).await;
        broken_then(&stage, Fault::ShiftRange(500), usize::MAX);
        stage.assert_not_delivered(&stage.pull().await);
        let at = stage.at(60);
        stage.assert_asked([fetch(), resume(at), resume(at)]);
        stage.assert_part_kept();
        stage.assert_next_pull([resume(at)]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_range_with_other_bytes_than_it_says_is_cut_and_fetched_afresh() {
    join_all(Stage::both().await.map(async |stage| {
        broken_then(&stage, Fault::WrongRangeBytes(100), 1);
        let answer = stage.pull().await;
        assert_not_delivered(&answer, &host(&stage.hub, Origin::Cdn));
        if answer.status == 200 {
            assert!(answer.body.len() <= stage.layer().bytes.len() - HELD_BACK);
            let right = stage.at(60).min(answer.body.len());
            assert!(answer.body[..right] == stage.layer().bytes[..right]);
        }
        stage.assert_asked([fetch(), resume(stage.at(60))]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_range_of_a_blob_of_another_length_ends_the_download() {
    join_all(Stage::both().await.map(async |stage| {
        let length = stage.layer().bytes.len();
        let lie = format!("bytes {}-{length}/{}", stage.at(60), length + 1);
        broken_then(&stage, Fault::SetHeader("content-range", lie), 1);
        stage.assert_not_delivered(&stage.pull().await);
        stage.assert_asked([fetch(), resume(stage.at(60))]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_part_that_does_not_say_where_it_begins_is_asked_for_again() {
    join_all(Stage::both().await.map(async |stage| {
        broken_then(&stage, Fault::WithoutHeader("content-range"), 1);
        stage.assert_complete(&stage.pull().await);
        let at = stage.at(60);
        stage.assert_asked([fetch(), resume(at), resume(at)]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_part_whose_end_is_elsewhere_by_now_is_thrown_away() {
    let hub = FakeHub::start().await;
    let stage = Stage::with(hub, Told::Nothing, |upstream| upstream.retries = 0).await;
    // More than the layer, of unknown length, and broken before its end.
    let bytes = vec![0; 600_000];
    let fault = Fault::body("application/octet-stream", bytes);
    stage.cdn().times(1).fault(fault);
    stage.cdn().times(1).fault(Fault::Chunked);
    stage.cdn().times(1).fault(Fault::Reset(At::Byte(600_000)));
    let answer = stage.pull().await;
    assert_not_delivered(&answer, &host(&stage.hub, Origin::Cdn));
    stage.assert_asked([fetch()]);
    stage.assert_part_kept();
    // The registry has nothing beyond the end of its blob: 416.
    stage.assert_next_pull([resume(600_000), fetch()]).await;
}

#[tokio::test]
async fn a_download_that_is_past_the_end_is_given_up_and_not_kept() {
    let stage = Stage::new(Told::Nothing).await;
    // More than the layer, of unknown length, and broken before its end.
    let bytes = vec![0; 600_000];
    let fault = Fault::body("application/octet-stream", bytes);
    stage.cdn().times(1).fault(fault);
    stage.cdn().times(1).fault(Fault::Chunked);
    stage.cdn().times(1).fault(Fault::Reset(At::Byte(600_000)));
    let answer = stage.pull().await;
    assert_not_delivered(&answer, &host(&stage.hub, Origin::Cdn));
    // The registry has nothing beyond the end of its blob: 416.
    stage.assert_asked([fetch(), resume(600_000)]);
    stage.assert_nothing_kept();
    stage.assert_next_pull([fetch()]).await;
}

#[tokio::test]
async fn a_part_that_nobody_continues_is_thrown_away() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::start().await;
        let stage = Stage::with(hub, told, |upstream| upstream.retries = 0).await;
        stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
        stage.assert_not_delivered(&stage.pull().await);
        stage.assert_asked([fetch()]);
        stage.assert_part_kept();
        stage.cdn().fault(Fault::ShiftRange(500));
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([resume(stage.at(60)), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

/// A part has no digest: its client verifies the whole. So it waits for none of the rest.
#[tokio::test]
async fn a_part_of_a_damaged_blob_is_right_or_the_clients_to_verify_and_nothing_is_kept() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().fault(Fault::FlipBit { at: 150_000 });
        let gate = stage.cdn().hold(At::Percent(60));
        let path = format!("/v2/{NGINX}/blobs/{}", stage.layer().digest);
        let range = [("range", "bytes=0-99999")];
        let part = stage.mirror.get_with(&path, &range).await;
        assert_eq!((part.status, part.end), (206, End::Complete));
        assert_eq!(part.body[..], stage.layer().bytes[..100_000]);
        gate.release();
        let ended = || stage.mirror.spooled().is_empty();
        stage
            .mirror
            .wait_until("the download has ended", ended)
            .await;
        stage.assert_asked([fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}
