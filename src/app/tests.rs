use std::sync::Mutex;

use super::*;
use crate::sys::fs::{FaultyDisk, FileSystemKind};

/// Where a test finds what was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged at the start with a data directory at `dir` of `disk`.
async fn said(disk: FaultyDisk, dir: &Path) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .finish();
    let guard = tracing::subscriber::set_default(log);
    report_file_system(Arc::new(disk), dir).await;
    drop(guard);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_data_directory_that_is_not_on_a_local_disk_is_warned_of_once() {
    let directory = tempfile::tempdir().unwrap();
    let nfs = FaultyDisk::new(Arc::new(OsDisk)).on(FileSystemKind::Remote("NFS"));
    // It is not there before the first start.
    let dir = directory.path().join("not/yet/there");
    let expected = format!(
        " WARN mirror::app: the data directory is on NFS: locks and SQLite's write-ahead log need a local disk, and fsync and rename promise less elsewhere; set storage.dir to a directory on a local disk dir={}\n",
        dir.display()
    );
    assert_eq!(said(nfs, &dir).await, expected);
}

#[tokio::test]
async fn nothing_is_said_of_a_local_disk_or_of_one_that_does_not_tell() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(Arc::new(OsDisk)).on(FileSystemKind::Local);
    assert_eq!(said(disk, directory.path()).await, "");
    let disk = FaultyDisk::new(Arc::new(OsDisk)).on(FileSystemKind::Remote("NFS"));
    disk.fail_at(0, u64::MAX, crate::sys::fs::Fault::Broken);
    assert_eq!(said(disk, directory.path()).await, "");
}
