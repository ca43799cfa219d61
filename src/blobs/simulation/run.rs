//! One run: operations drawn from a seed, and the end of the process in the midst of them.

use fastrand::Rng;
use tokio::runtime::Runtime;

use super::bugs::Bug;
use super::contents::Number;
use super::machine::Machine;
use super::promises::{Broken, Model, Promise, Uncertain};
use crate::blobs::{Blobs, HeldBlob, Reservation};
use crate::store::{Spool, Sync};
use crate::sys::fs::Fault;

const OPERATIONS: usize = 60;

/// A download that is under way.
pub(super) struct Download {
    pub(super) number: Number,
    pub(super) spool: Spool,
    /// Away only while it is extended.
    pub(super) reservation: Option<Reservation>,
    pub(super) written: usize,
    pub(super) knows_length: bool,
}

/// A reader that may outlive the blob.
pub(super) struct Reader {
    pub(super) number: Number,
    pub(super) blob: HeldBlob,
    pub(super) read: usize,
}

/// A machine, the process on it, and what it is held to.
pub(super) struct Simulation<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) random: Rng,
    pub(super) bug: Option<Bug>,
    pub(super) machine: Machine,
    pub(super) model: Model,
    pub(super) blobs: Option<Blobs>,
    pub(super) downloads: Vec<Download>,
    pub(super) readers: Vec<Reader>,
    /// What the operation that runs may do without saying so.
    pub(super) may: Uncertain,
    pub(super) trace: Vec<String>,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(runtime: &'a Runtime, seed: u64, bug: Option<Bug>) -> Self {
        let mut random = Rng::with_seed(seed);
        let cap = random.u64(96..768) * 1024;
        let total = cap + *random.choice(&[16 * 1024, 10 * cap]).unwrap();
        let sync = match *random.choice(&[Sync::Always, Sync::Never]).unwrap() {
            Sync::Never if bug.is_none() => Sync::Never,
            _ => Sync::Always,
        };
        Self {
            runtime,
            random,
            bug,
            machine: Machine::new(sync, total, cap, bug),
            model: Model::default(),
            blobs: None,
            downloads: Vec::new(),
            readers: Vec::new(),
            may: Uncertain::default(),
            trace: vec![format!("cap {cap} of {total}, {sync:?}")],
        }
    }

    pub(super) fn run(&mut self) -> Result<(), Broken> {
        self.start()?;
        for _ in 0..OPERATIONS {
            self.may = Uncertain::default();
            let is_failing = self.arrange_failure();
            self.operate(is_failing)?;
            self.machine.faults.heal();
            self.machine.index.heal();
            if !self.machine.power.is_off() {
                self.model.settle(&self.machine, &self.may)?;
                self.may = Uncertain::default();
                self.check()?;
            }
            if self.machine.power.is_off() {
                self.end()?;
                self.start()?;
            }
        }
        self.end()?;
        self.start()
    }

    /// Sometimes has one of the next operations of disk or index fail, or all of them.
    fn arrange_failure(&mut self) -> bool {
        let n = self.random.u64(0..6);
        match self.random.u8(0..24) {
            0 => self.machine.power.stop_at(self.random.u64(0..12)),
            1 => {
                self.machine.index.fail_at(n / 2);
                self.trace(format!("the index fails at {}", n / 2));
            }
            2 | 3 => {
                let faults = [Fault::Broken, Fault::Full, Fault::ShortWrite];
                let fault = *self.random.choice(&faults).unwrap();
                let count = self.random.u64(1..3);
                self.machine.faults.fail_at(n, count, fault);
                self.trace(format!("{fault:?} at {n}, {count} times"));
            }
            _ => return false,
        }
        self.model.is_troubled = true;
        true
    }

    fn operate(&mut self, is_failing: bool) -> Result<(), Broken> {
        self.machine
            .clock
            .advance(std::time::Duration::from_secs(1));
        match self.random.u8(0..100) {
            0..18 => self.begin(is_failing),
            18..36 => self.write(is_failing),
            36..56 => self.commit(is_failing),
            56..60 => {
                self.abandon();
                Ok(())
            }
            60..78 => self.open(is_failing),
            78..86 => self.read_on(is_failing),
            86..90 => self.condemn(is_failing),
            90..93 => self.press(is_failing),
            93..95 => self.use_something(is_failing),
            95..97 => {
                self.machine.index.checkpoint();
                Ok(())
            }
            97 if self.random.bool() => self.tidy_up(is_failing),
            97 => {
                self.trace("end".to_owned());
                self.machine.power.stop_at(0);
                self.machine.power.draw().unwrap_err();
                Ok(())
            }
            _ => self.restart(),
        }
    }

    pub(super) fn trace(&mut self, line: String) {
        self.trace.push(line);
    }

    pub(super) fn blobs(&self) -> Blobs {
        self.blobs.clone().unwrap()
    }

    /// Whether a failure is one that was arranged.
    pub(super) fn expect_failure(&self, is_failing: bool, what: &str) -> Result<(), Broken> {
        let is_expected = is_failing || self.machine.power.is_off();
        Promise::Success.hold(is_expected, || what.to_owned())
    }

    fn check(&mut self) -> Result<(), Broken> {
        let reservations = self.downloads.iter().flat_map(|one| &one.reservation);
        let reserved = reservations.map(Reservation::bytes).sum();
        let blobs = self.blobs();
        let Ok((counted, cap)) = self.runtime.block_on(blobs.figures()) else {
            return self.expect_failure(false, "no figures");
        };
        Promise::Cap.hold(cap == self.machine.cap, || format!("the cap is {cap}"))?;
        self.model
            .check(&self.machine, self.downloads.len(), reserved, counted)
    }

    /// An orderly end and a start.
    fn restart(&mut self) -> Result<(), Broken> {
        self.trace("restart".to_owned());
        for download in std::mem::take(&mut self.downloads) {
            self.discard(download);
        }
        self.machine.faults.heal();
        self.machine.index.heal();
        if self.random.bool() {
            self.trace("reboot".to_owned());
            self.machine.reboot();
        }
        self.settle_end()?;
        self.start()
    }

    /// The process is gone: killed, or with the power.
    fn end(&mut self) -> Result<(), Broken> {
        self.downloads.clear();
        if self.random.bool() {
            self.trace("kill".to_owned());
            self.machine.power.restore();
            return self.settle_end();
        }
        self.readers.clear();
        self.blobs = None;
        let lost = self.machine.cut(self.random.u64(..));
        self.trace(format!("power cut, {lost} transactions lost"));
        self.machine.power.restore();
        self.model.readers.clear();
        self.model.cut(&self.machine, &self.may)?;
        self.may = Uncertain::default();
        Ok(())
    }

    fn settle_end(&mut self) -> Result<(), Broken> {
        self.model.settle(&self.machine, &self.may)?;
        self.may = Uncertain::default();
        self.readers.clear();
        self.model.readers.clear();
        self.blobs = None;
        Ok(())
    }

    /// Starts a process, however often it ends while it recovers.
    fn start(&mut self) -> Result<(), Broken> {
        loop {
            if self.random.u8(0..4) == 0 {
                let n = self.random.u64(0..10);
                self.trace(format!("start, the power goes at {n}"));
                self.machine.power.stop_at(n);
            }
            let started = self.machine.start().and_then(|blobs| {
                let boot = self.machine.boot();
                self.runtime.block_on(blobs.recover(Some(&boot)))?;
                Ok(blobs)
            });
            match started {
                Ok(blobs) if !self.machine.power.is_off() => {
                    self.machine.power.restore();
                    self.blobs = Some(blobs);
                    self.model.is_troubled = false;
                    return self.model.check_start(&self.machine);
                }
                Ok(_) => {}
                Err(error) => self.expect_failure(false, &format!("start: {error}"))?,
            }
            self.end()?;
        }
    }
}
