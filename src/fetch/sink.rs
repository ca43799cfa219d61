//! Where arriving bytes go: hashed and written on the blocking pool, one batch at a time.
//!
//! While a batch is being hashed and written, at the same time, the next one gathers: receiving, hashing and writing
//! overlap, and memory per download is bounded by two batches.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{self, BoxFuture};

use crate::oci::{Algorithm, Checksummer, Hasher};
use crate::sys::fs::DiskFile;
use crate::sys::tasks;

/// When so many bytes are gathered, receiving waits for the batch before them.
const BATCH: usize = 512 * 1024;

/// While more is coming at once, a batch waits for so many bytes: each costs changes of thread.
const START: usize = 256 * 1024;

/// From so many bytes on, a batch is hashed and written on two threads.
const PARALLEL: usize = 128 * 1024;

type Written = (Tally, io::Result<u64>);

/// What is computed of the bytes as they pass.
#[derive(Clone)]
pub(super) struct Tally {
    pub(super) hasher: Hasher,
    pub(super) checksum: Checksummer,
}

impl Tally {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self {
            hasher: Hasher::new(algorithm),
            checksum: Checksummer::default(),
        }
    }

    fn with(mut self, batch: &[Bytes]) -> Self {
        for chunk in batch {
            self.hasher.update(chunk);
            self.checksum.update(chunk);
        }
        self
    }
}

pub(super) struct Sink {
    file: Arc<dyn DiskFile>,
    /// What `written` bytes amount to; away while a batch is being written.
    tally: Option<Tally>,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    running: Option<BoxFuture<'static, Written>>,
    written: u64,
}

impl Sink {
    /// A sink for the bytes of `file` from `written` on.
    pub(super) fn new(file: Arc<dyn DiskFile>, tally: Tally, written: u64) -> Self {
        Self {
            file,
            tally: Some(tally),
            gathered: Vec::new(),
            gathered_bytes: 0,
            running: None,
            written,
        }
    }

    /// How many bytes are hashed and in the file.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Whether another chunk may be gathered now.
    pub(super) const fn has_room(&self) -> bool {
        self.gathered_bytes < BATCH
    }

    /// Whether a batch is being written.
    pub(super) const fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Whether bytes are gathered that could be started on.
    pub(super) const fn is_waiting(&self) -> bool {
        self.running.is_none() && self.gathered_bytes > 0
    }

    /// Adds a chunk, and starts on what is gathered when the sink is idle and that is enough.
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.gathered_bytes = self.gathered_bytes.saturating_add(chunk.len());
        self.gathered.push(chunk);
        if self.gathered_bytes >= START {
            self.start();
        }
    }

    /// Starts on what is gathered, if the sink is idle.
    pub(super) fn start(&mut self) {
        if self.running.is_some() || self.gathered.is_empty() {
            return;
        }
        let Some(tally) = self.tally.take() else {
            return;
        };
        let batch: Arc<[Bytes]> = std::mem::take(&mut self.gathered).into();
        let bytes = std::mem::take(&mut self.gathered_bytes);
        let (file, offset) = (Arc::clone(&self.file), self.written);
        let hashed = Arc::clone(&batch);
        let hash = move || tally.with(&hashed);
        let write = move || write(&*file, &batch, offset);
        self.running = Some(if bytes < PARALLEL {
            tasks::begin_blocking(move || (hash(), write())).boxed()
        } else {
            future::join(tasks::begin_blocking(hash), tasks::begin_blocking(write)).boxed()
        });
    }

    /// Waits for the batch that is being written, and starts on the next. Pending for ever when there is none.
    ///
    /// # Errors
    /// The disk failed; the sink is of no use any more.
    pub(super) async fn advance(&mut self) -> io::Result<()> {
        let Some(running) = self.running.as_mut() else {
            return std::future::pending().await;
        };
        let (tally, result) = running.await;
        self.running = None;
        self.tally = Some(tally);
        self.written = result?;
        self.start();
        Ok(())
    }

    /// Waits until everything that was pushed is written.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.start();
        while self.is_busy() {
            self.advance().await?;
        }
        Ok(())
    }

    /// What [`written`](Self::written) bytes amount to; `None` while a batch is being written.
    pub(super) const fn tally(&self) -> Option<&Tally> {
        self.tally.as_ref()
    }
}

fn write(file: &dyn DiskFile, batch: &[Bytes], mut offset: u64) -> io::Result<u64> {
    for chunk in batch {
        file.write_all_at(chunk, offset)?;
        offset = offset.saturating_add(chunk.len() as u64);
    }
    Ok(offset)
}
