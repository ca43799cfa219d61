//! What connections may and may not do.

use std::time::Duration;

use mirror::http::ListenAddress;

use super::server::TestServer;
use super::stub::{MANIFEST, blob_digest};
use super::until;
use super::wire::Client;

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_request_with_two_lengths_is_refused_and_nothing_after_it_is_believed() {
    let server = TestServer::start().await;
    let both = ["content-length: 5\r\n", "transfer-encoding: chunked\r\n"];
    for (method, lines) in [
        ("GET", both.concat()),
        ("GET", [both[1], both[0]].concat()),
        ("POST", both.concat()),
        ("PATCH", [both[1], both[0]].concat()),
    ] {
        let mut client = server.client().await;
        let hidden = "GET /v2/hidden/app/manifests/x HTTP/1.1\r\nhost: m\r\n\r\n";
        client
            .write(&format!(
                "{method} /v2/ HTTP/1.1\r\nhost: m\r\n{lines}\r\n0\r\n\r\n{hidden}"
            ))
            .await;
        let answer = client.answer(false).await;
        assert_eq!(answer.status, 400, "{method} {lines}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.rest().await, b"", "one answer and no more");
    }
    assert_eq!(server.stub.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = TestServer::start().await;
    for hosts in ["", "host: a\r\nhost: b\r\n"] {
        let mut client = server.client().await;
        client
            .write(&format!("GET /v2/ HTTP/1.1\r\n{hosts}\r\n"))
            .await;
        assert_eq!(client.answer(false).await.status, 400, "{hosts}");
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn differing_lengths_are_refused_and_the_connection_closed() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client
        .write("GET /v2/ HTTP/1.1\r\nhost: m\r\ncontent-length: 0\r\ncontent-length: 5\r\n\r\n")
        .await;
    assert_eq!(client.answer(false).await.status, 400);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let server = TestServer::with(|settings| settings.timeouts.head = SHORT).await;
    for beginning in ["", "GET /v2/ HTTP/1.1\r\nhost: m\r\nx: "] {
        let mut client = server.client().await;
        client.write(beginning).await;
        assert_eq!(client.rest().await, b"", "{beginning}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = TestServer::with(|settings| settings.timeouts.head = SHORT).await;
    let mut client = server.client().await;
    client.write("GET /v2/ HTTP/1.1\r\nhost: m\r\n\r\n").await;
    let received = String::from_utf8(client.rest().await).unwrap();
    assert!(
        received.starts_with("HTTP/1.1 200 OK\r\n") && received.ends_with("{}"),
        "{received}"
    );
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_cut() {
    let server = TestServer::with(|settings| settings.timeouts.write_stall = SHORT).await;
    let mut client = server.client().await;
    client
        .write(&format!(
            "GET /v2/endless/blob/blobs/{} HTTP/1.1\r\nhost: m\r\n\r\n",
            blob_digest()
        ))
        .await;
    let line = server.log(1).await.remove(0);
    assert_eq!(
        (&line["status"], &line["complete"]),
        (&200.into(), &false.into()),
        "{line}"
    );
    drop(client);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: m\r\n\r\n");
    let targets = [
        "/v2/",
        "/v2/library/nginx/manifests/latest",
        "/nowhere",
        "/livez",
    ];
    client.write(&targets.map(request).concat()).await;
    let mut answers = Vec::new();
    for _ in targets {
        let answer = client.answer(false).await;
        answers.push((answer.status, answer.body));
    }
    assert_eq!(answers[0], (200, b"{}".to_vec()));
    assert_eq!(answers[1], (200, MANIFEST.to_vec()));
    assert_eq!(answers[2].0, 404);
    assert_eq!(answers[3], (200, b"ok\n".to_vec()));
}

#[tokio::test]
async fn heads_are_limited_in_lines_and_bytes() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    // 100 with the one that names the host.
    assert_eq!(
        client
            .ask("GET", "/v2/", &"x: y\r\n".repeat(99))
            .await
            .status,
        200
    );
    assert_eq!(
        client
            .ask("GET", "/v2/", &"x: y\r\n".repeat(100))
            .await
            .status,
        431
    );
    assert_eq!(client.rest().await, b"");
    let mut client = server.client().await;
    let long = format!("x: {}\r\n", "y".repeat(32 * 1024));
    assert_eq!(client.ask("GET", "/v2/", &long).await.status, 431);
}

#[tokio::test]
async fn connections_over_the_cap_wait_for_one_to_end() {
    let server = TestServer::with(|settings| settings.max_connections = 1).await;
    let mut first = server.client().await;
    assert_eq!(first.get("/v2/first/app/manifests/1").await.status, 200);
    let mut second = server.client().await;
    second
        .write("GET /v2/second/app/manifests/1 HTTP/1.1\r\nhost: m\r\n\r\n")
        .await;
    assert_eq!(first.get("/v2/first/app/manifests/2").await.status, 200);
    assert_eq!(
        server.stub.calls(),
        ["manifest first/app 1", "manifest first/app 2"]
    );
    drop(first);
    assert_eq!(second.answer(false).await.status, 200);
    assert_eq!(server.stub.calls().last().unwrap(), "manifest second/app 1");
}

#[tokio::test]
async fn several_addresses_are_served_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mirror.sock");
    let socket: ListenAddress = format!("unix:{}", path.display()).parse().unwrap();
    let server = TestServer::with(|settings| settings.listen.push(socket.into())).await;
    let mut client = Client::connect_unix(&path).await;
    assert_eq!(
        client.get("/v2/library/nginx/manifests/latest").await.body,
        MANIFEST
    );
    assert_eq!(server.client().await.get("/v2/").await.status, 200);
    let lines = server.log(2).await;
    assert_eq!(lines[0]["client"], serde_json::Value::Null);
    assert_eq!(lines[1]["client"], "127.0.0.1");
    drop(client);
    server.shut_down().await.unwrap();
    until("the socket's file is gone", || !path.exists()).await;
}
