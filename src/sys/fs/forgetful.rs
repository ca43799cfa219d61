//! A disk in memory that forgets in a power cut what was not synced.
//!
//! It holds the program to what file systems promise, not to what they mostly do. Content that was not synced is
//! lost wholly or in part, block by block. A name that was made, moved or taken away lasts once its directory was
//! synced; until then each such change is kept or lost by itself, and a rename is one change. Syncing a file makes
//! none of its names last. A process that is killed loses nothing: the same disk goes on.
//!
//! To fail single operations, wrap it in a [`FaultyDisk`](super::FaultyDisk); to stop a machine for good at one of
//! its operations, take its [`Power`] away.

mod power;
mod state;
mod tests;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;

use super::{Disk, DiskFile, DiskSpace, FileSystemKind};
use crate::sys::sync::{Mutex, MutexGuard};
use state::{Number, State};

pub(crate) use power::Power;

/// A disk that forgets what was not synced. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ForgetfulDisk {
    state: Arc<Mutex<State>>,
    power: Power,
}

impl ForgetfulDisk {
    /// An empty disk of `total` bytes.
    pub(crate) fn new(total: u64, power: Power) -> Self {
        Self::holding(State::new(total), power)
    }

    fn holding(state: State, power: Power) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            power,
        }
    }

    /// The disk as the next start finds it when the power goes now. The same seed loses the same.
    pub(crate) fn power_cut(&self, seed: u64) -> Self {
        let found = self.state().cut(&mut Rng::with_seed(seed));
        Self::holding(found, self.power.clone())
    }

    /// The bytes that files take in whole blocks; one without a name counts while it is open.
    pub(crate) fn used(&self) -> u64 {
        self.state().used()
    }

    /// Every file with its content, by path. Takes no power.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.state().named_files()
    }

    /// Every file's length in bytes, by path. Takes no power.
    pub(crate) fn lengths(&self) -> Vec<(PathBuf, u64)> {
        self.state().named_lengths()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn powered(&self) -> io::Result<MutexGuard<'_, State>> {
        self.power.draw()?;
        Ok(self.state())
    }

    fn handle(&self, number: Number) -> Arc<dyn DiskFile> {
        Arc::new(ForgetfulFile {
            disk: self.clone(),
            number,
        })
    }
}

impl Disk for ForgetfulDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.powered()?.create_directories(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let number = self.powered()?.create(path)?;
        Ok(self.handle(number))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let number = self.powered()?.open(path)?;
        Ok(self.handle(number))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.powered()?.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.powered()?.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.powered()?.remove(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.powered()?.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.powered()?.sync_directory(path)
    }

    fn kind(&self, _: &Path) -> io::Result<FileSystemKind> {
        self.power.draw()?;
        Ok(FileSystemKind::Local)
    }

    fn space(&self, _: &Path) -> io::Result<DiskSpace> {
        let state = self.powered()?;
        Ok(DiskSpace {
            total: state.total(),
            available: state.free(),
        })
    }
}

#[derive(Debug)]
struct ForgetfulFile {
    disk: ForgetfulDisk,
    number: Number,
}

impl DiskFile for ForgetfulFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self
            .disk
            .powered()?
            .read(self.number, buffer, place(offset)))
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }

    /// Where the power goes, half of it is written.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let was_on = !self.disk.power.is_off();
        let powered = self.disk.power.draw();
        let mut state = self.disk.state();
        match powered {
            Ok(()) => state.write(self.number, data, place(offset)),
            Err(off) if was_on => {
                state.write(self.number, &data[..data.len() / 2], place(offset))?;
                Err(off)
            }
            Err(off) => Err(off),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.powered()?.sync(self.number);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.powered()?.length(self.number) as u64)
    }
}

impl Drop for ForgetfulFile {
    fn drop(&mut self) {
        self.disk.state().close(self.number);
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}
