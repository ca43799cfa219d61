use std::time::Duration;

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn an_atomic_write_replaces_all_or_nothing_whichever_operation_fails() {
    let directory = directory();
    let path = directory.path().join("format");
    let disk = FaultyDisk::new(Arc::new(OsDisk));
    write_atomic(&disk, &path, b"old").unwrap();
    let mut failed = 0;
    for fault in [Fault::Broken, Fault::Full, Fault::ShortWrite] {
        for n in 0.. {
            disk.fail_at(n, 1, fault);
            let result = write_atomic(&disk, &path, b"new content");
            disk.heal();
            let content = read_small(&disk, &path, 100).unwrap();
            assert!(
                content == b"old" || content == b"new content",
                "{content:?}"
            );
            if result.is_ok() && n > 8 {
                break;
            }
            failed += u32::from(result.is_err());
            write_atomic(&disk, &path, b"old").unwrap();
        }
    }
    assert!(
        failed >= 8,
        "the loop must have hit every operation, hit {failed}"
    );
}

#[test]
fn a_small_read_stops_at_its_limit() {
    let directory = directory();
    let path = directory.path().join("file");
    write_atomic(&OsDisk, &path, &[7; 5000]).unwrap();
    assert_eq!(read_small(&OsDisk, &path, 5000).unwrap().len(), 5000);
    let error = read_small(&OsDisk, &path, 4999).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn a_short_write_leaves_half() {
    let directory = directory();
    let disk = FaultyDisk::new(Arc::new(OsDisk));
    let file = disk.create(&directory.path().join("file")).unwrap();
    disk.fail_at(0, 1, Fault::ShortWrite);
    let error = file.write_all_at(b"12345678", 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.size().unwrap(), 4);
}

#[test]
fn cached_bytes_are_read_without_waiting() {
    let directory = directory();
    let file = OsDisk.create(&directory.path().join("file")).unwrap();
    file.write_all_at(b"just written", 0).unwrap();
    let mut buffer = [0; 32];
    match file.read_cached_at(&mut buffer, 5) {
        Ok(read) => assert_eq!(&buffer[..read], b"written"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
    }
}

#[tokio::test]
async fn a_second_lock_waits_and_then_names_the_holder() {
    let directory = directory();
    let first = DirectoryLock::acquire(directory.path(), Duration::ZERO)
        .await
        .unwrap();
    let refused = DirectoryLock::acquire(directory.path(), Duration::from_millis(60))
        .await
        .unwrap_err();
    assert!(matches!(refused, LockError::Held { .. }));
    assert!(
        refused
            .to_string()
            .ends_with(&format!("in use by process {}", std::process::id()))
    );
    drop(first);
    DirectoryLock::acquire(directory.path(), Duration::ZERO)
        .await
        .unwrap();
}

#[test]
fn file_systems_are_told_apart_by_their_number() {
    for (number, name) in [(0x6969, "NFS"), (0xFE53_4D42, "SMB"), (0x6573_5546, "FUSE")] {
        assert_eq!(FileSystemKind::of(number), FileSystemKind::Remote(name));
    }
    // ext4, XFS, btrfs, tmpfs, overlayfs and ZFS.
    for number in [
        0xEF53,
        0x5846_5342,
        0x9123_683E,
        0x0102_1994,
        0x794C_7630,
        0x2FC1_2FC1,
    ] {
        assert_eq!(FileSystemKind::of(number), FileSystemKind::Local);
    }
}

#[test]
fn the_kind_of_a_file_system_is_asked_of_the_system() {
    // Always there, and none of those that are warned of.
    let kind = OsDisk.kind(Path::new("/proc")).unwrap();
    assert_eq!(kind, FileSystemKind::Local);
    let error = OsDisk
        .kind(&directory().path().join("missing"))
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
