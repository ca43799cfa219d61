//! The operations of a run.

use super::bugs::Bug;
use super::contents::{CONTENTS, Number, content};
use super::promises::{Broken, Promise};
use super::run::{Download, Reader, Simulation};
use crate::blobs::{HeldBlob, Lookup, Reservation, ReserveError};

const DOWNLOADS: usize = 4;
const READERS: usize = 4;

/// How much is set aside at a time where the length is unknown.
const AHEAD: u64 = 16 * 1024;

impl Simulation<'_> {
    fn extend(
        &mut self,
        held: Reservation,
        bytes: u64,
        is_failing: bool,
    ) -> Result<Result<Reservation, ()>, Broken> {
        self.may.evicts = true;
        let blobs = self.blobs();
        let (held, extended) = self.runtime.block_on(blobs.extend(held, bytes));
        match extended {
            Ok(()) => {
                self.model.is_over = false;
                Ok(Ok(held))
            }
            Err(ReserveError::NoRoom(_)) => Ok(Err(())),
            Err(error) => {
                self.expect_failure(is_failing, &format!("{error}"))?;
                Ok(Err(()))
            }
        }
    }

    pub(super) fn begin(&mut self, is_failing: bool) -> Result<(), Broken> {
        if self.downloads.len() == DOWNLOADS {
            return Ok(());
        }
        let number = self.random.usize(0..CONTENTS);
        let knows_length = self.random.bool();
        self.trace(format!("begin {number}, length known: {knows_length}"));
        let size = content(number).size();
        let blobs = self.blobs();
        let bytes = if knows_length { size } else { AHEAD };
        let Ok(reservation) = self.extend(blobs.reserve_nothing(), bytes, is_failing)? else {
            return Ok(());
        };
        match self.runtime.block_on(blobs.spool(content(number).digest)) {
            Ok(spool) => self.downloads.push(Download {
                number,
                spool,
                reservation: Some(reservation),
                written: 0,
                knows_length,
            }),
            Err(error) => self.expect_failure(is_failing, &format!("{error}"))?,
        }
        Ok(())
    }

    fn any_download(&mut self) -> Option<Download> {
        if self.downloads.is_empty() {
            return None;
        }
        let place = self.random.usize(0..self.downloads.len());
        Some(self.downloads.swap_remove(place))
    }

    pub(super) fn write(&mut self, is_failing: bool) -> Result<(), Broken> {
        let Some(mut download) = self.any_download() else {
            return Ok(());
        };
        let rest = content(download.number).bytes.len() - download.written;
        let length = self.random.usize(0..=rest);
        self.trace(format!("write {} {length}", download.number));
        if self.append(&mut download, length, is_failing)? {
            self.downloads.push(download);
        } else {
            self.discard(download);
        }
        Ok(())
    }

    /// Writes `length` bytes more, in space set aside before; whether that worked.
    fn append(
        &mut self,
        download: &mut Download,
        length: usize,
        is_failing: bool,
    ) -> Result<bool, Broken> {
        let end = download.written + length;
        while let Some(held) = download.reservation.take() {
            if held.bytes() >= end as u64 {
                download.reservation = Some(held);
                break;
            }
            match self.extend(held, AHEAD, is_failing)? {
                Ok(held) => download.reservation = Some(held),
                Err(()) => return Ok(false),
            }
        }
        let bytes = &content(download.number).bytes[download.written..end];
        let at = download.written as u64;
        if let Err(error) = download.spool.file.write_all_at(bytes, at) {
            self.trace(format!("  not written: {error}"));
            self.expect_failure(is_failing, &format!("write: {error}"))?;
            return Ok(false);
        }
        download.written = end;
        if let Some(reservation) = &mut download.reservation {
            reservation.written(end as u64);
        }
        Ok(true)
    }

    pub(super) fn commit(&mut self, is_failing: bool) -> Result<(), Broken> {
        let Some(mut download) = self.any_download() else {
            return Ok(());
        };
        let number = download.number;
        let rest = content(number).bytes.len() - download.written;
        self.trace(format!("commit {number}"));
        if !self.append(&mut download, rest, is_failing)? {
            self.discard(download);
            return Ok(());
        }
        if !download.knows_length
            && let Some(reservation) = &mut download.reservation
        {
            reservation.shrink();
        }
        // A download is begun for what is not held, so nobody reads an earlier file of it.
        self.finish_readers(number, is_failing)?;
        self.may.appears = Some(number);
        let was_held = self.model.held.contains(&number);
        let (blobs, content) = (self.blobs(), content(number));
        let (size, checksum) = (content.size(), content.checksum);
        let committed = blobs.commit(download.spool, size, checksum);
        let committed = self.runtime.block_on(committed);
        drop(download.reservation);
        if let Err(error) = &committed {
            self.trace(format!("  not committed: {error}"));
        }
        match committed {
            Ok(()) => {
                self.model.held.insert(number);
                self.model.bereft.remove(&number);
                self.model.doubtful.remove(&number);
            }
            Err(error) => {
                self.expect_failure(is_failing, &format!("{error}"))?;
                if !self.machine.power.is_off() && !was_held {
                    self.may.appears = None;
                }
            }
        }
        Ok(())
    }

    pub(super) fn abandon(&mut self) {
        if let Some(download) = self.any_download() {
            self.trace(format!("abandon {}", download.number));
            self.discard(download);
        }
    }

    pub(super) fn discard(&mut self, download: Download) {
        let blobs = self.blobs();
        self.runtime.block_on(blobs.discard(download.spool));
        if self.bug == Some(Bug::LostReservation) {
            std::mem::forget(download.reservation);
        }
    }

    pub(super) fn open(&mut self, is_failing: bool) -> Result<(), Broken> {
        let number = self.something();
        let (digest, size) = (content(number).digest, content(number).size());
        self.trace(format!("open {number}"));
        let (blobs, was_held) = (self.blobs(), self.model.held.contains(&number));
        // What a power cut took is noticed before anything of it is served.
        let was_bereft =
            self.model.bereft.contains(&number) || self.model.doubtful.contains(&number);
        let looked_up = self.runtime.block_on(blobs.open(digest));
        // A blob of before a power cut that cannot be read counts as damaged.
        let is_failing = is_failing || self.machine.power.is_off();
        if was_bereft || is_failing {
            self.may.vanishes = Some(number);
        }
        match looked_up {
            Ok(Lookup::Held(blob)) => {
                let is_right = was_held && blob.size == size && !was_bereft;
                Promise::Survival.hold(is_right, || {
                    format!(
                        "{number} has {}, held {was_held}, bereft {was_bereft}",
                        blob.size
                    )
                })?;
                self.keep_reader(number, blob);
                let is_read_at_once = self.random.bool() || self.readers.len() > READERS;
                if is_read_at_once && let Some(reader) = self.readers.pop() {
                    self.finish(reader, is_failing)?;
                }
            }
            Ok(Lookup::Absent) => {
                Promise::Survival.hold(!was_held, || format!("{number} is not found"))?;
            }
            Ok(Lookup::Lost) => {
                self.model.has_condemned = true;
                self.model.condemned = Some(number);
                let may_be = was_bereft || is_failing;
                Promise::Survival.hold(may_be, || format!("{number} is found lost"))?;
            }
            Err(error) => self.expect_failure(is_failing, &format!("{error}"))?,
        }
        Ok(())
    }

    /// Rather a blob that is held.
    fn something(&mut self) -> Number {
        let held: Vec<_> = self.model.held.iter().copied().collect();
        match self.random.choice(held) {
            Some(number) if self.random.u8(0..10) > 0 => number,
            _ => self.random.usize(0..CONTENTS),
        }
    }

    fn keep_reader(&mut self, number: Number, blob: HeldBlob) {
        self.model.readers.entry(number).or_default().count += 1;
        self.readers.push(Reader {
            number,
            blob,
            read: 0,
        });
    }

    pub(super) fn read_on(&mut self, is_failing: bool) -> Result<(), Broken> {
        if self.readers.is_empty() {
            return Ok(());
        }
        let place = self.random.usize(0..self.readers.len());
        let mut reader = self.readers.swap_remove(place);
        self.trace(format!("read {}", reader.number));
        if self.random.bool() {
            return self.finish(reader, is_failing);
        }
        let rest = content(reader.number).bytes.len() - reader.read;
        let length = self.random.usize(0..=rest);
        self.read(&mut reader, length, is_failing)?;
        self.readers.push(reader);
        Ok(())
    }

    fn read(&self, reader: &mut Reader, length: usize, is_failing: bool) -> Result<(), Broken> {
        let mut buffer = vec![0; length];
        let read = match reader.blob.file.read_at(&mut buffer, reader.read as u64) {
            Ok(read) => read,
            Err(error) => return self.expect_failure(is_failing, &format!("read: {error}")),
        };
        let expected = &content(reader.number).bytes[reader.read..][..length];
        Promise::Bytes.hold(&buffer[..read] == expected, || {
            format!("{} at {}, {read} of {length}", reader.number, reader.read)
        })?;
        reader.read += length;
        Ok(())
    }

    /// Reads to the end and goes.
    fn finish(&mut self, mut reader: Reader, is_failing: bool) -> Result<(), Broken> {
        let rest = content(reader.number).bytes.len() - reader.read;
        let result = self.read(&mut reader, rest, is_failing);
        let number = reader.number;
        drop(reader);
        let readers = self.model.readers.get_mut(&number).unwrap();
        readers.count -= 1;
        if readers.count == 0 {
            self.model.readers.remove(&number);
        }
        result
    }

    fn finish_readers(&mut self, number: Number, is_failing: bool) -> Result<(), Broken> {
        let readers = std::mem::take(&mut self.readers);
        let (those, others) = readers
            .into_iter()
            .partition(|reader| reader.number == number);
        self.readers = others;
        let those: Vec<Reader> = those;
        those
            .into_iter()
            .try_for_each(|reader| self.finish(reader, is_failing))
    }

    pub(super) fn condemn(&mut self, is_failing: bool) -> Result<(), Broken> {
        let number = self.something();
        self.trace(format!("condemn {number}"));
        self.may.vanishes = Some(number);
        self.model.has_condemned = true;
        self.model.condemned = Some(number);
        let reading = self.blobs().reading(content(number).digest);
        self.runtime.block_on(reading.condemn("for the test"));
        let is_gone = !self.machine.rows().contains(&number);
        let may_fail = is_failing || self.machine.power.is_off();
        Promise::Survival.hold(is_gone || may_fail, || format!("{number} was condemned"))
    }

    /// Removes files without rows, as is done after a power cut.
    pub(super) fn tidy_up(&mut self, is_failing: bool) -> Result<(), Broken> {
        self.trace("tidy up".to_owned());
        let blobs = self.blobs();
        let removed = (0..=u8::MAX).try_for_each(|shard| blobs.remove_strays_of(shard).map(drop));
        match removed {
            Ok(()) => {
                if !self.model.is_troubled {
                    self.model.strays.clear();
                }
                Ok(())
            }
            Err(error) => self.expect_failure(is_failing, &format!("{error}")),
        }
    }

    /// Sets much aside for nothing, so that others give way.
    pub(super) fn press(&mut self, is_failing: bool) -> Result<(), Broken> {
        let bytes = self.random.u64(0..self.machine.cap);
        self.trace(format!("press {bytes}"));
        let nothing = self.blobs().reserve_nothing();
        self.extend(nothing, bytes, is_failing).map(drop)
    }

    pub(super) fn use_something(&mut self, is_failing: bool) -> Result<(), Broken> {
        let number = self.something();
        self.trace(format!("use {number}"));
        let blobs = self.blobs();
        blobs.note_use(content(number).digest);
        if self.random.bool() && self.runtime.block_on(blobs.write_uses()).is_err() {
            self.expect_failure(is_failing, "the uses are not written")?;
        }
        Ok(())
    }
}
