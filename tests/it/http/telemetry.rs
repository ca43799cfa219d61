//! What the server tells about itself.

use super::server::TestServer;
use super::stub::{blob_digest, manifest_digest};
use super::until;

#[tokio::test]
async fn a_request_id_is_echoed_or_made() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let answer = client.ask("GET", "/v2/", "x-request-id: my-id/1\r\n").await;
    assert_eq!(answer.header("x-request-id"), Some("my-id/1"));
    for line in [
        "",
        "x-request-id: has space\r\n",
        &format!("x-request-id: {}\r\n", "x".repeat(65)),
    ] {
        let answer = client.ask("GET", "/nowhere", line).await;
        let id = answer.header("x-request-id").unwrap();
        assert!(
            id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_line_of_the_access_log_tells_all_but_secrets() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let lines = "x-request-id: r1\r\nuser-agent: docker/29\r\nauthorization: Basic c2VjcmV0\r\n";
    client
        .ask("GET", "/v2/nginx/manifests/latest?ns=docker.io", lines)
        .await;
    let line = server.log(1).await.remove(0);
    for (field, value) in [
        ("req_id", "r1".into()),
        ("client", "127.0.0.1".into()),
        ("method", "GET".into()),
        ("path", "/v2/nginx/manifests/latest".into()),
        ("op", "manifest".into()),
        ("image", "nginx:latest".into()),
        ("digest", manifest_digest().to_string().into()),
        ("status", 200.into()),
        ("bytes", 25.into()),
        ("cache", "hit".into()),
        ("upstream", "docker.io".into()),
        ("ua", "docker/29".into()),
        ("complete", serde_json::Value::Bool(true)),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert!(line["ts"].as_str().unwrap().ends_with('Z'), "{line}");
    assert!(
        line["dur_ms"].as_f64().unwrap() >= line["ttfb_ms"].as_f64().unwrap(),
        "{line}"
    );
    assert!(!line.to_string().contains("c2VjcmV0"), "{line}");
}

#[tokio::test]
async fn failures_are_logged_with_their_reason() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.get("/v2/fault/timeout/manifests/latest").await;
    client
        .ask(
            "HEAD",
            &format!("/v2/library/nginx/blobs/{}", manifest_digest()),
            "",
        )
        .await;
    let lines = server.log(2).await;
    assert_eq!(
        (&lines[0]["status"], &lines[0]["cache"]),
        (&504.into(), &"error; reason=timeout".into())
    );
    assert_eq!(lines[0]["error"], "docker.io: why");
    assert_eq!(
        (&lines[1]["status"], &lines[1]["bytes"]),
        (&404.into(), &0.into())
    );
    assert_eq!(
        (&lines[1]["method"], &lines[1]["op"]),
        (&"HEAD".into(), &"blob".into())
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_logged() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client
        .write("GET /v2/pending/app/manifests/latest HTTP/1.1\r\nhost: m\r\n\r\n")
        .await;
    until("the request", || !server.stub.calls().is_empty()).await;
    drop(client);
    let line = server.log(1).await.remove(0);
    assert_eq!(
        (&line["status"], &line["complete"]),
        (&499.into(), &false.into()),
        "{line}"
    );
    assert_eq!(line["ttfb_ms"], serde_json::Value::Null);
}

#[tokio::test]
async fn requests_show_in_the_metrics() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.get("/v2/library/nginx/manifests/latest").await;
    client
        .get(&format!("/v2/library/nginx/blobs/{}", blob_digest()))
        .await;
    client.get("/nowhere").await;
    let page = client.metrics().await;
    for line in [
        r#"mirror_http_requests_total{op="manifest",method="GET",code="200"} 1"#,
        r#"mirror_http_requests_total{op="blob",method="GET",code="200"} 1"#,
        r#"mirror_http_requests_total{op="other",method="GET",code="404"} 1"#,
        r#"mirror_http_request_duration_seconds_count{op="manifest",cache="hit"} 1"#,
        r#"mirror_http_response_bytes_total{op="manifest",cache="hit"} 25"#,
        r#"mirror_http_response_bytes_total{op="blob",cache="miss"} 1000"#,
        r#"mirror_cache_requests_total{kind="manifest",result="hit"} 1"#,
        r#"mirror_cache_requests_total{kind="blob",result="miss"} 1"#,
        "mirror_http_in_flight_requests 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_servers_own_pages_are_there() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for target in ["/livez", "/readyz", "/startupz", "/healthz"] {
        let answer = client.get(target).await;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (200, &b"ok\n"[..]),
            "{target}"
        );
        assert_eq!(
            client
                .ask("HEAD", target, "")
                .await
                .header("content-length"),
            Some("3")
        );
    }
    let root = client.get("/").await;
    assert_eq!(
        root.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert!(root.body.starts_with(b"mirror "));
    let metrics = client.get("/metrics").await;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(media_type));
}
