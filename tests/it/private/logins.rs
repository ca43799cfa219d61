//! What was fetched with a login is guarded when the login has gone.

use futures_util::future::join;
use mirror::config::{CredentialSource, LoginSettings};

use super::*;
use crate::support::At;

/// Without a login, and guarding.
fn logged_out(settings: &mut Settings) {
    settings.access.anonymous_private = false;
    let upstream = settings.upstreams.get_mut("docker.io").unwrap();
    upstream.username = None;
    upstream.password = None;
}

/// With Docker's logins alone, and guarding.
fn as_docker(settings: &mut Settings, file: &std::path::Path) {
    logged_out(settings);
    settings.ambient.docker_config = Some(file.to_owned());
    let upstream = settings.upstreams.get_mut("docker.io").unwrap();
    upstream.credentials = Some(CredentialSource::Docker);
}

/// What `docker login` writes.
fn login(hub: &FakeHub) -> String {
    let url = hub.registry_url();
    let host = url.rsplit('/').next().unwrap();
    let login = serde_json::json!({ "username": "alice", "password": "secret" });
    serde_json::json!({ "auths": { host: login } }).to_string()
}

#[tokio::test]
async fn a_login_that_is_taken_away_opens_nothing() {
    let stage = Stage::full(PRIVATE).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    let stage = stage.restart_with(logged_out).await;
    stage.hub.take_requests();
    stage.assert_hidden(PRIVATE).await;
    stage.assert_asked([
        "token GET alice/app:pull",
        "registry HEAD alice/app/manifests/latest",
    ]);
    // Nor does another start, or an outage.
    let stage = stage.restart().await;
    stage.hub.stop().await;
    stage.assert_hidden(PRIVATE).await;
    stage.hub.restart().await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    stage.hub.make_public(PRIVATE);
    stage.expire();
    stage.mirror.clock.advance(TTL);
    assert_eq!(stage.pull(PRIVATE).await, 200);
}

#[tokio::test]
async fn a_login_that_is_narrowed_opens_nothing() {
    let stage = Stage::full(PRIVATE).await;
    let narrowed = |settings: &mut Settings| {
        logged_out(settings);
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.logins = vec![LoginSettings {
            prefix: "alice/other".to_owned(),
            username: "alice".to_owned(),
            password: Secret::new("secret"),
        }];
    };
    let stage = stage.restart_with(narrowed).await;
    stage.assert_hidden(PRIVATE).await;
}

#[tokio::test]
async fn what_was_never_asked_with_a_login_costs_no_probe() {
    let narrow = |settings: &mut Settings| {
        logged_out(settings);
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.logins = vec![LoginSettings {
            prefix: "alice".to_owned(),
            username: "alice".to_owned(),
            password: Secret::new("secret"),
        }];
    };
    let stage = Stage::new(false).await.restart_with(narrow).await;
    assert_eq!(stage.pull(PRIVATE).await, 404);
    let stage = stage.restart_with(logged_out).await;
    stage.hub.take_requests();
    assert_eq!(stage.pull(PUBLIC).await, 200);
    stage.assert_asked([
        "token GET bob/tool:pull",
        "registry GET bob/tool/manifests/latest",
    ]);
}

#[tokio::test]
async fn logging_out_of_docker_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let stage = Stage::full(PRIVATE).await;
    std::fs::write(&file, login(&stage.hub)).unwrap();
    let stage = stage.restart_with(|it| as_docker(it, &file)).await;
    stage.assert_hidden(PRIVATE).await;
    std::fs::write(&file, "{}").unwrap();
    stage.mirror.clock.advance(Duration::from_mins(10));
    stage.assert_hidden(PRIVATE).await;
    let stage = stage.restart().await;
    stage.assert_hidden(PRIVATE).await;
}

#[tokio::test]
async fn logins_that_cannot_be_read_open_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    std::fs::write(&file, "{").unwrap();
    let stage = Stage::full(PRIVATE).await;
    let stage = stage.restart_with(|it| as_docker(it, &file)).await;
    for _ in 0..2 {
        stage.assert_hidden(PRIVATE).await;
        assert_eq!(stage.pull(PUBLIC).await, 200);
    }
    stage.mirror.clock.advance(Duration::from_secs(5));
    std::fs::write(&file, login(&stage.hub)).unwrap();
    stage.assert_hidden(PRIVATE).await;
}

#[tokio::test]
async fn a_login_that_comes_while_somebody_waits_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let stage = Stage::new(false).await;
    // Nothing was ever asked with a login here, and Docker is known to have none.
    let stage = stage.restart_with(|it| as_docker(it, &file)).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    assert_eq!(stage.pull(PUBLIC).await, 200);
    std::fs::write(&file, login(&stage.hub)).unwrap();
    stage.mirror.clock.advance(Duration::from_mins(10));
    let new = ImageSpec::layers(1).seed(77);
    stage.hub.push_image(PUBLIC, "latest", new);
    // Its tag is confirmed for nobody, and what that has moved to is fetched as alice.
    let head = stage.hub.on(Origin::Registry).method("HEAD");
    let gate = head.repository(PUBLIC).times(1).hold(At::Head);
    let meanwhile = async {
        gate.wait_for(1).await;
        let asked = |hub: &FakeHub| hub.requests().iter().any(|it| it.basic_user().is_some());
        while !asked(&stage.hub) {
            stage.pull(NGINX).await;
            stage.mirror.manifest(NGINX, "other").await;
            stage.mirror.clock.advance(NEGATIVE_TTL);
        }
        stage.hub.make_private(PUBLIC, "alice");
        stage.hub.revoke_tokens();
        gate.release();
    };
    let (status, ()) = join(stage.pull(PUBLIC), meanwhile).await;
    assert_eq!(status, 404);
    assert_eq!(stage.pull(PUBLIC).await, 404);
}

#[tokio::test]
async fn a_decision_is_of_the_host_that_made_it() {
    let stage = Stage::new(false).await;
    assert_eq!(stage.pull(PUBLIC).await, 200);
    let other = FakeHub::builder().user("alice", "secret").start().await;
    other.push_image(PUBLIC, "latest", ImageSpec::layers(1));
    other.make_private(PUBLIC, "alice");
    let moved = |settings: &mut Settings| {
        let upstream = settings.upstreams.get_mut("docker.io").unwrap();
        upstream.url = other.registry_url().parse().unwrap();
        upstream.token_url = Some(other.token_url().parse().unwrap());
    };
    let stage = stage.restart_with(moved).await;
    stage.assert_hidden(PUBLIC).await;
}
