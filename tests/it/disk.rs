//! A file system of a test's own, that can really be full.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "support for tests, which says what it leaves out"
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, that is gone with this.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// Of `bytes` bytes; `None` for a user who may not mount, except in CI, where that is a failure.
    pub(crate) fn mount(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        let may_be_skipped = std::env::var_os("CI").is_none();
        assert!(mounted || may_be_skipped, "cannot mount a tmpfs");
        if !mounted {
            println!("skipped: mounting takes root");
        }
        mounted.then_some(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space but `left` bytes, which are whole pages, with a foreign file.
    pub(crate) fn fill(&self, left: u64) {
        let mut file = fs::File::create(self.ballast()).unwrap();
        for length in [64 * 1024, 4096, 1] {
            while file.write_all(&vec![0; length]).is_ok() {}
        }
        let length = file.metadata().unwrap().len();
        file.set_len(length - left).unwrap();
    }

    /// Gives back what [`Self::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("foreign")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}
