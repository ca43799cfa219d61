//! What every index must do. Each implementation runs it.

use bytes::Bytes;

use super::{
    BlobRecord, Epoch, Index, ListRecord, ManifestArrival, ManifestRecord, Membership,
    RepositoryKey, TagRecord, Usage, Victim, Walked, WalkedTag,
};
use crate::oci::{Algorithm, Checksum, Digest};
use crate::registry::{Noted, Topic};
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
    what_is_pinned_is_no_victim(&open());
    a_walk_sees_every_blob_once(&open());
    a_walk_sees_every_tag_once(&open());
    notes_are_replaced(open);
    facts_are_kept_by_topic(open);
    a_confirmed_blob_is_of_the_newer_epoch(&open());
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

fn record(size: u64, stored: u64) -> BlobRecord {
    BlobRecord {
        size,
        stored: at(stored),
        checksum: Checksum::default(),
        epoch: Epoch::default(),
    }
}

fn blobs_come_and_go(index: &impl Index) {
    let digest = Digest::of(Algorithm::Sha512, b"blob");
    assert_eq!(index.blob(digest).unwrap(), None);
    let large = BlobRecord {
        checksum: Checksum(u32::MAX),
        epoch: Epoch(3),
        ..record(1 << 40, 7)
    };
    index.insert_blob(digest, record(1, 1)).unwrap();
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
    index
        .insert_blob(digest(seed), record(size, stored))
        .unwrap();
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
        pinned: 0,
    };
    assert_eq!(index.usage().unwrap(), expected);
    index.remove_blob(digest(102)).unwrap();
    index.doom(&[digest(101), digest(101)]).unwrap();
    let expected = Usage {
        blobs: 2,
        bytes: 2 * 4096,
        protected: 0,
        pinned: 0,
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

fn what_is_pinned_is_no_victim(index: &impl Index) {
    empty(index);
    let [a, b, c] =
        [(140, 1), (141, 2), (142, 3)].map(|(seed, stored)| store(index, seed, 4096, stored));
    index.pin_blobs(&[b, digest(199)]).unwrap();
    assert_eq!(order(index), [a, c]);
    assert_eq!(index.usage().unwrap().pinned, 4096);
    index.touch(&[(b, at(2)), (a, at(3))]).unwrap();
    assert_eq!(
        order(index),
        [c, a],
        "a pinned blob stays so when it is used"
    );
    assert!(
        index
            .walk_blobs(None, 10)
            .unwrap()
            .iter()
            .all(|blob| blob.pinned == (blob.digest == b))
    );
    index.pin_blobs(&[c]).unwrap();
    assert_eq!(order(index).len(), 2);
    assert!(!order(index).contains(&c));
    index.pin_blobs(&[]).unwrap();
    assert_eq!(index.usage().unwrap().pinned, 0);
    assert_eq!(order(index).len(), 3);
}

fn a_walk_sees_every_blob_once(index: &impl Index) {
    empty(index);
    let mut all: Vec<_> = (150..160).map(|seed| store(index, seed, 7, 5)).collect();
    index.touch(&[(digest(150), at(9))]).unwrap();
    all.sort_by_key(ToString::to_string);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = index.walk_blobs(after, 3).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.digest);
        assert!(page.len() <= 3);
        seen.extend(page);
    }
    assert_eq!(seen.iter().map(|blob| blob.digest).collect::<Vec<_>>(), all);
    let touched = |blob: &&Walked| blob.digest == digest(150);
    let found = seen.iter().find(touched).unwrap();
    assert_eq!((found.size, found.stored, found.used), (7, at(5), at(9)));
}

fn a_walk_sees_every_tag_once(index: &impl Index) {
    let before = tags(index).len();
    for (upstream, name, tag) in [
        ("ghcr.io", "walked/a", "1"),
        ("docker.io", "walked/b", "2"),
        ("docker.io", "walked/b", "1"),
    ] {
        let key = RepositoryKey {
            upstream: upstream.into(),
            name: name.parse().unwrap(),
        };
        let record = TagRecord {
            digest: digest(170),
            checked: at(1),
        };
        index.set_tag(&key, &tag.parse().unwrap(), record).unwrap();
    }
    let all = tags(index);
    assert_eq!(all.len(), before + 3);
    let shown: Vec<_> = all
        .iter()
        .filter(|tag| tag.digest == digest(170))
        .map(|tag| {
            format!(
                "{}/{}:{}",
                tag.repository.upstream, tag.repository.name, tag.tag
            )
        })
        .collect();
    let expected = [
        "docker.io/walked/b:1",
        "docker.io/walked/b:2",
        "ghcr.io/walked/a:1",
    ];
    assert_eq!(shown, expected);
}

fn tags(index: &impl Index) -> Vec<WalkedTag> {
    let mut all: Vec<WalkedTag> = Vec::new();
    loop {
        let page = index.walk_tags(all.last(), 2).unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn notes_are_replaced<I: Index>(open: &dyn Fn() -> I) {
    assert_eq!(open().note("a").unwrap(), None);
    open().set_notes(&[("a", "1"), ("b", "2")]).unwrap();
    open().set_notes(&[("b", "3")]).unwrap();
    assert_eq!(open().note("a").unwrap().as_deref(), Some("1"));
    assert_eq!(open().note("b").unwrap().as_deref(), Some("3"));
}

fn facts_are_kept_by_topic<I: Index>(open: &dyn Fn() -> I) {
    let noted = |value: &str, time| Noted {
        value: value.to_owned(),
        at: at(time),
    };
    assert_eq!(open().recall(Topic::Negative, "a").unwrap(), None);
    open()
        .remember(Topic::Negative, "a", &noted("1", 5))
        .unwrap();
    open()
        .remember(Topic::Visibility, "a", &noted("2", 6))
        .unwrap();
    open()
        .remember(Topic::Negative, "a", &noted("3", 4))
        .unwrap();
    let recalled = |topic| open().recall(topic, "a").unwrap();
    assert_eq!(recalled(Topic::Negative), Some(noted("3", 4)));
    assert_eq!(recalled(Topic::Visibility), Some(noted("2", 6)));
    open().forget(Topic::Negative, "a").unwrap();
    open().forget(Topic::Negative, "a").unwrap();
    assert_eq!(recalled(Topic::Negative), None);
    assert_eq!(recalled(Topic::Visibility), Some(noted("2", 6)));
}

fn a_confirmed_blob_is_of_the_newer_epoch(index: &impl Index) {
    let blob = store(index, 180, 5, 1);
    for (confirmed, expected) in [(2, 2), (1, 2), (5, 5)] {
        index.confirm_blob(blob, Epoch(confirmed)).unwrap();
        assert_eq!(index.blob(blob).unwrap().unwrap().epoch, Epoch(expected));
    }
    index.confirm_blob(digest(198), Epoch(1)).unwrap();
    assert_eq!(index.blob(digest(198)).unwrap(), None);
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
