use std::collections::BTreeSet;

use super::*;
use crate::sys::fs::{Fault, FaultyDisk, write_atomic};

const SEEDS: u64 = 200;

fn disk() -> ForgetfulDisk {
    let disk = ForgetfulDisk::new(1 << 20, Power::new());
    disk.create_dir_all(Path::new("/a")).unwrap();
    disk.create_dir_all(Path::new("/b")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn create(disk: &ForgetfulDisk, path: &str, content: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(Path::new(path)).unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

/// What is found after a power cut, for many seeds.
fn found(disk: &ForgetfulDisk) -> BTreeSet<Vec<(String, Vec<u8>)>> {
    let text = |(path, content): (PathBuf, Vec<u8>)| (path.display().to_string(), content);
    let after = |seed| disk.power_cut(seed).files().into_iter().map(text).collect();
    (0..SEEDS).map(after).collect()
}

fn files(expected: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    let own = |(path, content): &(&str, &[u8])| ((*path).to_owned(), content.to_vec());
    expected.iter().map(own).collect()
}

#[test]
fn what_was_synced_is_found_and_nothing_else_can_be_relied_on() {
    let disk = disk();
    let file = create(&disk, "/a/file", b"old");
    assert_eq!(found(&disk).len(), 4, "no name; or nothing, zeros, all");
    file.sync().unwrap();
    let kept = files(&[("/a/file", b"old")]);
    assert_eq!(found(&disk), BTreeSet::from([files(&[]), kept.clone()]));
    disk.sync_dir(Path::new("/b")).unwrap();
    assert_eq!(found(&disk).len(), 2, "another directory does not help");
    disk.sync_dir(Path::new("/a")).unwrap();
    assert_eq!(found(&disk), BTreeSet::from([kept.clone()]));
    file.write_all_at(b"new", 0).unwrap();
    let new = files(&[("/a/file", b"new")]);
    assert_eq!(found(&disk), BTreeSet::from([kept, new]));
}

#[test]
fn unsynced_content_is_lost_by_blocks_and_by_its_end() {
    let disk = disk();
    let file = create(&disk, "/a/file", &[1; 8192]);
    file.sync().unwrap();
    disk.sync_dir(Path::new("/a")).unwrap();
    file.write_all_at(&[2; 12288], 4096).unwrap();
    let contents: BTreeSet<Vec<u8>> = found(&disk)
        .iter()
        .map(|files| files[0].1.clone())
        .collect();
    let lengths: BTreeSet<usize> = contents.iter().map(Vec::len).collect();
    assert_eq!(lengths, BTreeSet::from([8192, 12288, 16384]));
    let is = |start, byte| move |content: &&Vec<u8>| content.get(start) == Some(&byte);
    assert!(contents.iter().all(|content| content[..4096] == [1; 4096]));
    for (start, byte) in [(4096, 1), (4096, 2), (8192, 0), (8192, 2), (16383, 0)] {
        assert!(
            contents.iter().any(|content| is(start, byte)(&content)),
            "{start} {byte}"
        );
    }
    let torn = |content: &&Vec<u8>| content[4096] == 2 && content[8191] == 1;
    assert!(contents.iter().any(|content| torn(&content)));
}

#[test]
fn a_rename_happens_or_does_not() {
    let disk = disk();
    for (path, content) in [("/a/new", b"new"), ("/b/file", b"old")] {
        create(&disk, path, content).sync().unwrap();
    }
    disk.sync_dir(Path::new("/a")).unwrap();
    disk.sync_dir(Path::new("/b")).unwrap();
    disk.rename(Path::new("/a/new"), Path::new("/b/file"))
        .unwrap();
    let before = files(&[("/a/new", b"new"), ("/b/file", b"old")]);
    let after = files(&[("/b/file", b"new")]);
    assert_eq!(found(&disk), BTreeSet::from([before, after.clone()]));
    disk.sync_dir(Path::new("/a")).unwrap();
    assert_eq!(found(&disk), BTreeSet::from([after]));
}

#[test]
fn links_and_removals_are_kept_or_lost_one_by_one() {
    let disk = disk();
    create(&disk, "/a/file", b"x").sync().unwrap();
    disk.sync_dir(Path::new("/a")).unwrap();
    disk.link(Path::new("/a/file"), Path::new("/b/file"))
        .unwrap();
    disk.remove(Path::new("/a/file")).unwrap();
    let (a, b): ((_, &[u8]), (_, &[u8])) = (("/a/file", b"x"), ("/b/file", b"x"));
    let expected = [files(&[]), files(&[a]), files(&[b]), files(&[a, b])];
    assert_eq!(found(&disk), BTreeSet::from(expected));
}

#[test]
fn what_is_below_a_lost_directory_is_lost() {
    let disk = disk();
    disk.create_dir_all(Path::new("/a/b/c")).unwrap();
    create(&disk, "/a/b/c/file", b"x").sync().unwrap();
    disk.sync_dir(Path::new("/a/b/c")).unwrap();
    disk.sync_dir(Path::new("/a/b")).unwrap();
    assert_eq!(found(&disk).len(), 2);
    disk.sync_dir(Path::new("/a")).unwrap();
    assert_eq!(
        found(&disk),
        BTreeSet::from([files(&[("/a/b/c/file", b"x")])])
    );
}

#[test]
fn an_atomic_write_survives_power_cuts_at_every_operation() {
    for n in 0..10 {
        let disk = disk();
        let path = Path::new("/a/format");
        write_atomic(&disk, path, b"old").unwrap();
        disk.power.stop_at(n);
        let written = write_atomic(&disk, path, b"new").is_ok();
        disk.power.restore();
        for seed in 0..SEEDS {
            let files = disk.power_cut(seed).files();
            let (_, content) = files.iter().find(|(found, _)| found == path).unwrap();
            assert!(
                content == b"new" || !written && content == b"old",
                "{n} {seed}"
            );
        }
    }
}

#[test]
fn space_is_taken_by_whole_blocks_until_the_last_name_and_handle_go() {
    let disk = ForgetfulDisk::new(3 * 4096, Power::new());
    let file = create(&disk, "/file", &[1; 4097]);
    disk.link(Path::new("/file"), Path::new("/second")).unwrap();
    assert_eq!(disk.space(Path::new("/")).unwrap().available, 4096);
    let error = file.write_all_at(&[2; 9000], 4097).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!((file.size().unwrap(), disk.used()), (3 * 4096, 3 * 4096));
    disk.remove(Path::new("/file")).unwrap();
    disk.remove(Path::new("/second")).unwrap();
    assert_eq!(disk.used(), 3 * 4096);
    drop(file);
    assert_eq!(disk.used(), 0);
}

#[test]
fn without_power_nothing_happens_and_a_kill_loses_nothing() {
    let disk = disk();
    let file = create(&disk, "/a/file", b"12345678");
    disk.power.stop_at(1);
    file.sync().unwrap();
    file.write_all_at(b"abcd", 0).unwrap_err();
    file.write_all_at(b"efgh", 4).unwrap_err();
    disk.remove(Path::new("/a/file")).unwrap_err();
    assert!(disk.power.is_off());
    disk.power.restore();
    let half = [(PathBuf::from("/a/file"), b"ab345678".to_vec())];
    assert_eq!(disk.files(), half);
}

#[test]
fn single_operations_fail_through_a_faulty_disk() {
    let disk = disk();
    let faulty = FaultyDisk::new(Arc::new(disk.clone()));
    faulty.fail_at(1, 1, Fault::ShortWrite);
    let file = faulty.create(Path::new("/a/file")).unwrap();
    file.write_all_at(b"1234", 0).unwrap_err();
    assert_eq!(disk.files(), [(PathBuf::from("/a/file"), b"12".to_vec())]);
}

#[test]
fn names_are_refused_as_by_a_file_system() {
    let disk = disk();
    create(&disk, "/a/file", b"");
    let kinds = [
        disk.create(Path::new("/a/file")).map(drop),
        disk.link(Path::new("/a/file"), Path::new("/a/file")),
        disk.open(Path::new("/a/none")).map(drop),
        disk.create(Path::new("/none/file")).map(drop),
        disk.link(Path::new("/a/file"), Path::new("/none/file")),
        disk.rename(Path::new("/a/none"), Path::new("/a/file")),
        disk.sync_dir(Path::new("/none")),
        disk.list(Path::new("/none")).map(drop),
    ]
    .map(|result| result.unwrap_err().kind());
    let (exists, missing) = (io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound);
    assert_eq!(kinds[..2], [exists; 2]);
    assert_eq!(kinds[2..], [missing; 6]);
    assert_eq!(disk.list(Path::new("/a")).unwrap(), ["file"]);
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["a", "b"]);
}
