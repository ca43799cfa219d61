//! Blobs of unknown length, and blobs that end before their end.

use super::server::TestServer;
use super::stub::{CUT, blob, blob_digest};

#[tokio::test]
async fn a_blob_of_unknown_length_is_sent_in_chunks() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let answer = client
        .get(&format!("/v2/unsized/blob/blobs/{}", blob_digest()))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.body, blob());
    assert_eq!(client.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn a_blob_that_breaks_off_breaks_the_connection() {
    let server = TestServer::start().await;
    for (name, reason) in [
        ("cut/blob", CUT),
        ("short/blob", "fewer bytes than announced"),
    ] {
        let mut client = server.client().await;
        client
            .write(&format!(
                "GET /v2/{name}/blobs/{} HTTP/1.1\r\nhost: m\r\n\r\n",
                blob_digest()
            ))
            .await;
        let received = client.rest().await;
        let text = String::from_utf8_lossy(&received);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            assert!(head.contains("content-length: 1000"), "{head}");
            let body = &received[head.len() + 4..];
            assert!(
                body.len() <= 400 && blob().starts_with(body),
                "{} bytes",
                body.len()
            );
        }
        let line = server
            .log(1 + usize::from(name != "cut/blob"))
            .await
            .pop()
            .unwrap();
        assert_eq!(
            (&line["complete"], &line["error"]),
            (&false.into(), &reason.into()),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_blob_of_unknown_length_that_breaks_off_gets_no_last_chunk() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client
        .write(&format!(
            "GET /v2/cut/unsized/blobs/{} HTTP/1.1\r\nhost: m\r\n\r\n",
            blob_digest()
        ))
        .await;
    let received = client.rest().await;
    assert!(
        !received.ends_with(b"0\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&received)
    );
    let line = server.log(1).await.remove(0);
    assert_eq!(line["complete"], false);
}

#[tokio::test]
async fn a_client_that_cannot_tell_a_cut_from_the_end_gets_no_blob_of_unknown_length() {
    let server = TestServer::start().await;
    for (name, status) in [("cut/unsized", "505"), ("library/nginx", "200")] {
        let mut client = server.client().await;
        client
            .write(&format!(
                "GET /v2/{name}/blobs/{} HTTP/1.0\r\n\r\n",
                blob_digest()
            ))
            .await;
        let received = client.rest().await;
        let text = String::from_utf8_lossy(&received);
        assert_eq!(text.split(' ').nth(1), Some(status), "{text}");
    }
}

#[tokio::test]
async fn a_blob_with_more_than_it_announced_is_sent_as_announced() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let answer = client
        .get(&format!("/v2/long/blob/blobs/{}", blob_digest()))
        .await;
    assert_eq!(answer.body, blob());
    assert_eq!(
        client.get("/v2/").await.body,
        b"{}",
        "nothing is left over for the next answer"
    );
}
