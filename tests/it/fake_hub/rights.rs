//! Challenges, tokens, private repositories and the pull limit.

use std::time::Duration;

use serde_json::json;

use super::{NGINX, nginx, registry, token};
use crate::client::request;
use crate::support::{FakeHub, Fault, ImageSpec, Origin};

/// `alice:secret`.
const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";

fn scope(hub: &FakeHub, repository: &str) -> String {
    let url = hub.token_url();
    format!("{url}?service=registry.docker.io&scope=repository%3A{repository}%3Apull")
}

#[tokio::test]
async fn without_a_token_there_is_a_challenge() {
    let (hub, _) = nginx().await;
    let base = format!("{}/v2/", hub.registry_url());
    let bearer = format!(
        "Bearer realm=\"{}\",service=\"registry.docker.io\"",
        hub.token_url()
    );
    let ping = request("GET", &base, &[]).await;
    assert_eq!(ping.status, 401);
    assert_eq!(ping.header("www-authenticate"), Some(&*bearer));
    let manifest = request("GET", &format!("{base}{NGINX}/manifests/latest"), &[]).await;
    assert_eq!(manifest.json()["errors"][0]["code"], "UNAUTHORIZED");
    let scoped = format!("{bearer},scope=\"repository:{NGINX}:pull\"");
    assert_eq!(manifest.header("www-authenticate"), Some(&*scoped));
    let token = token(&hub, NGINX).await;
    let ping = request("GET", &base, &[("authorization", &token)]).await;
    assert_eq!((ping.status, ping.json()), (200, json!({})));
}

#[tokio::test]
async fn a_token_is_good_for_its_own_repository() {
    let (hub, _) = nginx().await;
    hub.push_image("library/redis", "latest", ImageSpec::layers(1));
    let token = token(&hub, "library/redis").await;
    let url = format!("{}/v2/{NGINX}/manifests/latest", hub.registry_url());
    let answer = request("GET", &url, &[("authorization", &token)]).await;
    assert_eq!(answer.status, 401);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(
        challenge.ends_with("error=\"insufficient_scope\""),
        "{challenge}"
    );

    let both = format!(
        "{}&scope=repository:library/redis:pull,push",
        scope(&hub, NGINX)
    );
    let answer = request("GET", &both, &[]).await;
    let both = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    assert_eq!(
        request("GET", &url, &[("authorization", &both)])
            .await
            .status,
        200
    );
    assert!(
        hub.summary()
            .contains(&"token GET library/nginx:pull library/redis:pull,push".into())
    );
}

#[tokio::test]
async fn an_unknown_repository_is_401_with_and_without_a_token() {
    let (hub, _) = nginx().await;
    let url = format!("{}/v2/library/nothing/manifests/latest", hub.registry_url());
    assert_eq!(request("HEAD", &url, &[]).await.status, 401);
    let token = token(&hub, "library/nothing").await;
    assert_eq!(
        request("GET", &url, &[("authorization", &token)])
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn a_private_repository_is_for_its_readers() {
    let hub = FakeHub::builder()
        .user("alice", "secret")
        .user("bob", "hidden")
        .start()
        .await;
    hub.push_image("alice/app", "latest", ImageSpec::layers(1));
    hub.make_private("alice/app", "alice");
    let url = format!("{}/v2/alice/app/manifests/latest", hub.registry_url());
    // base64 of `bob:hidden`
    for (basic, status) in [
        (Some(ALICE), 200),
        (Some("Basic Ym9iOmhpZGRlbg=="), 401),
        (None, 401),
    ] {
        let auth: Vec<_> = basic.map(|it| ("authorization", it)).into_iter().collect();
        let answer = request("GET", &scope(&hub, "alice/app"), &auth).await;
        assert_eq!(answer.status, 200, "a smaller grant is no error");
        let token = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
        let answer = request("GET", &url, &[("authorization", &token)]).await;
        assert_eq!(answer.status, status, "{basic:?}");
    }
    assert_eq!(hub.summary()[0], "token GET alice/app:pull (alice)");
}

#[tokio::test]
async fn wrong_credentials_are_refused() {
    let hub = FakeHub::builder().user("alice", "other").start().await;
    let answer = request("GET", &scope(&hub, NGINX), &[("authorization", ALICE)]).await;
    assert_eq!(answer.status, 401);
    let unread = request("GET", &scope(&hub, NGINX), &[("authorization", "Basic ?")]).await;
    assert_eq!(unread.status, 401);
    assert_eq!(request("POST", &hub.token_url(), &[]).await.status, 405);
}

#[tokio::test]
async fn tokens_expire_and_are_revoked() {
    let (hub, _) = nginx().await;
    let url = format!("{}/v2/{NGINX}/manifests/latest", hub.registry_url());
    let token = token(&hub, NGINX).await;
    let auth = [("authorization", token.as_str())];
    assert_eq!(request("GET", &url, &auth).await.status, 200);
    hub.revoke_tokens();
    let refused = request("GET", &url, &auth).await;
    assert_eq!(refused.status, 401);
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(
        challenge.ends_with("error=\"invalid_token\""),
        "{challenge}"
    );

    let hub = FakeHub::builder().token_ttl(Duration::ZERO).start().await;
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let answer = request("GET", &scope(&hub, NGINX), &[]).await;
    assert_eq!(answer.json()["expires_in"], 0);
    assert!(answer.json()["issued_at"].is_string());
    assert_eq!(registry(&hub, "GET", "manifests/latest").await.status, 401);
}

#[tokio::test]
async fn a_dead_token_looks_good_and_is_refused() {
    let (hub, _) = nginx().await;
    hub.on(Origin::Token).times(1).fault(Fault::DeadToken);
    assert_eq!(registry(&hub, "GET", "manifests/latest").await.status, 401);
    assert_eq!(registry(&hub, "GET", "manifests/latest").await.status, 200);
}

#[tokio::test]
async fn manifest_gets_count_and_heads_do_not() {
    let (hub, _) = nginx().await;
    hub.set_rate_limit(Some(2));
    let remaining = async |method| {
        let answer = registry(&hub, method, "manifests/latest").await;
        let shown = answer.header("ratelimit-remaining").unwrap().to_owned();
        (answer.status, shown)
    };
    assert_eq!(remaining("HEAD").await, (200, "2;w=21600".to_owned()));
    assert_eq!(remaining("GET").await, (200, "1;w=21600".to_owned()));
    assert_eq!(remaining("GET").await, (200, "0;w=21600".to_owned()));
    assert_eq!(remaining("GET").await, (429, "0;w=21600".to_owned()));
    assert_eq!(remaining("HEAD").await, (200, "0;w=21600".to_owned()));
    hub.set_rate_limit(None);
    let paid = registry(&hub, "GET", "manifests/latest").await;
    assert_eq!((paid.status, paid.header("ratelimit-limit")), (200, None));
}

#[tokio::test]
async fn a_used_up_limit_says_when_to_come_back() {
    let (hub, _) = nginx().await;
    hub.rate_limited(true, Some(Duration::from_secs(17)));
    let answer = registry(&hub, "GET", "manifests/latest").await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, Some("17"))
    );
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    hub.rate_limited(false, None);
    assert_eq!(registry(&hub, "GET", "manifests/latest").await.status, 200);
}
