//! Downloads, readers, evictions and removals at the same time, in one order of their locks after the other.
//!
//! A fresh seed is printed, and 5,000 orders follow from it; 100,000 with `STRESS=1`. `MIRROR_SEED` repeats a run.
//! `cargo test --features interleavings --lib interleavings`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

use super::space::blocks;
use super::tests::pins::{image, patterns};
use super::{Blobs, Limits, Lookup, Share};
use crate::index::{Index as _, MemoryIndex};
use crate::oci::{Algorithm, Checksum, Digest};
use crate::store::{FsStore, Sync};
use crate::sys::clock::{ManualClock, Timestamp};
use crate::sys::fs::{Disk, ForgetfulDisk, Power};

const DIRECTORY: &str = "/data";

/// Room for two of the blobs and, as a sixteenth is kept as a margin, not for three.
const CAP: u64 = 44 * 1024;
const SIZE: usize = 16 * 1024;

/// How many changes of thread an error may take to be found for certain, sooner or later.
const CHANGES: usize = 3;

/// A data directory, and the door to it.
#[derive(Clone)]
struct Stage {
    blobs: Blobs,
    disk: ForgetfulDisk,
    index: MemoryIndex,
}

impl Stage {
    fn new() -> Self {
        let power = Power::new();
        let disk = ForgetfulDisk::new(1024 * 1024, power.clone());
        let directory = Path::new(DIRECTORY);
        disk.create_dir_all(directory).unwrap();
        let index = MemoryIndex::new(power);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = FsStore::open(Arc::clone(&shared), directory, Sync::Never).unwrap();
        let limits = Limits {
            max_size: Share::Bytes(CAP),
            min_free: Share::Bytes(0),
        };
        let clock = ManualClock::starting_at(Timestamp::from_millis(1));
        let (store, facts) = (Arc::new(store), Arc::new(index.clone()));
        Self {
            blobs: Blobs::new(shared, directory, store, facts, clock, limits),
            disk,
            index,
        }
    }

    /// A flight: reserves, fills a spool and commits it, if there is room and it is not held already.
    fn download(&self, seed: u8) {
        let (blobs, content) = (&self.blobs, content(seed));
        if let (Lookup::Held(_), _) = blobs.find(digest(seed)).unwrap() {
            return;
        }
        let mut reservation = blobs.reserve_nothing();
        if reservation.extend(SIZE as u64).is_err() {
            return;
        }
        let spool = blobs.store.spool(digest(seed)).unwrap();
        for half in 0..2 {
            let at = half * SIZE / 2;
            let part = &content[at..at + SIZE / 2];
            spool.file.write_all_at(part, at as u64).unwrap();
            self.assert_within();
            reservation.written((at + SIZE / 2) as u64);
        }
        let checksum = Checksum::of(&content);
        let publish = || blobs.publish(&spool, SIZE as u64, checksum);
        blobs.space.publish(publish).unwrap();
    }

    /// A reader: gets every byte right, whatever happens to the blob meanwhile.
    fn read(&self, seed: u8) {
        let (Lookup::Held(held), _) = self.blobs.find(digest(seed)).unwrap() else {
            return;
        };
        let mut found = vec![0; SIZE];
        for half in 0..2 {
            let at = half * SIZE / 2;
            let part = &mut found[at..at + SIZE / 2];
            assert_eq!(held.file.read_at(part, at as u64).unwrap(), SIZE / 2);
        }
        assert_eq!(found, content(seed), "{seed}");
    }

    /// The disk never holds more than it may. Only a write makes it hold more.
    fn assert_within(&self) {
        let used = self.disk.used();
        assert!(used <= CAP, "{used} bytes of {CAP}");
    }

    /// What holds once all is quiet.
    fn check(&self) {
        let described = |(path, bytes): (PathBuf, Vec<u8>)| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (path.starts_with("/data/blobs"), name, bytes.len() as u64)
        };
        let files: Vec<_> = self.disk.files().into_iter().map(described).collect();
        let blobs = files.iter().filter(|(is_blob, ..)| *is_blob);
        let blobs: BTreeMap<_, _> = blobs.map(|(_, name, size)| (name.clone(), *size)).collect();
        let rows = self.index.rows().into_iter();
        let rows: BTreeMap<_, _> = rows
            .map(|(digest, size)| (digest.encoded(), size))
            .collect();
        assert_eq!(blobs, rows, "rows and files");
        assert!(self.index.notes().is_empty(), "nothing is doomed");
        let on_disk: u64 = files.iter().map(|(_, _, size)| blocks(*size)).sum();
        assert_eq!(self.blobs.space.figures().unwrap().0, on_disk);
        assert_eq!(self.disk.used(), on_disk);
    }
}

fn content(seed: u8) -> Vec<u8> {
    vec![seed; SIZE]
}

fn digest(seed: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &content(seed))
}

type Act = Box<dyn FnOnce(&Stage) + Send>;

fn together(stage: &Stage, all: Vec<Act>) {
    let spawn = |one: Act| {
        let stage = stage.clone();
        thread::spawn(move || one(&stage))
    };
    let running: Vec<_> = all.into_iter().map(spawn).collect();
    for one in running {
        one.join().unwrap();
    }
    stage.check();
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment says how much to test"
)]
fn explore(scenario: fn()) {
    let chosen = std::env::var("MIRROR_SEED").ok();
    let seed = chosen.map_or_else(
        || fastrand::Rng::new().u64(..),
        |seed| seed.parse().unwrap(),
    );
    let orders = if std::env::var_os("STRESS").is_some() {
        100_000
    } else {
        5_000
    };
    println!("MIRROR_SEED={seed}, {orders} orders");
    let scheduler = RandomScheduler::new_from_seed(seed, orders / 2);
    Runner::new(scheduler, Config::new()).run(scenario);
    // Few changes of thread, at places where a thread of its own would rarely be interrupted.
    let scheduler = PctScheduler::new_from_seed(seed, CHANGES, orders / 2);
    Runner::new(scheduler, Config::new()).run(scenario);
}

#[test]
fn flights_evict_what_others_read() {
    explore(|| {
        let stage = Stage::new();
        stage.download(1);
        together(
            &stage,
            vec![
                Box::new(|stage| stage.download(2)),
                Box::new(|stage| stage.download(3)),
                Box::new(|stage| stage.read(1)),
                Box::new(|stage| stage.read(2)),
            ],
        );
    });
}

/// Takes a blob out of the index in one way or another, while it is read and fetched again.
fn takes_away(how: fn(&Stage)) {
    let stage = Stage::new();
    stage.download(1);
    together(
        &stage,
        vec![
            Box::new(how),
            Box::new(|stage| stage.download(1)),
            Box::new(|stage| stage.read(1)),
            Box::new(|stage| stage.download(2)),
        ],
    );
}

#[test]
fn a_blob_comes_back_while_it_is_removed() {
    explore(|| takes_away(|stage| stage.blobs.space.remove(&[digest(1)]).unwrap()));
}

#[test]
fn a_blob_is_condemned_while_it_is_read_and_fetched_again() {
    explore(|| takes_away(|stage| stage.blobs.space.quarantine(digest(1)).unwrap()));
}

#[test]
fn a_blob_that_comes_while_the_pins_are_worked_out_is_pinned() {
    explore(|| {
        let stage = Stage::new();
        image(&stage.blobs, "library/nginx", "1", digest(1));
        stage.blobs.pin(patterns("nginx:1"));
        let refresh = |stage: &Stage| stage.blobs.space.pins.refresh(&stage.index).unwrap();
        together(
            &stage,
            vec![Box::new(refresh), Box::new(|stage| stage.download(1))],
        );
        // As it is done before anything is evicted.
        refresh(&stage);
        assert_eq!(stage.index.usage().unwrap().pinned, SIZE as u64);
    });
}
