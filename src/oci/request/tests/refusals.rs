//! What is refused at the door, and with which answer.

use http::StatusCode;

use super::*;
use crate::oci::name::{NAME_LIMIT, NameError, ReferenceError, TagError};

#[test]
fn unknown_paths_are_404() {
    for target in [
        "",
        "/",
        "v2/",
        "/v1/",
        "/v2x",
        "/v2/x",
        "/v2/a/b",
        "/v2/manifests/x",
        "/v2/blobs/x",
        "/v2/tags/list",
        "/v2/_catalog/",
        "/v2/a/tags/list/",
        "/v2/a/tags",
        "/v2/a/manifest/x",
        "/../v2/",
        "//v2/",
        "/a/b/v2/",
        "/a b/v2/",
        "/a/v3/",
        "/etc/passwd",
    ] {
        assert_eq!(
            answer(&Method::GET, target),
            (404, Code::NameUnknown),
            "{target}"
        );
    }
}

#[test]
fn bad_names_are_400_before_anything_else() {
    for text in [
        "..", "a/../b", "A", "a//b", "", "a/", "/a", "a_", "ä", "a b", "a\\b", "a:1",
    ] {
        for rest in [
            "manifests/x",
            "manifests/..",
            "blobs/x",
            "tags/list",
            "referrers/x",
            "blobs/uploads/..",
        ] {
            let target = format!("/v2/{text}/{rest}");
            assert_eq!(
                answer(&Method::GET, &target),
                (400, Code::NameInvalid),
                "{target}"
            );
        }
    }
}

#[test]
fn percent_encoding_in_a_path_is_400_wherever_it_is() {
    for target in [
        "/v2/a%2Fb/manifests/x",
        "/v2/%2e%2e/manifests/x",
        "/v2/a/manifests/%78",
        "/v2/a/blobs/sha256%3Aab",
        "/%76%32/",
        "/%2F%2F..%2F..%2Fetc%2Fpasswd",
        "/v2/%",
        "/v2/a/manifests/x%00",
    ] {
        assert_eq!(
            refused(&Method::GET, target),
            RequestError::PercentEncoded,
            "{target}"
        );
        assert_eq!(answer(&Method::GET, target), (400, Code::NameInvalid));
    }
}

#[test]
fn long_names_and_paths_are_400() {
    let components = |count: usize| format!("/v2/{}/manifests/x", vec!["a"; count].join("/"));
    assert_eq!(
        request(&Method::GET, &components(128))
            .name()
            .unwrap()
            .components()
            .count(),
        128
    );
    assert_eq!(
        refused(&Method::GET, &components(129)),
        NameError::TooLong { length: 257 }.into()
    );
    assert_eq!(
        answer(&Method::GET, &components(300)),
        (400, Code::NameInvalid)
    );
    assert_eq!(
        refused(&Method::GET, &components(1_000)),
        RequestError::PathTooLong
    );
    assert_eq!(
        answer(&Method::GET, &components(1_000)),
        (400, Code::NameInvalid)
    );
    let path = |length: usize| format!("/v2/{}", "a".repeat(length - "/v2/".len()));
    assert_eq!(
        refused(&Method::GET, &path(PATH_LIMIT)),
        RequestError::UnknownRoute
    );
    assert_eq!(
        refused(&Method::GET, &path(PATH_LIMIT + 1)),
        RequestError::PathTooLong
    );
}

#[test]
fn the_longest_request_fits_the_path_limit() {
    let prefix = "h".repeat(HOST_LIMIT);
    let repository = "a".repeat(NAME_LIMIT);
    let sha512 = Digest::of(Algorithm::Sha512, b"");
    let target = format!("/{prefix}/v2/{repository}/manifests/{sha512}");
    assert_eq!(
        request(&Method::GET, &target).name(),
        Some(&name(&repository))
    );
}

#[test]
fn an_impossible_tag_is_not_found_but_cannot_be_pushed() {
    let target = "/v2/a/manifests/.INVALID_MANIFEST_NAME";
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        assert_eq!(
            refused(&method, target),
            RequestError::Reference(ReferenceError::Tag(TagError))
        );
        assert_eq!(answer(&method, target), (404, Code::ManifestUnknown));
    }
    assert_eq!(answer(&Method::PUT, target), (400, Code::TagInvalid));
    assert_eq!(
        answer(&Method::GET, "/v2/a/manifests/"),
        (404, Code::ManifestUnknown)
    );
}

#[test]
fn a_bad_digest_is_400_everywhere() {
    for text in [
        "sha256:",
        "sha256:ABC",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:00",
        ":",
    ] {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
            assert_eq!(
                answer(&method, &format!("/v2/a/manifests/{text}")),
                (400, Code::DigestInvalid)
            );
        }
        assert_eq!(
            answer(&Method::GET, &format!("/v2/a/blobs/{text}")),
            (400, Code::DigestInvalid)
        );
        assert_eq!(
            answer(&Method::GET, &format!("/v2/a/referrers/{text}")),
            (400, Code::DigestInvalid)
        );
        assert_eq!(
            answer(&Method::POST, &format!("/v2/a/blobs/uploads/?mount={text}")),
            (400, Code::DigestInvalid)
        );
        assert_eq!(
            answer(
                &Method::PUT,
                &format!("/v2/a/blobs/uploads/x?digest={text}")
            ),
            (400, Code::DigestInvalid)
        );
    }
    assert_eq!(
        refused(&Method::PUT, "/v2/a/blobs/uploads/x"),
        RequestError::DigestMissing
    );
    assert_eq!(
        answer(&Method::POST, "/v2/a/blobs/uploads/?digest-algorithm=md5"),
        (400, Code::DigestInvalid)
    );
    assert_eq!(
        answer(&Method::POST, "/v2/a/blobs/uploads/?from=../x"),
        (400, Code::NameInvalid)
    );
}

#[test]
fn methods_that_are_not_offered_are_405() {
    let all = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
        Method::from_bytes(b"BREW").unwrap(),
    ];
    let blob = format!("/v2/a/blobs/{DIGEST}");
    let referrers = format!("/v2/a/referrers/{DIGEST}");
    for (target, allow) in [
        ("/v2/", "GET, HEAD"),
        ("/v2/_catalog", "GET"),
        ("/v2/a/manifests/x", "GET, HEAD, PUT, DELETE"),
        (&blob, "GET, HEAD, DELETE"),
        ("/v2/a/blobs/uploads/", "POST"),
        (
            "/v2/a/blobs/uploads/x?digest=sha256:x",
            "GET, PATCH, PUT, DELETE",
        ),
        ("/v2/a/tags/list", "GET"),
        (&referrers, "GET"),
    ] {
        for method in &all {
            let offered = allow.split(", ").any(|name| name == method.as_str());
            let error = parse(method, target).err();
            let not_allowed = error == Some(RequestError::MethodNotAllowed { allow });
            assert_eq!(not_allowed, !offered, "{method} {target}");
        }
        assert_eq!(answer(&Method::TRACE, target), (405, Code::Unsupported));
    }
}

#[test]
fn tags_come_with_a_digest_and_are_few() {
    let target = |count: usize| {
        let tags: Vec<String> = (0..count).map(|n| format!("tag=t{n}")).collect();
        format!("/v2/a/manifests/{DIGEST}?{}", tags.join("&"))
    };
    let Request::ManifestPut { tags, .. } = request(&Method::PUT, &target(TAGS_LIMIT)) else {
        panic!("not a push")
    };
    assert_eq!(tags.len(), TAGS_LIMIT);
    assert_eq!(tags[1].as_str(), "t1");
    let error = refused(&Method::PUT, &target(TAGS_LIMIT + 1));
    assert_eq!(
        (error.status(), error.code()),
        (StatusCode::URI_TOO_LONG, Code::TagInvalid)
    );
    assert_eq!(
        answer(&Method::PUT, &format!("/v2/a/manifests/{DIGEST}?tag=.x")),
        (400, Code::TagInvalid)
    );
    assert_eq!(
        refused(&Method::PUT, "/v2/a/manifests/x?tag=y"),
        RequestError::Parameter { name: "tag" }
    );
}

#[test]
fn page_sizes_are_numbers() {
    let tags = |query: &str| parse(&Method::GET, &format!("/v2/a/tags/list?{query}"));
    let page = |n| Request::TagsList {
        name: name("a"),
        n,
        last: None,
    };
    assert_eq!(tags("n=0").unwrap().request, page(Some(0)));
    assert_eq!(
        tags("n=99999999999999999999999").unwrap().request,
        page(Some(u64::MAX))
    );
    assert_eq!(tags("n=").unwrap().request, page(None));
    for query in ["n=-1", "n=x", "n=1&n=2", "n=%2B1", "n=1.0"] {
        assert_eq!(
            tags(query),
            Err(RequestError::Parameter { name: "n" }),
            "{query}"
        );
    }
    assert_eq!(
        answer(&Method::GET, "/v2/a/tags/list?n=x"),
        (400, Code::Unsupported)
    );
}

#[test]
fn texts_in_a_query_have_a_limit() {
    let target = |length: usize| format!("/v2/a/tags/list?last={}", "a".repeat(length));
    assert!(parse(&Method::GET, &target(TEXT_LIMIT)).is_ok());
    assert_eq!(
        refused(&Method::GET, &target(TEXT_LIMIT + 1)),
        RequestError::Parameter { name: "last" }
    );
    assert_eq!(
        refused(&Method::GET, "/v2/a/tags/list?last=%00"),
        RequestError::Query
    );
}

#[test]
fn upload_identifiers() {
    let longest = "a".repeat(UPLOAD_ID_LIMIT);
    assert_eq!(UploadId::new(&longest).unwrap().to_string(), longest);
    for text in [".", "..", "a.b", "ä", "a=b", &format!("{longest}a")] {
        let target = format!("/v2/a/blobs/uploads/{text}");
        assert_eq!(
            answer(&Method::PATCH, &target),
            (404, Code::BlobUploadUnknown),
            "{text}"
        );
    }
}

#[test]
fn the_answer_says_what_is_wrong() {
    let body = refused(&Method::GET, "/v2/library/NGINX/manifests/latest").body();
    assert_eq!(
        body.to_bytes(),
        "{\"errors\":[{\"code\":\"NAME_INVALID\",\"message\":\"\\\"NGINX\\\" cannot be a component of a repository \
         name: lower-case letters and digits, separated by '.', '_', '__' or dashes\"}]}"
    );
}
