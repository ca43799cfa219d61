//! Redirects that lead in circles, too far, or where we do not follow.

use std::io::Write as _;

use futures_util::future::join_all;

use super::{NOTHING, Stage, Told, as_alice, assert_error, at_cdn, at_registry, fetch, host, line};
use crate::support::{FakeHub, Fault, Origin};

#[tokio::test]
async fn a_redirect_loop_at_the_registry_is_refused() {
    join_all(Stage::both().await.map(async |stage| {
        stage.registry().fault(Fault::RedirectLoop);
        let answer = stage.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Registry));
        stage.assert_asked([at_registry()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_redirect_loop_at_the_cdn_is_refused() {
    join_all(Stage::both().await.map(async |stage| {
        stage.cdn().fault(Fault::RedirectLoop);
        let answer = stage.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Cdn));
        stage.assert_asked([fetch()]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn redirects_without_end_are_refused_after_five() {
    join_all(Stage::both().await.map(async |stage| {
        for hop in 0..10 {
            let next = format!("{}/hop{}", stage.hub.url(Origin::Cdn), hop + 1);
            let cdn = stage.hub.on(Origin::Cdn).skip(hop).times(1);
            cdn.fault(Fault::RedirectTo(next));
        }
        let answer = stage.pull().await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Cdn));
        let hops = (1..5).map(|hop| format!("cdn GET /hop{hop}")).collect();
        stage.assert_asked([at_registry(), at_cdn(), hops]);
        stage.assert_nothing_kept();
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_refused() {
    for location in ["ftp://127.0.0.1/x", "http://me:pw@127.0.0.1/x", "http://["] {
        for stage in Stage::both().await {
            let fault = Fault::RedirectTo(location.to_owned());
            stage.registry().fault(fault);
            let answer = stage.pull().await;
            assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Registry));
            stage.assert_asked([at_registry()]);
            stage.assert_nothing_kept();
            stage.assert_next_pull([fetch()]).await;
        }
    }
}

#[tokio::test]
async fn a_redirect_to_a_stranger_is_followed_without_authorization() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::builder().user("alice", "secret").start().await;
        let stage = Stage::with(hub, told, as_alice).await;
        stage.registry().fault(Fault::RedirectToForeign);
        stage.assert_complete(&stage.pull().await);
        let foreign = stage.hub.requests().pop().unwrap();
        assert_eq!(foreign.header("authorization"), None);
        stage.assert_asked([at_registry(), line("foreign GET amd64.layer0")]);
        stage.assert_next_pull(NOTHING).await;
    }))
    .await;
}

#[tokio::test]
async fn https_is_never_left_for_http() {
    join_all([Told::Length, Told::Nothing].map(async |told| {
        let hub = FakeHub::builder().tls(true).start().await;
        let mut authority = tempfile::NamedTempFile::new().unwrap();
        authority.write_all(hub.ca_pem().as_bytes()).unwrap();
        let path = Some(authority.path().to_owned());
        let stage = Stage::with(hub, told, |upstream| upstream.ca = path).await;
        for origin in [Origin::Registry, Origin::Cdn] {
            stage.hub.on(origin).fault(Fault::RedirectToPlain);
            let answer = stage.pull().await;
            let plain = host(&stage.hub, Origin::Plain);
            assert_error(&answer, 502, "UNKNOWN", &plain);
            let asked = if origin == Origin::Cdn {
                fetch()
            } else {
                at_registry()
            };
            stage.assert_asked([asked]);
            stage.assert_nothing_kept();
            stage.hub.clear_faults();
        }
        stage
            .hub
            .on(Origin::Registry)
            .manifests()
            .fault(Fault::RedirectToPlain);
        let manifest = &stage.image.architecture("arm64").digest;
        let answer = stage.mirror.manifest(super::NGINX, manifest).await;
        assert_error(&answer, 502, "UNKNOWN", &host(&stage.hub, Origin::Plain));
        stage.assert_asked([line("registry GET library/nginx/manifests/arm64.manifest")]);
        stage.assert_next_pull([fetch()]).await;
    }))
    .await;
}
