//! The ways to write a repository's name, and names that are none.

use super::server::TestServer;
use super::stub::{blob_digest, manifest_digest};

#[tokio::test]
async fn every_way_to_name_a_repository_of_docker_hub_is_the_same_repository() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let targets = [
        "/v2/nginx/manifests/latest",
        "/v2/library/nginx/manifests/latest",
        "/v2/docker.io/nginx/manifests/latest",
        "/v2/docker.io/library/nginx/manifests/latest",
        "/v2/index.docker.io/library/nginx/manifests/latest",
        "/docker.io/v2/nginx/manifests/latest",
        "/v2/library/nginx/manifests/latest?ns=registry-1.docker.io",
    ];
    for target in targets {
        assert_eq!(client.get(target).await.status, 200, "{target}");
    }
    let call = "manifest library/nginx latest".to_owned();
    assert_eq!(server.stub.calls(), vec![call; targets.len()]);
}

#[tokio::test]
async fn the_namespace_that_scoped_an_answer_is_echoed() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let target = "/v2/library/nginx/manifests/latest";
    let answer = client.get(&format!("{target}?ns=docker.io")).await;
    assert_eq!(answer.header("oci-namespace"), Some("docker.io"));
    assert_eq!(client.get(target).await.header("oci-namespace"), None);
}

#[tokio::test]
async fn another_registry_is_refused_without_asking_anyone() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for target in [
        "/v2/library/nginx/manifests/latest?ns=quay.io",
        "/v2/library/nginx/manifests/latest?ns=127.0.0.1:1",
        "/quay.io/v2/library/nginx/manifests/latest",
        "/v2/library/nginx/tags/list?ns=quay.io",
    ] {
        let answer = client.get(target).await;
        assert_eq!(
            (answer.status, answer.code()),
            (404, "NAME_UNKNOWN".into()),
            "{target}"
        );
        assert_eq!(
            answer.header("x-mirror-cache"),
            Some("error; reason=not_found")
        );
    }
    assert_eq!(server.stub.calls(), Vec::<String>::new());
}

/// Asks for each target, and expects the status and code beside it, without the registry having been asked.
async fn refused(rows: &[(&str, u16, &str)]) {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for &(target, status, code) in rows {
        let answer = client.get(target).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{target}"
        );
        assert!(answer.header("x-request-id").is_some());
        let reason = if status == 404 {
            "not_found"
        } else {
            "bad_request"
        };
        let cache = format!("error; reason={reason}");
        assert_eq!(
            answer.header("x-mirror-cache"),
            Some(cache.as_str()),
            "{target}"
        );
    }
    assert_eq!(server.stub.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_outside_the_grammar_ends_at_the_door() {
    let deep = format!("/v2/{}/manifests/latest", vec!["a"; 300].join("/"));
    let long = format!("/v2/{}/manifests/latest", "a".repeat(256));
    refused(&[
        (&deep, 400, "NAME_INVALID"),
        (&long, 400, "NAME_INVALID"),
        ("/v2/library%2Fnginx/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/..%2F..%2Fetc/manifests/passwd", 400, "NAME_INVALID"),
        ("/v2/../../etc/manifests/passwd", 400, "NAME_INVALID"),
        ("/v2/library/../nginx/manifests/latest", 400, "NAME_INVALID"),
        ("/v2//manifests/latest", 400, "NAME_INVALID"),
        ("/v2/Library/nginx/manifests/latest", 400, "NAME_INVALID"),
    ])
    .await;
}

#[tokio::test]
async fn a_reference_outside_the_grammar_ends_at_the_door() {
    let long = format!("/v2/library/nginx/manifests/{}", "t".repeat(129));
    refused(&[
        (&long, 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/nginx/manifests/..", 404, "MANIFEST_UNKNOWN"),
        (
            "/v2/library/nginx/manifests/sha256:12",
            400,
            "DIGEST_INVALID",
        ),
        ("/v2/library/nginx/blobs/md5:0123", 400, "DIGEST_INVALID"),
        (
            "/v2/library/nginx/blobs/sha256:../../etc",
            404,
            "NAME_UNKNOWN",
        ),
        ("/v2/library/nginx/referrers/latest", 400, "DIGEST_INVALID"),
    ])
    .await;
}

#[tokio::test]
async fn a_request_that_is_none_ends_at_the_door() {
    let long = format!("/{}", "x".repeat(2000));
    let long_last = format!("/v2/library/nginx/tags/list?last={}", "x".repeat(2000));
    refused(&[
        (&long, 400, "NAME_INVALID"),
        (&long_last, 400, "UNSUPPORTED"),
        ("/v2/library/nginx/tags/list?n=-1", 400, "UNSUPPORTED"),
        ("/v2/library/nginx/tags/list?n=1&n=2", 400, "UNSUPPORTED"),
        ("/v2/library/nginx", 404, "NAME_UNKNOWN"),
        ("/etc/passwd", 404, "NAME_UNKNOWN"),
        ("/v1/_ping", 404, "NAME_UNKNOWN"),
    ])
    .await;
}

#[tokio::test]
async fn what_does_not_exist_is_404_with_the_code_of_its_kind() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let other = manifest_digest();
    for (target, code) in [
        (
            "/v2/absent/name/manifests/latest".to_owned(),
            "NAME_UNKNOWN",
        ),
        (
            "/v2/absent/manifest/manifests/latest".to_owned(),
            "MANIFEST_UNKNOWN",
        ),
        (format!("/v2/library/nginx/blobs/{other}"), "BLOB_UNKNOWN"),
    ] {
        let answer = client.get(&target).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, code),
            "{target}"
        );
        let head = client.ask("HEAD", &target, "").await;
        assert_eq!(head.status, 404);
        assert_eq!(head.stable_headers(), answer.stable_headers(), "{target}");
    }
    let found = client
        .get(&format!("/v2/library/nginx/blobs/{}", blob_digest()))
        .await;
    assert_eq!(found.status, 200);
}
