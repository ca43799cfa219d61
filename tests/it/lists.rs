//! Lists of tags and of referrers.
#![expect(clippy::unwrap_used, reason = "the stage of tests")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{End, Response};
use crate::mirror::TestMirror;
use crate::support::{FakeHub, Fault, Image, ImageSpec, Origin};

const NGINX: &str = "library/nginx";
const TOKEN: &str = "token GET library/nginx:pull";

async fn stage() -> (FakeHub, Image, TestMirror) {
    let hub = FakeHub::start().await;
    let image = hub.push_image(NGINX, "latest", ImageSpec::layers(1));
    let mirror = TestMirror::start(&hub).await;
    (hub, image, mirror)
}

#[track_caller]
fn tags(answer: &Response) -> Vec<String> {
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    let list = answer.json();
    assert_eq!(list["name"], NGINX);
    serde_json::from_value(list["tags"].clone()).unwrap()
}

/// 20,000 tags, in byte order, and a mirror that has yet to ask for them.
async fn many_tags() -> (FakeHub, TestMirror, Vec<String>) {
    let (hub, image, mirror) = stage().await;
    hub.delete_tag(NGINX, "latest");
    let tags: Vec<_> = (0..20_000).map(|number| format!("t{number:05}")).collect();
    for tag in &tags {
        hub.move_tag(NGINX, tag, &image.digest);
    }
    (hub, mirror, tags)
}

/// What 20,000 tags cost, a thousand at a time.
fn twenty_pages() -> Vec<String> {
    let path = "registry GET library/nginx/tags/list?n=1000";
    let later = (1..20).map(|page| format!("{path}&last=t{:05}", page * 1000 - 1));
    let first = [TOKEN.to_owned(), path.to_owned()];
    first.into_iter().chain(later).collect()
}

#[tokio::test]
async fn twenty_thousand_tags_are_listed_at_once() {
    let (hub, mirror, expected) = many_tags().await;
    let list = mirror.get("/v2/library/nginx/tags/list").await;
    assert_eq!(tags(&list), expected);
    assert_eq!(list.header("link"), None);
    assert_eq!(hub.take_summary(), twenty_pages());
    let again = mirror.get("/v2/nginx/tags/list").await;
    assert_eq!(again.json()["tags"], list.json()["tags"]);
    assert_eq!(hub.take_summary(), [""; 0]);
}

#[tokio::test]
async fn twenty_thousand_tags_are_listed_page_by_page() {
    let (hub, mirror, expected) = many_tags().await;
    let mut found = Vec::new();
    let mut sizes = Vec::new();
    let mut path = "/v2/library/nginx/tags/list?n=7000".to_owned();
    loop {
        let page = mirror.get(&path).await;
        let shown = tags(&page);
        sizes.push(shown.len());
        found.extend(shown);
        let Some(link) = page.header("link") else {
            break;
        };
        let target = link
            .strip_prefix('<')
            .unwrap()
            .strip_suffix(">; rel=\"next\"");
        path = target.unwrap().to_owned();
    }
    assert_eq!(sizes, [7000, 7000, 6000]);
    assert_eq!(found, expected);
    assert_eq!(hub.take_summary(), twenty_pages());
}

#[tokio::test]
async fn pages_have_limits_and_places_to_begin() {
    let (hub, mirror, expected) = many_tags().await;
    let list = |query: &str| {
        let path = format!("/v2/library/nginx/tags/list?{query}");
        let mirror = &mirror;
        async move { mirror.get(&path).await }
    };
    for limit in ["20000", "99999999999999999999"] {
        let largest = list(&format!("n={limit}")).await;
        assert_eq!(tags(&largest), expected[..10_000]);
        assert!(largest.header("link").unwrap().contains("last=t09999"));
    }
    assert_eq!(tags(&list("last=t19997").await), ["t19998", "t19999"]);
    assert_eq!(tags(&list("n=1&last=t10000.5").await), ["t10001"]);
    let none = list("n=0").await;
    assert_eq!((tags(&none), none.header("link")), (vec![], None));
    assert_eq!(tags(&list("last=u").await), [""; 0]);
    assert_eq!(hub.take_summary(), twenty_pages());
}

#[tokio::test]
async fn an_upstream_that_shows_less_than_asked_is_asked_on() {
    let (hub, image, mirror) = stage().await;
    for tag in ["1.0", "1.1", "1.2"] {
        hub.move_tag(NGINX, tag, &image.digest);
    }
    hub.limit_tags_page(Some(2));
    let list = mirror.get("/v2/library/nginx/tags/list").await;
    assert_eq!(tags(&list), ["1.0", "1.1", "1.2", "latest"]);
    let path = "registry GET library/nginx/tags/list?n=1000";
    assert_eq!(
        hub.take_summary(),
        [TOKEN, path, &format!("{path}&last=1.1")]
    );
}

#[tokio::test]
async fn tags_of_an_unknown_repository_are_404() {
    let (hub, _, mirror) = stage().await;
    let answer = mirror.get("/v2/library/unknown/tags/list").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["errors"][0]["code"], "NAME_UNKNOWN");
    let asked = "registry GET library/unknown/tags/list?n=1000";
    assert_eq!(
        hub.take_summary(),
        ["token GET library/unknown:pull", asked]
    );
}

const SIGNATURE: &str = "application/vnd.example.signature";
const SBOM: &str = "application/vnd.example.sbom";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest of that type that refers to the image.
fn artifact(image: &Image, artifact_type: &str) -> Vec<u8> {
    let config = &image.first().config;
    let descriptor = json!({
        "mediaType": config.media_type, "digest": config.digest, "size": config.bytes.len(),
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": descriptor,
        "layers": [],
        "subject": {
            "mediaType": image.media_type, "digest": image.digest, "size": image.bytes.len(),
        },
    });
    manifest.to_string().into_bytes()
}

#[track_caller]
fn referrers(answer: &Response) -> Vec<Value> {
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert_eq!(answer.header("content-type"), Some(INDEX));
    let index = answer.json();
    assert_eq!(
        (&index["schemaVersion"], &index["mediaType"]),
        (&json!(2), &json!(INDEX))
    );
    index["manifests"].as_array().unwrap().clone()
}

/// Lists the referrers whole and filtered; yields their digests.
async fn assert_listed(mirror: &TestMirror, image: &Image, signature: &str, sbom: &str) {
    let path = format!("/v2/{NGINX}/referrers/{}", image.digest);
    let all = mirror.get(&path).await;
    let mut listed: Vec<_> = referrers(&all)
        .iter()
        .map(|it| it["digest"].as_str().unwrap().to_owned())
        .collect();
    listed.sort_unstable();
    let mut expected = [signature.to_owned(), sbom.to_owned()];
    expected.sort_unstable();
    assert_eq!(listed, expected);
    assert_eq!(all.header("oci-filters-applied"), None);

    let filtered = mirror.get(&format!("{path}?artifactType={SBOM}")).await;
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    let only = referrers(&filtered);
    assert_eq!((only.len(), &only[0]["digest"]), (1, &json!(sbom)));
    let none = mirror.get(&format!("{path}?artifactType=a/b")).await;
    assert_eq!(referrers(&none), [Value::Null; 0]);
}

fn push_artifacts(hub: &FakeHub, image: &Image) -> (String, String) {
    let push = |kind| hub.push_manifest(NGINX, None, MANIFEST, artifact(image, kind));
    (push(SIGNATURE), push(SBOM))
}

#[tokio::test]
async fn referrers_come_from_the_api() {
    let (hub, image, mirror) = stage().await;
    let (signature, sbom) = push_artifacts(&hub, &image);
    assert_listed(&mirror, &image, &signature, &sbom).await;
    let asked = "registry GET library/nginx/referrers/index";
    assert_eq!(hub.take_summary(), [TOKEN, asked]);
    mirror.clock.advance(Duration::from_secs(61));
    assert_listed(&mirror, &image, &signature, &sbom).await;
    assert_eq!(hub.take_summary(), [asked]);
}

#[tokio::test]
async fn referrers_come_from_the_tag_where_there_is_no_api() {
    let (hub, image, mirror) = stage().await;
    let (signature, sbom) = push_artifacts(&hub, &image);
    hub.serve_referrers(false);
    let entry = |kind: &str, digest: &str| {
        let size = artifact(&image, kind).len();
        json!({"mediaType": MANIFEST, "digest": digest, "size": size, "artifactType": kind})
    };
    let list = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [entry(SIGNATURE, &signature), entry(SBOM, &sbom)],
    });
    let tag = image.digest.replace(':', "-");
    hub.push_manifest(NGINX, Some(&tag), INDEX, list.to_string());
    assert_listed(&mirror, &image, &signature, &sbom).await;
    let api = "registry GET library/nginx/referrers/index";
    let by_tag = format!("registry GET library/nginx/manifests/{tag}");
    assert_eq!(hub.take_summary(), [TOKEN, api, &by_tag]);
}

#[tokio::test]
async fn a_manifest_without_referrers_has_an_empty_list() {
    for api in [true, false] {
        let (hub, image, mirror) = stage().await;
        hub.serve_referrers(api);
        let path = format!("/v2/{NGINX}/referrers/{}", image.digest);
        assert_eq!(referrers(&mirror.get(&path).await), [Value::Null; 0]);
        assert_eq!(hub.take_summary().len(), if api { 2 } else { 3 });
        assert_eq!(referrers(&mirror.get(&path).await), [Value::Null; 0]);
        assert_eq!(hub.take_summary(), [""; 0]);
    }
}

#[tokio::test]
async fn referrers_outlive_their_upstream() {
    // A web page in place of the list: as if there were no API, and no manifest under the tag either.
    for (fault, reason) in [
        (Fault::Html, "upstream_error"),
        (Fault::status(429), "rate_limited"),
    ] {
        let (hub, image, mirror) = stage().await;
        let (signature, sbom) = push_artifacts(&hub, &image);
        assert_listed(&mirror, &image, &signature, &sbom).await;
        mirror.clock.advance(Duration::from_secs(61));
        hub.on(Origin::Registry).fault(fault);
        let path = format!("/v2/{NGINX}/referrers/{}", image.digest);
        let stale = mirror.get(&path).await;
        assert_eq!(referrers(&stale).len(), 2);
        assert_eq!(
            stale.header("x-mirror-cache"),
            Some(&*format!(
                "stale; reason={reason}; age=61; upstream=docker.io"
            ))
        );
        assert!(stale.header("warning").is_some());
        hub.clear_faults();
        assert_listed(&mirror, &image, &signature, &sbom).await;
    }
}
