//! Requests that mean nothing, or nothing that is done here, are refused in the form of the specification. The
//! upstream never hears of them.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

use crate::client::{End, Response, request};
use crate::mirror::TestMirror;
use crate::support::{FakeHub, ImageSpec};

const NGINX: &str = "library/nginx";
const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

async fn stage() -> (FakeHub, TestMirror) {
    let hub = FakeHub::start().await;
    hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    (hub, mirror)
}

#[track_caller]
fn assert_refused(answer: &Response, status: u16, code: &str, what: &str) {
    assert_eq!(
        (answer.status, answer.end),
        (status, End::Complete),
        "{what}"
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{what}"
    );
    let body = answer.json();
    let errors = body["errors"].as_array().unwrap();
    assert_eq!(
        (errors.len(), &errors[0]["code"]),
        (1, &code.into()),
        "{what}"
    );
    let message = errors[0]["message"].as_str().unwrap();
    assert!(
        !message.is_empty() && message.len() < 1024,
        "{what}: {message}"
    );
    let cache = answer.header("x-mirror-cache").unwrap();
    assert!(cache.starts_with("error; reason="), "{what}: {cache}");
}

#[track_caller]
fn assert_untouched(hub: &FakeHub, mirror: &TestMirror) {
    assert_eq!(hub.take_summary(), [""; 0]);
    assert_eq!(mirror.cached(), [""; 0]);
    assert!(mirror.spooled().is_empty());
}

async fn assert_all_refused(paths: &[String], status: u16, code: &str) {
    let (hub, mirror) = stage().await;
    for path in paths {
        let answer = mirror.get(path).await;
        assert_refused(&answer, status, code, path);
        // Lists have no HEAD at all.
        let list = path.contains("/tags/list") || path.contains("/referrers/");
        let expected = if list { 405 } else { status };
        let head = mirror.head(path).await;
        assert_eq!((head.status, head.body.len()), (expected, 0), "HEAD {path}");
    }
    assert_untouched(&hub, &mirror);
}

#[tokio::test]
async fn names_outside_the_grammar() {
    let mut paths = Vec::new();
    for name in [
        "UPPER".to_owned(),
        "a..b".to_owned(),
        "a/.b".to_owned(),
        "-a".to_owned(),
        "a_/b".to_owned(),
        "a___b".to_owned(),
        "a//b".to_owned(),
        "..".to_owned(),
        "library/../nginx".to_owned(),
        "library/./nginx".to_owned(),
        "a:b".to_owned(),
        "a@b".to_owned(),
        "~root".to_owned(),
        "n\u{fc}rnberg".to_owned(),
        "a\\b".to_owned(),
        "a".repeat(256),
        vec!["a"; 300].join("/"),
    ] {
        paths.push(format!("/v2/{name}/manifests/latest"));
        paths.push(format!("/v2/{name}/blobs/sha256:{HEX}"));
        paths.push(format!("/v2/{name}/tags/list"));
        paths.push(format!("/v2/{name}/referrers/sha256:{HEX}"));
    }
    // What is longer than any request of the protocol is no name either.
    paths.push(format!(
        "/v2/{}/manifests/latest",
        vec!["a"; 3000].join("/")
    ));
    assert_all_refused(&paths, 400, "NAME_INVALID").await;
}

#[tokio::test]
async fn encoded_slashes_and_dots() {
    let paths = [
        "/v2/library%2Fnginx/manifests/latest",
        "/v2/library%2fnginx/manifests/latest",
        "/v2/..%2F..%2F..%2Fetc%2Fpasswd/manifests/latest",
        "/v2/%2e%2e/%2e%2e/etc/passwd",
        "/v2/%2E%2E/nginx/manifests/latest",
        "/v2/nginx/manifests/%2e%2e",
        "/v2/nginx/blobs/sha256%3Aabc",
        "/v2/nginx/blobs/..%2f..%2findex.sqlite3",
        "/v2/nginx%00/manifests/latest",
        "/v2/%",
        "/%2F%2F%2Fetc%2Fpasswd",
    ];
    assert_all_refused(&paths.map(str::to_owned), 400, "NAME_INVALID").await;
}

#[tokio::test]
async fn paths_that_are_none_of_the_protocols() {
    let paths = [
        "/v2/../../etc/passwd",
        "/../../etc/passwd",
        "/v2/nginx",
        "/v2/nginx/",
        "/v2/manifests/latest",
        "/v2/nginx/tags/",
        "/v2/nginx/manifests/latest/",
        "/v1/search",
        "/v3/nginx/manifests/latest",
        "/index.sqlite3",
        "/blobs/sha256",
    ];
    assert_all_refused(&paths.map(str::to_owned), 404, "NAME_UNKNOWN").await;
}

#[tokio::test]
async fn references_that_no_manifest_can_have() {
    let references = [
        ".hidden".to_owned(),
        "-tag".to_owned(),
        "..".to_owned(),
        String::new(),
        "t".repeat(129),
    ];
    let paths = references.map(|it| format!("/v2/{NGINX}/manifests/{it}"));
    assert_all_refused(&paths, 404, "MANIFEST_UNKNOWN").await;

    let digests = [
        "a..b:c".to_owned(),
        "sha256:abc".to_owned(),
        format!("sha256:{}", HEX.to_uppercase()),
        format!("sha256:{HEX}0"),
        format!("md5:{}", &HEX[..32]),
        format!("sha512:{HEX}"),
    ];
    let paths = digests.map(|it| format!("/v2/{NGINX}/manifests/{it}"));
    assert_all_refused(&paths, 400, "DIGEST_INVALID").await;
}

#[tokio::test]
async fn digests_that_are_none() {
    let digests = [
        "latest".to_owned(),
        "sha256:".to_owned(),
        "sha256:abc".to_owned(),
        format!("sha256:{}", HEX.to_uppercase()),
        format!("sha256:{HEX}0"),
        format!("sha256:..{}", &HEX[2..]),
        format!("SHA256:{HEX}"),
        format!("md5:{}", &HEX[..32]),
        format!("sha512:{HEX}"),
        "..".to_owned(),
    ];
    let paths: Vec<_> = ["blobs", "referrers"]
        .iter()
        .flat_map(|kind| {
            digests
                .iter()
                .map(move |it| format!("/v2/{NGINX}/{kind}/{it}"))
        })
        .collect();
    assert_all_refused(&paths, 400, "DIGEST_INVALID").await;
}

#[tokio::test]
async fn queries_that_cannot_be_read() {
    let paths = [
        "/v2/nginx/tags/list?n=-1",
        "/v2/nginx/tags/list?n=all",
        "/v2/nginx/tags/list?n=1&n=2",
        "/v2/nginx/manifests/latest?ns=http://evil.test/",
        "/v2/nginx/manifests/latest?ns=a&ns=b",
        "/v2/nginx/manifests/latest?ns=..%2F..",
    ];
    assert_all_refused(&paths.map(str::to_owned), 400, "UNSUPPORTED").await;
    let (hub, mirror) = stage().await;
    let long = format!("/v2/nginx/tags/list?last={}", "t".repeat(20_000));
    let answer = mirror.get(&long).await;
    assert_refused(&answer, 400, "UNSUPPORTED", "a long query");
    assert_untouched(&hub, &mirror);
}

#[tokio::test]
async fn pushes_and_deletions_are_405() {
    let (hub, mirror) = stage().await;
    let blob = format!("sha256:{HEX}");
    for (method, path, allow) in [
        ("PUT", "manifests/latest".to_owned(), "GET, HEAD"),
        ("DELETE", "manifests/latest".to_owned(), "GET, HEAD"),
        ("DELETE", format!("manifests/{blob}"), "GET, HEAD"),
        ("DELETE", format!("blobs/{blob}"), "GET, HEAD"),
        ("POST", "blobs/uploads/".to_owned(), ""),
        ("POST", format!("blobs/uploads/?digest={blob}"), ""),
        (
            "POST",
            format!("blobs/uploads/?mount={blob}&from=library/x"),
            "",
        ),
        ("PATCH", "blobs/uploads/1".to_owned(), ""),
        ("PUT", format!("blobs/uploads/1?digest={blob}"), ""),
        ("GET", "blobs/uploads/1".to_owned(), ""),
        ("DELETE", "blobs/uploads/1".to_owned(), ""),
    ] {
        let url = mirror.url(&format!("/v2/{NGINX}/{path}"));
        let answer = request(method, &url, &[("content-length", "0")]).await;
        assert_refused(&answer, 405, "UNSUPPORTED", &format!("{method} {path}"));
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    for (method, path) in [
        ("POST", format!("manifests/{blob}")),
        ("PATCH", "manifests/latest".to_owned()),
        ("PUT", format!("blobs/{blob}")),
        ("POST", "tags/list".to_owned()),
        ("PUT", format!("referrers/{blob}")),
        ("BREW", "manifests/latest".to_owned()),
    ] {
        let url = mirror.url(&format!("/v2/{NGINX}/{path}"));
        let answer = request(method, &url, &[("content-length", "0")]).await;
        assert_refused(&answer, 405, "UNSUPPORTED", &format!("{method} {path}"));
    }
    let catalog = mirror.get("/v2/_catalog").await;
    assert_refused(&catalog, 405, "UNSUPPORTED", "catalog");
    assert_untouched(&hub, &mirror);
}

#[tokio::test]
async fn another_registry_is_404_and_never_asked() {
    let (hub, mirror) = stage().await;
    let quay = hub
        .url(crate::support::Origin::Foreign)
        .replace("http://", "");
    for path in [
        "/v2/library/nginx/manifests/latest?ns=quay.io".to_owned(),
        format!("/v2/library/nginx/manifests/latest?ns={quay}"),
        format!("/v2/library/nginx/blobs/sha256:{HEX}?ns=quay.io"),
        "/v2/library/nginx/tags/list?ns=quay.io".to_owned(),
        format!("/v2/library/nginx/referrers/sha256:{HEX}?ns=quay.io"),
        "/quay.io/v2/library/nginx/manifests/latest".to_owned(),
    ] {
        assert_refused(&mirror.get(&path).await, 404, "NAME_UNKNOWN", &path);
    }
    assert_untouched(&hub, &mirror);
    for namespace in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        let path = format!("/v2/{NGINX}/manifests/latest?ns={namespace}");
        let answer = mirror.get(&path).await;
        let echo = answer.header("oci-namespace");
        assert_eq!((answer.status, echo), (200, Some(namespace)));
    }
}
