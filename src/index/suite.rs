//! What every index must do. Each implementation runs it.

use bytes::Bytes;

use super::{
    BlobRecord, Index, ListRecord, ManifestArrival, ManifestRecord, Membership, RepositoryKey,
    TagRecord, Usage, Victim,
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
    blobs_are_counted_in_whole_blocks(&open());
    victims_are_unprotected_first_then_by_use(&open());
    demotion_makes_room_among_the_protected(&open());
    the_doomed_stay_noted_until_buried(open);
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

fn store(index: &impl Index, seed: u8, size: u64, stored: u64) -> Digest {
    let record = BlobRecord {
        size,
        stored: at(stored),
    };
    index.insert_blob(digest(seed), record).unwrap();
    digest(seed)
}

fn empty(index: &impl Index) {
    let all: Vec<_> = index
        .victims(0, 1000)
        .unwrap()
        .iter()
        .map(|victim| victim.digest)
        .collect();
    index.doom(&all).unwrap();
    index.bury(&all).unwrap();
    assert_eq!(index.usage().unwrap(), Usage::default());
}

fn order(index: &impl Index) -> Vec<Digest> {
    index
        .victims(0, 10)
        .unwrap()
        .iter()
        .map(|victim| victim.digest)
        .collect()
}

fn blobs_are_counted_in_whole_blocks(index: &impl Index) {
    empty(index);
    for (seed, size) in [(100, 0), (101, 1), (102, 4096), (103, 4097)] {
        store(index, seed, size, 1);
    }
    store(index, 103, 4097, 2);
    index
        .touch(&[(digest(102), at(3)), (digest(99), at(3))])
        .unwrap();
    let expected = Usage {
        blobs: 4,
        bytes: 4 * 4096,
        protected: 4096,
    };
    assert_eq!(index.usage().unwrap(), expected);
    index.remove_blob(digest(102)).unwrap();
    index.doom(&[digest(101), digest(101)]).unwrap();
    let expected = Usage {
        blobs: 2,
        bytes: 2 * 4096,
        protected: 0,
    };
    assert_eq!(index.usage().unwrap(), expected);
}

fn victims_are_unprotected_first_then_by_use(index: &impl Index) {
    empty(index);
    let [a, b, c, d] = [(110, 1), (111, 2), (112, 3), (113, 4)]
        .map(|(seed, stored)| store(index, seed, 9, stored));
    assert_eq!(order(index), [a, b, c, d]);
    index.touch(&[(a, at(5)), (c, at(6))]).unwrap();
    index.touch(&[(a, at(7))]).unwrap();
    assert_eq!(order(index), [b, d, c, a]);
    assert_eq!(
        index.victims(1, 1).unwrap(),
        [Victim { digest: d, size: 9 }]
    );
    index.touch(&[(a, at(1))]).unwrap();
    assert_eq!(order(index), [b, d, c, a], "time does not run backwards");
}

fn demotion_makes_room_among_the_protected(index: &impl Index) {
    empty(index);
    let [a, b, c] = [120, 121, 122].map(|seed| store(index, seed, 4096, 1));
    index.touch(&[(a, at(2)), (b, at(3)), (c, at(4))]).unwrap();
    index.demote(3 * 4096, at(5)).unwrap();
    assert_eq!(index.usage().unwrap().protected, 3 * 4096);
    index.demote(4096, at(5)).unwrap();
    assert_eq!(index.usage().unwrap().protected, 4096);
    assert_eq!(order(index)[2], c);
}

fn the_doomed_stay_noted_until_buried<I: Index>(open: &dyn Fn() -> I) {
    let gone = store(&open(), 130, 5, 1);
    open().doom(&[gone]).unwrap();
    assert_eq!(open().blob(gone).unwrap(), None);
    assert!(open().doomed().unwrap().contains(&gone));
    open().bury(&[gone]).unwrap();
    assert!(!open().doomed().unwrap().contains(&gone));
}
