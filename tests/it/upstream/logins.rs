//! Logins per prefix: each stands for its own repositories, and what is learnt of one says nothing of another.

use super::*;
use crate::support::Fault;

/// A hub with two users, each with a repository of their own.
async fn two_users() -> FakeHub {
    let hub = FakeHub::builder()
        .user("alice", "correct")
        .user("bob", "battery")
        .start()
        .await;
    for (repository, user) in [("acme/app", "alice"), ("acme/team/app", "bob")] {
        hub.push_image(repository, "1", ImageSpec::layers(1));
        hub.make_private(repository, user);
    }
    hub.push_image("acmecorp/app", "1", ImageSpec::layers(1));
    hub.push_image(NGINX, "1", ImageSpec::layers(1));
    hub
}

fn login(prefix: Option<&str>, username: &str, password: &str) -> Login {
    Login {
        prefix: prefix.map(name),
        username: username.into(),
        password: Secret::new(password),
    }
}

fn per_prefix(hub: &FakeHub) -> Settings {
    Settings {
        logins: vec![
            login(Some("acme"), "alice", "correct"),
            login(Some("acme/team"), "bob", "battery"),
        ],
        ..settings(hub)
    }
}

async fn head(upstream: &Upstream, repository: &str) -> Result<(), UpstreamError> {
    let (name, one) = (name(repository), reference("1"));
    upstream.head_manifest(&name, &one).await.map(drop)
}

#[tokio::test]
async fn the_longest_prefix_says_who_asks() {
    let hub = two_users().await;
    let upstream = upstream(per_prefix(&hub));
    for repository in ["acme/app", "acme/team/app", "acmecorp/app", NGINX] {
        head(&upstream, repository).await.unwrap();
    }
    assert_eq!(
        hub.summary(),
        [
            "token GET acme/app:pull (alice)",
            "registry HEAD acme/app/manifests/1",
            "token GET acme/team/app:pull (bob)",
            "registry HEAD acme/team/app/manifests/1",
            "token GET acmecorp/app:pull",
            "registry HEAD acmecorp/app/manifests/1",
            "token GET library/nginx:pull",
            "registry HEAD library/nginx/manifests/1",
        ]
    );
    let asked_for = ["acme/app", "acme", "acme/team/app", "acmecorp/app", NGINX];
    assert_eq!(
        asked_for.map(|repository| upstream.has_credentials_for(&name(repository))),
        [true, true, true, false, false]
    );
}

#[tokio::test]
async fn a_login_without_a_prefix_is_for_the_rest() {
    let hub = two_users().await;
    let mut settings = per_prefix(&hub);
    settings.logins.insert(0, login(None, "bob", "battery"));
    let upstream = upstream(settings);
    for repository in ["acme/app", NGINX] {
        head(&upstream, repository).await.unwrap();
    }
    assert_eq!(
        hub.summary(),
        [
            "token GET acme/app:pull (alice)",
            "registry HEAD acme/app/manifests/1",
            "token GET library/nginx:pull (bob)",
            "registry HEAD library/nginx/manifests/1",
        ]
    );
    assert!(upstream.has_credentials_for(&name(NGINX)));
}

#[tokio::test]
async fn wrong_credentials_of_one_prefix_stop_no_other() {
    let hub = two_users().await;
    let upstream = upstream(Settings {
        logins: vec![
            login(Some("acme"), "alice", "hunter2"),
            login(Some("acme/team"), "bob", "battery"),
        ],
        ..settings(&hub)
    });
    for _ in 0..2 {
        let error = head(&upstream, "acme/app").await.unwrap_err();
        let refused = matches!(error, UpstreamError::CredentialsRefused { ref username, .. } if username == "alice");
        assert!(refused, "{error:?}");
        assert!(!format!("{error} {error:?} {upstream:?}").contains("hunter2"));
        head(&upstream, "acme/team/app").await.unwrap();
        head(&upstream, NGINX).await.unwrap();
    }
    assert_eq!(
        hub.summary(),
        [
            "token GET acme/app:pull (alice)",
            "token GET acme/team/app:pull (bob)",
            "registry HEAD acme/team/app/manifests/1",
            "token GET library/nginx:pull",
            "registry HEAD library/nginx/manifests/1",
            "registry HEAD acme/team/app/manifests/1",
            "registry HEAD library/nginx/manifests/1",
        ]
    );
}

#[tokio::test]
async fn basic_credentials_go_out_for_their_own_prefix_alone() {
    let hub = two_users().await;
    let basic = Fault::Challenge("Basic realm=\"registry\"".into());
    hub.on(Origin::Registry).fault(basic);
    let upstream = upstream(Settings {
        token_url: None,
        name: "registry.test".into(),
        ..per_prefix(&hub)
    });
    for repository in ["acme/app", "acme/team/app", NGINX] {
        head(&upstream, repository).await.unwrap_err();
    }
    let sent = hub.requests();
    let sent: Vec<_> = sent
        .iter()
        .map(|it| (it.path.split('/').nth(3).unwrap(), it.basic_user()))
        .collect();
    let (alice, bob) = (Some("alice".to_owned()), Some("bob".to_owned()));
    assert_eq!(
        sent,
        [
            ("app", None),
            ("app", alice),
            ("team", None),
            ("team", bob),
            ("nginx", None)
        ]
    );
}

#[tokio::test]
async fn the_anonymous_view_asks_without_credentials() {
    let hub = two_users().await;
    let upstream = upstream(per_prefix(&hub));
    let (app, one) = (name("acme/app"), reference("1"));
    head(&upstream, "acme/app").await.unwrap();
    let anonymous = upstream.anonymous();
    let error = anonymous.head_manifest(&app, &one).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Denied { .. }), "{error:?}");
    let error = anonymous.tags(&app, None, None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Denied { .. }), "{error:?}");
    let image = hub.push_image(NGINX, "1", ImageSpec::layers(1));
    let layer = digest(&image.first().layers[0].digest);
    anonymous.head_blob(&name(NGINX), layer).await.unwrap();
    assert!(!anonymous.has_credentials_for(&app));
    // The user's own token is still there, and still used.
    head(&upstream, "acme/app").await.unwrap();
    let sent: Vec<_> = hub
        .summary()
        .into_iter()
        .filter(|line| !line.starts_with("cdn"))
        .collect();
    assert_eq!(
        sent[..2],
        [
            "token GET acme/app:pull (alice)",
            "registry HEAD acme/app/manifests/1"
        ]
    );
    assert_eq!(
        sent[2..4],
        [
            "token GET acme/app:pull",
            "registry HEAD acme/app/manifests/1"
        ]
    );
    assert_eq!(sent.last().unwrap(), "registry HEAD acme/app/manifests/1");
    let by_alice = |line: &&String| line.ends_with("(alice)");
    assert_eq!(sent.iter().filter(by_alice).count(), 1, "{sent:?}");
    // Both are counted as the one upstream that they are.
    let total: u64 = upstream
        .counters()
        .requests
        .iter()
        .map(|(_, _, count)| count)
        .sum();
    assert_eq!(total, hub.requests().len() as u64);
    assert_eq!(anonymous.counters(), upstream.counters());
}
