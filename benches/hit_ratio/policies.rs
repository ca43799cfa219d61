//! Who decides what goes: the mirror, LRU, and one that knows the future.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mirror::blobs::{Blobs, Limits, Lookup, Share};
use mirror::index::SqliteIndex;
use mirror::oci::{Algorithm, Checksum, Digest};
use mirror::store::{FsStore, Sync};
use mirror::sys::clock::{ManualClock, Timestamp};
use mirror::sys::fs::Disk;

use crate::disk::SizesOnly;
use crate::trace::Request;

/// Between two requests.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the mirror writes what was used.
const WRITES: usize = 10;

/// The part of the requests, and of their bytes, that the cache had.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ratio {
    pub(crate) objects: f64,
    pub(crate) bytes: f64,
}

#[derive(Default)]
struct Count {
    hits: u64,
    requests: u64,
    hit_bytes: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, request: &Request, is_hit: bool) {
        self.requests += 1;
        self.bytes += request.size;
        if is_hit {
            self.hits += 1;
            self.hit_bytes += request.size;
        }
    }

    fn ratio(&self) -> Ratio {
        Ratio {
            objects: self.hits as f64 / self.requests as f64,
            bytes: self.hit_bytes as f64 / self.bytes as f64,
        }
    }
}

/// What the mirror fills of its cap: the rest is a margin for directories and the index.
pub(crate) fn usable(capacity: u64) -> u64 {
    capacity - (capacity / 16).min(16 * 1024 * 1024)
}

/// The mirror's own eviction.
pub(crate) fn mirror(trace: &[Request], capacity: u64) -> Ratio {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let index = Arc::new(SqliteIndex::open(&directory.path().join("index.sqlite3")).unwrap());
    let disk: Arc<dyn Disk> = Arc::new(SizesOnly::default());
    let root = Path::new("/cache");
    let store = Arc::new(FsStore::open(Arc::clone(&disk), root, Sync::Never).unwrap());
    let clock = ManualClock::starting_at(Timestamp::from_millis(1_000_000));
    let limits = Limits {
        max_size: Share::Bytes(capacity),
        min_free: Share::Bytes(0),
    };
    let time = Arc::clone(&clock);
    let blobs = Blobs::new(disk, root, store, index, time, limits);
    let mut count = Count::default();
    runtime.block_on(async {
        for (number, request) in trace.iter().enumerate() {
            clock.advance(PAUSE);
            count.add(request, pull(&blobs, request).await);
            if number % WRITES == 0 {
                blobs.write_uses().await.unwrap();
            }
        }
    });
    count.ratio()
}

/// Opens the blob, or stores it as a download does; whether it was there.
async fn pull(blobs: &Blobs, request: &Request) -> bool {
    let digest = Digest::of(Algorithm::Sha256, &request.blob.to_le_bytes());
    if let Lookup::Held(held) = blobs.open(digest).await.unwrap() {
        assert_eq!(held.size, request.size);
        return true;
    }
    let nothing = blobs.reserve_nothing();
    let (mut reservation, extended) = blobs.extend(nothing, request.size).await;
    if extended.is_err() {
        return false; // it is larger than the cache
    }
    let spool = blobs.spool(digest).await.unwrap();
    spool.file.write_all_at(&[0], request.size - 1).unwrap();
    reservation.written(request.size);
    let checksum = Checksum::default();
    let committed = blobs.commit(spool, request.size, checksum);
    committed.await.unwrap();
    false
}

/// What was used longest ago goes.
pub(crate) fn lru(trace: &[Request], capacity: u64) -> Ratio {
    let order = (0..trace.len() as u64).collect::<Vec<_>>();
    by_order(trace, capacity, &order)
}

/// What is wanted again last goes, whatever its size: not the best there is, but close.
pub(crate) fn knowing(trace: &[Request], capacity: u64) -> Ratio {
    let mut next = HashMap::new();
    let mut order = vec![0; trace.len()];
    for (number, request) in trace.iter().enumerate().rev() {
        let again: Option<usize> = next.insert(request.blob, number);
        order[number] = again.map_or(0, |again| u64::MAX - again as u64);
    }
    by_order(trace, capacity, &order)
}

/// Lets go first what has the lowest number; `order` has the number that each request gives its blob.
fn by_order(trace: &[Request], capacity: u64, order: &[u64]) -> Ratio {
    let mut held: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut queue = BTreeSet::new();
    let (mut used, mut count) = (0, Count::default());
    for (request, number) in trace.iter().zip(order) {
        let former = held.remove(&request.blob);
        count.add(request, former.is_some());
        if let Some((number, size)) = former {
            queue.remove(&(number, request.blob));
            used -= size;
        }
        let size = request.size.div_ceil(4096) * 4096;
        if size > capacity {
            continue;
        }
        queue.insert((*number, request.blob));
        held.insert(request.blob, (*number, size));
        used += size;
        while used > capacity {
            let (_, blob) = queue.pop_first().unwrap();
            used -= held.remove(&blob).unwrap().1;
        }
    }
    count.ratio()
}
