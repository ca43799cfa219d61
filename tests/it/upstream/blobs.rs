//! Blob transfers: where they start, how they end, and how many there may be.

use super::*;
use crate::support::{At, Fault};
use mirror::upstream::{Class, Kind, Phase};

/// Opens a blob whose CDN has that fault, and reads it to its end.
async fn with_fault(fault: Fault) -> (OneBlob, Vec<u8>, Option<UpstreamError>) {
    let blob = OneBlob::new().await;
    blob.hub.on(Origin::Cdn).times(1).fault(fault);
    let (bytes, error) = read(blob.open(0).await.unwrap()).await;
    (blob, bytes, error)
}

/// The reason for which the CDN's answer was refused.
async fn refused(fault: Fault, offset: u64) -> String {
    let blob = OneBlob::new().await;
    blob.hub.on(Origin::Cdn).times(1).fault(fault);
    let error = blob.open(offset).await.unwrap_err();
    let UpstreamError::BadAnswer {
        host: named,
        reason,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(named, host(&blob.hub.cdn_url()));
    blob.assert_whole().await;
    reason
}

#[tokio::test]
async fn a_whole_blob_is_asked_for_without_a_range() {
    let blob = OneBlob::new().await;
    let body = blob.open(0).await.unwrap();
    assert_eq!((body.start, body.total), (0, Some(200_000)));
    let (bytes, error) = read(body).await;
    assert!(error.is_none() && bytes == blob.bytes, "{error:?}");
    let cdn = blob.hub.requests().pop().unwrap();
    assert_eq!(
        (cdn.header("range"), cdn.header("accept-encoding")),
        (None, Some("identity"))
    );
    assert_eq!(blob.upstream.counters().blob_bytes, 200_000);
}

#[tokio::test]
async fn the_rest_of_a_blob_is_asked_for_by_range() {
    let blob = OneBlob::new().await;
    let body = blob.open(150_000).await.unwrap();
    assert_eq!((body.start, body.total), (150_000, Some(200_000)));
    let (bytes, error) = read(body).await;
    assert!(
        error.is_none() && bytes == blob.bytes[150_000..],
        "{error:?}"
    );
    assert_eq!(
        blob.hub.summary_with_status(),
        [
            "token GET library/nginx:pull -> 200",
            "registry GET library/nginx/blobs/blob bytes=150000- -> 307",
            "cdn GET blob bytes=150000- -> 206",
        ]
    );
}

#[tokio::test]
async fn an_ignored_range_starts_at_the_beginning() {
    let blob = OneBlob::new().await;
    blob.hub.on(Origin::Cdn).fault(Fault::IgnoreRange);
    let body = blob.open(150_000).await.unwrap();
    assert_eq!((body.start, body.total), (0, Some(200_000)));
    assert!(read(body).await.0 == blob.bytes);
}

#[tokio::test]
async fn a_range_that_is_lied_about_is_refused() {
    let shifted = "it sends the part from 150001 where 150000 was asked for";
    assert_eq!(refused(Fault::ShiftRange(1), 150_000).await, shifted);
    let silent = "it sends a part without saying which";
    assert_eq!(
        refused(Fault::WithoutHeader("content-range"), 150_000).await,
        silent
    );
}

#[tokio::test]
async fn an_offset_beyond_the_end_is_a_status() {
    let blob = OneBlob::new().await;
    let error = blob.open(200_000).await.unwrap_err();
    let UpstreamError::Status {
        host: named,
        status,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((named, status), (host(&blob.hub.cdn_url()), 416));
}

#[tokio::test]
async fn what_is_no_blob_is_refused() {
    assert_eq!(refused(Fault::Html, 0).await, "it sends a web page");
    assert_eq!(
        refused(Fault::Gzip, 0).await,
        "it sends content encoded as \"gzip\""
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_in_an_error() {
    for fault in [
        Fault::Truncate(At::Percent(60)),
        Fault::Reset(At::Percent(60)),
        Fault::WrongLength(10),
    ] {
        let shown = format!("{fault:?}");
        let (blob, bytes, error) = with_fault(fault).await;
        let error = error.unwrap_or_else(|| panic!("{shown}: a clean end"));
        let cut = matches!(&error, UpstreamError::Unreachable { host: named, phase: Phase::Body, .. }
            if *named == host(&blob.hub.cdn_url()));
        assert!(cut, "{shown}: {error:?}");
        assert!(blob.bytes.starts_with(&bytes), "{shown}: other bytes");
        blob.assert_whole().await;
    }
}

#[tokio::test]
async fn a_blob_without_a_length_is_read_to_its_end() {
    for fault in [Fault::Chunked, Fault::UntilClose] {
        let blob = OneBlob::new().await;
        blob.hub.on(Origin::Cdn).fault(fault);
        let body = blob.open(0).await.unwrap();
        assert_eq!(body.total, None);
        let (bytes, error) = read(body).await;
        assert!(error.is_none() && bytes == blob.bytes, "{error:?}");
    }
}

#[tokio::test]
async fn a_body_that_stalls_ends_in_an_error() {
    let blob = OneBlob::with(|settings| settings.stall = Duration::from_secs(1)).await;
    blob.hub
        .on(Origin::Cdn)
        .times(1)
        .fault(Fault::Stall(At::Byte(1000)));
    let (bytes, error) = read(blob.open(0).await.unwrap()).await;
    assert_eq!(bytes, blob.bytes[..1000]);
    let error = error.expect("a stall is an error");
    assert!(
        matches!(
            error,
            UpstreamError::Unreachable {
                phase: Phase::Stall,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_blob_is_tried_once() {
    let blob = OneBlob::new().await;
    let fault = blob
        .hub
        .on(Origin::Registry)
        .blobs()
        .fault(Fault::status(503));
    let error = blob.open(0).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Status { status: 503, .. }),
        "{error:?}"
    );
    assert_eq!(fault.hits(), 1);
}

#[tokio::test]
async fn a_silent_cdn_is_named() {
    let blob = OneBlob::with(|settings| settings.timeout = Duration::from_secs(2)).await;
    // The token first, so that the limit is the CDN's alone.
    blob.upstream.tags(&name(NGINX), None, None).await.unwrap();
    blob.hub.on(Origin::Cdn).fault(Fault::BlackHole);
    let error = blob.open(0).await.unwrap_err();
    let UpstreamError::Unreachable {
        host: named,
        phase,
        reason,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        (named, *phase),
        (&host(&blob.hub.cdn_url()), Phase::FirstByte)
    );
    assert_eq!(
        reason,
        "no complete answer within 2s; the registry redirects there, and a firewall or an egress list may block it"
    );
}

#[tokio::test]
async fn transfers_hold_slots_and_tag_checks_do_not_wait_for_them() {
    let blob = OneBlob::with(|settings| {
        settings.max_connections = 1;
        settings.timeout = Duration::from_secs(2);
    })
    .await;
    blob.upstream.tags(&name(NGINX), None, None).await.unwrap();
    let held = blob.open(0).await.unwrap();
    let error = blob.open(0).await.unwrap_err();
    assert!(
        matches!(
            error,
            UpstreamError::Unreachable {
                phase: Phase::Slot,
                ..
            }
        ),
        "{error:?}"
    );
    blob.upstream.tags(&name(NGINX), None, None).await.unwrap();
    blob.upstream
        .head_blob(&name(NGINX), blob.digest)
        .await
        .unwrap();
    drop(held);
    blob.assert_whole().await;
}

#[tokio::test]
async fn requests_are_counted_by_kind_and_end() {
    let blob = OneBlob::new().await;
    blob.assert_whole().await;
    blob.hub.stop_origin(Origin::Cdn).await;
    blob.open(0).await.unwrap_err();
    let expected = [
        (Kind::Token, Class::Success, 1),
        (Kind::BlobGet, Class::Redirect, 2),
        (Kind::Redirected, Class::Success, 1),
        (Kind::Redirected, Class::Failed, 1),
    ];
    assert_eq!(blob.upstream.counters().requests, expected);
}
