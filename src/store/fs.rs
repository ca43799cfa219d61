//! Blobs as plain files. `docs/design/on-disk-format.md` has the layout.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Leftover, Spool, Store, StoreError};
use crate::oci::{Algorithm, Digest};
use crate::sys::fs::{Disk, DiskFile};
use crate::sys::random;

/// How many damaged files are kept aside: enough to see what happens to them.
const QUARANTINED: usize = 8;

/// Whether a published blob survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// File and directory are synced before [`Store::publish`] returns.
    Always,
    /// Left to the operating system.
    Never,
}

/// Keeps blobs below a directory.
#[derive(Debug)]
pub struct FsStore {
    disk: Arc<dyn Disk>,
    blobs: PathBuf,
    spool: PathBuf,
    quarantine: PathBuf,
    sync: Sync,
    /// The shards whose own names are synced. One that is there already may be left from a process that died before
    /// it synced them.
    synced: Mutex<HashSet<PathBuf>>,
}

impl FsStore {
    /// Opens the store below `directory`, creating what is missing.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, sync: Sync) -> Result<Self, StoreError> {
        let (blobs, spool) = (directory.join("blobs"), directory.join("spool"));
        for path in [&blobs, &spool] {
            disk.create_dir_all(path).map_err(failed("create", path))?;
        }
        if sync == Sync::Always {
            let synced = disk.sync_dir(directory);
            synced.map_err(failed("sync", directory))?;
        }
        Ok(Self {
            disk,
            blobs,
            spool,
            quarantine: directory.join("quarantine"),
            sync,
            synced: Mutex::default(),
        })
    }

    fn shard(&self, digest: Digest) -> PathBuf {
        let encoded = digest.encoded();
        let shard = encoded.get(..2).unwrap_or_default();
        self.blobs.join(digest.algorithm().as_str()).join(shard)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.shard(digest).join(digest.encoded())
    }

    /// Gives the file its second name; without hard links, its only one.
    fn name(&self, spool: &Path, blob: &Path) -> io::Result<()> {
        match self.disk.link(spool, blob) {
            // An earlier file of this digest, one without a row in the index, is replaced.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.rename(spool, blob)
            }
            Err(error) if is_without_links(&error) => self.disk.rename(spool, blob),
            result => result,
        }
    }

    /// Like [`name`](Self::name), creating the shard's directory on its first blob.
    fn name_in_shard(&self, spool: &Path, shard: &Path, blob: &Path) -> io::Result<()> {
        match self.name(spool, blob) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.disk.create_dir_all(shard)?;
                self.name(spool, blob)
            }
            result => result,
        }
    }

    /// Where a damaged blob is kept aside.
    fn aside(&self, digest: Digest) -> PathBuf {
        let (algorithm, encoded) = (digest.algorithm(), digest.encoded());
        self.quarantine.join(format!("{algorithm}-{encoded}"))
    }

    /// The names in a directory, which need not exist.
    fn names(&self, directory: &Path) -> Result<Vec<OsString>, StoreError> {
        match self.disk.list(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(failed("list", directory)),
        }
    }

    /// Makes the names in a shard last, and on the first time its own.
    fn sync_names(&self, shard: &Path) -> io::Result<()> {
        self.disk.sync_dir(shard)?;
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if !synced.contains(shard) {
            self.sync_ancestors(shard)?;
            synced.insert(shard.to_owned());
        }
        Ok(())
    }

    fn sync_ancestors(&self, shard: &Path) -> io::Result<()> {
        let below_root = shard
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(&self.blobs));
        below_root
            .into_iter()
            .try_for_each(|path| self.disk.sync_dir(path))
    }
}

impl Store for FsStore {
    fn spool(&self, digest: Digest) -> Result<Spool, StoreError> {
        let name = format!(
            "{}-{}.{:016x}",
            digest.algorithm().as_str(),
            digest.encoded(),
            random::unique()
        );
        let path = self.spool.join(name);
        let file = self.disk.create(&path).map_err(failed("create", &path))?;
        Ok(Spool { digest, file, path })
    }

    fn publish(&self, spool: &Spool) -> Result<(), StoreError> {
        if self.sync == Sync::Always {
            spool.file.sync().map_err(failed("sync", &spool.path))?;
        }
        let (shard, blob) = (self.shard(spool.digest), self.path(spool.digest));
        self.name_in_shard(&spool.path, &shard, &blob)
            .map_err(failed("publish", &blob))?;
        match self.sync {
            Sync::Always => self.sync_names(&shard).map_err(failed("sync", &shard)),
            Sync::Never => Ok(()),
        }
    }

    fn retire(&self, spool: &Spool) -> Result<(), StoreError> {
        remove(&*self.disk, &spool.path)
    }

    fn open(&self, digest: Digest) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
        let path = self.path(digest);
        match self.disk.open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", &path)(error)),
        }
    }

    fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        remove(&*self.disk, &self.path(digest))
    }

    fn quarantine(&self, digest: Digest) -> Result<bool, StoreError> {
        let path = self.path(digest);
        if self.names(&self.quarantine)?.len() >= QUARANTINED {
            return remove(&*self.disk, &path).map(|()| false);
        }
        let aside = self.aside(digest);
        let created = self.disk.create_dir_all(&self.quarantine);
        match created.and_then(|()| self.disk.rename(&path, &aside)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("move aside", &path)(error)),
        }
    }

    fn quarantined(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let size = |digest| {
            let path = self.aside(digest);
            let file = self.disk.open(&path).and_then(|file| file.size());
            let size = file.map_err(failed("open", &path))?;
            Ok((digest, size))
        };
        let names = self.names(&self.quarantine)?;
        names
            .iter()
            .filter_map(|name| damaged(name))
            .map(size)
            .collect()
    }

    fn remove_quarantined(&self, digest: Digest) -> Result<(), StoreError> {
        remove(&*self.disk, &self.aside(digest))
    }

    fn list(&self, shard: u8) -> Result<Vec<Digest>, StoreError> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let path = self.blobs.join(algorithm.as_str());
            let names = self.names(&path.join(format!("{shard:02x}")))?;
            found.extend(names.iter().filter_map(|name| named(algorithm, name)));
        }
        Ok(found)
    }

    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let names = self
            .disk
            .list(&self.spool)
            .map_err(failed("list", &self.spool))?;
        Ok(names
            .iter()
            .map(|name| Leftover {
                digest: intended(name),
                path: self.spool.join(name),
            })
            .collect())
    }

    fn sweep(&self, leftover: &Leftover) -> Result<(), StoreError> {
        remove(&*self.disk, &leftover.path)
    }
}

/// The digest in the name of a spool, `<algorithm>-<hex>.<unique>`.
fn intended(name: &OsStr) -> Option<Digest> {
    let (digest, _unique) = name.to_str()?.split_once('.')?;
    damaged(OsStr::new(digest))
}

/// The digest in the name of a file that is kept aside, `<algorithm>-<hex>`.
fn damaged(name: &OsStr) -> Option<Digest> {
    let (algorithm, encoded) = name.to_str()?.split_once('-')?;
    format!("{algorithm}:{encoded}").parse().ok()
}

/// The digest that a blob's file is named by.
fn named(algorithm: Algorithm, name: &OsStr) -> Option<Digest> {
    format!("{algorithm}:{}", name.to_str()?).parse().ok()
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether the file system refused a hard link as such: `EPERM`, `EOPNOTSUPP`, `EMLINK`, `EXDEV`.
fn is_without_links(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(
        error.kind(),
        Unsupported | PermissionDenied | TooManyLinks | CrossesDevices
    )
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite;
    use crate::sys::fs::{Fault, FaultyDisk, ForgetfulDisk, OsDisk, Power};

    fn digest_of(content: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, content)
    }

    #[test]
    fn passes_the_suite_with_and_without_sync() {
        for sync in [Sync::Always, Sync::Never] {
            let directory = tempfile::tempdir().unwrap();
            let open = || FsStore::open(Arc::new(OsDisk), directory.path(), sync).unwrap();
            suite::run(&open);
            let disk = ForgetfulDisk::new(1 << 20, Power::new());
            let open = || FsStore::open(Arc::new(disk.clone()), Path::new("/data"), sync).unwrap();
            suite::run(&open);
        }
    }

    #[test]
    fn whichever_operation_fails_a_blob_is_there_whole_or_not_at_all() {
        let content = b"twelve bytes";
        let digest = digest_of(content);
        for fault in [Fault::Broken, Fault::Full, Fault::ShortWrite] {
            for n in 0..12 {
                let directory = tempfile::tempdir().unwrap();
                let disk = FaultyDisk::new(Arc::new(OsDisk));
                let store =
                    FsStore::open(Arc::new(disk.clone()), directory.path(), Sync::Always).unwrap();
                disk.fail_at(n, 1, fault);
                let stored = store.spool(digest).and_then(|spool| {
                    let written = spool.file.write_all_at(content, 0);
                    written.map_err(failed("write", directory.path()))?;
                    store.publish(&spool)
                });
                disk.heal();
                let found = store.open(digest).unwrap();
                assert!(
                    stored.is_err() || found.is_some(),
                    "{fault:?} at {n}: acknowledged but absent"
                );
                if let Some(file) = found {
                    suite::assert_content(&*file, content);
                }
            }
        }
    }

    #[test]
    fn what_is_published_survives_a_power_cut_whatever_an_earlier_process_left_undone() {
        let content = b"twelve bytes";
        let digest = digest_of(content);
        for n in 0..20 {
            let power = Power::new();
            let disk = ForgetfulDisk::new(1 << 20, power.clone());
            disk.create_dir_all(Path::new("/data")).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            let publish = |disk: &ForgetfulDisk| {
                let disk = Arc::new(disk.clone());
                let store = FsStore::open(disk, Path::new("/data"), Sync::Always)?;
                let spool = store.spool(digest)?;
                let written = spool.file.write_all_at(content, 0);
                written.map_err(failed("write", Path::new("/data")))?;
                store.publish(&spool)
            };
            power.stop_at(n);
            let ended = publish(&disk);
            assert!(ended.is_err() || n >= 9, "operation {n} did not fail");
            power.restore();
            publish(&disk).unwrap();
            for seed in 0..50 {
                let found = disk.power_cut(seed);
                let store =
                    FsStore::open(Arc::new(found), Path::new("/data"), Sync::Always).unwrap();
                let file = store.open(digest).unwrap();
                let file = file.unwrap_or_else(|| panic!("lost: operation {n}, seed {seed}"));
                suite::assert_content(&*file, content);
            }
        }
    }

    #[test]
    fn a_name_that_is_no_spool_has_no_digest() {
        for name in ["", ".", "README", "sha256-zz.1", "sha256:..", "md5-00.1"] {
            assert_eq!(intended(OsStr::new(name)), None, "{name}");
        }
    }
}
