use serde_json::json;

use super::*;

const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn with(key: &str, value: serde_json::Value) -> Result<Descriptor, serde_json::Error> {
    let mut document = json!({ "mediaType": "application/json", "digest": DIGEST, "size": 2 });
    document[key] = value;
    serde_json::from_value(document)
}

#[test]
fn a_full_descriptor_round_trips() {
    let document = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": DIGEST,
        "size": 2,
        "urls": ["https://example.com/x"],
        "artifactType": "application/vnd.example",
        "platform": { "architecture": "arm", "os": "linux", "os.version": "1", "variant": "v7" },
        "annotations": { "a": "b" },
    });
    let descriptor: Descriptor = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(descriptor.digest.to_string(), DIGEST);
    assert_eq!(serde_json::to_value(&descriptor).unwrap(), document);
}

#[test]
fn nulls_and_unknown_keys_do_not_matter() {
    let plain = with("data", json!("e30=")).unwrap();
    for key in ["urls", "annotations", "platform", "artifactType", "new"] {
        assert_eq!(with(key, json!(null)).unwrap(), plain, "{key}");
    }
    let json = format!(r#"{{"mediaType":"application/json","digest":"{DIGEST}","size":2}}"#);
    assert_eq!(serde_json::to_string(&plain).unwrap(), json);
}

#[test]
fn what_it_acts_on_must_be_right() {
    for (key, value) in [
        ("size", json!(-1)),
        ("size", json!(1.5)),
        ("size", json!("2")),
        ("size", json!(SIZE_LIMIT + 1)),
        ("size", json!(null)),
        ("digest", json!("sha256:00")),
        ("digest", json!("blake3:00")),
        ("mediaType", json!(null)),
        ("urls", json!("https://example.com")),
        ("annotations", json!({ "a": 1 })),
    ] {
        assert!(with(key, value.clone()).is_err(), "{key}: {value}");
    }
    assert_eq!(with("size", json!(SIZE_LIMIT)).unwrap().size, SIZE_LIMIT);
}

#[test]
fn the_limits() {
    let urls = |count| json!(vec!["u"; count]);
    assert_eq!(
        with("urls", urls(URLS_LIMIT)).unwrap().urls.len(),
        URLS_LIMIT
    );
    assert!(with("urls", urls(URLS_LIMIT + 1)).is_err());
    let map = |count: usize| {
        (0..count)
            .map(|n| (n.to_string(), "".into()))
            .collect::<serde_json::Map<_, _>>()
    };
    let annotations = with("annotations", map(ANNOTATIONS_LIMIT).into())
        .unwrap()
        .annotations;
    assert_eq!(annotations.len(), ANNOTATIONS_LIMIT);
    assert!(with("annotations", map(ANNOTATIONS_LIMIT + 1).into()).is_err());
}

#[test]
fn foreign_content_is_known_by_type_or_url() {
    assert!(!with("size", json!(2)).unwrap().is_foreign());
    assert!(
        with("urls", json!(["https://example.com"]))
            .unwrap()
            .is_foreign()
    );
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    assert!(with("mediaType", json!(foreign)).unwrap().is_foreign());
}
