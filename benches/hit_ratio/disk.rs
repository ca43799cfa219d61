//! A disk in memory whose files have a size and no content.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mirror::sys::fs::{Disk, DiskFile, DiskSpace, FileSystemKind};

const TOTAL: u64 = 1 << 50;

#[derive(Debug, Default)]
pub(crate) struct SizesOnly {
    files: Mutex<HashMap<PathBuf, Arc<File>>>,
}

#[derive(Debug, Default)]
struct File {
    size: AtomicU64,
}

impl SizesOnly {
    fn find(&self, path: &Path) -> io::Result<Arc<File>> {
        let files = self.files.lock().unwrap();
        let file = files.get(path).map(Arc::clone);
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn name(&self, path: &Path, file: Arc<File>) {
        self.files.lock().unwrap().insert(path.to_owned(), file);
    }
}

impl Disk for SizesOnly {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(File::default());
        self.name(path, Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.find(path)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.name(to, self.find(from)?);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.link(from, to)?;
        self.remove(from)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(path);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, _path: &Path) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn kind(&self, _: &Path) -> io::Result<FileSystemKind> {
        Ok(FileSystemKind::Local)
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        Ok(DiskSpace {
            total: TOTAL,
            available: TOTAL,
        })
    }
}

impl DiskFile for File {
    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_cached_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + data.len() as u64;
        self.size.fetch_max(end, Ordering::SeqCst);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size.load(Ordering::SeqCst))
    }
}
