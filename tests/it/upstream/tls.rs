//! TLS: who is trusted, and that nothing leads from https to http.

use super::*;
use crate::support::Fault;
use mirror::upstream::Phase;

async fn secure() -> (FakeHub, Digest) {
    let hub = FakeHub::builder().tls(true).start().await;
    let pushed = hub.push_blob(NGINX, "some bytes");
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    hub.name(&pushed, "blob");
    (hub, digest(&pushed))
}

fn trusting(hub: &FakeHub, settings: Settings) -> Upstream {
    upstream(Settings {
        ca: vec![hub.ca_pem().into()],
        ..settings
    })
}

#[tokio::test]
async fn a_configured_authority_is_trusted_by_both_clients() {
    let (hub, blob) = secure().await;
    let upstream = trusting(&hub, settings(&hub));
    upstream
        .get_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap();
    let (bytes, error) = read(upstream.open_blob(&name(NGINX), blob, 0).await.unwrap()).await;
    assert_eq!((&*bytes, error.is_none()), (&b"some bytes"[..], true));
    assert_secrets_stayed_home(&hub);
}

#[tokio::test]
async fn an_unknown_authority_is_said_so_at_once() {
    let (hub, blob) = secure().await;
    let distrustful = || {
        upstream(Settings {
            token_url: None,
            ..settings(&hub)
        })
    };
    let manifest = distrustful()
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    let blob = distrustful()
        .open_blob(&name(NGINX), blob, 0)
        .await
        .unwrap_err();
    for error in [manifest, blob] {
        let UpstreamError::Unreachable {
            host: named,
            phase,
            reason,
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!((named, *phase), (&host(&hub.registry_url()), Phase::Tls));
        assert_eq!(reason, "invalid peer certificate: UnknownIssuer");
    }
    assert!(hub.summary().is_empty());
}

#[tokio::test]
async fn an_authority_that_is_none_is_refused_at_the_start() {
    let hub = FakeHub::start().await;
    for odd in [
        "",
        "hello",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let settings = Settings {
            ca: vec![odd.into()],
            ..settings(&hub)
        };
        let error = Upstream::new(settings, clock(), Tasks::new(), TestMemo::new()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("the certificate authority is unusable: "),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_redirect_to_http_is_not_followed() {
    let (hub, blob) = secure().await;
    let upstream = trusting(&hub, settings(&hub));
    hub.on(Origin::Registry)
        .blobs()
        .fault(Fault::RedirectToPlain);
    let error = upstream.open_blob(&name(NGINX), blob, 0).await.unwrap_err();
    let expected = format!(
        "{} gave a bad answer: it redirects from https to http, to 127.0.0.1:{}",
        host(&hub.registry_url()),
        host(&hub.url(Origin::Plain)).split_once(':').unwrap().1,
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(
        hub.summary(),
        [
            "token GET library/nginx:pull",
            "registry GET library/nginx/blobs/blob"
        ]
    );
}

#[tokio::test]
async fn a_realm_over_http_is_not_asked() {
    let (hub, _) = secure().await;
    let realm = format!("Bearer realm=\"{}/token\"", hub.url(Origin::Plain));
    hub.on(Origin::Registry).fault(Fault::Challenge(realm));
    let settings = Settings {
        logins: vec![alice("correct")],
        ..stranger(&hub)
    };
    let error = trusting(&hub, settings)
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a token endpoint that is not https"),
        "{error}"
    );
    assert_eq!(
        hub.summary(),
        ["registry HEAD library/nginx/manifests/latest"]
    );
}

#[tokio::test]
async fn a_foreign_realm_over_https_is_asked_without_credentials() {
    let (hub, _) = secure().await;
    hub.on(Origin::Registry).fault(Fault::ForeignRealm);
    let settings = Settings {
        logins: vec![alice("correct")],
        ..stranger(&hub)
    };
    trusting(&hub, settings)
        .head_manifest(&name(NGINX), &reference("latest"))
        .await
        .unwrap();
    assert_eq!(
        hub.summary(),
        [
            "registry HEAD library/nginx/manifests/latest",
            "foreign GET library/nginx:pull",
            "registry HEAD library/nginx/manifests/latest",
        ]
    );
    assert_secrets_stayed_home(&hub);
}
