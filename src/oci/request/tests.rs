//! Every request that is understood.

mod refusals;

use proptest::prelude::*;

use super::route::{HOST_LIMIT, TEXT_LIMIT};
use super::*;
use crate::oci::error::Code;

const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn parse(method: &Method, target: &str) -> Result<Parsed, RequestError> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    Request::parse(method, path, query, None)
}

fn request(method: &Method, target: &str) -> Request {
    parse(method, target)
        .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
        .request
}

fn refused(method: &Method, target: &str) -> RequestError {
    parse(method, target)
        .err()
        .unwrap_or_else(|| panic!("{method} {target} was accepted"))
}

fn answer(method: &Method, target: &str) -> (u16, Code) {
    let error = refused(method, target);
    (error.status().as_u16(), error.code())
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn digest() -> Digest {
    DIGEST.parse().unwrap()
}

/// Asserts that the target under `/v2/library/nginx` is this request.
fn is(method: &Method, target: &str, expected: &Request) {
    assert_eq!(
        &request(method, &format!("/v2/library/nginx/{target}")),
        expected,
        "{method} {target}"
    );
}

fn nginx() -> RepositoryName {
    name("library/nginx")
}

#[test]
fn version_and_catalog() {
    assert_eq!(request(&Method::GET, "/v2/"), Request::Version);
    assert_eq!(request(&Method::HEAD, "/v2"), Request::Version);
    let page = Request::Catalog {
        n: Some(10),
        last: Some("b".into()),
    };
    assert_eq!(request(&Method::GET, "/v2/_catalog?n=10&last=b"), page);
}

#[test]
fn manifests() {
    let by_tag = || Reference::Tag("1.27".parse().unwrap());
    let (tag, digest) = ("manifests/1.27", format!("manifests/{DIGEST}"));
    let by_digest = || Reference::Digest(self::digest());
    is(
        &Method::GET,
        tag,
        &Request::ManifestGet {
            name: nginx(),
            reference: by_tag(),
        },
    );
    is(
        &Method::GET,
        &digest,
        &Request::ManifestGet {
            name: nginx(),
            reference: by_digest(),
        },
    );
    is(
        &Method::HEAD,
        &digest,
        &Request::ManifestHead {
            name: nginx(),
            reference: by_digest(),
        },
    );
    is(
        &Method::PUT,
        tag,
        &Request::ManifestPut {
            name: nginx(),
            reference: by_tag(),
            tags: vec![],
        },
    );
    is(
        &Method::DELETE,
        tag,
        &Request::ManifestDelete {
            name: nginx(),
            reference: by_tag(),
        },
    );
}

#[test]
fn blobs() {
    let (target, digest) = (format!("blobs/{DIGEST}"), digest());
    is(
        &Method::GET,
        &target,
        &Request::BlobGet {
            name: nginx(),
            digest,
            range: None,
        },
    );
    is(
        &Method::HEAD,
        &target,
        &Request::BlobHead {
            name: nginx(),
            digest,
        },
    );
    is(
        &Method::DELETE,
        &target,
        &Request::BlobDelete {
            name: nginx(),
            digest,
        },
    );
}

#[test]
fn uploads_begin() {
    let start = |query: &str, digest, mount, from, algorithm| {
        let expected = Request::UploadStart {
            name: nginx(),
            digest,
            mount,
            from,
            algorithm,
        };
        is(&Method::POST, &format!("blobs/uploads/{query}"), &expected);
        is(&Method::POST, &format!("blobs/uploads{query}"), &expected);
    };
    let some = Some(digest());
    let encoded = DIGEST.replace(':', "%3A");
    start("", None, None, None, None);
    start(&format!("?digest={encoded}"), some, None, None, None);
    start(&format!("?mount={DIGEST}"), None, some, None, None);
    start(
        &format!("?mount={encoded}&from=a%2Fb"),
        None,
        some,
        Some(name("a/b")),
        None,
    );
    start(
        "?digest-algorithm=sha512",
        None,
        None,
        None,
        Some(Algorithm::Sha512),
    );
}

#[test]
fn uploads_go_on_and_end() {
    let id = || UploadId::new("0-f_A").unwrap();
    let target = "blobs/uploads/0-f_A";
    is(
        &Method::PATCH,
        target,
        &Request::UploadChunk {
            name: nginx(),
            id: id(),
        },
    );
    is(
        &Method::GET,
        target,
        &Request::UploadStatus {
            name: nginx(),
            id: id(),
        },
    );
    is(
        &Method::DELETE,
        target,
        &Request::UploadCancel {
            name: nginx(),
            id: id(),
        },
    );
    let finish = Request::UploadFinish {
        name: nginx(),
        id: id(),
        digest: digest(),
    };
    is(
        &Method::PUT,
        &format!("{target}?x=1&digest={DIGEST}"),
        &finish,
    );
}

#[test]
fn tags_and_referrers() {
    let tags = |n, last| Request::TagsList {
        name: nginx(),
        n,
        last,
    };
    is(&Method::GET, "tags/list", &tags(None, None));
    is(
        &Method::GET,
        "tags/list?last=b&n=10",
        &tags(Some(10), Some("b".into())),
    );
    let referrers = |artifact_type| Request::Referrers {
        name: nginx(),
        digest: digest(),
        artifact_type,
    };
    is(
        &Method::GET,
        &format!("referrers/{DIGEST}"),
        &referrers(None),
    );
    let typed = referrers(Some("application/vnd.x+json".into()));
    is(
        &Method::GET,
        &format!("referrers/{DIGEST}?artifactType=application/vnd.x%2Bjson"),
        &typed,
    );
}

#[test]
fn the_repository_and_the_kind_of_every_request() {
    let words = |target: &str| {
        let request = request(&Method::GET, target);
        (request.operation(), request.name().map(ToString::to_string))
    };
    let named = |operation| (operation, Some("a/b".to_owned()));
    assert_eq!(words("/v2/"), ("version", None));
    assert_eq!(words("/v2/_catalog"), ("catalog", None));
    assert_eq!(words("/v2/a/b/manifests/x"), named("manifest"));
    assert_eq!(words(&format!("/v2/a/b/blobs/{DIGEST}")), named("blob"));
    assert_eq!(words("/v2/a/b/blobs/uploads/x"), named("upload"));
    assert_eq!(words("/v2/a/b/tags/list"), named("tags"));
    assert_eq!(
        words(&format!("/v2/a/b/referrers/{DIGEST}")),
        named("referrers")
    );
}

#[test]
fn a_path_is_read_from_the_right() {
    for text in [
        "manifests",
        "blobs/uploads",
        "tags/list",
        "a/manifests/b/blobs",
        "v2",
        "referrers/tags",
    ] {
        assert_eq!(
            request(&Method::GET, &format!("/v2/{text}/tags/list")).name(),
            Some(&name(text))
        );
        assert_eq!(
            request(&Method::GET, &format!("/v2/{text}/manifests/x")).name(),
            Some(&name(text))
        );
        assert_eq!(
            request(&Method::GET, &format!("/v2/{text}/blobs/{DIGEST}")).name(),
            Some(&name(text))
        );
    }
}

#[test]
fn an_upstream_is_named_by_a_prefix_or_a_namespace() {
    let parsed = parse(
        &Method::GET,
        "/ghcr.io/v2/owner/image/manifests/x?ns=quay.io:443",
    )
    .unwrap();
    assert_eq!(parsed.upstream_prefix.as_deref(), Some("ghcr.io"));
    assert_eq!(parsed.namespace.as_deref(), Some("quay.io:443"));
    assert_eq!(parsed.request.name(), Some(&name("owner/image")));
    assert_eq!(
        parse(&Method::GET, "/ghcr.io/v2/").unwrap().request,
        Request::Version
    );
    let plain = parse(&Method::GET, "/v2/v2/x/manifests/x?ns=").unwrap();
    assert_eq!((plain.namespace, plain.upstream_prefix), (None, None));
    assert_eq!(plain.request.name(), Some(&name("v2/x")));
}

#[test]
fn a_namespace_is_a_host() {
    for value in [
        "..",
        "a%2Fb",
        "a%20b",
        "http://x",
        "user@x",
        &"a".repeat(HOST_LIMIT + 1),
        "x&ns=x",
    ] {
        assert_eq!(
            refused(&Method::GET, &format!("/v2/?ns={value}")),
            RequestError::Parameter { name: "ns" }
        );
    }
    let longest = "a".repeat(HOST_LIMIT);
    assert_eq!(
        parse(&Method::GET, &format!("/v2/?ns={longest}"))
            .unwrap()
            .namespace,
        Some(longest)
    );
}

#[test]
fn a_range_is_read_for_a_blob_only() {
    let range = |path: &str, range| {
        Request::parse(&Method::GET, path, None, Some(range))
            .unwrap()
            .request
    };
    let blob = |range| Request::BlobGet {
        name: name("a"),
        digest: digest(),
        range,
    };
    let path = format!("/v2/a/blobs/{DIGEST}");
    assert_eq!(range(&path, "bytes=5-"), blob(Some(ByteRange::From(5))));
    assert_eq!(range(&path, "bytes=0-1,5-6"), blob(None));
    let manifest = Request::ManifestGet {
        name: name("a"),
        reference: "x".parse().unwrap(),
    };
    assert_eq!(range("/v2/a/manifests/x", "bytes=0-"), manifest);
}

fn methods() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
    ])
}

proptest! {
    #[test]
    fn never_panics_and_lets_nothing_odd_through(
        method in methods(),
        path in ".{0,60}|(/[a-z.%:]{0,4}){0,3}/v2(/[a-zA-Z0-9._%:-]{0,9}){0,4}(/(manifests|blobs|tags|uploads|list|referrers)){0,2}(/[a-z.]{0,5}){0,2}",
        query in proptest::option::of(".{0,60}|[a-z=&%0-9]{0,60}"),
        range in proptest::option::of(".{0,20}"),
    ) {
        if let Ok(parsed) = Request::parse(&method, &path, query.as_deref(), range.as_deref()) {
            let odd = |text: &str| text.contains("..") || text.contains("//") || text.contains('%');
            prop_assert!(!parsed.request.name().is_some_and(|name| odd(name.as_str())));
            prop_assert!(!parsed.upstream_prefix.is_some_and(|prefix| prefix.contains(['/', '%'])));
        }
    }

    #[test]
    fn manifest_paths_round_trip(
        text in "[a-z0-9]{1,8}([._/-][a-z0-9]{1,8}){0,4}",
        tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
    ) {
        let expected = Request::ManifestGet { name: name(&text), reference: tag.parse().unwrap() };
        prop_assert_eq!(request(&Method::GET, &format!("/v2/{text}/manifests/{tag}")), expected);
    }
}
