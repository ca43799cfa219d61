//! A name, a tag, a digest: whatever the text is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror::oci::{Digest, Reference, RepositoryName, Tag};

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<RepositoryName>() {
        assert_eq!(name.to_string(), text);
        assert!(
            name.components()
                .all(|component| !component.is_empty() && component != "..")
        );
        assert!(name.with_library().components().count() > 1 || text.len() > 247);
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.to_string(), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert_eq!(
            Digest::from_bytes(digest.algorithm(), digest.as_bytes()),
            Some(digest)
        );
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
});
