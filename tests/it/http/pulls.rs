//! Pulls that succeed.

use super::server::TestServer;
use super::stub::{MANIFEST, MANIFEST_TYPE, REFERRERS, blob, blob_digest, manifest_digest};

fn has(headers: &[(String, String)], expected: &[(&str, &str)]) {
    let found: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_version_check_is_answered_with_200_and_no_challenge() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for target in ["/v2/", "/v2", "/docker.io/v2/"] {
        let answer = client.get(target).await;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (200, &b"{}"[..]),
            "{target}"
        );
        has(
            &answer.stable_headers(),
            &[
                ("content-length", "2"),
                ("content-type", "application/json"),
                ("docker-distribution-api-version", "registry/2.0"),
            ],
        );
    }
}

#[tokio::test]
async fn a_manifest_is_sent_byte_for_byte_under_its_type_and_digest() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let digest = manifest_digest().to_string();
    let etag = format!("\"{digest}\"");
    let expected = [
        ("content-length", "25"),
        ("content-type", MANIFEST_TYPE),
        ("docker-content-digest", digest.as_str()),
        ("etag", etag.as_str()),
        ("x-mirror-cache", "hit; age=41; upstream=docker.io"),
    ];
    for reference in ["latest", &digest] {
        let target = format!("/v2/library/nginx/manifests/{reference}");
        let got = client.get(&target).await;
        assert_eq!((got.status, &got.body[..]), (200, MANIFEST));
        has(&got.stable_headers(), &expected);
        let head = client.ask("HEAD", &target, "").await;
        assert_eq!(head.status, 200);
        has(&head.stable_headers(), &expected);
    }
    let by_tag = "manifest library/nginx latest".to_owned();
    let by_digest = format!("manifest library/nginx {digest}");
    assert_eq!(
        server.stub.calls(),
        [&by_tag, &by_tag, &by_digest, &by_digest].map(Clone::clone)
    );
}

#[tokio::test]
async fn a_manifest_that_the_client_holds_is_not_sent() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let digest = manifest_digest();
    for (method, tag) in [
        ("GET", format!("\"{digest}\"")),
        ("HEAD", format!("\"{digest}\"")),
        ("GET", format!("W/\"{digest}\"")),
        ("GET", digest.to_string()),
        ("GET", "*".to_owned()),
        ("GET", format!("\"x\", \"{digest}\"")),
    ] {
        let line = format!("if-none-match: {tag}\r\n");
        let answer = client
            .ask(method, "/v2/library/nginx/manifests/latest", &line)
            .await;
        assert_eq!(answer.status, 304, "{method} {tag}");
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(
            answer.header("etag"),
            Some(format!("\"{digest}\"").as_str())
        );
    }
    let other = "if-none-match: \"sha256:other\"\r\n";
    let answer = client
        .ask("GET", "/v2/library/nginx/manifests/latest", other)
        .await;
    assert_eq!((answer.status, &answer.body[..]), (200, MANIFEST));
}

#[tokio::test]
async fn what_a_client_accepts_changes_nothing() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let index = "accept: application/vnd.oci.image.index.v1+json\r\n";
    let manifest = format!("accept: {MANIFEST_TYPE}\r\n");
    for lines in [
        String::new(),
        format!("{index}{manifest}"),
        format!("{manifest}{index}"),
        index.to_owned(),
        "accept: text/html;q=0.5, */*;q=0\r\n".to_owned(),
    ] {
        let answer = client
            .ask("GET", "/v2/library/nginx/manifests/latest", &lines)
            .await;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (200, MANIFEST),
            "{lines}"
        );
        assert_eq!(answer.header("content-type"), Some(MANIFEST_TYPE));
    }
}

#[tokio::test]
async fn a_blob_is_sent_whole_and_its_head_tells_the_same() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let digest = blob_digest().to_string();
    let etag = format!("\"{digest}\"");
    let target = format!("/v2/library/nginx/blobs/{digest}");
    let mut expected = vec![
        ("accept-ranges", "bytes"),
        ("cache-control", "max-age=31536000"),
        ("content-length", "1000"),
        ("content-type", "application/octet-stream"),
        ("docker-content-digest", digest.as_str()),
        ("etag", etag.as_str()),
        ("x-mirror-cache", "miss; reason=absent"),
    ];
    let got = client.get(&target).await;
    assert_eq!((got.status, got.body.clone()), (200, blob()));
    has(&got.stable_headers(), &expected);
    *expected.last_mut().unwrap() = ("x-mirror-cache", "hit");
    let head = client.ask("HEAD", &target, "range: bytes=0-9\r\n").await;
    assert_eq!(head.status, 200, "a range is for GET alone");
    has(&head.stable_headers(), &expected);
    let calls = [
        format!("blob library/nginx {digest} all"),
        format!("facts library/nginx {digest}"),
    ];
    assert_eq!(server.stub.calls(), calls);
}

#[tokio::test]
async fn a_range_is_answered_with_that_part() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let (digest, bytes) = (blob_digest(), blob());
    let target = format!("/v2/library/nginx/blobs/{digest}");
    for (range, content_range, part) in [
        ("bytes=0-", "bytes 0-999/1000", &bytes[..]),
        ("bytes=100-199", "bytes 100-199/1000", &bytes[100..200]),
        ("bytes=900-5000", "bytes 900-999/1000", &bytes[900..]),
        ("bytes=-10", "bytes 990-999/1000", &bytes[990..]),
    ] {
        let answer = client
            .ask("GET", &target, &format!("range: {range}\r\n"))
            .await;
        assert_eq!((answer.status, &answer.body[..]), (206, part), "{range}");
        assert_eq!(answer.header("content-range"), Some(content_range));
        assert_eq!(
            answer.header("content-length"),
            Some(part.len().to_string().as_str())
        );
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(digest.to_string().as_str())
        );
    }
    let answer = client.ask("GET", &target, "range: bytes=1000-\r\n").await;
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), Some("bytes */1000"));
    assert_eq!(answer.header("x-mirror-cache"), Some("error; reason=range"));
    assert_eq!(answer.code(), "SIZE_INVALID");
}

#[tokio::test]
async fn a_range_that_cannot_be_honoured_gets_the_whole_blob() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let digest = blob_digest();
    let target = format!("/v2/library/nginx/blobs/{digest}");
    for lines in [
        "range: bytes=0-1,5-6\r\n".to_owned(),
        "range: lines=0-1\r\n".to_owned(),
        "range: bytes=9-1\r\n".to_owned(),
        "range: bytes=0-1\r\nrange: bytes=5-6\r\n".to_owned(),
        "range: bytes=0-1\r\nif-range: \"sha256:other\"\r\n".to_owned(),
        "range: bytes=0-1\r\nif-range: Sat, 29 Oct 1994 19:43:31 GMT\r\n".to_owned(),
        format!("range: bytes=0-1\r\nif-range: W/\"{digest}\"\r\n"),
    ] {
        let answer = client.ask("GET", &target, &lines).await;
        assert_eq!((answer.status, answer.body), (200, blob()), "{lines}");
    }
    let lines = format!("range: bytes=0-1\r\nif-range: \"{digest}\"\r\n");
    let answer = client.ask("GET", &target, &lines).await;
    assert_eq!((answer.status, &answer.body[..]), (206, &blob()[..2]));
}

#[tokio::test]
async fn a_blob_that_the_client_holds_is_not_opened() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let digest = blob_digest();
    let target = format!("/v2/library/nginx/blobs/{digest}");
    let line = format!("if-none-match: \"{digest}\"\r\n");
    for method in ["GET", "HEAD"] {
        let answer = client.ask(method, &target, &line).await;
        assert_eq!(answer.status, 304);
        assert_eq!(answer.header("content-length"), None);
    }
    assert_eq!(
        server.stub.calls(),
        vec![format!("facts library/nginx {digest}"); 2]
    );
}

#[tokio::test]
async fn a_stale_answer_says_so_to_the_person_who_pulls() {
    let server = TestServer::start().await;
    let answer = server
        .client()
        .await
        .get("/v2/stale/app/manifests/latest")
        .await;
    assert_eq!((answer.status, &answer.body[..]), (200, MANIFEST));
    let cache = "stale; reason=timeout; age=41; upstream=docker.io";
    assert_eq!(answer.header("x-mirror-cache"), Some(cache));
    let warning = r#"299 - "docker.io does not \"answer\"""#;
    assert_eq!(answer.header("warning"), Some(warning));
}

#[tokio::test]
async fn tags_are_listed_page_by_page() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let path = "/v2/library/nginx/tags/list";
    for (query, tags, next) in [
        ("", r#"["1.0","1.1","latest"]"#, None),
        ("?n=2", r#"["1.0","1.1"]"#, Some("?n=2&last=1.1")),
        ("?n=2&last=1.1", r#"["latest"]"#, None),
        ("?last=1.0", r#"["1.1","latest"]"#, None),
        ("?n=0", "[]", None),
        (
            "?n=1&ns=docker.io",
            r#"["1.0"]"#,
            Some("?n=1&last=1.0&ns=docker.io"),
        ),
        (
            "?n=99999999999999999999999",
            r#"["1.0","1.1","latest"]"#,
            None,
        ),
    ] {
        let answer = client.get(&format!("{path}{query}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let list = format!(r#"{{"name":"library/nginx","tags":{tags}}}"#);
        assert_eq!(
            String::from_utf8(answer.body.clone()).unwrap(),
            list,
            "{query}"
        );
        let link = next.map(|next| format!("<{path}{next}>; rel=\"next\""));
        assert_eq!(answer.header("link"), link.as_deref(), "{query}");
    }
    let asked = server.stub.calls();
    assert_eq!(asked[0], "tags library/nginx None None");
    assert_eq!(
        asked[6], "tags library/nginx Some(10000) None",
        "no page is larger"
    );
}

#[tokio::test]
async fn the_link_to_the_next_page_keeps_the_clients_own_path() {
    let server = TestServer::start().await;
    let path = "/docker.io/v2/nginx/tags/list";
    let answer = server.client().await.get(&format!("{path}?n=1")).await;
    let link = format!("<{path}?n=1&last=1.0>; rel=\"next\"");
    assert_eq!(answer.header("link"), Some(link.as_str()));
    assert_eq!(answer.body, br#"{"name":"nginx","tags":["1.0"]}"#);
}

#[tokio::test]
async fn referrers_tell_whether_they_were_filtered() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let path = format!("/v2/library/nginx/referrers/{}", manifest_digest());
    let all = client.get(&path).await;
    assert_eq!((all.status, &all.body[..]), (200, REFERRERS));
    assert_eq!(
        all.header("content-type"),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert_eq!(all.header("oci-filters-applied"), None);
    let some = client
        .get(&format!("{path}?artifactType=application%2Fspdx"))
        .await;
    assert_eq!(some.header("oci-filters-applied"), Some("artifactType"));
    let asked = format!(
        "referrers library/nginx {} Some(\"application/spdx\")",
        manifest_digest()
    );
    assert_eq!(server.stub.calls().last(), Some(&asked));
}
