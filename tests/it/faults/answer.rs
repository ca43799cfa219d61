//! Answers that are not the blob.

use futures_util::future::join_all;

use super::{Stage, Told, assert_error, assert_not_delivered, at_registry, fetch, host};
use crate::support::{Fault, Origin};

const HTML: &[u8] = b"<!doctype html><html><title>Sign in</title></html>";

#[tokio::test]
async fn a_web_page_from_the_cdn_is_refused() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().fault(Fault::Html);
        let answer = stage.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Cdn));
        stage.assert_asked([fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_web_page_from_the_registry_is_refused() {
    join_all(Stage::both().await.map(async |stage| {
        stage.registry().fault(Fault::Html);
        let answer = stage.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Registry));
        stage.assert_asked([at_registry()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_web_page_that_says_it_is_a_blob_is_not_delivered() {
    let [told, untold] = Stage::both().await;
    for stage in [&told, &untold] {
        stage
            .cdn()
            .fault(Fault::body("application/octet-stream", HTML));
        let answer = stage.pull().await;
        if stage.told == Told::Length {
            assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Cdn));
        } else {
            assert_not_delivered(&answer, &host(&stage.hub, Origin::Cdn));
            assert!(answer.status == 502 || answer.body.is_empty());
        }
        stage.assert_asked([fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }
}

#[tokio::test]
async fn an_empty_answer_is_not_delivered() {
    let [told, untold] = Stage::both().await;
    for stage in [&told, &untold] {
        stage
            .cdn()
            .fault(Fault::body("application/octet-stream", b"".as_slice()));
        let answer = stage.pull().await;
        eprintln!("{answer:?}");
        assert_ne!(
            (answer.status, answer.end),
            (200, crate::client::End::Complete)
        );
        stage.assert_asked([fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }
}

#[tokio::test]
async fn content_that_is_encoded_unasked_is_refused() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().fault(Fault::Gzip);
        let answer = stage.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Cdn));
        let cdn = stage.hub.requests().pop().unwrap();
        assert_eq!(cdn.header("accept-encoding"), Some("identity"));
        stage.assert_asked([fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_registry_that_serves_blobs_itself_is_held_to_the_same() {
    join_all(Stage::both().await.map(async |stage| {
        stage.hub.serve_blobs_directly(true);
        stage.registry().fault(Fault::FlipBit { at: 1000 });
        let answer = stage.pull().await;
        assert_not_delivered(&answer, &host(&stage.hub, Origin::Registry));
        stage.assert_asked([at_registry()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([at_registry()]).await;
    }))
    .await;
}
