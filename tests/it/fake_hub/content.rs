//! Manifests, blobs, ranges, tags and referrers, as Docker Hub answers them.

use std::io::Read as _;

use serde_json::{Value, json};

use super::{NGINX, OneBlob, nginx, registry, token};
use crate::client::request;
use crate::support::image::{digest_of, is_static_program};
use crate::support::{Image, ImageSpec, Origin, Platform};

#[tokio::test]
async fn an_image_is_pulled_and_recorded() {
    let (hub, image) = nginx().await;
    let token = token(&hub, NGINX).await;
    let auth = [("authorization", token.as_str())];
    let base = format!("{}/v2/{NGINX}", hub.registry_url());

    for reference in [&image.digest, &image.architecture("amd64").digest] {
        let answer = request("GET", &format!("{base}/manifests/{reference}"), &auth).await;
        assert_eq!(answer.status, 200);
        assert_eq!(digest_of(&answer.body), *reference);
    }
    for blob in image.architecture("amd64").blobs() {
        let hop = request("GET", &format!("{base}/blobs/{}", blob.digest), &auth).await;
        assert_eq!(hop.status, 307);
        let answer = request("GET", hop.header("location").unwrap(), &[]).await;
        assert_eq!(digest_of(&answer.body), blob.digest);
    }

    assert_eq!(
        hub.summary(),
        [
            "token GET library/nginx:pull",
            "registry GET library/nginx/manifests/index",
            "registry GET library/nginx/manifests/amd64.manifest",
            "registry GET library/nginx/blobs/amd64.config",
            "cdn GET amd64.config",
            "registry GET library/nginx/blobs/amd64.layer0",
            "cdn GET amd64.layer0",
            "registry GET library/nginx/blobs/amd64.layer1",
            "cdn GET amd64.layer1",
            "registry GET library/nginx/blobs/amd64.layer2",
            "cdn GET amd64.layer2",
        ]
    );
    let records = hub.take_requests();
    assert_eq!(records[1].header("authorization"), Some(token.as_str()));
    assert_eq!(records[4].origin, Origin::Cdn);
    assert!(hub.requests().is_empty());
}

#[tokio::test]
async fn a_manifest_has_the_headers_of_docker_hub() {
    let (hub, image) = nginx().await;
    let head = registry(&hub, "HEAD", "manifests/latest").await;
    let len = image.bytes.len().to_string();
    let etag = format!("\"{}\"", image.digest);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("docker-content-digest"), Some(&*image.digest));
    assert_eq!(head.header("etag"), Some(&*etag));
    assert_eq!(head.header("content-length"), Some(&*len));
    assert_eq!(head.header("content-type"), Some(&*image.media_type));
    assert_eq!(head.header("ratelimit-limit"), Some("100;w=21600"));
    assert_eq!(head.header("ratelimit-remaining"), Some("100;w=21600"));
    assert_eq!(head.header("docker-ratelimit-source"), Some("127.0.0.1"));
}

#[tokio::test]
async fn what_is_not_there_is_404_with_a_code() {
    let (hub, _) = nginx().await;
    let unknown = digest_of(b"unknown");
    for (path, code) in [
        ("manifests/1.0".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("manifests/{unknown}"), "MANIFEST_UNKNOWN"),
        (format!("blobs/{unknown}"), "BLOB_UNKNOWN"),
    ] {
        let answer = registry(&hub, "GET", &path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["errors"][0]["code"], code, "{path}");
    }
    assert_eq!(registry(&hub, "GET", "nonsense").await.status, 404);
    assert_eq!(registry(&hub, "PUT", "manifests/new").await.status, 405);
}

#[tokio::test]
async fn tags_move_and_go_away() {
    let (hub, first) = nginx().await;
    let second = hub.push_image(NGINX, "latest", ImageSpec::layers(3).seed(2));
    assert_ne!(first.digest, second.digest);
    let digest = async || {
        let head = registry(&hub, "HEAD", "manifests/latest").await;
        head.header("docker-content-digest").unwrap().to_owned()
    };
    assert_eq!(digest().await, second.digest);
    hub.move_tag(NGINX, "latest", &first.digest);
    assert_eq!(digest().await, first.digest);
    hub.delete_tag(NGINX, "latest");
    assert_eq!(registry(&hub, "HEAD", "manifests/latest").await.status, 404);
    assert_eq!(hub.short(&second.digest), "index#2");
    assert_eq!(
        hub.short(&second.first().layers[1].digest),
        "amd64.layer1#2"
    );
}

#[tokio::test]
async fn every_redirect_is_signed_anew_and_only_for_its_blob() {
    let blob = OneBlob::new().await;
    let (first, second) = (blob.location().await, blob.location().await);
    assert_ne!(first, second);
    assert_eq!(request("GET", &first, &[]).await.body, blob.bytes);
    assert_eq!(request("GET", &second, &[]).await.body, blob.bytes);

    let (address, _) = first.split_once('?').unwrap();
    assert_eq!(request("GET", address, &[]).await.status, 403);
    let other = first.replace(&blob.digest, &digest_of(b"other"));
    assert_eq!(request("GET", &other, &[]).await.status, 403);
    blob.hub.expire_signatures();
    assert_eq!(request("GET", &first, &[]).await.status, 403);
}

#[tokio::test]
async fn the_cdn_refuses_and_records_an_authorization() {
    let blob = OneBlob::new().await;
    let answer = blob.get(&[("authorization", "Bearer stray")]).await;
    assert_eq!(answer.status, 400);
    let recorded = blob.hub.requests().pop().unwrap();
    assert_eq!(recorded.header("authorization"), Some("Bearer stray"));
}

#[tokio::test]
async fn the_cdn_serves_ranges() {
    let blob = OneBlob::new().await;
    for (range, status, shown, window) in [
        ("bytes=100-", 206, Some("bytes 100-9999/10000"), 100..10_000),
        ("bytes=0-0", 206, Some("bytes 0-0/10000"), 0..1),
        (
            "bytes=9000-99999",
            206,
            Some("bytes 9000-9999/10000"),
            9000..10_000,
        ),
        (
            "bytes=-10",
            206,
            Some("bytes 9990-9999/10000"),
            9990..10_000,
        ),
        ("bytes=10000-", 416, Some("bytes */10000"), 0..0),
        ("bytes=0-1,5-6", 200, None, 0..10_000),
    ] {
        let answer = blob.get(&[("range", range)]).await;
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (status, shown),
            "{range}"
        );
        assert_eq!(answer.body, &blob.bytes[window], "{range}");
    }
    let etag = blob.get(&[]).await.header("etag").unwrap().to_owned();
    let same = blob
        .get(&[("range", "bytes=9000-"), ("if-range", &etag)])
        .await;
    assert_eq!(same.status, 206);
    let other = blob
        .get(&[("range", "bytes=9000-"), ("if-range", "\"other\"")])
        .await;
    assert_eq!(other.status, 200);
}

#[tokio::test]
async fn blobs_come_from_the_registry_when_asked_to() {
    let blob = OneBlob::new().await;
    blob.hub.serve_blobs_directly(true);
    let answer = registry(&blob.hub, "GET", &format!("blobs/{}", blob.digest)).await;
    assert_eq!((answer.status, answer.body), (200, blob.bytes));
}

#[tokio::test]
async fn tags_are_listed_page_by_page() {
    let (hub, image) = nginx().await;
    for tag in ["a", "b", "c"] {
        hub.move_tag(NGINX, tag, &image.digest);
    }
    let all = registry(&hub, "GET", "tags/list").await;
    assert_eq!(all.json()["tags"], json!(["a", "b", "c", "latest"]));
    assert_eq!(all.header("link"), None);
    let page = registry(&hub, "GET", "tags/list?n=2&last=a").await;
    assert_eq!(page.json()["tags"], json!(["b", "c"]));
    let next = "</v2/library/nginx/tags/list?last=c&n=2>; rel=\"next\"";
    assert_eq!(page.header("link"), Some(next));
    assert_eq!(
        registry(&hub, "GET", "tags/list?n=0").await.json()["tags"],
        json!([])
    );
    hub.limit_tags_page(Some(3));
    let capped = registry(&hub, "GET", "tags/list?n=1000").await;
    assert_eq!(capped.json()["tags"], json!(["a", "b", "c"]));
    assert!(capped.header("link").is_some());
    let rest = registry(&hub, "GET", "tags/list?last=c").await;
    assert_eq!(
        (&rest.json()["tags"], rest.header("link")),
        (&json!(["latest"]), None)
    );
}

#[tokio::test]
async fn referrers_are_found_and_filtered() {
    let (hub, image) = nginx().await;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let referrer = json!({
        "schemaVersion": 2, "mediaType": media_type, "artifactType": "application/sbom",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json"}, "layers": [],
        "subject": {"digest": image.digest}, "annotations": {"by": "a test"},
    });
    let digest = hub.push_manifest(NGINX, None, media_type, referrer.to_string());
    let path = format!("referrers/{}", image.digest);
    let found = registry(&hub, "GET", &path).await.json();
    let expected = json!([{
        "mediaType": media_type, "digest": digest, "size": referrer.to_string().len(),
        "artifactType": "application/sbom", "annotations": {"by": "a test"},
    }]);
    assert_eq!(found["manifests"], expected);
    let other = registry(&hub, "GET", &format!("{path}?artifactType=x")).await;
    assert_eq!(other.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(other.json()["manifests"], json!([]));
    hub.serve_referrers(false);
    assert_eq!(registry(&hub, "GET", &path).await.status, 404);
}

#[test]
fn images_are_the_same_every_time_and_genuine() {
    let image = ImageSpec::layer_sizes(&[10, 100_000]).build();
    assert_eq!(
        image.digest,
        ImageSpec::layer_sizes(&[10, 100_000]).build().digest
    );
    assert_eq!(digest_of(&image.bytes), image.digest);
    for platform in &image.platforms {
        let config: Value = serde_json::from_slice(&platform.config.bytes).unwrap();
        assert_eq!(config["architecture"], *platform.platform.architecture);
        for (number, layer) in platform.layers.iter().enumerate() {
            let mut tar = Vec::new();
            let mut gzip = flate2::read::GzDecoder::new(&layer.bytes[..]);
            gzip.read_to_end(&mut tar).unwrap();
            assert_eq!(config["rootfs"]["diff_ids"][number], *digest_of(&tar));
            assert_eq!(tar::Archive::new(&tar[..]).entries().unwrap().count(), 1);
        }
    }
    let sizes = |image: &Image| image.first().layers[1].bytes.len();
    assert!((100_000..105_000).contains(&sizes(&image)));
}

#[test]
fn images_come_in_every_shape() {
    let docker = ImageSpec::layers(1).docker().without_index().build();
    assert_eq!(
        docker.media_type,
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(docker.digest, docker.first().digest);
    let arm = ImageSpec::layers(1)
        .platforms(&[Platform::linux("arm64")])
        .build();
    assert_eq!(arm.platforms.len(), 1);
    assert_ne!(arm.digest, arm.first().digest);
}

#[test]
fn a_runnable_image_holds_the_program_for_the_host_alone() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("busybox");
    std::fs::write(&program, b"a program").unwrap();
    let platforms = [Platform::host(), Platform::linux("s390x")];
    let image = ImageSpec::runnable(&program).platforms(&platforms).build();
    let lowest = |number: usize| {
        let layer = &image.platforms[number].layers[0];
        let gzip = flate2::read::GzDecoder::new(&layer.bytes[..]);
        let mut archive = tar::Archive::new(gzip);
        let entries = archive.entries().unwrap();
        entries
            .map(|it| it.unwrap().path().unwrap().display().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(lowest(0), ["bin/busybox", "bin/sh"]);
    assert_eq!(lowest(1), ["README.txt"]);
    let config: Value = serde_json::from_slice(&image.first().config.bytes).unwrap();
    assert_eq!(config["config"]["Cmd"], json!(["hello from mirror"]));
    assert!(!is_static_program(&program));
}

#[test]
fn a_program_with_a_loader_is_not_static() {
    let directory = tempfile::tempdir().unwrap();
    for (segment, expected) in [(1_u8, true), (3, false)] {
        let mut elf = vec![0_u8; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64; // where the program headers begin
        elf[54] = 56; // the size of one
        elf[56] = 1; // how many
        elf[64] = segment; // the type of the first
        let path = directory.path().join("program");
        std::fs::write(&path, &elf).unwrap();
        assert_eq!(is_static_program(&path), expected, "{segment}");
    }
    assert!(!is_static_program(&directory.path().join("nothing")));
}
