//! The machine that a run happens on: a disk and an index that survive the process, and what the process is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::bugs::{Bug, BuggyDisk, HastyStore};
use super::contents::{Number, content, number};
use crate::blobs::{Blobs, BlobsError, Limits, Share};
use crate::index::MemoryIndex;
use crate::oci::Digest;
use crate::store::{FsStore, Store, Sync};
use crate::sys::clock::{ManualClock, Timestamp};
use crate::sys::fs::{Disk, FaultyDisk, ForgetfulDisk, Power};

const DIRECTORY: &str = "/data";

pub(super) struct Machine {
    pub(super) power: Power,
    pub(super) disk: ForgetfulDisk,
    pub(super) faults: FaultyDisk,
    pub(super) index: MemoryIndex,
    pub(super) clock: Arc<ManualClock>,
    pub(super) sync: Sync,
    pub(super) cap: u64,
    /// How often it was started.
    boots: u64,
    bug: Option<Bug>,
}

/// The names on disk.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The files below `blobs/`, with their length in bytes.
    pub(super) blobs: BTreeMap<Number, u64>,
    /// The names in `spool/`.
    pub(super) spool: Vec<(Number, u64)>,
    /// The files in `quarantine/`, with their length in bytes.
    pub(super) quarantine: BTreeMap<Number, u64>,
}

impl Files {
    /// The blobs that there are whole, by their length.
    pub(super) fn of_right_length(&self) -> BTreeSet<Number> {
        let right = |(number, length): &(&Number, &u64)| content(**number).size() == **length;
        let whole = self.blobs.iter().filter(right);
        whole.map(|(number, _)| *number).collect()
    }
}

impl Machine {
    pub(super) fn new(sync: Sync, total: u64, cap: u64, bug: Option<Bug>) -> Self {
        let power = Power::new();
        let disk = ForgetfulDisk::new(total, power.clone());
        disk.create_dir_all(Path::new(DIRECTORY)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        Self {
            faults: wrapped(&disk, bug),
            disk,
            index: MemoryIndex::new(power.clone()),
            power,
            clock: ManualClock::starting_at(Timestamp::from_millis(1_000_000)),
            sync,
            cap,
            boots: 0,
            bug,
        }
    }

    /// What the system calls its present boot.
    pub(super) fn boot(&self) -> String {
        format!("boot {}", self.boots)
    }

    /// Starts it anew: nothing is lost.
    pub(super) const fn reboot(&mut self) {
        self.boots += 1;
    }

    /// A new process. Nothing is recovered yet.
    pub(super) fn start(&self) -> Result<Blobs, BlobsError> {
        let disk: Arc<dyn Disk> = Arc::new(self.faults.clone());
        let directory = Path::new(DIRECTORY);
        let store = FsStore::open(Arc::clone(&disk), directory, self.sync)?;
        let store: Arc<dyn Store> = match self.bug {
            Some(Bug::RowBeforeFile) => Arc::new(HastyStore {
                inner: store,
                index: self.index.clone(),
            }),
            _ => Arc::new(store),
        };
        let limits = Limits {
            max_size: Share::Bytes(self.cap),
            min_free: Share::Bytes(0),
        };
        let index = Arc::new(self.index_for(&store));
        let clock = Arc::<ManualClock>::clone(&self.clock);
        Ok(Blobs::new(disk, directory, store, index, clock, limits))
    }

    fn index_for(&self, store: &Arc<dyn Store>) -> MemoryIndex {
        if self.bug != Some(Bug::UnlinkBeforeRow) {
            return self.index.clone();
        }
        let store = Arc::clone(store);
        self.index.with_hook(move |digests| {
            for digest in digests {
                store.remove(*digest).ok();
            }
        })
    }

    /// The power goes. Returns how many transactions the index has lost.
    pub(super) fn cut(&mut self, seed: u64) -> usize {
        self.reboot();
        self.disk = self.disk.power_cut(seed);
        self.faults = wrapped(&self.disk, self.bug);
        let (index, lost) = self.index.power_cut(seed);
        self.index = index;
        lost
    }

    pub(super) fn rows(&self) -> BTreeSet<Number> {
        self.index.rows().into_keys().map(number).collect()
    }

    pub(super) fn notes(&self) -> BTreeSet<Number> {
        self.index.notes().into_iter().map(number).collect()
    }

    pub(super) fn files(&self) -> Files {
        let mut files = Files::default();
        for (path, length) in self.disk.lengths() {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.starts_with(Path::new(DIRECTORY).join("blobs")) {
                files.blobs.insert(named(name), length);
            } else if path.starts_with(Path::new(DIRECTORY).join("quarantine")) {
                let (_, encoded) = name.split_once('-').unwrap();
                files.quarantine.insert(named(encoded), length);
            } else {
                let (digest, _) = name.split_once('.').unwrap();
                let (_, encoded) = digest.split_once('-').unwrap();
                files.spool.push((named(encoded), length));
            }
        }
        files
    }

    /// The blobs whose files hold other bytes than they should.
    pub(super) fn damaged(&self) -> BTreeSet<Number> {
        let below = Path::new(DIRECTORY).join("blobs");
        let files = self.disk.files().into_iter();
        let blobs = files.filter(|(path, _)| path.starts_with(&below));
        let named =
            blobs.map(|(path, bytes)| (named(path.file_name().unwrap().to_str().unwrap()), bytes));
        let damaged = named.filter(|(number, bytes)| content(*number).bytes != *bytes);
        damaged.map(|(number, _)| number).collect()
    }
}

fn wrapped(disk: &ForgetfulDisk, bug: Option<Bug>) -> FaultyDisk {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    FaultyDisk::new(match bug {
        Some(Bug::NoSync | Bug::NameBeforeSync | Bug::NoDirectorySync) => {
            Arc::new(BuggyDisk::new(disk, bug))
        }
        _ => disk,
    })
}

fn named(encoded: &str) -> Number {
    let algorithm = if encoded.len() == 64 {
        "sha256"
    } else {
        "sha512"
    };
    let digest: Digest = format!("{algorithm}:{encoded}").parse().unwrap();
    number(digest)
}
