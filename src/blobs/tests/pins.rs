//! Images that are never evicted.

use super::*;
use crate::index::{ManifestArrival, ManifestRecord, RepositoryKey};
use crate::oci::pattern::ImagePatterns;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn repository(name: &str) -> RepositoryKey {
    RepositoryKey {
        upstream: "docker.io".into(),
        name: name.parse().unwrap(),
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// Notes a manifest of `repository`, and what follows from it.
fn arrive(
    blobs: &Blobs,
    repository: &RepositoryKey,
    media_type: &str,
    text: &str,
    tag: Option<&str>,
) -> Digest {
    let bytes = bytes::Bytes::copy_from_slice(text.as_bytes());
    let digest = digest(&bytes);
    let media_type = media_type.into();
    let tag = tag.map(|tag| tag.parse().unwrap());
    let arrival = ManifestArrival {
        repository,
        digest,
        record: &ManifestRecord { media_type, bytes },
        members: &[],
        tag: tag.as_ref().map(|tag| (tag, Timestamp::default())),
    };
    blobs.index.insert_manifest(&arrival).unwrap();
    blobs.image_changed(repository);
    digest
}

/// An image of one layer behind an index, tagged.
pub(in crate::blobs) fn image(blobs: &Blobs, name: &str, tag: &str, layer: Digest) {
    let key = repository(name);
    let config = descriptor("application/vnd.oci.image.config.v1+json", digest(b"{}"), 2);
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", layer, MIB);
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layer}]}}"#
    );
    let manifest = arrive(blobs, &key, MANIFEST, &text, None);
    let child = descriptor(MANIFEST, manifest, text.len() as u64);
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{child}]}}"#);
    arrive(blobs, &key, INDEX, &text, Some(tag));
}

pub(in crate::blobs) fn patterns(text: &str) -> ImagePatterns {
    ImagePatterns::parse([text]).unwrap()
}

fn layer(seed: u8) -> Digest {
    digest(&vec![seed; MIB as usize])
}

#[tokio::test]
async fn a_pinned_image_stays_whatever_is_pulled_and_goes_once_it_is_pinned_no_more() {
    let fixture = Fixture::capped(4 * MIB);
    let (blobs, clock) = fixture.open_with_clock();
    blobs.pin(patterns("docker.io/library/{nginx,postgres}:1.*"));
    image(&blobs, "library/nginx", "1.27", layer(1));
    image(&blobs, "library/nginx", "latest", layer(2));
    for seed in 1..=9 {
        fill(&blobs, &clock, seed, MIB).await.unwrap();
    }
    assert!(is_held(&blobs, layer(1)).await, "pinned before it came");
    assert!(!is_held(&blobs, layer(2)).await, "another tag");

    // Pinned after it came: the tag moves to it.
    image(&blobs, "library/postgres", "1.0", layer(9));
    for seed in 10..=19 {
        fill(&blobs, &clock, seed, MIB).await.unwrap();
    }
    assert!(is_held(&blobs, layer(1)).await && is_held(&blobs, layer(9)).await);

    // Another process, with other pins.
    let (blobs, _) = fixture.open_with_clock();
    blobs.pin(patterns("nginx:1.*"));
    for seed in 20..=29 {
        fill(&blobs, &clock, seed, MIB).await.unwrap();
    }
    assert!(is_held(&blobs, layer(1)).await);
    assert!(!is_held(&blobs, layer(9)).await, "pinned no more");
}

#[tokio::test]
async fn where_everything_is_pinned_there_is_no_room() {
    let fixture = Fixture::capped(2 * MIB);
    let (blobs, clock) = fixture.open_with_clock();
    blobs.pin(patterns("docker.io/**"));
    for seed in 1..=2 {
        image(&blobs, "library/nginx", &format!("{seed}"), layer(seed));
        fill(&blobs, &clock, seed, MIB).await.unwrap();
    }
    let refused = reserve(&blobs, MIB).await.unwrap_err();
    assert!(matches!(refused, ReserveError::NoRoom(NoRoom::Full { .. })));
    assert!(is_held(&blobs, layer(1)).await && is_held(&blobs, layer(2)).await);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_image_is_never_too_old() {
    let fixture = Fixture::new();
    let (blobs, clock) = fixture.open_with_clock();
    blobs.pin(patterns("nginx:1"));
    image(&blobs, "library/nginx", "1", layer(1));
    for seed in 1..=2 {
        fill(&blobs, &clock, seed, MIB).await.unwrap();
    }
    clock.advance(Duration::from_hours(100));
    let expiry = Expiry {
        max_age: Some(Duration::from_hours(1)),
        unused_for: None,
    };
    assert_eq!(blobs.expire(expiry).await.unwrap(), 1);
    assert!(is_held(&blobs, layer(1)).await);
}
