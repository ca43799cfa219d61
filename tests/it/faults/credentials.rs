//! Credentials that the upstream does not accept.

use std::time::Duration;

use mirror::sys::secret::Secret;

use super::tagged::{GET, HEAD, Tagged};
use super::{NGINX, as_alice, assert_error, host};
use crate::client::Response;
use crate::support::{Fault, Origin};

const AS_ALICE: &str = "token GET library/nginx:pull (alice)";

/// The message names the endpoint, and neither the user nor the password: anybody may read it.
#[track_caller]
fn assert_said(tagged: &Tagged, answer: &Response) {
    let culprit = host(&tagged.hub, Origin::Token);
    let message = format!("{culprit} refused the credentials that this mirror has for it");
    assert_error(answer, 502, "UNKNOWN", &message);
    let body = String::from_utf8_lossy(&answer.body);
    assert!(
        !body.contains("hunter2") && !body.contains("alice"),
        "{body}"
    );
    assert!(!answer.head.contains("alice"), "{}", answer.head);
}

async fn with_wrong_password() -> Tagged {
    Tagged::absent(|settings| {
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        as_alice(upstream);
        upstream.password = Some(Secret::new("hunter2"));
    })
    .await
}

#[tokio::test]
async fn wrong_credentials_are_named_and_the_endpoint_is_not_hammered() {
    // The hub knows no user at all.
    let tagged = with_wrong_password().await;
    assert_said(&tagged, &tagged.pull().await);
    tagged.assert_asked([AS_ALICE]);
    for _ in 0..5 {
        assert_said(&tagged, &tagged.pull().await);
        assert_said(&tagged, &tagged.pull_by_digest().await);
        let layer = &tagged.image.first().layers[0].digest;
        assert_said(&tagged, &tagged.mirror.blob(NGINX, layer).await);
        let tags = format!("/v2/{NGINX}/tags/list");
        assert_said(&tagged, &tagged.mirror.get(&tags).await);
    }
    let others = tagged.mirror.manifest("library/redis", "latest").await;
    assert_said(&tagged, &others);
    tagged.assert_asked([]);
    assert_eq!(tagged.mirror.cached(), [""; 0]);
    assert!(tagged.mirror.spooled().is_empty());

    tagged.mirror.clock.advance(Duration::from_secs(61));
    assert_said(&tagged, &tagged.pull().await);
    assert_said(&tagged, &tagged.pull().await);
    tagged.assert_asked([AS_ALICE]);
}

#[tokio::test]
async fn credentials_that_are_refused_for_a_while_leave_what_is_held() {
    let hub = crate::support::FakeHub::builder();
    let hub = hub.user("alice", "secret").start().await;
    let tagged = Tagged::expired_of(hub, |settings| {
        as_alice(settings.upstreams.get_mut("docker.io").unwrap());
    })
    .await;
    tagged.hub.revoke_tokens();
    tagged.hub.on(Origin::Token).fault(Fault::status(401));
    let answer = tagged.pull().await;
    tagged.assert_stale(&answer, "denied", &host(&tagged.hub, Origin::Token));
    tagged.assert_asked([HEAD, AS_ALICE]);
    // They are good again, but that is not tried at once.
    tagged.hub.clear_faults();
    let answer = tagged.pull().await;
    tagged.assert_stale(&answer, "denied", "refused the credentials");
    assert!(!answer.head.contains("alice"), "{}", answer.head);
    tagged.assert_asked([]);
    tagged.mirror.clock.advance(Duration::from_secs(61));
    tagged.assert_recovers([AS_ALICE, HEAD]).await;
}

#[tokio::test]
async fn right_credentials_are_used_for_every_token() {
    let hub = crate::support::FakeHub::builder();
    let hub = hub.user("alice", "secret").start().await;
    let image = hub.push_image("alice/app", "latest", crate::support::ImageSpec::layers(1));
    hub.make_private("alice/app", "alice");
    let tagged = Tagged::absent_of(hub, |settings| {
        as_alice(settings.upstreams.get_mut("docker.io").unwrap());
        settings.access.anonymous_private = true;
    })
    .await;
    let private = tagged.mirror.manifest("alice/app", "latest").await;
    assert_eq!((private.status, &private.body[..]), (200, &image.bytes[..]));
    let asked = "registry GET alice/app/manifests/latest";
    tagged.assert_asked(["token GET alice/app:pull (alice)", asked]);
    tagged.assert_next_pull([AS_ALICE, GET]).await;
}
