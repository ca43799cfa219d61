use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn descriptor(media_type: &str, content: &str) -> Value {
    let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
    json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
}

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", "config"),
        "layers": [
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "one"),
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "two"),
        ],
        "annotations": { "a": "b" },
    })
}

fn index() -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(IMAGE, "arm"), descriptor(INDEX, "amd")] })
}

fn with(mut document: Value, key: &str, value: Value) -> Value {
    document[key] = value;
    document
}

fn without(mut document: Value, key: &str) -> Value {
    document.as_object_mut().unwrap().remove(key);
    document
}

fn parse(document: &Value, content_type: Option<&str>) -> Result<Manifest, ManifestError> {
    Manifest::parse(document.to_string().into(), content_type)
}

fn contents(descriptors: impl IntoIterator<Item = Descriptor>) -> Vec<Digest> {
    descriptors
        .into_iter()
        .map(|descriptor| descriptor.digest)
        .collect()
}

fn digests(contents: &[&str]) -> Vec<Digest> {
    contents
        .iter()
        .map(|content| Digest::of(Algorithm::Sha256, content.as_bytes()))
        .collect()
}

#[test]
fn an_image_names_its_config_and_layers() {
    let manifest = parse(&image(), Some(IMAGE)).unwrap();
    assert_eq!(manifest.media_type(), &MediaType::OciManifest);
    assert_eq!(
        contents(manifest.blobs().cloned()),
        digests(&["config", "one", "two"])
    );
    assert!(manifest.children().is_empty());
    assert_eq!(manifest.annotations()["a"], "b");
    assert_eq!((manifest.subject(), manifest.artifact_type()), (None, None));
}

#[test]
fn an_index_names_its_manifests() {
    let manifest = parse(&index(), Some(INDEX)).unwrap();
    assert_eq!(manifest.media_type(), &MediaType::OciIndex);
    assert_eq!(
        contents(manifest.children().to_vec()),
        digests(&["arm", "amd"])
    );
    assert_eq!(manifest.blobs().count(), 0);
}

#[test]
fn the_bytes_and_so_the_digest_are_untouched() {
    let body = Bytes::from_static(b" {\"manifests\" : [ ],\n\"schemaVersion\":2 ,\"x\":[1.0e3]}\n");
    let manifest = Manifest::parse(body.clone(), Some(INDEX)).unwrap();
    assert_eq!(manifest.bytes(), &body);
    assert_eq!(
        manifest.digest(Algorithm::Sha512),
        Digest::of(Algorithm::Sha512, &body)
    );
}

#[test]
fn the_header_decides_where_the_body_is_silent() {
    let silent = without(image(), "mediaType");
    assert_eq!(
        parse(&silent, Some(DOCKER_IMAGE)).unwrap().media_type(),
        &MediaType::DockerManifest
    );
    let parameters = format!("{DOCKER_IMAGE}; charset=utf-8");
    assert_eq!(
        parse(&silent, Some(&parameters)).unwrap().media_type(),
        &MediaType::DockerManifest
    );
}

#[test]
fn without_a_header_the_body_decides() {
    assert_eq!(
        parse(&image(), None).unwrap().media_type(),
        &MediaType::OciManifest
    );
    assert_eq!(
        parse(&without(image(), "mediaType"), None)
            .unwrap()
            .media_type(),
        &MediaType::OciManifest
    );
    assert_eq!(
        parse(&without(index(), "mediaType"), None)
            .unwrap()
            .media_type(),
        &MediaType::OciIndex
    );
    let html = with(image(), "mediaType", json!("text/html"));
    assert_eq!(
        parse(&html, None),
        Err(ManifestError::MediaType {
            media_type: MediaType::parse("text/html")
        })
    );
}

#[test]
fn header_and_body_must_agree() {
    let error = parse(&image(), Some(DOCKER_IMAGE)).unwrap_err();
    let (header, body) = (MediaType::DockerManifest, MediaType::OciManifest);
    assert_eq!(error, ManifestError::MediaTypeMismatch { header, body });
}

#[test]
fn a_page_of_another_server_is_refused_by_its_type() {
    let page = Bytes::from_static(b"<html>log in</html>");
    for content_type in [
        "text/html",
        "text/plain",
        "application/json",
        "application/octet-stream",
        "",
    ] {
        let error = Manifest::parse(page.clone(), Some(content_type)).unwrap_err();
        assert_eq!(
            error,
            ManifestError::MediaType {
                media_type: MediaType::parse(content_type)
            }
        );
        assert!(error.to_string().starts_with(content_type));
    }
    assert!(matches!(
        Manifest::parse(page, None),
        Err(ManifestError::Json(_))
    ));
}

#[test]
fn a_document_is_an_index_or_an_image_never_both() {
    for (document, content_type) in [
        (with(image(), "manifests", json!([])), IMAGE),
        (with(index(), "layers", json!([])), INDEX),
        (
            with(index(), "config", descriptor("application/json", "{}")),
            INDEX,
        ),
    ] {
        let error = parse(&document, Some(content_type)).unwrap_err();
        assert!(
            matches!(error, ManifestError::Ambiguous { .. }),
            "{document}"
        );
    }
}

#[test]
fn keys_that_fold_to_a_known_one_are_refused() {
    for key in [
        "Layers",
        "MANIFESTS",
        "mediatype",
        "manife\u{17f}ts",
        "fSlAYERS",
    ] {
        let error = parse(&with(index(), key, json!([])), Some(INDEX)).unwrap_err();
        assert!(matches!(error, ManifestError::Ambiguous { .. }), "{key}");
    }
    assert!(parse(&with(index(), "layersize", json!(1)), Some(INDEX)).is_ok());
}

#[test]
fn a_key_given_twice_is_refused() {
    let body = r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    assert!(matches!(
        Manifest::parse(body.into(), Some(INDEX)),
        Err(ManifestError::Json(_))
    ));
}

#[test]
fn a_type_needs_its_keys() {
    let incomplete = |media_type, key| Err(ManifestError::Incomplete { media_type, key });
    let layers_only = without(image(), "config");
    assert_eq!(
        parse(&layers_only, Some(IMAGE)),
        incomplete(MediaType::OciManifest, "config")
    );
    let silent_image = without(image(), "mediaType");
    assert!(matches!(
        parse(&silent_image, Some(INDEX)),
        Err(ManifestError::Incomplete { .. })
    ));
    let silent_index = without(index(), "mediaType");
    assert!(matches!(
        parse(&silent_index, Some(IMAGE)),
        Err(ManifestError::Incomplete { key: "config", .. })
    ));
    assert!(parse(&with(image(), "layers", json!(null)), Some(IMAGE)).is_ok());
}

#[test]
fn unknown_vendor_types_are_read_by_their_keys() {
    let other = "application/vnd.example.list.v3+json";
    let manifest = parse(&without(index(), "mediaType"), Some(other)).unwrap();
    assert_eq!(
        (manifest.media_type().as_str(), manifest.children().len()),
        (other, 2)
    );
    let manifest = parse(&without(image(), "mediaType"), Some(other)).unwrap();
    assert_eq!(
        (manifest.media_type().as_str(), manifest.blobs().count()),
        (other, 3)
    );
}

#[test]
fn schema_1_has_its_own_error() {
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let body = json!({ "schemaVersion": 1, "fsLayers": [{ "blobSum": "x" }], "history": [] });
    assert_eq!(parse(&body, Some(signed)), Err(ManifestError::Schema1));
    assert_eq!(
        parse(&body, Some(DOCKER_IMAGE)),
        Err(ManifestError::Schema1)
    );
    assert_eq!(parse(&body, None), Err(ManifestError::Schema1));
    let disguised = with(image(), "fsLayers", json!([]));
    assert_eq!(parse(&disguised, Some(IMAGE)), Err(ManifestError::Schema1));
}

#[test]
fn the_schema_version_is_2() {
    for version in [json!(0), json!(3), json!(null)] {
        assert_eq!(
            parse(&with(image(), "schemaVersion", version), Some(IMAGE)),
            Err(ManifestError::SchemaVersion)
        );
    }
}

#[test]
fn an_artifact_is_an_image_with_an_empty_config() {
    let subject = descriptor(IMAGE, "image");
    let artifact = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "artifactType": "application/vnd.example.sbom",
        "config": descriptor("application/vnd.oci.empty.v1+json", "{}"),
        "layers": [descriptor("application/json", "{}")],
        "subject": subject,
    });
    let manifest = parse(&artifact, Some(IMAGE)).unwrap();
    assert_eq!(
        manifest.artifact_type(),
        Some("application/vnd.example.sbom")
    );
    assert_eq!(
        manifest.subject().unwrap().digest,
        Digest::of(Algorithm::Sha256, b"image")
    );
    assert_eq!(contents(manifest.blobs().cloned()), digests(&["{}", "{}"]));
}

#[test]
fn a_referrer_carries_its_own_or_its_configs_type() {
    let own = parse(
        &with(image(), "artifactType", json!("application/vnd.own")),
        Some(IMAGE),
    )
    .unwrap();
    assert_eq!(
        own.referrer(Algorithm::Sha256).artifact_type.as_deref(),
        Some("application/vnd.own")
    );
    let configs = parse(&with(image(), "artifactType", json!("")), Some(IMAGE)).unwrap();
    let referrer = configs.referrer(Algorithm::Sha256);
    assert_eq!(
        referrer.artifact_type.as_deref(),
        Some("application/vnd.oci.image.config.v1+json")
    );
    assert_eq!(referrer.digest, configs.digest(Algorithm::Sha256));
    assert_eq!(referrer.size, u64::try_from(configs.bytes().len()).unwrap());
    assert_eq!(referrer.annotations["a"], "b");
    assert_eq!(
        parse(&index(), None)
            .unwrap()
            .referrer(Algorithm::Sha256)
            .artifact_type,
        None
    );
}

#[test]
fn the_largest_manifest() {
    let mut body = index().to_string();
    body.push_str(&" ".repeat(MANIFEST_LIMIT - body.len()));
    assert!(Manifest::parse(body.clone().into(), Some(INDEX)).is_ok());
    body.push(' ');
    let error = Manifest::parse(body.into(), Some(INDEX)).unwrap_err();
    assert_eq!(error, ManifestError::TooLarge { length: 4_194_305 });
}

#[test]
fn the_most_descriptors() {
    let entries = |count| {
        with(
            index(),
            "manifests",
            vec![descriptor(IMAGE, "x"); count].into(),
        )
    };
    let most = parse(&entries(DESCRIPTORS_LIMIT), Some(INDEX)).unwrap();
    assert_eq!(most.children().len(), DESCRIPTORS_LIMIT);
    let error = parse(&entries(DESCRIPTORS_LIMIT + 1), Some(INDEX)).unwrap_err();
    assert!(
        error.to_string().contains("more than 10000 elements"),
        "{error}"
    );
}

#[test]
fn a_message_does_not_quote_a_whole_document() {
    let document = with(image(), "schemaVersion", json!("ä".repeat(100_000)));
    let error = parse(&document, Some(IMAGE)).unwrap_err();
    assert!(error.to_string().len() < 512, "{error}");
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    let body = format!(
        r#"{{"schemaVersion":2,"manifests":[],"x":{}"#,
        "[".repeat(1_000_000)
    );
    assert!(matches!(
        Manifest::parse(body.into(), Some(INDEX)),
        Err(ManifestError::Json(_))
    ));
}

proptest! {
    #[test]
    fn bytes_never_panic(body: Vec<u8>, content_type in proptest::option::of(".{0,40}")) {
        let length = body.len();
        if let Ok(manifest) = Manifest::parse(body.into(), content_type.as_deref()) {
            prop_assert_eq!(manifest.bytes().len(), length);
        }
    }

    #[test]
    fn damage_never_panics(at: prop::sample::Index, byte: u8, image_or_index: bool) {
        let mut body = if image_or_index { image() } else { index() }.to_string().into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        if let Ok(manifest) = Manifest::parse(body.clone().into(), None) {
            prop_assert_eq!(manifest.bytes(), &body);
            prop_assert!(manifest.children().is_empty() || manifest.blobs().count() == 0);
        }
    }
}
