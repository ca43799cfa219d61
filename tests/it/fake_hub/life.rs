//! Starting, stopping, TLS, keep-alive, gates and the record.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{NGINX, OneBlob, nginx, registry};
use crate::client::{End, exchange, request};
use crate::support::{At, FakeHub, Fault, ImageSpec, Origin, Outage, Outcome};

/// Long enough to see that nothing comes.
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_stopped_origin_refuses_and_comes_back_on_its_port() {
    let (hub, _) = nginx().await;
    let url = format!("{}/v2/", hub.registry_url());
    let address = url.trim_start_matches("http://").trim_end_matches("/v2/");
    let mut open = TcpStream::connect(address).await.unwrap();
    assert_eq!(exchange(&mut open, "GET", "/v2/", &[]).await.status, 401);
    hub.stop_origin(Origin::Registry).await;
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        crate::client::read_response(&mut open, false).await.end,
        End::Closed
    );
    hub.restart_origin(Origin::Registry).await;
    assert_eq!(request("GET", &url, &[]).await.status, 401);
    hub.stop().await;
    let token = hub.token_url();
    let address = token
        .trim_start_matches("http://")
        .trim_end_matches("/token");
    assert!(TcpStream::connect(address).await.is_err());
    hub.restart().await;
    assert_eq!(request("GET", &url, &[]).await.status, 401);
    hub.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_connection_carries_many_requests() {
    let (hub, _) = nginx().await;
    let url = hub.registry_url();
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        assert_eq!(exchange(&mut stream, "GET", "/v2/", &[]).await.status, 401);
    }
    let close = [("connection", "close")];
    assert_eq!(
        exchange(&mut stream, "GET", "/v2/", &close).await.status,
        401
    );
    assert_eq!(
        crate::client::read_response(&mut stream, false).await.end,
        End::Closed
    );
    let connections: Vec<_> = hub.requests().iter().map(|it| it.connection).collect();
    assert_eq!(connections, vec![connections[0]; 4]);
}

async fn over_tls(hub: &FakeHub, url: &str) -> crate::client::Response {
    let (host, path) = split(url);
    let mut stream = connect_over_tls(hub, host).await.unwrap();
    exchange(&mut stream, "GET", path, &[]).await
}

fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("https://").unwrap();
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// A connection for one who trusts the hub's authority alone.
async fn connect_over_tls(hub: &FakeHub, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(hub.ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(host).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await
}

#[tokio::test]
async fn tls_is_shown_by_every_origin_but_plain() {
    let hub = FakeHub::builder().tls(true).start().await;
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let ping = over_tls(&hub, &format!("{}/v2/", hub.registry_url())).await;
    assert_eq!(ping.status, 401);
    let challenge = ping.header("www-authenticate").unwrap();
    assert!(challenge.contains(&format!("realm=\"{}\"", hub.token_url())));
    assert_eq!(over_tls(&hub, &hub.token_url()).await.status, 200);
    assert!(hub.url(Origin::Foreign).starts_with("https://"));
    let plain = request("GET", &format!("{}/token", hub.url(Origin::Plain)), &[]).await;
    assert_eq!(plain.status, 200);

    hub.on(Origin::Registry).fault(Fault::Reset(At::Byte(5)));
    let cut = over_tls(&hub, &format!("{}/v2/", hub.registry_url())).await;
    assert_eq!((cut.end, cut.body.len()), (End::Reset, 5));
}

#[tokio::test]
async fn a_gate_holds_until_it_is_released() {
    let blob = OneBlob::new().await;
    let gate = blob.hub.on(Origin::Cdn).hold(At::Byte(4000));
    let location = blob.location().await;
    let client = tokio::spawn(async move { request("GET", &location, &[]).await });
    gate.wait_for(1).await;
    let held = blob.hub.requests().pop().unwrap();
    assert_eq!((held.sent, held.outcome), (4000, Outcome::Pending));
    assert!(!client.is_finished());
    gate.release();
    assert_eq!(client.await.unwrap().body, blob.bytes);
    assert_eq!(
        blob.get(&[]).await.body,
        blob.bytes,
        "a released gate stays open"
    );
    assert_eq!(gate.arrived(), 2);
    blob.hub.wait_until_idle().await;
    let sent = blob.hub.requests().pop().unwrap();
    assert_eq!((sent.sent, sent.outcome), (10_000, Outcome::Sent));
}

#[tokio::test]
async fn a_client_that_leaves_is_recorded() {
    let blob = OneBlob::new().await;
    let _gate = blob.hub.on(Origin::Cdn).hold(At::Byte(4000));
    let location = blob.location().await;
    let client = tokio::spawn(async move { request("GET", &location, &[]).await });
    let cdn = blob.hub.wait_for_requests(1, |it| it.origin == Origin::Cdn);
    assert_eq!(cdn.await.len(), 1);
    client.abort();
    blob.hub.wait_until_idle().await;
    assert_eq!(blob.hub.requests().pop().unwrap().outcome, Outcome::Cut);
}

#[tokio::test]
async fn rules_skip_count_and_end() {
    let (hub, _) = nginx().await;
    let rule = hub
        .on(Origin::Registry)
        .manifests()
        .reference("latest")
        .method("HEAD")
        .skip(1)
        .times(2)
        .fault(Fault::status(500));
    let ask = async |method| registry(&hub, method, "manifests/latest").await.status;
    let mut heads = Vec::new();
    for _ in 0..4 {
        heads.push(ask("HEAD").await);
        assert_eq!(ask("GET").await, 200);
    }
    assert_eq!((heads, rule.hits()), (vec![200, 500, 500, 200], 2));
    let rule = hub.on(Origin::Registry).fault(Fault::status(503));
    assert_eq!(ask("HEAD").await, 503);
    rule.disarm();
    assert_eq!(ask("HEAD").await, 200);
    hub.on(Origin::Registry).fault(Fault::status(503));
    hub.clear_faults();
    assert_eq!(ask("HEAD").await, 200);
}

#[tokio::test]
async fn the_log_and_the_json_tell_the_same() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&lines);
    let hub = FakeHub::builder()
        .log(move |line| log.lock().unwrap().push(line.to_owned()))
        .start()
        .await;
    request(
        "GET",
        &format!("{}/v2/", hub.registry_url()),
        &[("range", "bytes=0-")],
    )
    .await;
    request("GET", &format!("{}/x?y", hub.cdn_url()), &[]).await;
    let expected = ["registry GET /v2/ bytes=0- -> 401", "cdn GET /x?y -> 404"];
    assert_eq!(*lines.lock().unwrap(), expected);
    assert_eq!(hub.summary_with_status(), expected);
    assert_eq!(hub.sorted_summary()[0], "cdn GET /x?y");
    hub.wait_until_idle().await;
    let shown = hub.requests_as_json();
    assert_eq!(shown[0]["line"], "registry GET /v2/ bytes=0-");
    assert_eq!(shown[0]["status"], 401);
    assert_eq!(shown[0]["headers"]["range"][0], "bytes=0-");
    assert_eq!(shown[0]["outcome"], "sent");
    assert_eq!(hub.take_summary().len(), 2);
    assert_eq!(hub.requests_as_json(), serde_json::json!([]));
}

#[tokio::test]
async fn an_outage_fails_everything_and_ends() {
    let (hub, _) = nginx().await;
    for (outage, status) in [
        (Outage::RateLimited, 429),
        (Outage::ServerError, 500),
        (Outage::Deleted, 404),
    ] {
        hub.begin_outage(outage).await;
        let url = format!("{}/v2/{NGINX}/manifests/latest", hub.registry_url());
        assert_eq!(request("HEAD", &url, &[]).await.status, status);
        hub.end_outage().await;
        assert_eq!(registry(&hub, "HEAD", "manifests/latest").await.status, 200);
    }
}

#[tokio::test]
async fn a_black_hole_swallows_what_is_open_and_what_comes() {
    let (hub, _) = nginx().await;
    let url = hub.registry_url();
    let address = url.trim_start_matches("http://");
    let mut open = TcpStream::connect(address).await.unwrap();
    assert_eq!(exchange(&mut open, "GET", "/v2/", &[]).await.status, 401);
    hub.begin_outage(Outage::BlackHole).await;
    let mut new = TcpStream::connect(address).await.unwrap();
    for stream in [&mut open, &mut new] {
        let answer = exchange(stream, "GET", "/v2/", &[]);
        assert!(timeout(SHORT, answer).await.is_err());
    }
    hub.end_outage().await;
    assert_eq!(request("GET", &format!("{url}/v2/"), &[]).await.status, 401);
    assert!(timeout(SHORT, open.read_u8()).await.is_err());
    assert!(timeout(SHORT, new.read_u8()).await.is_err());
}

#[tokio::test]
async fn an_outage_that_ends_connections_ends_those_that_are_open() {
    let (hub, _) = nginx().await;
    let url = hub.registry_url();
    let address = url.trim_start_matches("http://");
    for (outage, connects) in [(Outage::Refused, false), (Outage::Disconnected, true)] {
        let mut open = TcpStream::connect(address).await.unwrap();
        assert_eq!(exchange(&mut open, "GET", "/v2/", &[]).await.status, 401);
        hub.begin_outage(outage).await;
        let end = crate::client::read_response(&mut open, false).await.end;
        assert_eq!(end, End::Closed);
        assert_eq!(TcpStream::connect(address).await.is_ok(), connects);
        hub.end_outage().await;
        assert_eq!(registry(&hub, "HEAD", "manifests/latest").await.status, 200);
    }
}

#[tokio::test]
async fn without_the_token_endpoint_no_token_of_before_is_good() {
    let (hub, _) = nginx().await;
    let token = super::token(&hub, NGINX).await;
    hub.begin_outage(Outage::TokenRefused).await;
    let url = format!("{}/v2/{NGINX}/manifests/latest", hub.registry_url());
    let held = [("authorization", token.as_str())];
    assert_eq!(request("HEAD", &url, &held).await.status, 401);
    let address = hub.url(Origin::Token);
    assert!(
        TcpStream::connect(address.trim_start_matches("http://"))
            .await
            .is_err()
    );
    hub.end_outage().await;
    assert_eq!(registry(&hub, "HEAD", "manifests/latest").await.status, 200);
}

#[tokio::test]
async fn a_stranger_has_the_name_and_not_the_authority() {
    let hub = FakeHub::builder().tls(true).start().await;
    let url = hub.registry_url();
    let (host, _) = split(&url);
    let mut open = connect_over_tls(&hub, host).await.unwrap();
    hub.begin_outage(Outage::UnknownCertificate).await;
    assert_ne!(open.read(&mut [0]).await.ok(), Some(1));
    let refused = connect_over_tls(&hub, host).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidData);
    hub.end_outage().await;
    assert!(connect_over_tls(&hub, host).await.is_ok());
}
