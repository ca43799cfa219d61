//! What is promised, and the check of all of it between two operations.

use std::collections::{BTreeMap, BTreeSet};

use super::contents::{Number, content};
use super::machine::{Files, Machine};
use crate::blobs::space::blocks;
use crate::store::Sync;

/// What [`Blobs`](crate::blobs::Blobs) promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// What is read is the blob, byte by byte, also after an eviction, and after a power cut.
    Bytes,
    /// What was acknowledged is held, until it is evicted or forgotten; what failed is not. With `Sync::Always` also
    /// after a power cut, as far as the row is still there.
    Survival,
    /// A row has its file, except where a power cut took one of them; the next read notices.
    RowsHaveFiles,
    /// A file has its row, or the next start finds it by its spool name or its note. The exceptions are the strays
    /// of a power cut, and nothing else ever becomes one.
    FilesHaveRows,
    /// After a start `spool/` is empty and nothing is doomed.
    CleanStart,
    /// The figures are the sum of rows, reservations, and evicted blobs that are read.
    Figures,
    /// What is counted never passes the cap.
    Cap,
    /// The disk never holds more than is counted, but for strays and for what could not be removed.
    Counted,
    /// Blobs that are read are not evicted.
    PassedOver,
    /// Nothing fails unless something fails it.
    Success,
}

impl Promise {
    /// Whether it is kept this time.
    pub(super) fn hold(self, holds: bool, why: impl FnOnce() -> String) -> Result<(), Broken> {
        if holds {
            return Ok(());
        }
        Err(Broken {
            promise: self,
            why: why(),
        })
    }
}

/// A promise that was not kept.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) promise: Promise,
    pub(super) why: String,
}

/// What an operation may have done to the rows when it did not say so.
#[derive(Clone, Debug, Default)]
pub(super) struct Uncertain {
    pub(super) appears: Option<Number>,
    pub(super) vanishes: Option<Number>,
    /// Anything that nobody reads may have been evicted.
    pub(super) evicts: bool,
}

/// Those who read a blob, and what of it was evicted under them, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readers {
    pub(super) count: usize,
    pub(super) lingering: u64,
}

/// What the program is held to.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// The blobs that are held.
    pub(super) held: BTreeSet<Number>,
    pub(super) readers: BTreeMap<Number, Readers>,
    /// Files without a row that a power cut has left.
    pub(super) strays: BTreeSet<Number>,
    /// Rows whose file a power cut took.
    pub(super) bereft: BTreeSet<Number>,
    /// Blobs whose bytes a power cut may have taken.
    pub(super) doubtful: BTreeSet<Number>,
    /// Whether a blob was moved aside by this process.
    pub(super) has_condemned: bool,
    /// The blob that was moved aside last.
    pub(super) condemned: Option<Number>,
    /// The files below `blobs/`.
    present: BTreeSet<Number>,
    /// The files in `quarantine/`.
    aside: BTreeSet<Number>,
    /// Whether an operation of this process was made to fail: what it could not remove stays until the next start.
    pub(super) is_troubled: bool,
    /// Whether rows that came back in a power cut may take more than the cap, until space is made.
    pub(super) is_over: bool,
}

impl Model {
    /// Compares the rows with what was known and what the last operation may have done.
    pub(super) fn settle(&mut self, machine: &Machine, may: &Uncertain) -> Result<(), Broken> {
        let rows = machine.rows();
        for number in rows.difference(&self.held) {
            Promise::Survival.hold(may.appears == Some(*number), || {
                format!("{number} was not committed, yet it is held")
            })?;
        }
        for number in self.held.difference(&rows) {
            let is_read = self.readers.contains_key(number);
            Promise::PassedOver.hold(!may.evicts || !is_read, || format!("{number} is read"))?;
            let may_go = may.evicts || may.vanishes == Some(*number);
            Promise::Survival.hold(may_go, || format!("{number} is gone"))?;
        }
        self.bereft.retain(|number| rows.contains(number));
        self.doubtful.retain(|number| rows.contains(number));
        self.held = rows;
        Ok(())
    }

    /// Checks what holds between two operations. `reserved` is what is set aside, `counted` what the figures say.
    pub(super) fn check(
        &mut self,
        machine: &Machine,
        spools: usize,
        reserved: u64,
        counted: u64,
    ) -> Result<(), Broken> {
        let files = machine.files();
        self.count_lingering(&files);
        self.check_files(machine, &files)?;
        let is_tidy = files.spool.len() == spools || self.is_troubled;
        Promise::FilesHaveRows.hold(is_tidy, || format!("{spools} spools, {files:?}"))?;
        let rows: u64 = self.held.iter().map(|held| content(*held).blocks()).sum();
        let lingering: u64 = self.readers.values().map(|readers| readers.lingering).sum();
        let aside: u64 = files
            .quarantine
            .values()
            .map(|length| blocks(*length))
            .sum();
        let expected = rows + reserved + lingering + aside;
        // What is kept aside is counted by looking at it, which fails where the disk does.
        let is_vague = self.is_troubled && self.has_condemned;
        Promise::Figures.hold(counted == expected || is_vague, || {
            format!(
                "counted {counted}, but {rows} of blobs, {reserved} reserved, {lingering} read, {aside} aside"
            )
        })?;
        Promise::Cap.hold(self.is_over || counted <= machine.cap, || {
            format!("counted {counted} of {}", machine.cap)
        })?;
        let rest = if is_vague { aside + lingering } else { 0 };
        let (used, known) = (machine.disk.used(), self.known_rest(&files) + rest);
        Promise::Counted.hold(used <= counted + known, || {
            format!("{used} bytes on disk, {counted} counted, {known} are left over; {files:?}")
        })
    }

    /// A file that went while it was read counts until its last reader goes.
    fn count_lingering(&mut self, files: &Files) {
        let condemned = self.condemned.take();
        let (present, aside) = (&self.present, &self.aside);
        for (number, readers) in &mut self.readers {
            let is_aside = files.quarantine.contains_key(number);
            let was_moved = is_aside && condemned == Some(*number);
            let is_gone = present.contains(number) && !files.blobs.contains_key(number);
            if is_gone && !was_moved {
                readers.lingering += content(*number).blocks();
            }
            if aside.contains(number) && !is_aside {
                readers.lingering += content(*number).blocks();
            }
        }
        self.look(files);
    }

    fn look(&mut self, files: &Files) {
        self.present = files.blobs.keys().copied().collect();
        self.aside = files.quarantine.keys().copied().collect();
    }

    fn check_files(&mut self, machine: &Machine, files: &Files) -> Result<(), Broken> {
        let whole = files.of_right_length();
        // A commit whose row cannot be written has brought the file of an earlier row back.
        self.bereft.retain(|row| !whole.contains(row));
        for row in self.held.difference(&whole) {
            Promise::RowsHaveFiles.hold(self.bereft.contains(row), || {
                format!("{row} has no file, or one of another length")
            })?;
        }
        let notes = machine.notes();
        let found = |file: &Number| {
            notes.contains(file) || files.spool.iter().any(|(intended, _)| intended == file)
        };
        self.strays
            .retain(|stray| files.blobs.contains_key(stray) && !self.held.contains(stray));
        for file in self.present.difference(&self.held) {
            let is_known = self.strays.contains(file) || found(file);
            Promise::FilesHaveRows.hold(is_known, || format!("{file} has no row"))?;
        }
        Ok(())
    }

    /// What no row and no reservation stands for: strays, and what could not be removed.
    fn known_rest(&self, files: &Files) -> u64 {
        let blobs = files
            .blobs
            .iter()
            .filter(|(blob, _)| !self.held.contains(blob));
        let spools = files.spool.iter().filter(|_| self.is_troubled);
        let left: u64 = spools.map(|(_, length)| blocks(*length)).sum();
        left + blobs.map(|(_, length)| blocks(*length)).sum::<u64>()
    }

    /// What holds after a start.
    pub(super) fn check_start(&mut self, machine: &Machine) -> Result<(), Broken> {
        let files = machine.files();
        self.look(&files);
        self.has_condemned = false;
        Promise::CleanStart.hold(files.spool.is_empty(), || format!("{files:?}"))?;
        let notes = machine.notes();
        Promise::CleanStart.hold(notes.is_empty(), || format!("doomed: {notes:?}"))?;
        self.check_files(machine, &files)?;
        let mut damaged = machine.damaged();
        damaged.retain(|number| !self.doubtful.contains(number) && !self.strays.contains(number));
        damaged.retain(|number| !self.bereft.contains(number));
        Promise::Bytes.hold(damaged.is_empty(), || format!("damaged: {damaged:?}"))
    }

    /// Takes note of what a power cut has left, before the next start.
    pub(super) fn cut(&mut self, machine: &Machine, may: &Uncertain) -> Result<(), Broken> {
        let (rows, files) = (machine.rows(), machine.files());
        let (whole, damaged) = (files.of_right_length(), machine.damaged());
        let bereft: BTreeSet<_> = rows.difference(&whole).copied().collect();
        if machine.sync == Sync::Always {
            let is_sure = |number: &&Number| {
                self.held.contains(number)
                    && !self.bereft.contains(number)
                    && may.vanishes != Some(**number)
                    && !may.evicts
            };
            let lost: Vec<_> = bereft.iter().filter(is_sure).collect();
            Promise::Survival.hold(lost.is_empty(), || format!("lost in a power cut: {lost:?}"))?;
            Promise::Bytes.hold(damaged.is_empty(), || format!("damaged: {damaged:?}"))?;
        }
        let on_disk: BTreeSet<_> = files.blobs.keys().copied().collect();
        self.strays = on_disk.difference(&rows).copied().collect();
        self.bereft = bereft;
        self.doubtful = damaged;
        self.held = rows;
        self.is_over = true;
        Ok(())
    }
}
