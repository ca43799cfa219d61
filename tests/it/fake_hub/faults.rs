//! Every fault does what it says, to the byte.

use std::io::Read as _;
use std::time::{Duration, Instant};

use super::{NGINX, OneBlob, nginx, registry};
use crate::client::{End, request};
use crate::support::{At, Fault, Origin, Outcome};

const LEN: Option<&str> = Some("10000");

#[tokio::test]
async fn a_bit_is_flipped_wherever_it_is_asked_for() {
    let (blob, answer) = OneBlob::with_fault(Fault::FlipBit { at: 5000 }, &[]).await;
    let mut flipped = blob.bytes.clone();
    flipped[5000] ^= 1;
    assert_eq!((answer.end, &answer.body), (End::Complete, &flipped));
    let tail = blob.get(&[("range", "bytes=4999-")]).await;
    assert_eq!(tail.body, &flipped[4999..]);
    let rest = blob.get(&[("range", "bytes=5001-")]).await;
    assert_eq!(rest.body, &blob.bytes[5001..]);
}

#[tokio::test]
async fn truncated_with_a_length() {
    let (blob, answer) = OneBlob::with_fault(Fault::Truncate(At::Byte(3000)), &[]).await;
    assert_eq!(
        (answer.end, answer.header("content-length")),
        (End::Closed, LEN)
    );
    assert_eq!(answer.body, &blob.bytes[..3000]);
    blob.hub.wait_until_idle().await;
    assert_eq!(blob.hub.requests().pop().unwrap().outcome, Outcome::Sent);
}

#[tokio::test]
async fn truncated_without_a_length_and_ended_in_order() {
    let (blob, answer) = OneBlob::with_fault(Fault::TruncateChunked(At::Byte(3000)), &[]).await;
    assert_eq!(
        (answer.end, answer.header("content-length")),
        (End::Complete, None)
    );
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.body, &blob.bytes[..3000]);

    let fault = Fault::TruncateUntilClose(At::Byte(3000));
    let (blob, answer) = OneBlob::with_fault(fault, &[]).await;
    assert_eq!(
        (answer.end, answer.header("content-length")),
        (End::Closed, None)
    );
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.body, &blob.bytes[..3000]);
}

#[tokio::test]
async fn complete_without_a_length() {
    let (blob, answer) = OneBlob::with_fault(Fault::Chunked, &[]).await;
    assert_eq!(
        (answer.end, answer.header("content-length")),
        (End::Complete, None)
    );
    assert_eq!(answer.body, blob.bytes);
    let (blob, answer) = OneBlob::with_fault(Fault::UntilClose, &[]).await;
    assert_eq!(
        (answer.end, answer.header("content-length")),
        (End::Closed, None)
    );
    assert_eq!(answer.body, blob.bytes);
}

#[tokio::test]
async fn a_wrong_length_is_declared() {
    let (blob, longer) = OneBlob::with_fault(Fault::WrongLength(10), &[]).await;
    assert_eq!(longer.header("content-length"), Some("10010"));
    assert_eq!((longer.end, longer.body), (End::Closed, blob.bytes));
    let (blob, shorter) = OneBlob::with_fault(Fault::WrongLength(-10), &[]).await;
    assert_eq!(shorter.header("content-length"), Some("9990"));
    assert_eq!(shorter.body[..9990], blob.bytes[..9990]);
}

#[tokio::test]
async fn a_reset_arrives_after_exactly_so_many_bytes() {
    let (blob, answer) = OneBlob::with_fault(Fault::Reset(At::Percent(60)), &[]).await;
    assert_eq!(
        (answer.end, answer.header("content-length")),
        (End::Reset, LEN)
    );
    assert_eq!(answer.body, &blob.bytes[..6000]);
    let resumed = blob.get(&[("range", "bytes=6000-")]).await;
    assert_eq!(resumed.end, End::Reset);
    assert_eq!(
        resumed.header("content-range"),
        Some("bytes 6000-9999/10000")
    );
    assert_eq!(resumed.body, &blob.bytes[6000..8400]);
    blob.hub.wait_until_idle().await;
    let cut = blob.hub.requests().pop().unwrap();
    assert_eq!((cut.outcome, cut.sent), (Outcome::Cut, 2400));
}

#[tokio::test]
async fn a_reset_loses_nothing_of_a_large_body() {
    let blob = OneBlob::new().await;
    let bytes = crate::support::image::seeded_bytes(8, 8 << 20);
    let digest = blob.hub.push_blob(NGINX, bytes.clone());
    let large = OneBlob {
        digest,
        bytes: bytes.to_vec(),
        hub: blob.hub,
    };
    large
        .hub
        .on(Origin::Cdn)
        .fault(Fault::Reset(At::Percent(75)));
    let answer = large.get(&[]).await;
    assert_eq!((answer.end, answer.body.len()), (End::Reset, 6 << 20));
    assert_eq!(answer.body, &large.bytes[..6 << 20]);
}

#[tokio::test]
async fn a_reset_before_the_head() {
    let (_, answer) = OneBlob::with_fault(Fault::Reset(At::Head), &[]).await;
    assert_eq!((answer.status, answer.end), (0, End::Reset));
}

#[tokio::test]
async fn so_many_resets_in_a_row() {
    let blob = OneBlob::new().await;
    let cdn = blob.hub.on(Origin::Cdn);
    let rule = cdn.times(3).fault(Fault::Reset(At::Byte(10)));
    for _ in 0..3 {
        assert_eq!(blob.get(&[]).await.end, End::Reset);
    }
    assert_eq!(blob.get(&[]).await.body, blob.bytes);
    assert_eq!(rule.hits(), 3);
}

#[tokio::test]
async fn ranges_are_ignored_and_lied_about() {
    let range = [("range", "bytes=4000-")];
    let (blob, ignored) = OneBlob::with_fault(Fault::IgnoreRange, &range).await;
    assert_eq!(
        (ignored.status, ignored.header("content-range")),
        (200, None)
    );
    assert_eq!(ignored.body, blob.bytes);

    let (blob, shifted) = OneBlob::with_fault(Fault::ShiftRange(500), &range).await;
    assert_eq!(shifted.status, 206);
    assert_eq!(
        shifted.header("content-range"),
        Some("bytes 4500-9999/10000")
    );
    assert_eq!(
        (shifted.end, shifted.body),
        (End::Complete, blob.bytes[4500..].to_vec())
    );

    let (blob, earlier) = OneBlob::with_fault(Fault::ShiftRange(-4000), &range).await;
    assert_eq!(earlier.header("content-range"), Some("bytes 0-9999/10000"));
    assert_eq!(earlier.body, blob.bytes);

    let (blob, wrong) = OneBlob::with_fault(Fault::WrongRangeBytes(100), &range).await;
    assert_eq!(wrong.header("content-range"), Some("bytes 4000-9999/10000"));
    assert_eq!(wrong.body[..5900], blob.bytes[4100..]);
    assert_eq!(wrong.body[5900..], blob.bytes[..100]);
}

#[tokio::test]
async fn range_faults_leave_whole_answers_alone() {
    for fault in [
        Fault::IgnoreRange,
        Fault::ShiftRange(5),
        Fault::WrongRangeBytes(5),
    ] {
        let (blob, answer) = OneBlob::with_fault(fault, &[]).await;
        assert_eq!((answer.status, answer.body), (200, blob.bytes));
    }
}

#[tokio::test]
async fn a_stall_lasts_until_the_client_leaves() {
    for (fault, sent, status) in [
        (Fault::Stall(At::Byte(700)), 700, 200),
        (Fault::BlackHole, 0, 0),
    ] {
        let blob = OneBlob::new().await;
        blob.hub.on(Origin::Cdn).fault(fault);
        let location = blob.location().await;
        let client = tokio::spawn(async move { request("GET", &location, &[]).await });
        blob.hub
            .wait_until("the stall", |all| {
                let cdn = all.last().filter(|it| it.origin == Origin::Cdn);
                cdn.is_some_and(|it| it.sent == sent)
            })
            .await;
        assert!(!client.is_finished());
        client.abort();
        blob.hub.wait_until_idle().await;
        let cut = blob.hub.requests().pop().unwrap();
        assert_eq!(
            (cut.outcome, cut.sent, cut.status),
            (Outcome::Cut, sent, status)
        );
    }
}

#[tokio::test]
async fn slow_answers_take_at_least_their_time() {
    // Nobody waits for the pause after the last piece.
    let every = Duration::from_millis(1);
    for (fault, least) in [
        (Fault::Drip { bytes: 100, every }, 99),
        (
            Fault::Pace {
                bytes_per_second: 100_000,
            },
            80,
        ),
        (Fault::Delay(Duration::from_millis(50)), 50),
    ] {
        let start = Instant::now();
        let (blob, answer) = OneBlob::with_fault(fault, &[]).await;
        assert!(start.elapsed() >= Duration::from_millis(least));
        assert_eq!((answer.end, answer.body), (End::Complete, blob.bytes));
    }
}

#[tokio::test]
async fn statuses_with_and_without_retry_after() {
    let fault = Fault::Status {
        code: 503,
        retry_after: Some(9),
    };
    let (_, answer) = OneBlob::with_fault(fault, &[]).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("9"))
    );
    let (_, answer) = OneBlob::with_fault(Fault::status(429), &[]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, None));
}

#[tokio::test]
async fn redirects_lead_in_circles_and_astray() {
    let blob = OneBlob::new().await;
    let looped = blob.hub.on(Origin::Cdn).fault(Fault::RedirectLoop);
    let location = blob.location().await;
    let answer = request("GET", &location, &[]).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (307, Some(&*location))
    );
    looped.disarm();
    for (fault, origin) in [
        (Fault::RedirectToForeign, Origin::Foreign),
        (Fault::RedirectToPlain, Origin::Plain),
    ] {
        blob.hub.clear_faults();
        blob.hub.on(Origin::Registry).blobs().fault(fault);
        let location = blob.location().await;
        assert!(location.starts_with(&blob.hub.url(origin)), "{location}");
        assert_eq!(request("GET", &location, &[]).await.body, blob.bytes);
        assert_eq!(
            blob.hub.summary().pop().unwrap(),
            format!("{origin} GET blob")
        );
    }
    blob.hub.clear_faults();
    let elsewhere = Fault::RedirectTo("http://x.invalid/y".to_owned());
    blob.hub.on(Origin::Cdn).fault(elsewhere);
    assert_eq!(
        blob.get(&[]).await.header("location"),
        Some("http://x.invalid/y")
    );
}

#[tokio::test]
async fn a_foreign_realm_is_named_and_listens() {
    let (hub, _) = nginx().await;
    hub.on(Origin::Registry).fault(Fault::ForeignRealm);
    let url = format!("{}/v2/{NGINX}/manifests/latest", hub.registry_url());
    let challenge = request("GET", &url, &[]).await;
    let realm = format!("{}/token", hub.url(Origin::Foreign));
    assert_eq!(
        challenge.header("www-authenticate"),
        Some(&*format!(
            "Bearer realm=\"{realm}\",service=\"registry.docker.io\",scope=\"repository:{NGINX}:pull\""
        ))
    );
    let asked = format!("{realm}?scope=repository:{NGINX}:pull");
    let basic = [("authorization", "Basic YWxpY2U6c2VjcmV0")];
    let answer = request("GET", &asked, &basic).await;
    assert_eq!(
        hub.summary().pop().unwrap(),
        "foreign GET library/nginx:pull (alice)"
    );
    let token = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
    let answer = request("GET", &url, &[("authorization", &token)]).await;
    assert_eq!(answer.status, 200, "the fault touches challenges alone");
}

#[tokio::test]
async fn a_challenge_is_made_to_measure() {
    let (hub, _) = nginx().await;
    let value = "Basic realm=x, Bearer realm=http://h/t";
    hub.on(Origin::Registry)
        .fault(Fault::Challenge(value.to_owned()));
    let answer = registry(&hub, "GET", "manifests/latest").await;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, Some(value))
    );
}

#[tokio::test]
async fn html_in_place_of_anything() {
    let (blob, answer) = OneBlob::with_fault(Fault::Html, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(answer.body.starts_with(b"<!doctype html>"));
    blob.hub.on(Origin::Registry).manifests().fault(Fault::Html);
    let manifest = registry(&blob.hub, "GET", "manifests/latest").await;
    assert_eq!(
        (manifest.status, manifest.header("docker-content-digest")),
        (200, None)
    );
}

#[tokio::test]
async fn another_manifest_for_the_digest_asked() {
    let (hub, image) = nginx().await;
    let other = image.architecture("arm64");
    let path = format!("manifests/{}", image.first().digest);
    let fault = Fault::body(&other.media_type, other.bytes.clone());
    hub.on(Origin::Registry)
        .digest(&image.first().digest)
        .fault(fault);
    let answer = registry(&hub, "GET", &path).await;
    assert_eq!(answer.body, other.bytes);
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*image.first().digest)
    );
}

#[tokio::test]
async fn a_body_is_padded_to_any_length() {
    let (hub, image) = nginx().await;
    hub.on(Origin::Registry)
        .times(1)
        .fault(Fault::Pad { bytes: 64 << 20 });
    let answer = registry(&hub, "GET", "manifests/latest").await;
    assert_eq!(answer.header("content-length"), Some("67108864"));
    assert_eq!(answer.body.len(), 64 << 20);
    assert_eq!(answer.body[..image.bytes.len()], image.bytes);
    hub.on(Origin::Registry)
        .fault(Fault::Pad { bytes: 1 << 20 });
    hub.on(Origin::Registry).fault(Fault::Chunked);
    let answer = registry(&hub, "GET", "manifests/latest").await;
    assert_eq!(
        (answer.header("content-length"), answer.body.len()),
        (None, 1 << 20)
    );
    hub.on(Origin::Token).fault(Fault::Pad { bytes: 2 << 20 });
    let token = request("GET", &hub.token_url(), &[]).await;
    assert_eq!(token.body.len(), 2 << 20);
    assert!(token.json()["token"].is_string());
}

#[tokio::test]
async fn content_is_encoded_unasked() {
    let (blob, answer) = OneBlob::with_fault(Fault::Gzip, &[]).await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut plain = Vec::new();
    let mut gzip = flate2::read::GzDecoder::new(&answer.body[..]);
    gzip.read_to_end(&mut plain).unwrap();
    assert_eq!(plain, blob.bytes);
}

#[tokio::test]
async fn head_is_refused_and_headers_are_missing_or_wrong() {
    let (hub, _) = nginx().await;
    hub.on(Origin::Registry)
        .method("HEAD")
        .times(1)
        .fault(Fault::status(405));
    assert_eq!(registry(&hub, "HEAD", "manifests/latest").await.status, 405);
    assert_eq!(registry(&hub, "GET", "manifests/latest").await.status, 200);
    let digest = "docker-content-digest";
    let rule = hub.on(Origin::Registry).fault(Fault::WithoutHeader(digest));
    let answer = registry(&hub, "HEAD", "manifests/latest").await;
    assert_eq!((answer.status, answer.header(digest)), (200, None));
    rule.disarm();
    let wrong = Fault::SetHeader(digest, "sha256:00".to_owned());
    hub.on(Origin::Registry).fault(wrong);
    let answer = registry(&hub, "GET", "manifests/latest").await;
    assert_eq!(answer.header(digest), Some("sha256:00"));
}

#[tokio::test]
async fn the_token_endpoint_fails_in_its_own_ways() {
    let (hub, _) = nginx().await;
    let url = hub.token_url();
    let rule = hub
        .on(Origin::Token)
        .fault(Fault::WithoutField("expires_in"));
    let answer = request("GET", &url, &[]).await;
    assert!(answer.json()["expires_in"].is_null() && answer.json()["token"].is_string());
    rule.disarm();
    let rule = hub
        .on(Origin::Token)
        .fault(Fault::body("application/json", "{\"token\": "));
    assert_eq!(request("GET", &url, &[]).await.body, b"{\"token\": ");
    rule.disarm();
    hub.on(Origin::Token).fault(Fault::status(500));
    assert_eq!(request("GET", &url, &[]).await.status, 500);
}

#[tokio::test]
async fn faults_add_up_in_the_order_of_arming() {
    let blob = OneBlob::new().await;
    blob.hub.on(Origin::Cdn).fault(Fault::FlipBit { at: 0 });
    blob.hub
        .on(Origin::Cdn)
        .ranged(false)
        .fault(Fault::Truncate(At::Byte(2)));
    let answer = blob.get(&[]).await;
    assert_eq!(
        (answer.end, answer.body),
        (End::Closed, vec![blob.bytes[0] ^ 1, blob.bytes[1]])
    );
    let ranged = blob.get(&[("range", "bytes=0-3")]).await;
    assert_eq!(
        (ranged.end, ranged.body[0]),
        (End::Complete, blob.bytes[0] ^ 1)
    );
}
