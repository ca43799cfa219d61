//! Proxies: the same for API, token and CDN hosts, and nobody's secrets but their own.

use super::*;
use crate::support::{Asked, Recorded, TestProxy};
use mirror::upstream::{Phase, ProxyEnvironment, ProxyServer};

/// `Basic` of `user:hunter2`.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

fn via(proxy: &TestProxy, password: Option<&str>) -> ProxyChoice {
    let user = |password| ("user".to_owned(), Secret::new(password));
    ProxyChoice::Via(ProxyServer {
        url: format!("http://{}", proxy.host()).parse().unwrap(),
        credentials: password.map(user),
    })
}

async fn pull(upstream: &Upstream, blob: Digest) -> Result<Vec<u8>, UpstreamError> {
    let (nginx, latest) = (name(NGINX), reference("latest"));
    upstream.get_manifest(&nginx, &latest).await?;
    let (bytes, error) = read(upstream.open_blob(&nginx, blob, 0).await?).await;
    error.map_or(Ok(bytes), Err)
}

async fn hub(tls: bool) -> (FakeHub, Digest) {
    let hub = FakeHub::builder()
        .tls(tls)
        .user("alice", "correct")
        .start()
        .await;
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let pushed = hub.push_blob(NGINX, "some bytes");
    (hub, digest(&pushed))
}

/// No host but the proxy saw the proxy's credentials.
fn assert_the_proxys_secret_stayed_there(requests: &[Recorded]) {
    for request in requests {
        assert_eq!(request.header("proxy-authorization"), None);
    }
}

#[tokio::test]
async fn https_hosts_are_reached_through_a_tunnel() {
    let (hub, blob) = hub(true).await;
    let proxy = TestProxy::requiring(Some(BASIC)).await;
    let upstream = upstream(Settings {
        ca: vec![hub.ca_pem().into()],
        proxy: via(&proxy, Some("hunter2")),
        logins: vec![alice("correct")],
        ..settings(&hub)
    });
    assert_eq!(pull(&upstream, blob).await.unwrap(), b"some bytes");
    let tunnel = |origin| Asked {
        line: format!("CONNECT {}", host(&hub.url(origin))),
        authorization: Some(BASIC.into()),
        credentials: None,
    };
    assert_eq!(
        proxy.take(),
        [
            tunnel(Origin::Token),
            tunnel(Origin::Registry),
            // Of the transport for blobs.
            tunnel(Origin::Registry),
            tunnel(Origin::Cdn),
        ]
    );
    assert_eq!(hub.requests().len(), 4);
    assert_the_proxys_secret_stayed_there(&hub.requests());
    assert_secrets_stayed_home(&hub);
    assert!(!format!("{upstream:?}").contains("hunter2"));
}

#[tokio::test]
async fn http_hosts_are_asked_for_by_whole_urls() {
    let (hub, blob) = hub(false).await;
    let proxy = TestProxy::requiring(Some(BASIC)).await;
    let upstream = upstream(Settings {
        proxy: via(&proxy, Some("hunter2")),
        ..settings(&hub)
    });
    assert_eq!(pull(&upstream, blob).await.unwrap(), b"some bytes");
    let asked = proxy.take();
    let urls: Vec<_> = asked
        .iter()
        .map(|asked| asked.line.split('/').take(3).collect::<Vec<_>>().join("/"))
        .collect();
    let get = |origin| format!("GET {}", hub.url(origin));
    assert_eq!(
        urls,
        [
            Origin::Token,
            Origin::Registry,
            Origin::Registry,
            Origin::Cdn
        ]
        .map(get)
    );
    let authorised = |asked: &Asked| asked.authorization.as_deref() == Some(BASIC);
    assert!(asked.iter().all(authorised), "{asked:?}");
    assert_the_proxys_secret_stayed_there(&hub.requests());
}

#[tokio::test]
async fn a_proxy_that_fails_is_named() {
    for tls in [false, true] {
        let (hub, blob) = hub(tls).await;
        let proxy = TestProxy::requiring(Some(BASIC)).await;
        let settings = Settings {
            ca: if tls {
                vec![hub.ca_pem().into()]
            } else {
                Vec::new()
            },
            proxy: via(&proxy, Some("wrong")),
            token_url: None,
            name: "registry.test".into(),
            retries: 0,
            ..settings(&hub)
        };
        // Each of them asked for the first time.
        let upstream = || upstream(settings.clone());
        let named = format!("through the proxy {}: ", proxy.host());
        let nginx = name(NGINX);
        let latest = reference("latest");
        for _ in ["refuses", "is down"] {
            let head = upstream().head_manifest(&nginx, &latest).await.unwrap_err();
            let open = upstream().open_blob(&nginx, blob, 0).await.unwrap_err();
            for error in [head, open] {
                let UpstreamError::Unreachable {
                    host: target,
                    phase,
                    reason,
                } = &error
                else {
                    panic!("{error:?}");
                };
                assert_eq!(
                    (target, *phase),
                    (&host(&hub.registry_url()), Phase::Connect)
                );
                assert!(reason.starts_with(&named), "{reason}");
                assert!(!format!("{error:?}").contains("wrong"));
            }
            proxy.stop();
        }
        assert_eq!(hub.requests().len(), 0);
    }
}

#[tokio::test]
async fn what_the_environment_says_is_not_for_this_machine() {
    let (hub, blob) = hub(false).await;
    let proxy = TestProxy::start().await;
    let port = hub.registry_url().rsplit_once(':').unwrap().1.to_owned();
    let environment = ProxyEnvironment {
        http: Some(Secret::new(proxy.host())),
        no: Some("elsewhere.test".into()),
        ..ProxyEnvironment::default()
    };
    let upstream = upstream(Settings {
        // Known to the proxy alone. Token endpoint and CDN are at 127.0.0.1.
        url: format!("http://registry.test:{port}").parse().unwrap(),
        proxy: ProxyChoice::Environment(environment),
        ..settings(&hub)
    });
    assert_eq!(pull(&upstream, blob).await.unwrap(), b"some bytes");
    let by_proxy = proxy.take_lines();
    assert_eq!(by_proxy.len(), 2, "{by_proxy:?}");
    let registry = format!("GET http://registry.test:{port}/v2/");
    assert!(by_proxy.iter().all(|line| line.starts_with(&registry)));
    assert_eq!(hub.requests().len(), 4);
}

#[tokio::test]
async fn mirrors_are_reached_by_the_same_proxy() {
    let (hub, _) = hub(false).await;
    let (other, _) = self::hub(false).await;
    let proxy = TestProxy::start().await;
    let upstream = upstream(Settings {
        mirrors: vec![other.registry_url().parse().unwrap()],
        proxy: via(&proxy, None),
        ..settings(&hub)
    });
    let (nginx, latest) = (name(NGINX), reference("latest"));
    upstream.head_manifest(&nginx, &latest).await.unwrap();
    let mirror = format!(
        "HEAD {}/v2/library/nginx/manifests/latest?ns=docker.io",
        other.registry_url()
    );
    let lines = proxy.take_lines();
    assert_eq!((&lines[0], lines.len()), (&mirror, 3));
}

#[tokio::test]
async fn a_proxy_that_is_none_is_refused_at_the_start() {
    let hub = FakeHub::start().await;
    let environment = ProxyEnvironment {
        all: Some(Secret::new("socks5://me:hunter2@proxy.test")),
        ..ProxyEnvironment::default()
    };
    let settings = Settings {
        proxy: ProxyChoice::Environment(environment),
        ..settings(&hub)
    };
    assert!(!format!("{settings:?}").contains("hunter2"));
    let error = Upstream::new(settings, clock(), Tasks::new(), TestMemo::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the proxy ALL_PROXY cannot be used: socks5 proxies are not supported, only http and https"
    );
}
