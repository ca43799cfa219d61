//! The first line is the content type (empty for none), the rest is the body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror::oci::{Algorithm, Kind, Manifest};

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let (line, body) = input.split_at(end);
    let content_type = std::str::from_utf8(line)
        .ok()
        .filter(|line| !line.is_empty());
    let Ok(manifest) = Manifest::parse(body.to_vec().into(), content_type) else {
        return;
    };
    assert_eq!(manifest.bytes(), body);
    assert!(!manifest.media_type().is_schema_1());
    match manifest.kind() {
        Kind::Index { .. } => assert_eq!(manifest.blobs().count(), 0),
        Kind::Image { .. } => assert!(manifest.children().is_empty()),
    }
    let again = Manifest::parse(
        manifest.bytes().clone(),
        Some(manifest.media_type().as_str()),
    );
    assert_eq!(again.as_ref(), Ok(&manifest));
    assert_eq!(
        manifest.referrer(Algorithm::Sha256).digest,
        manifest.digest(Algorithm::Sha256)
    );
});
