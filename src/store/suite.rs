//! What every store must do. Each implementation runs it.

use super::Store;
use crate::oci::{Algorithm, Digest};
use crate::sys::fs::DiskFile;

/// Runs the suite; `open` opens the same, at first empty, store anew.
pub(crate) fn run<S: Store>(open: &dyn Fn() -> S) {
    publishes_what_was_spooled(&open());
    hides_what_was_not_published(&open());
    replaces_an_earlier_file_of_the_same_digest(&open());
    keeps_open_readers_alive(&open());
    removes_twice(&open());
    keeps_a_few_damaged_blobs_aside(open);
    lists_blobs_by_the_start_of_their_digests(&open());
    survives_reopening(open);
}

pub(crate) fn assert_content(file: &dyn DiskFile, expected: &[u8]) {
    let mut found = vec![0; expected.len() + 1];
    let read = file.read_at(&mut found, 0).unwrap();
    assert_eq!(found.get(..read), Some(expected));
}

fn store(store: &impl Store, algorithm: Algorithm, content: &[u8]) -> Digest {
    let digest = Digest::of(algorithm, content);
    let spool = store.spool(digest).unwrap();
    spool.file.write_all_at(content, 0).unwrap();
    store.publish(&spool).unwrap();
    store.retire(&spool).unwrap();
    digest
}

fn publishes_what_was_spooled(subject: &impl Store) {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = store(subject, algorithm, b"published");
        assert_content(&*subject.open(digest).unwrap().unwrap(), b"published");
    }
    assert_eq!(subject.leftovers().unwrap(), []);
}

fn hides_what_was_not_published(subject: &impl Store) {
    let digest = Digest::of(Algorithm::Sha256, b"hidden");
    let spool = subject.spool(digest).unwrap();
    spool.file.write_all_at(b"hidden", 0).unwrap();
    assert!(subject.open(digest).unwrap().is_none());
    subject.retire(&spool).unwrap();
    assert!(subject.open(digest).unwrap().is_none());
}

fn replaces_an_earlier_file_of_the_same_digest(subject: &impl Store) {
    let digest = store(subject, Algorithm::Sha256, b"twice");
    assert_eq!(store(subject, Algorithm::Sha256, b"twice"), digest);
    assert_content(&*subject.open(digest).unwrap().unwrap(), b"twice");
}

fn keeps_open_readers_alive(subject: &impl Store) {
    let digest = store(subject, Algorithm::Sha256, b"still read");
    let reader = subject.open(digest).unwrap().unwrap();
    subject.remove(digest).unwrap();
    assert!(subject.open(digest).unwrap().is_none());
    assert_content(&*reader, b"still read");
}

fn removes_twice(subject: &impl Store) {
    let digest = store(subject, Algorithm::Sha256, b"removed");
    subject.remove(digest).unwrap();
    subject.remove(digest).unwrap();
}

fn keeps_a_few_damaged_blobs_aside<S: Store>(open: &dyn Fn() -> S) {
    let subject = open();
    let gone = Digest::of(Algorithm::Sha256, b"never there");
    assert!(!subject.quarantine(gone).unwrap());
    for seed in 0..20_u8 {
        let digest = store(&subject, Algorithm::Sha256, &vec![seed; usize::from(seed)]);
        let kept = subject.quarantine(digest).unwrap();
        assert!(subject.open(digest).unwrap().is_none());
        assert_eq!(kept, seed < 8, "{seed}");
    }
    let kept = open().quarantined().unwrap();
    let mut sizes: Vec<_> = kept.iter().map(|(_, size)| *size).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 1, 2, 3, 4, 5, 6, 7]);
    for (digest, _) in kept {
        subject.remove_quarantined(digest).unwrap();
    }
    assert!(subject.quarantined().unwrap().is_empty());
}

fn lists_blobs_by_the_start_of_their_digests(subject: &impl Store) {
    let stored = [Algorithm::Sha256, Algorithm::Sha512]
        .map(|algorithm| store(subject, algorithm, b"listed"));
    for digest in stored {
        let [first, ..] = digest.as_bytes() else {
            panic!("a digest has bytes")
        };
        assert!(subject.list(*first).unwrap().contains(&digest));
        assert!(!subject.list(!*first).unwrap().contains(&digest));
        subject.remove(digest).unwrap();
        assert!(!subject.list(*first).unwrap().contains(&digest));
    }
}

fn survives_reopening<S: Store>(open: &dyn Fn() -> S) {
    let digest = store(&open(), Algorithm::Sha256, b"kept");
    let unfinished = Digest::of(Algorithm::Sha256, b"unfinished");
    drop(open().spool(unfinished).unwrap());
    let subject = open();
    assert_content(&*subject.open(digest).unwrap().unwrap(), b"kept");
    let leftovers = subject.leftovers().unwrap();
    assert_eq!(
        leftovers.iter().map(|left| left.digest).collect::<Vec<_>>(),
        [Some(unfinished)]
    );
    for leftover in &leftovers {
        subject.sweep(leftover).unwrap();
    }
    assert_eq!(subject.leftovers().unwrap(), []);
}
