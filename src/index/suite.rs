//! What every index must do. Each implementation runs it.

use bytes::Bytes;

use super::{
    BlobRecord, Index, ListRecord, ManifestArrival, ManifestRecord, Membership, RepositoryKey,
    TagRecord,
};
use crate::oci::{Algorithm, Digest};
use crate::sys::clock::Timestamp;

/// Runs the suite; `open` opens the same, at first empty, index anew.
pub(crate) fn run<I: Index>(open: &dyn Fn() -> I) {
    blobs_come_and_go(&open());
    a_manifest_brings_its_members_and_its_tag(&open());
    the_first_media_type_of_a_manifest_stays(&open());
    membership_is_of_one_repository(&open());
    a_known_size_stays_until_another_is_stated(&open());
    lists_are_replaced(&open());
    tags_survive_reopening(open);
}

pub(crate) fn repository(name: &str) -> RepositoryKey {
    RepositoryKey {
        upstream: "docker.io".into(),
        name: name.parse().unwrap(),
    }
}

pub(crate) fn digest(seed: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[seed])
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn blobs_come_and_go(index: &impl Index) {
    let digest = Digest::of(Algorithm::Sha512, b"blob");
    assert_eq!(index.blob(digest).unwrap(), None);
    let large = BlobRecord {
        size: 1 << 40,
        stored: at(7),
    };
    index
        .insert_blob(
            digest,
            BlobRecord {
                size: 1,
                stored: at(1),
            },
        )
        .unwrap();
    index.insert_blob(digest, large).unwrap();
    assert_eq!(index.blob(digest).unwrap(), Some(large));
    index.remove_blob(digest).unwrap();
    index.remove_blob(digest).unwrap();
    assert_eq!(index.blob(digest).unwrap(), None);
}

fn a_manifest_brings_its_members_and_its_tag(index: &impl Index) {
    let key = repository("library/nginx");
    let tag = "1.27".parse().unwrap();
    let record = ManifestRecord {
        media_type: "a/b".into(),
        bytes: Bytes::from_static(b"{ \"x\" : 1 }"),
    };
    let arrival = ManifestArrival {
        repository: &key,
        digest: digest(1),
        record: &record,
        members: &[(digest(2), 20), (digest(3), 30)],
        tag: Some((&tag, at(9))),
    };
    index.insert_manifest(&arrival).unwrap();
    index.insert_manifest(&arrival).unwrap();
    assert_eq!(index.manifest(digest(1)).unwrap(), Some(record.clone()));
    assert_eq!(
        index.tag(&key, &tag).unwrap(),
        Some(TagRecord {
            digest: digest(1),
            checked: at(9)
        })
    );
    for (member, size) in [(1, 11), (2, 20), (3, 30)] {
        let found = index.member(&key, digest(member)).unwrap();
        assert_eq!(found, Some(Membership { size: Some(size) }), "{member}");
    }
    assert_eq!(index.member(&key, digest(4)).unwrap(), None);
}

fn the_first_media_type_of_a_manifest_stays(index: &impl Index) {
    let key = repository("library/typed");
    for media_type in ["first/type", "second/type"] {
        let record = ManifestRecord {
            media_type: media_type.into(),
            bytes: Bytes::from_static(b"{}"),
        };
        let arrival = ManifestArrival {
            repository: &key,
            digest: digest(50),
            record: &record,
            members: &[],
            tag: None,
        };
        index.insert_manifest(&arrival).unwrap();
    }
    assert_eq!(
        &*index.manifest(digest(50)).unwrap().unwrap().media_type,
        "first/type"
    );
}

fn membership_is_of_one_repository(index: &impl Index) {
    let (mine, yours) = (repository("library/mine"), repository("library/yours"));
    let elsewhere = RepositoryKey {
        upstream: "ghcr.io".into(),
        name: mine.name.clone(),
    };
    index.insert_member(&mine, digest(60), None).unwrap();
    assert_eq!(
        index.member(&mine, digest(60)).unwrap(),
        Some(Membership { size: None })
    );
    assert_eq!(index.member(&yours, digest(60)).unwrap(), None);
    assert_eq!(index.member(&elsewhere, digest(60)).unwrap(), None);
}

fn a_known_size_stays_until_another_is_stated(index: &impl Index) {
    let key = repository("library/sized");
    for (size, known) in [
        (None, None),
        (Some(5), Some(5)),
        (None, Some(5)),
        (Some(6), Some(6)),
    ] {
        index.insert_member(&key, digest(70), size).unwrap();
        let found = index.member(&key, digest(70)).unwrap();
        assert_eq!(found, Some(Membership { size: known }));
    }
}

fn lists_are_replaced(index: &impl Index) {
    let key = repository("library/listed");
    assert_eq!(index.list(&key, "tags").unwrap(), None);
    for round in 1..=2 {
        let list = ListRecord {
            bytes: Bytes::from(vec![b'x'; round]),
            fetched: at(round as u64),
        };
        index.set_list(&key, "tags", &list).unwrap();
        assert_eq!(index.list(&key, "tags").unwrap(), Some(list));
    }
    assert_eq!(index.list(&key, "referrers").unwrap(), None);
}

fn tags_survive_reopening<I: Index>(open: &dyn Fn() -> I) {
    let key = repository("library/kept");
    let tag = "latest".parse().unwrap();
    for moved in 1..=2 {
        let record = TagRecord {
            digest: digest(moved),
            checked: at(u64::from(moved)),
        };
        open().set_tag(&key, &tag, record).unwrap();
        assert_eq!(open().tag(&key, &tag).unwrap(), Some(record));
    }
}
