//! Tokens that expire, endpoints that fail, and challenges that lead astray.

use std::io::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use mirror::config::{Settings, UpstreamSettings};

use super::tagged::{GET, HEAD, TOKEN, Tagged};
use super::{
    NGINX, NOTHING, Stage, Told, as_alice, assert_error, at_registry, fetch, host, line, patient,
    resume, token,
};
use crate::mirror::TestMirror;
use crate::support::{At, FakeHub, Fault, Origin};

fn upstream(settings: &mut Settings) -> &mut UpstreamSettings {
    settings.upstreams.get_mut("docker.io").unwrap()
}

#[tokio::test]
async fn a_token_that_expires_between_two_blobs_is_renewed_once() {
    join_all(Stage::both().await.map(async |stage| {
        stage.hub.revoke_tokens();
        stage.assert_complete(&stage.pull().await);
        stage.assert_asked([at_registry(), token(), fetch()]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_token_that_expires_in_the_middle_of_a_blob_is_renewed() {
    join_all(Stage::both().await.map(async |stage| {
        let gate = stage.cdn().times(1).hold(At::Percent(60));
        stage.cdn().times(1).fault(Fault::Reset(At::Percent(60)));
        let expired = async {
            gate.wait_for(1).await;
            stage.hub.revoke_tokens();
            gate.release();
        };
        let (answer, ()) = tokio::join!(stage.pull(), expired);
        stage.assert_complete(&answer);
        let resumed = resume(stage.at(60));
        let refused = line(&resumed[0]);
        stage.assert_asked([fetch(), refused, token(), resumed]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let tagged = Tagged::expired(|_| {}).await;
    // 80 % of the 300 s that the hub gives.
    tagged.mirror.clock.advance(Duration::from_mins(3));
    // The endpoint takes its time, and the pull goes on with the token that is still alive.
    let gate = tagged.hub.on(Origin::Token).hold(At::Head);
    tagged.assert_served(&tagged.pull().await);
    gate.wait_for(1).await;
    assert_eq!(tagged.hub.sorted_summary(), [HEAD, TOKEN]);
    tagged.hub.take_requests();
    gate.release();
    tagged.assert_next_pull([]).await;
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_named() {
    let tagged = Tagged::absent(|settings| upstream(settings).retries = 1).await;
    tagged.hub.stop_origin(Origin::Token).await;
    let answer = tagged.pull().await;
    assert_error(&answer, 503, "UNKNOWN", &host(&tagged.hub, Origin::Token));
    assert_eq!(answer.header("retry-after"), Some("5"));
    let layer = &tagged.image.first().layers[0].digest;
    let answer = tagged.mirror.blob(NGINX, layer).await;
    assert_error(&answer, 503, "UNKNOWN", &host(&tagged.hub, Origin::Token));
    tagged.assert_asked([]);
    assert_eq!(tagged.mirror.cached(), [""; 0]);
    tagged.hub.restart_origin(Origin::Token).await;
    tagged.assert_noticed([TOKEN, HEAD]).await;
    tagged.assert_next_pull([GET]).await;
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_leaves_what_is_held() {
    let tagged = Tagged::expired(|settings| upstream(settings).retries = 0).await;
    tagged.hub.stop_origin(Origin::Token).await;
    tagged.hub.revoke_tokens();
    let answer = tagged.pull().await;
    tagged.assert_stale(&answer, "unreachable", &host(&tagged.hub, Origin::Token));
    tagged.assert_asked([HEAD]);
    tagged.hub.restart_origin(Origin::Token).await;
    tagged.assert_recovers([TOKEN, HEAD, HEAD]).await;
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_not_missed_while_a_token_lives() {
    let tagged = Tagged::expired(|settings| upstream(settings).retries = 0).await;
    tagged.mirror.clock.advance(Duration::from_mins(3));
    tagged.hub.stop_origin(Origin::Token).await;
    tagged.assert_next_pull([HEAD]).await;
}

#[tokio::test]
async fn a_burst_of_5xx_at_the_token_endpoint_is_outlasted() {
    let tagged = Tagged::absent(|_| {}).await;
    let endpoint = tagged.hub.on(Origin::Token);
    endpoint.times(2).fault(Fault::status(503));
    tagged.assert_served(&tagged.pull().await);
    tagged.assert_asked([TOKEN, TOKEN, TOKEN, GET]);
    tagged.assert_next_pull([]).await;
}

#[tokio::test]
async fn a_token_endpoint_that_gives_no_token_is_named() {
    for fault in [
        Fault::Html,
        Fault::body("application/json", "{\"token\": "),
        Fault::body("application/json", "{}"),
        Fault::Pad { bytes: 2 << 20 },
        Fault::RedirectTo("http://127.0.0.1:1/".to_owned()),
    ] {
        let tagged = Tagged::absent(|_| {}).await;
        tagged.hub.on(Origin::Token).fault(fault);
        let answer = tagged.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&tagged.hub, Origin::Token));
        // In between the registry was asked whether it has another endpoint.
        tagged.assert_asked([TOKEN, GET, TOKEN]);
        tagged.assert_next_pull([TOKEN, GET]).await;
    }
}

#[tokio::test]
async fn a_token_that_is_refused_from_the_start_is_not_used_again() {
    let tagged = Tagged::absent(|_| {}).await;
    let endpoint = tagged.hub.on(Origin::Token);
    endpoint.times(1).fault(Fault::DeadToken);
    // The registry refuses what its endpoint has just granted: it does not want us.
    assert_error(&tagged.pull().await, 404, "MANIFEST_UNKNOWN", "latest");
    tagged.assert_asked([TOKEN, GET]);
    tagged.forget_absence();
    tagged.assert_next_pull([TOKEN, GET]).await;
}

/// A hub over TLS and the file that makes a mirror trust it.
async fn tls_hub() -> (FakeHub, tempfile::NamedTempFile) {
    let hub = FakeHub::builder()
        .tls(true)
        .user("alice", "secret")
        .start()
        .await;
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    authority.write_all(hub.ca_pem().as_bytes()).unwrap();
    (hub, authority)
}

/// The layer is pulled while the registry names the foreign host's token endpoint.
async fn assert_foreign_endpoint_sees_no_credentials(stage: Stage) {
    stage.hub.revoke_tokens();
    stage.hub.on(Origin::Registry).fault(Fault::ForeignRealm);
    stage.assert_complete(&stage.pull().await);
    let mut requests = stage.hub.requests().into_iter();
    let foreign = requests.find(|it| it.origin == Origin::Foreign).unwrap();
    assert_eq!(foreign.header("authorization"), None);
    let asked = line("foreign GET library/nginx:pull");
    stage.assert_asked([at_registry(), asked, fetch()]);
    stage.assert_next_pull(NOTHING).await;

    // The next challenge counts: the right endpoint is asked with the credentials again.
    stage.hub.revoke_tokens();
    let config = &stage.image.architecture("arm64").config;
    super::assert_complete(&stage.mirror.blob(NGINX, &config.digest).await, config);
    stage.assert_asked([
        line("registry GET library/nginx/blobs/arm64.config"),
        line("token GET library/nginx:pull (alice)"),
        line("registry GET library/nginx/blobs/arm64.config"),
        line("cdn GET arm64.config"),
    ]);
}

#[tokio::test]
async fn a_challenge_that_names_a_foreign_host_gets_no_credentials() {
    let hub = FakeHub::builder().user("alice", "secret").start().await;
    let stage = Stage::with(hub, Told::Nothing, as_alice).await;
    assert_foreign_endpoint_sees_no_credentials(stage).await;
}

#[tokio::test]
async fn a_challenge_over_tls_that_names_a_foreign_host_gets_no_credentials() {
    let (hub, authority) = tls_hub().await;
    let change = |upstream: &mut UpstreamSettings| {
        as_alice(upstream);
        upstream.ca = Some(authority.path().to_owned());
    };
    let stage = Stage::with(hub, Told::Nothing, change).await;
    assert_foreign_endpoint_sees_no_credentials(stage).await;
}

#[tokio::test]
async fn a_first_challenge_that_names_a_foreign_host_gets_no_credentials() {
    let hub = FakeHub::builder().user("alice", "secret").start().await;
    let digest = hub.push_blob(NGINX, b"a layer".to_vec());
    hub.name(&digest, "blob");
    let mirror = TestMirror::start_with(&hub, |settings| {
        as_alice(patient(settings));
        upstream(settings).token_url = None;
    })
    .await;
    hub.on(Origin::Registry).fault(Fault::ForeignRealm);
    let answer = mirror.blob(NGINX, &digest).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"a layer"[..]));
    let authorized = hub
        .requests()
        .iter()
        .map(|it| it.header("authorization").map(str::to_owned))
        .collect::<Vec<_>>();
    assert!(
        matches!(&authorized[..], [None, None, Some(bearer), None] if bearer.starts_with("Bearer ")),
        "{authorized:?}"
    );
    let asked = [
        "registry GET library/nginx/blobs/blob",
        "foreign GET library/nginx:pull",
        "registry GET library/nginx/blobs/blob",
        "cdn GET blob",
    ];
    assert_eq!(hub.take_summary(), asked);
    mirror.wait_until_cached(&digest).await;
    assert_eq!(mirror.blob(NGINX, &digest).await.body, b"a layer");
    assert_eq!(hub.take_summary(), [""; 0]);
}

#[tokio::test]
async fn a_challenge_over_tls_that_names_an_endpoint_over_http_is_refused() {
    let (hub, authority) = tls_hub().await;
    let change = |upstream: &mut UpstreamSettings| {
        as_alice(upstream);
        upstream.ca = Some(authority.path().to_owned());
    };
    let stage = Stage::with(hub, Told::Nothing, change).await;
    stage.hub.revoke_tokens();
    let plain = stage.hub.url(Origin::Plain);
    let challenge = format!("Bearer realm=\"{plain}/token\",service=\"registry.docker.io\"");
    stage.registry().fault(Fault::Challenge(challenge));
    let answer = stage.pull().await;
    assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Registry));
    stage.assert_asked([at_registry()]);
    stage.assert_nothing_kept();
    let alice = line("token GET library/nginx:pull (alice)");
    stage.assert_next_pull([alice, fetch()]).await;
}

#[tokio::test]
async fn a_challenge_that_cannot_be_answered_is_refused() {
    for (challenge, status, code) in [
        ("Bearer realm=\"ftp://127.0.0.1/token\"", 502, "UNKNOWN"),
        ("Bearer realm=\"nonsense\"", 502, "UNKNOWN"),
        // We have no password to send, and would not send it over http to whoever asks.
        ("Basic realm=\"registry\"", 404, "BLOB_UNKNOWN"),
        ("Negotiate", 404, "BLOB_UNKNOWN"),
    ] {
        for stage in Stage::both().await {
            let fault = Fault::Challenge(challenge.to_owned());
            stage.registry().fault(fault);
            let answer = stage.pull().await;
            assert_error(&answer, status, code, "");
            stage.assert_asked([at_registry()]);
            stage.assert_nothing_kept();
            stage.mirror.clock.advance(Duration::from_secs(30));
            stage.assert_next_pull([token(), fetch()]).await;
        }
    }
}
