//! Credentials: to whom they go, and what happens when they are wrong.

use super::*;
use crate::support::{Fault, Recorded};

const PRIVATE: &str = "alice/app";

async fn private() -> FakeHub {
    let hub = FakeHub::builder().user("alice", "correct").start().await;
    hub.push_image(PRIVATE, "1", ImageSpec::layers(1));
    hub.make_private(PRIVATE, "alice");
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    hub
}

#[tokio::test]
async fn a_private_image_is_pulled_with_a_token_for_its_user() {
    let hub = private().await;
    let settings = Settings {
        logins: vec![alice("correct")],
        ..settings(&hub)
    };
    upstream(settings)
        .get_manifest(&name(PRIVATE), &reference("1"))
        .await
        .unwrap();
    assert_eq!(
        hub.summary_with_status(),
        [
            "token GET alice/app:pull (alice) -> 200",
            "registry GET alice/app/manifests/1 -> 200",
        ]
    );
    let sent = hub.requests()[1].header("authorization").map(str::to_owned);
    assert!(
        sent.is_some_and(|sent| sent.starts_with("Bearer ")),
        "the password went further"
    );
}

#[tokio::test]
async fn wrong_credentials_are_tried_once_a_minute() {
    let hub = private().await;
    let clock = clock();
    let settings = Settings {
        logins: vec![alice("hunter2")],
        ..settings(&hub)
    };
    let upstream = upstream_at(settings, &clock);
    for repository in [PRIVATE, NGINX, "library/redis", PRIVATE] {
        let error = upstream
            .head_manifest(&name(repository), &reference("1"))
            .await
            .unwrap_err();
        let UpstreamError::CredentialsRefused {
            host: refusing,
            username,
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(
            (refusing, &**username),
            (&host(&hub.url(Origin::Token)), "alice")
        );
        assert!(!format!("{error} {error:?} {upstream:?}").contains("hunter2"));
    }
    assert_eq!(hub.take_summary(), ["token GET alice/app:pull (alice)"]);
    clock.advance(Duration::from_mins(1));
    upstream
        .head_manifest(&name(NGINX), &reference("1"))
        .await
        .unwrap_err();
    assert_eq!(hub.take_summary(), ["token GET library/nginx:pull (alice)"]);
}

#[tokio::test]
async fn a_foreign_realm_is_asked_without_credentials() {
    let hub = private().await;
    hub.on(Origin::Registry).fault(Fault::ForeignRealm);
    let settings = Settings {
        logins: vec![alice("correct")],
        ..stranger(&hub)
    };
    upstream(settings)
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap();
    assert_eq!(
        hub.summary_with_status(),
        [
            "registry GET library/nginx/manifests/latest -> 401",
            "foreign GET library/nginx:pull -> 200",
            "registry GET library/nginx/manifests/latest -> 200",
        ]
    );
    assert_secrets_stayed_home(&hub);
}

#[tokio::test]
async fn a_configured_endpoint_is_asked_though_the_challenge_names_another() {
    let hub = private().await;
    hub.on(Origin::Registry).fault(Fault::ForeignRealm);
    let settings = Settings {
        logins: vec![alice("correct")],
        ..settings(&hub)
    };
    upstream(settings)
        .get_manifest(&name(PRIVATE), &reference("1"))
        .await
        .unwrap();
    assert_eq!(
        hub.summary(),
        [
            "token GET alice/app:pull (alice)",
            "registry GET alice/app/manifests/1",
        ]
    );
}

#[tokio::test]
async fn a_basic_challenge_is_answered_to_the_registry_alone() {
    let hub = private().await;
    let basic = Fault::Challenge("Basic realm=\"registry\"".into());
    hub.on(Origin::Registry).times(1).fault(basic.clone());
    let with = Settings {
        logins: vec![alice("correct")],
        ..stranger(&hub)
    };
    // The hub knows no Basic and challenges again; what counts is to whom the password went.
    upstream(with)
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    let sent: Vec<_> = hub
        .take_requests()
        .iter()
        .map(|it| (it.origin, it.basic_user()))
        .collect();
    assert_eq!(
        sent,
        [
            (Origin::Registry, None),
            (Origin::Registry, Some("alice".into()))
        ]
    );

    hub.on(Origin::Registry).times(1).fault(basic);
    let error = upstream(stranger(&hub))
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, UpstreamError::Denied { status: 401, .. }),
        "{error:?}"
    );
    assert_eq!(
        hub.take_summary(),
        ["registry HEAD library/nginx/manifests/latest"]
    );
}

#[track_caller]
fn assert_refused_by_the_registry(hub: &FakeHub, error: &UpstreamError) {
    let UpstreamError::CredentialsRefused {
        host: refusing,
        username,
    } = error
    else {
        panic!("{error:?}");
    };
    let registry = host(&hub.registry_url());
    assert_eq!((refusing, &**username), (&registry, "alice"));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

/// Who asked for a manifest since the last call.
fn asked_as(hub: &FakeHub) -> Vec<Option<String>> {
    let requests = hub.take_requests();
    assert!(requests.iter().all(|it| it.origin == Origin::Registry));
    requests.iter().map(Recorded::basic_user).collect()
}

#[tokio::test]
async fn wrong_credentials_are_tried_once_a_minute_at_a_registry_without_tokens() {
    let hub = private().await;
    let basic = Fault::Challenge("Basic realm=\"registry\"".into());
    hub.on(Origin::Registry).fault(basic);
    let clock = clock();
    let settings = Settings {
        logins: vec![alice("hunter2")],
        ..stranger(&hub)
    };
    let upstream = upstream_at(settings, &clock);
    let ask = async |repository| {
        let (name, reference) = (name(repository), reference("1"));
        let asked = upstream.head_manifest(&name, &reference).await;
        assert_refused_by_the_registry(&hub, &asked.unwrap_err());
        assert!(!format!("{upstream:?}").contains("hunter2"));
        asked_as(&hub)
    };
    assert_eq!(ask(PRIVATE).await, [None, Some("alice".into())]);
    // The registry may still have something for everybody: it is asked, but not with the password.
    for repository in [PRIVATE, NGINX, "library/redis"] {
        assert_eq!(ask(repository).await, [None]);
    }
    clock.advance(Duration::from_mins(1));
    assert_eq!(ask(NGINX).await, [None, Some("alice".into())]);
}

#[tokio::test]
async fn credentials_that_a_registry_without_tokens_no_longer_accepts_are_refused() {
    let hub = private().await;
    let basic = Fault::Challenge("Basic realm=\"registry\"".into());
    let manifest = Fault::body("application/vnd.oci.image.index.v1+json", "{}");
    hub.on(Origin::Registry).times(1).fault(basic.clone());
    let accepting = hub.on(Origin::Registry).skip(1).fault(manifest);
    let clock = clock();
    let settings = Settings {
        logins: vec![alice("hunter2")],
        ..stranger(&hub)
    };
    let upstream = upstream_at(settings, &clock);
    let (nginx, latest) = (name(NGINX), reference("latest"));
    let ask = || upstream.get_manifest(&nginx, &latest);
    let alice = || Some("alice".to_owned());
    ask().await.unwrap();
    ask().await.unwrap();
    assert_eq!(asked_as(&hub), [None, alice(), alice()]);

    accepting.disarm();
    hub.on(Origin::Registry).fault(basic);
    for _ in 0..3 {
        assert_refused_by_the_registry(&hub, &ask().await.unwrap_err());
    }
    assert_eq!(asked_as(&hub), [alice()]);
    clock.advance(Duration::from_mins(1));
    assert_refused_by_the_registry(&hub, &ask().await.unwrap_err());
    assert_eq!(asked_as(&hub), [alice()]);
}

#[tokio::test]
async fn a_challenge_that_names_no_url_is_a_bad_answer() {
    let (hub, _) = nginx().await;
    let odd = Fault::Challenge("Bearer realm=\"token\",service=\"x\"".into());
    hub.on(Origin::Registry).fault(odd);
    let error = upstream(stranger(&hub))
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    let expected = format!(
        "{} gave a bad answer: its challenge names a token endpoint that is not a URL",
        host(&hub.registry_url())
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(
        hub.summary(),
        ["registry HEAD library/nginx/manifests/latest"]
    );
}
