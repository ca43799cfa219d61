//! What a data directory takes on disk, as `du` counts it, looked at ten times a second.

#![expect(clippy::unwrap_used, reason = "support for tests")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(100);

/// The bytes that everything below `directory` takes, itself included. A file with two names counts once; one that
/// goes meanwhile may count or not.
pub(crate) fn usage(directory: &Path) -> u64 {
    let mut blocks = HashMap::new();
    walk(directory, &mut blocks);
    blocks.values().sum::<u64>() * 512
}

fn walk(path: &Path, blocks: &mut HashMap<u64, u64>) {
    let Ok(found) = fs::symlink_metadata(path) else {
        return;
    };
    blocks.insert(found.ino(), found.blocks());
    if found.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| walk(&entry.path(), blocks));
    }
}

/// What was seen of a directory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// How often it was looked at.
    pub(crate) samples: usize,
    /// The most that it took, in bytes.
    pub(crate) peak: u64,
}

/// A thread that looks at a directory until it is told to stop.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Watch {
    pub(crate) fn start(directory: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (directory, stopped) = (PathBuf::from(directory), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                seen.peak = seen.peak.max(usage(&directory));
                seen.samples += 1;
                thread::sleep(PERIOD);
            }
            seen
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
