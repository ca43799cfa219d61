//! Manifests that are too large, damaged, encoded, or something else.

use std::time::Duration;

use futures_util::future::join_all;

use super::tagged::{BY_DIGEST, GET, HEAD, TOKEN, Tagged};
use super::{assert_error, host, outcome};
use crate::client::Response;
use crate::support::{At, Fault, Origin, Outcome, digest_of};

const MIB: u64 = 1024 * 1024;
const DIGEST: &str = "docker-content-digest";

/// `fault` makes a manifest unusable, whichever way it is asked for.
async fn assert_refused(fault: &Fault) {
    for by_digest in [false, true] {
        assert_refused_by(by_digest, |tagged| {
            tagged.registry().fault(fault.clone());
        })
        .await;
    }
}

async fn assert_refused_by(by_digest: bool, arm: impl FnOnce(&Tagged)) {
    let tagged = Tagged::absent(|_| {}).await;
    arm(&tagged);
    let (answer, asked) = if by_digest {
        (tagged.pull_by_digest().await, BY_DIGEST)
    } else {
        (tagged.pull().await, GET)
    };
    assert_bad(&tagged, &answer);
    tagged.assert_asked([TOKEN, asked]);
    tagged.assert_next_pull([GET]).await;
}

/// 502, and the message names the upstream or its host.
#[track_caller]
fn assert_bad(tagged: &Tagged, answer: &Response) {
    let registry = host(&tagged.hub, Origin::Registry);
    let named = String::from_utf8_lossy(&answer.body).contains(&registry);
    let culprit = if named { &registry } else { "docker.io" };
    assert_error(answer, 502, "UNKNOWN", culprit);
}

#[tokio::test]
async fn a_web_page_for_a_manifest_is_refused() {
    assert_refused(&Fault::Html).await;
}

#[tokio::test]
async fn a_web_page_that_says_it_is_a_manifest_is_refused() {
    let html = "<!doctype html><html><title>Sign in</title></html>";
    let fault = Fault::body("application/vnd.oci.image.index.v1+json", html);
    assert_refused(&fault).await;
    // Nothing claims another digest: it is the page itself that is refused.
    assert_refused_by(false, |tagged| {
        tagged.registry().fault(fault);
        tagged.registry().fault(Fault::WithoutHeader(DIGEST));
    })
    .await;
}

#[tokio::test]
async fn another_manifest_for_the_digest_asked_is_refused() {
    for by_digest in [false, true] {
        assert_refused_by(by_digest, |tagged| {
            let other = tagged.image.architecture("arm64");
            let fault = Fault::body(&other.media_type, other.bytes.clone());
            tagged.registry().fault(fault);
        })
        .await;
    }
}

#[tokio::test]
async fn a_manifest_with_a_flipped_bit_is_refused() {
    assert_refused(&Fault::FlipBit { at: 30 }).await;
}

#[tokio::test]
async fn a_manifest_that_is_cut_so_that_it_looks_whole_is_refused() {
    assert_refused(&Fault::TruncateChunked(At::Percent(60))).await;
    assert_refused(&Fault::TruncateUntilClose(At::Percent(60))).await;
    assert_refused(&Fault::WrongLength(-10)).await;
}

#[tokio::test]
async fn a_manifest_that_is_encoded_unasked_is_refused() {
    assert_refused(&Fault::Gzip).await;
}

#[tokio::test]
async fn a_manifest_of_a_wrong_media_type_is_refused() {
    for media_type in [
        "text/plain",
        "application/octet-stream",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    ] {
        let fault = Fault::SetHeader("content-type", media_type.to_owned());
        assert_refused(&fault).await;
    }
}

#[tokio::test]
async fn a_manifest_of_64_mib_is_refused_before_it_is_here() {
    for chunked in [false, true] {
        for by_digest in [false, true] {
            assert_refused_by(by_digest, |tagged| {
                let bytes = 64 << 20;
                tagged.registry().times(1).fault(Fault::Pad { bytes });
                if chunked {
                    tagged.registry().times(1).fault(Fault::Chunked);
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn of_a_manifest_that_is_too_large_only_what_was_under_way_is_received() {
    for chunked in [false, true] {
        let tagged = Tagged::absent(|_| {}).await;
        let bytes = 64 << 20;
        tagged.registry().fault(Fault::Pad { bytes });
        if chunked {
            tagged.registry().fault(Fault::Chunked);
        }
        assert_bad(&tagged, &tagged.pull().await);
        tagged.hub.wait_until_idle().await;
        let cut = tagged.hub.requests().pop().unwrap();
        assert_eq!(cut.outcome, Outcome::Cut);
        // The sockets on both sides hold some mebibytes of their own.
        assert!(cut.sent < 40 * MIB, "{} bytes were sent", cut.sent);
    }
}

#[tokio::test]
async fn the_largest_manifest_is_accepted_and_one_byte_more_is_not() {
    for (bytes, accepted) in [(4 << 20, true), ((4 << 20) + 1, false)] {
        for chunked in [false, true] {
            let tagged = Tagged::absent(|_| {}).await;
            tagged.registry().fault(Fault::Pad { bytes });
            tagged.registry().fault(Fault::WithoutHeader(DIGEST));
            if chunked {
                tagged.registry().fault(Fault::Chunked);
            }
            let answer = tagged.pull().await;
            if accepted {
                assert_eq!((answer.status, answer.body.len()), (200, bytes));
                let digest = digest_of(&answer.body);
                assert_eq!(answer.header(DIGEST), Some(&*digest));
            } else {
                assert_bad(&tagged, &answer);
            }
            tagged.assert_asked([TOKEN, GET]);
        }
    }
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_fetched_again() {
    let faults = [
        Fault::Truncate(At::Percent(60)),
        Fault::WrongLength(10),
        Fault::Reset(At::Percent(60)),
        Fault::Reset(At::Head),
        Fault::status(500),
    ];
    join_all(faults.map(async |fault| {
        let tagged = Tagged::absent(|_| {}).await;
        tagged.registry().times(2).fault(fault);
        tagged.assert_served(&tagged.pull().await);
        tagged.assert_asked([TOKEN, GET, GET, GET]);
        tagged.assert_next_pull([]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_manifest_that_stalls_is_fetched_again() {
    let tagged = Tagged::absent(|settings| {
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.stall = Duration::from_millis(500);
    })
    .await;
    let stall = Fault::Stall(At::Percent(60));
    tagged.registry().times(1).fault(stall);
    tagged.assert_served(&tagged.pull().await);
    tagged.assert_asked([TOKEN, GET, GET]);
    tagged.assert_next_pull([]).await;
}

#[tokio::test]
async fn a_manifest_without_a_length_is_no_fault() {
    for fault in [Fault::Chunked, Fault::UntilClose] {
        let tagged = Tagged::absent(|_| {}).await;
        tagged.registry().fault(fault);
        tagged.assert_served(&tagged.pull().await);
        tagged.assert_asked([TOKEN, GET]);
        tagged.assert_next_pull([]).await;
    }
}

#[tokio::test]
async fn a_wrong_digest_in_the_header_of_a_tag_is_refused() {
    let wrong = Fault::SetHeader(DIGEST, digest_of(b"another"));
    assert_refused_by(false, |tagged| {
        tagged.registry().fault(wrong);
    })
    .await;
}

#[tokio::test]
async fn a_wrong_digest_in_the_header_changes_nothing_for_a_digest() {
    let tagged = Tagged::absent(|_| {}).await;
    let wrong = Fault::SetHeader(DIGEST, digest_of(b"another"));
    tagged.registry().fault(wrong);
    tagged.assert_served(&tagged.pull_by_digest().await);
    tagged.assert_asked([TOKEN, BY_DIGEST]);
    tagged.assert_served(&tagged.pull_by_digest().await);
    tagged.assert_asked([]);
}

#[tokio::test]
async fn a_head_that_is_refused_is_replaced_by_a_get() {
    for status in [405, 501] {
        let tagged = Tagged::expired(|_| {}).await;
        let head = tagged.registry().method("HEAD");
        head.fault(Fault::status(status));
        let answer = tagged.pull().await;
        tagged.assert_served(&answer);
        assert_eq!(outcome(&answer), "revalidated; upstream=docker.io");
        tagged.assert_asked([HEAD, GET]);
        tagged.assert_next_pull([]).await;
    }
}

#[tokio::test]
async fn a_head_without_a_digest_is_replaced_by_a_get() {
    for fault in [
        Fault::WithoutHeader(DIGEST),
        Fault::SetHeader(DIGEST, "sha256:00".to_owned()),
    ] {
        let tagged = Tagged::expired(|_| {}).await;
        tagged.registry().method("HEAD").fault(fault);
        let answer = tagged.pull().await;
        tagged.assert_served(&answer);
        assert_eq!(outcome(&answer), "revalidated; upstream=docker.io");
        tagged.assert_asked([HEAD, GET]);
        tagged.assert_next_pull([]).await;
    }
}

#[tokio::test]
async fn a_head_with_a_digest_that_does_not_exist_is_replaced_by_a_get() {
    let tagged = Tagged::expired(|_| {}).await;
    let absent = digest_of(b"absent");
    tagged.hub.name(&absent, "absent");
    let head = tagged.registry().method("HEAD");
    head.fault(Fault::SetHeader(DIGEST, absent));
    tagged.assert_served(&tagged.pull().await);
    let by_digest = "registry GET library/nginx/manifests/absent";
    tagged.assert_asked([HEAD, by_digest, GET]);
    tagged.assert_next_pull([]).await;
}

#[tokio::test]
async fn a_tag_that_moved_to_something_unusable_is_served_stale() {
    for fault in [Fault::Html, Fault::FlipBit { at: 30 }, Fault::Gzip] {
        let tagged = Tagged::expired(|_| {}).await;
        let other = tagged.image.architecture("arm64").digest.clone();
        tagged.hub.move_tag(super::NGINX, "latest", &other);
        tagged.registry().method("GET").fault(fault);
        let answer = tagged.pull().await;
        tagged.assert_stale(&answer, "upstream_error", "");
        let by_digest = "registry GET library/nginx/manifests/arm64.manifest";
        tagged.assert_asked([HEAD, by_digest]);
        tagged.assert_stale(&tagged.pull().await, "upstream_error", "");
        tagged.assert_asked([]);

        tagged.hub.clear_faults();
        tagged.mirror.clock.advance(Duration::from_mins(1));
        let next = tagged.pull().await;
        assert_eq!(next.header(DIGEST), Some(&*other));
        assert_eq!(next.body, tagged.image.architecture("arm64").bytes);
        tagged.assert_asked([HEAD, by_digest]);
    }
}

#[tokio::test]
async fn a_tag_that_was_deleted_is_served_for_a_day_and_by_digest_for_ever() {
    let tagged = Tagged::expired(|_| {}).await;
    tagged.hub.delete_tag(super::NGINX, "latest");
    tagged.assert_stale(
        &tagged.pull().await,
        "deleted",
        "docker.io has not had it since 20",
    );
    tagged.assert_asked([HEAD]);
    tagged.mirror.clock.advance(Duration::from_hours(24));
    assert_error(&tagged.pull().await, 404, "MANIFEST_UNKNOWN", "latest");
    tagged.assert_asked([TOKEN, HEAD]);
    tagged.assert_served(&tagged.pull_by_digest().await);
    tagged.assert_asked([]);
    tagged
        .hub
        .move_tag(super::NGINX, "latest", &tagged.image.digest);
    tagged.forget_absence();
    tagged.assert_next_pull([HEAD]).await;
}

#[tokio::test]
async fn what_the_upstream_refuses_is_404_and_never_401() {
    let tagged = Tagged::absent(|_| {}).await;
    let unknown = tagged.mirror.manifest("library/unknown", "latest").await;
    assert_error(&unknown, 404, "MANIFEST_UNKNOWN", "library/unknown");
    let asked = "registry GET library/unknown/manifests/latest";
    tagged.assert_asked(["token GET library/unknown:pull", asked]);
    tagged.registry().fault(Fault::status(403));
    assert_error(&tagged.pull().await, 404, "MANIFEST_UNKNOWN", "latest");
    tagged.assert_asked([TOKEN, GET]);
    tagged.forget_absence();
    tagged.assert_next_pull([GET]).await;
}
