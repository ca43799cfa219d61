//! What the disk holds, and what of it would be found after a power cut.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use fastrand::Rng;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// A file, whatever its names.
pub(super) type Number = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(Number),
}

type Names = BTreeMap<PathBuf, Entry>;

/// Names that change together: what is at each path from then on.
#[derive(Clone, Debug)]
struct Change {
    steps: Vec<(PathBuf, Option<Entry>)>,
    lasts: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// What the last sync made last.
    synced: Vec<u8>,
    is_dirty: bool,
    names: usize,
    handles: usize,
}

#[derive(Debug)]
pub(super) struct State {
    total: u64,
    names: Names,
    /// The names before `changes`.
    lasting: Names,
    /// In the order they were made. A change that lasts stays until those before it do, so that the order holds.
    changes: Vec<Change>,
    files: Vec<Content>,
}

impl State {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            names: Names::new(),
            lasting: Names::new(),
            changes: Vec::new(),
            files: Vec::new(),
        }
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn used(&self) -> u64 {
        let kept = |file: &&Content| file.names + file.handles > 0;
        let files = self.files.iter().filter(kept);
        files.map(|file| blocks(file.bytes.len())).sum()
    }

    /// What is left. Names that a power cut brought back may take more than there is.
    pub(super) fn free(&self) -> u64 {
        self.total.saturating_sub(self.used())
    }

    pub(super) fn named_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.named(|file| file.bytes.clone())
    }

    pub(super) fn named_lengths(&self) -> Vec<(PathBuf, u64)> {
        self.named(|file| file.bytes.len() as u64)
    }

    fn named<T>(&self, of: impl Fn(&Content) -> T) -> Vec<(PathBuf, T)> {
        let file = |(path, entry): (&PathBuf, &Entry)| match entry {
            Entry::Directory => None,
            Entry::File(number) => Some((path.clone(), of(&self.files[*number]))),
        };
        self.names.iter().filter_map(file).collect()
    }

    pub(super) fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<_> = path
            .ancestors()
            .filter(|path| path.parent().is_some() && !self.is_directory(path))
            .collect();
        for directory in missing.into_iter().rev() {
            self.vacant(directory)?;
            self.change(vec![(directory.to_owned(), Some(Entry::Directory))]);
        }
        Ok(())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Number> {
        self.vacant(path)?;
        let number = self.files.len();
        self.files.push(Content::default());
        self.change(vec![(path.to_owned(), Some(Entry::File(number)))]);
        self.open(path)
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<Number> {
        let number = self.number(path)?;
        self.files[number].handles += 1;
        Ok(number)
    }

    pub(super) fn close(&mut self, number: Number) {
        self.files[number].handles -= 1;
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let number = self.number(from)?;
        self.vacant(to)?;
        self.change(vec![(to.to_owned(), Some(Entry::File(number)))]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let number = self.number(from)?;
        match self.vacant(to) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            result => result?,
        }
        // Two names of one file: POSIX has nothing happen then.
        if self.names.get(to) != Some(&Entry::File(number)) {
            self.change(vec![
                (from.to_owned(), None),
                (to.to_owned(), Some(Entry::File(number))),
            ]);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.number(path)?;
        self.change(vec![(path.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.directory(path)?;
        let below = self.names.range(path.to_owned()..);
        Ok(below
            .map(|(found, _)| found)
            .take_while(|found| found.starts_with(path))
            .filter(|found| found.parent() == Some(path))
            .filter_map(|found| found.file_name().map(OsString::from))
            .collect())
    }

    pub(super) fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        self.directory(path)?;
        for change in &mut self.changes {
            let touches = |(name, _): &(PathBuf, _)| name.parent() == Some(path);
            change.lasts |= change.steps.iter().any(touches);
        }
        let settled = self
            .changes
            .iter()
            .take_while(|change| change.lasts)
            .count();
        for change in self.changes.drain(..settled) {
            apply(&mut self.lasting, &change);
        }
        Ok(())
    }

    pub(super) fn read(&self, number: Number, buffer: &mut [u8], offset: usize) -> usize {
        let rest = self.files[number].bytes.get(offset..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        read
    }

    /// Writes as much as there is space for.
    pub(super) fn write(&mut self, number: Number, data: &[u8], offset: usize) -> io::Result<()> {
        let free = usize::try_from(self.free()).unwrap();
        let file = &mut self.files[number];
        let limit = file.bytes.len().next_multiple_of(BLOCK) + free / BLOCK * BLOCK;
        let end = (offset + data.len()).min(limit);
        let fitting = &data[..end.saturating_sub(offset)];
        file.bytes.resize(file.bytes.len().max(end), 0);
        file.bytes[end - fitting.len()..end].copy_from_slice(fitting);
        file.is_dirty = true;
        if fitting.len() < data.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, number: Number) {
        let file = &mut self.files[number];
        if file.is_dirty {
            file.synced.clone_from(&file.bytes);
            file.is_dirty = false;
        }
    }

    pub(super) fn length(&self, number: Number) -> usize {
        self.files[number].bytes.len()
    }

    /// The disk as it is found after a power cut.
    pub(super) fn cut(&self, random: &mut Rng) -> Self {
        let mut names = self.lasting.clone();
        // All or nothing is as likely as anything in between.
        let kept = *random.choice(&[0, 20, 50, 80, 100]).unwrap();
        for change in &self.changes {
            if change.lasts || random.u8(0..100) < kept {
                apply(&mut names, change);
            }
        }
        let mut found = Self::new(self.total);
        for (path, entry) in without_orphans(&names) {
            found.names.insert(path, entry);
        }
        found.lasting.clone_from(&found.names);
        found.files = self.files.iter().map(|file| file.cut(random)).collect();
        for entry in found.names.values() {
            if let Entry::File(number) = entry {
                found.files[*number].names += 1;
            }
        }
        found
    }

    fn change(&mut self, steps: Vec<(PathBuf, Option<Entry>)>) {
        for (path, entry) in &steps {
            if let Some(Entry::File(number)) = self.names.get(path) {
                self.files[*number].names -= 1;
            }
            if let Some(Entry::File(number)) = entry {
                self.files[*number].names += 1;
            }
        }
        let change = Change {
            steps,
            lasts: false,
        };
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.parent().is_none() || self.names.get(path) == Some(&Entry::Directory)
    }

    fn directory(&self, path: &Path) -> io::Result<()> {
        if self.is_directory(path) {
            return Ok(());
        }
        Err(ErrorKind::NotFound.into())
    }

    fn number(&self, path: &Path) -> io::Result<Number> {
        match self.names.get(path) {
            Some(Entry::File(number)) => Ok(*number),
            Some(Entry::Directory) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Whether `path` can be given to something new.
    fn vacant(&self, path: &Path) -> io::Result<()> {
        self.directory(path.parent().unwrap_or(path))?;
        if self.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }
}

impl Content {
    /// What is found after a power cut. It all lasts then.
    fn cut(&self, random: &mut Rng) -> Self {
        let bytes = match random.u8(0..4) {
            _ if !self.is_dirty => self.bytes.clone(),
            0 => self.bytes.clone(),
            1 => self.synced.clone(),
            _ => self.torn(random),
        };
        Self {
            synced: bytes.clone(),
            bytes,
            ..Self::default()
        }
    }

    /// Each block as it is now, as it was, or changing from one to the other at a sector; of any length in between.
    fn torn(&self, random: &mut Rng) -> Vec<u8> {
        let (old, new) = (self.synced.len(), self.bytes.len());
        let between = random.usize(old..=new) / BLOCK * BLOCK;
        let length = *random.choice(&[old, new, new, between.max(old)]).unwrap();
        let mut found = self.synced.clone();
        found.resize(length, 0);
        for start in (0..length).step_by(BLOCK) {
            let block = BLOCK.min(length - start);
            let kept = match random.u8(0..3) {
                0 => 0,
                1 => block,
                _ => (random.usize(0..BLOCK / SECTOR) * SECTOR).min(block),
            };
            found[start..start + kept].copy_from_slice(&self.bytes[start..start + kept]);
        }
        found
    }
}

fn apply(names: &mut Names, change: &Change) {
    for (path, entry) in &change.steps {
        match entry {
            Some(entry) => names.insert(path.clone(), *entry),
            None => names.remove(path),
        };
    }
}

/// A name below a directory that was lost is lost.
fn without_orphans(names: &Names) -> Names {
    let is_reachable = |path: &Path| {
        let mut above = path.ancestors().skip(1);
        above.all(|path| path.parent().is_none() || names.get(path) == Some(&Entry::Directory))
    };
    let reachable = names.iter().filter(|(path, _)| is_reachable(path));
    reachable
        .map(|(path, entry)| (path.clone(), *entry))
        .collect()
}

fn blocks(length: usize) -> u64 {
    length.next_multiple_of(BLOCK) as u64
}
