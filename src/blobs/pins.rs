//! Pins: images whose blobs are never evicted.
//!
//! What is pinned follows from the tags that match and the manifests they name. It is worked out anew, before anything
//! is evicted, whenever a tag moved, a manifest came, or a blob of a pinned image was stored.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use crate::index::{Index, IndexError, RepositoryKey};
use crate::oci::pattern::ImagePatterns;
use crate::oci::{Digest, Manifest};
use crate::sys::sync::{Mutex, MutexGuard};

/// How many blobs may be pinned.
const LIMIT: usize = 200_000;

/// How many tags are looked at a time.
const PAGE: u64 = 1000;

#[derive(Debug)]
pub(super) struct Pins {
    patterns: Mutex<ImagePatterns>,
    /// What was worked out last, held or not.
    pinned: Mutex<HashSet<Digest>>,
    is_stale: AtomicBool,
}

impl Default for Pins {
    /// Stale: an earlier process may have pinned what is not pinned any more.
    fn default() -> Self {
        Self {
            patterns: Mutex::default(),
            pinned: Mutex::default(),
            is_stale: AtomicBool::new(true),
        }
    }
}

impl Pins {
    pub(super) fn set(&self, patterns: ImagePatterns) {
        *lock(&self.patterns) = patterns;
        self.is_stale.store(true, Ordering::SeqCst);
    }

    /// Notes that a tag of a repository moved, or that a manifest of it came.
    pub(super) fn image_changed(&self, repository: &RepositoryKey) {
        let RepositoryKey { upstream, name } = repository;
        if lock(&self.patterns).matches_repository(upstream, name) {
            self.is_stale.store(true, Ordering::SeqCst);
        }
    }

    /// Notes that a blob was stored.
    pub(super) fn stored(&self, digest: Digest) {
        if lock(&self.pinned).contains(&digest) {
            self.is_stale.store(true, Ordering::SeqCst);
        }
    }

    /// Works out anew what is pinned, if anything changed. Blocks.
    pub(super) fn refresh(&self, index: &dyn Index) -> Result<(), IndexError> {
        if !self.is_stale.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let refreshed = self.work_out(index);
        if refreshed.is_err() {
            self.is_stale.store(true, Ordering::SeqCst);
        }
        refreshed
    }

    fn work_out(&self, index: &dyn Index) -> Result<(), IndexError> {
        let roots = self.roots(index)?;
        if roots.is_empty() && index.usage()?.pinned == 0 {
            lock(&self.pinned).clear();
            return Ok(());
        }
        let pinned = below(index, roots)?;
        let digests: Vec<_> = pinned.iter().copied().collect();
        // Before the rows are marked: a blob that is stored after that has to be known here as one to be pinned.
        *lock(&self.pinned) = pinned;
        index.pin_blobs(&digests)
    }

    /// The manifests that matching tags name.
    fn roots(&self, index: &dyn Index) -> Result<Vec<Digest>, IndexError> {
        let patterns = lock(&self.patterns).clone();
        let (mut roots, mut last) = (Vec::new(), None);
        if patterns.is_empty() {
            return Ok(roots);
        }
        loop {
            let page = index.walk_tags(last.as_ref(), PAGE)?;
            for found in &page {
                let RepositoryKey { upstream, name } = &found.repository;
                if patterns.matches(upstream, name, Some(&found.tag)) {
                    roots.push(found.digest);
                }
            }
            last = page.into_iter().next_back();
            if last.is_none() {
                return Ok(roots);
            }
        }
    }
}

/// Everything that `roots` name, however deep.
fn below(index: &dyn Index, roots: Vec<Digest>) -> Result<HashSet<Digest>, IndexError> {
    let (mut manifests, mut seen, mut blobs) = (roots, HashSet::new(), HashSet::new());
    while let Some(digest) = manifests.pop() {
        if !seen.insert(digest) {
            continue;
        }
        if seen.len().saturating_add(blobs.len()) > LIMIT {
            warn!(
                limit = LIMIT,
                "cache.pin names more blobs than can be pinned; some are not"
            );
            break;
        }
        let Some(record) = index.manifest(digest)? else {
            continue;
        };
        let Ok(manifest) = Manifest::parse(record.bytes, Some(&*record.media_type)) else {
            continue;
        };
        manifests.extend(manifest.children().iter().map(|child| child.digest));
        blobs.extend(manifest.blobs().map(|blob| blob.digest));
    }
    Ok(blobs)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
