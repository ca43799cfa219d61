//! What is refused, and how the reason is told.

use super::server::TestServer;
use super::stub::blob_digest;

#[tokio::test]
async fn nothing_can_be_changed_through_a_mirror() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let digest = blob_digest();
    for (method, path, allow) in [
        ("PUT", "manifests/latest".to_owned(), "GET, HEAD"),
        ("DELETE", "manifests/latest".to_owned(), "GET, HEAD"),
        ("DELETE", format!("blobs/{digest}"), "GET, HEAD"),
        ("POST", "blobs/uploads/".to_owned(), ""),
        ("PATCH", "blobs/uploads/1".to_owned(), ""),
        ("PUT", format!("blobs/uploads/1?digest={digest}"), ""),
        ("GET", "blobs/uploads/1".to_owned(), ""),
        ("DELETE", "blobs/uploads/1".to_owned(), ""),
    ] {
        let answer = client
            .ask(method, &format!("/v2/library/nginx/{path}"), "")
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (405, "UNSUPPORTED".into()),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        assert_eq!(
            answer.header("x-mirror-cache"),
            Some("error; reason=unsupported")
        );
    }
    assert_eq!(server.stub.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_method_that_an_endpoint_lacks_is_405_with_those_it_has() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (method, target, allow) in [
        ("POST", "/v2/", "GET, HEAD"),
        ("POST", "/v2/library/nginx/tags/list", "GET"),
        ("BREW", "/v2/library/nginx/tags/list", "GET"),
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("GET", "/v2/_catalog", ""),
    ] {
        let answer = client.ask(method, target, "").await;
        assert_eq!(
            (answer.status, answer.code()),
            (405, "UNSUPPORTED".into()),
            "{method} {target}"
        );
        assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
    }
}

#[tokio::test]
async fn every_failure_has_the_status_that_sends_clients_the_right_way() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (kind, status, code, retry_after, reason) in [
        (
            "limited",
            503,
            "TOOMANYREQUESTS",
            Some("90"),
            "rate_limited",
        ),
        (
            "limited-long",
            503,
            "TOOMANYREQUESTS",
            Some("60"),
            "rate_limited",
        ),
        ("unreachable", 503, "UNKNOWN", Some("5"), "unreachable"),
        ("timeout", 504, "UNKNOWN", Some("5"), "timeout"),
        ("upstream", 502, "UNKNOWN", None, "bad_upstream"),
        ("internal", 500, "UNKNOWN", None, "internal"),
    ] {
        let answer = client
            .get(&format!("/v2/fault/{kind}/manifests/latest"))
            .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{kind}"
        );
        assert_eq!(answer.header("retry-after"), retry_after, "{kind}");
        assert_eq!(answer.header("www-authenticate"), None);
        let cache = format!("error; reason={reason}");
        assert_eq!(
            answer.header("x-mirror-cache"),
            Some(cache.as_str()),
            "{kind}"
        );
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.contains("docker.io: why"), "{text}");
    }
}

#[tokio::test]
async fn a_small_body_that_nobody_asked_for_is_read_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let body = "x".repeat(64 * 1024);
    let length = format!("content-length: {}\r\n", body.len());
    client
        .write(&format!(
            "POST /v2/ HTTP/1.1\r\nhost: m\r\n{length}\r\n{body}"
        ))
        .await;
    let answer = client.answer(false).await;
    assert_eq!((answer.status, answer.header("connection")), (405, None));
    assert_eq!(client.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_ends_the_connection() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let body = "x".repeat(64 * 1024 + 1);
    client
        .write(&format!(
            "PUT /v2/a/b/manifests/x HTTP/1.1\r\nhost: m\r\ncontent-length: 1000000\r\n\r\n{body}"
        ))
        .await;
    let answer = client.answer(false).await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (405, Some("close"))
    );
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_no_at_once() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.write("PUT /v2/a/b/manifests/x HTTP/1.1\r\nhost: m\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n").await;
    let answer = client.answer(false).await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (405, Some("close"))
    );
    assert_eq!(client.rest().await, b"");
}
