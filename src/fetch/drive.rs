//! Flies a flight: carries out what the machine decides, on tokio.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, info, warn};

use super::flight::{Flight, Progress};
use super::machine::{Machine, Step, is_beyond_the_end};
use super::part::Part;
use super::sink::Sink;
use super::{FetchError, Shared, Source};
use crate::blobs::Lookup;
use crate::oci::{Digest, Hasher};
use crate::store::Spool;
use crate::sys::fs::DiskFile;
use crate::sys::{clock, random};
use crate::upstream::{BlobBody, UpstreamError};

/// Runs `flight` to its end.
pub(super) async fn run(shared: Arc<Shared>, flight: Arc<Flight>) {
    let landing = Landing {
        shared: &shared,
        flight: &flight,
    };
    if let Err(error) = fly(&shared, &flight).await {
        landing.fail(error, None);
    }
}

/// Takes the flight off the list when its task ends, however it ends.
struct Landing<'a> {
    shared: &'a Arc<Shared>,
    flight: &'a Arc<Flight>,
}

impl Landing<'_> {
    fn fail(&self, error: FetchError, readable: Option<(Arc<dyn DiskFile>, u64)>) {
        self.shared.ends.count(Err(&error));
        self.shared.land(self.flight);
        self.flight
            .progress
            .send_replace(Progress::Failed { error, readable });
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.shared.land(self.flight);
        self.flight.progress.send_if_modified(|progress| {
            let unfinished = matches!(progress, Progress::Opening | Progress::Streaming { .. });
            if unfinished {
                *progress = Progress::Failed {
                    error: FetchError::Closing,
                    readable: None,
                };
            }
            unfinished
        });
    }
}

/// From take-off to the committed blob.
async fn fly(shared: &Arc<Shared>, flight: &Arc<Flight>) -> Result<(), FetchError> {
    // Committed between the request's look into the cache and the start of this flight.
    if let Lookup::Held(blob) = shared
        .blobs
        .open(flight.digest)
        .await
        .map_err(|error| disk(&error))?
    {
        flight.progress.send_replace(Progress::Complete {
            file: blob.file,
            size: blob.size,
        });
        return Ok(());
    }
    let mut download = Download::prepare(shared, flight).await?;
    match download.run().await {
        Ok(size) => download.commit(size).await,
        Err(error) => download.fail(error).await,
    }
    Ok(())
}

fn disk(error: &dyn fmt::Display) -> FetchError {
    FetchError::Disk {
        reason: error.to_string(),
    }
}

/// A download in progress.
struct Download<'a> {
    shared: &'a Arc<Shared>,
    flight: &'a Arc<Flight>,
    machine: Machine,
    sink: Sink,
    /// Away once it is committed, kept as a part or discarded.
    spool: Option<Spool>,
    body: Option<BlobBody>,
    stall: Duration,
}

impl<'a> Download<'a> {
    /// Resumes the part that is kept, or starts with an empty spool.
    async fn prepare(shared: &'a Arc<Shared>, flight: &'a Arc<Flight>) -> Result<Self, FetchError> {
        let (source, size) = current(flight)?;
        let part = match shared.parts.take(flight.digest) {
            Some(part) => part,
            None => Part {
                spool: shared
                    .blobs
                    .spool(flight.digest)
                    .await
                    .map_err(|error| disk(&error))?,
                hasher: Hasher::new(flight.digest.algorithm()),
                received: 0,
            },
        };
        let machine = Machine::new(size, part.received, source.retries());
        let sink = Sink::new(Arc::clone(&part.spool.file), part.hasher, part.received);
        let spool = Some(part.spool);
        Ok(Self {
            shared,
            flight,
            machine,
            sink,
            spool,
            body: None,
            stall: source.stall(),
        })
    }

    /// Follows the machine until the bytes are there and verified; yields their number.
    async fn run(&mut self) -> Result<u64, FetchError> {
        let mut step = self.machine.start();
        loop {
            step = match step {
                Step::Open { offset, backoff } => self.open(offset, backoff).await?,
                Step::Receive => self.receive().await?,
                Step::NextSource(error) if !self.shared.next_source(self.flight) => {
                    return Err(FetchError::Refused(error));
                }
                Step::NextSource(_) => self.machine.start(),
                Step::Restart => self.restart().await?,
                // One repository's manifest lies about the length. That is no reason to fail the others.
                Step::End(FetchError::Length { .. })
                    if self.machine.is_untouched() && self.shared.next_source(self.flight) =>
                {
                    self.restart().await?
                }
                Step::Verify => return self.verify().await,
                Step::End(error) => return Err(error),
            };
        }
    }

    async fn open(&mut self, offset: u64, backoff: Duration) -> Result<Step, FetchError> {
        self.body = None;
        let (source, _) = current(self.flight)?;
        self.stall = source.stall();
        let opening = async {
            if !backoff.is_zero() {
                clock::sleep(random::jittered(backoff)).await;
            }
            source.open(offset).await
        };
        let opened = tokio::select! {
            opened = opening => opened,
            () = deserted(self.shared, self.flight, self.machine.missing()) => {
                return self.abandon().await.map(|()| Step::Open { offset, backoff });
            }
        };
        Ok(match opened {
            Ok(body) => self.accept(body),
            Err(error) => self.machine.open_failed(error),
        })
    }

    /// Throws the resumed part away and begins again with an empty spool.
    async fn restart(&mut self) -> Result<Step, FetchError> {
        if let Some(spool) = self.spool.take() {
            self.shared.blobs.discard(spool).await;
        }
        *self = Self::prepare(self.shared, self.flight).await?;
        Ok(self.machine.start())
    }

    fn accept(&mut self, body: BlobBody) -> Step {
        let step = self.machine.opened(&body.host, body.start, body.total);
        self.body = Some(body);
        // What is about to be verified is not announced: an empty blob has no tail to hold back.
        if matches!(step, Step::Receive) {
            self.publish();
        }
        step
    }

    /// Takes chunks until something else is to be done.
    async fn receive(&mut self) -> Result<Step, FetchError> {
        loop {
            let Some(body) = self.body.as_mut() else {
                return Ok(self.machine.start());
            };
            let next = tokio::select! {
                biased;
                written = self.sink.advance(), if self.sink.is_busy() => Next::Written(written),
                chunk = clock::timeout(self.stall, body.next_chunk()), if self.sink.has_room() => {
                    match chunk {
                        Ok(Some(Ok(chunk))) => Next::Chunk(chunk),
                        Ok(Some(Err(error))) => Next::Broken(error),
                        Ok(None) => Next::Ended,
                        Err(_) => Next::Broken(self.machine.stalled(self.stall)),
                    }
                }
                () = deserted(self.shared, self.flight, self.machine.missing()) => Next::Deserted,
            };
            match next {
                Next::Written(result) => {
                    result.map_err(|error| disk(&error))?;
                    self.publish();
                }
                Next::Chunk(chunk) => match self.take(chunk)? {
                    Step::Receive => {}
                    step => return Ok(step),
                },
                Next::Broken(error) => return self.interrupted(error).await,
                Next::Ended => return Ok(self.machine.body_ended()),
                Next::Deserted => self.abandon().await?,
            }
        }
    }

    fn take(&mut self, mut chunk: Bytes) -> Result<Step, FetchError> {
        let skipped = self.machine.chunk(chunk.len() as u64)?;
        let fresh = chunk.split_off(
            usize::try_from(skipped)
                .unwrap_or(usize::MAX)
                .min(chunk.len()),
        );
        if !fresh.is_empty() {
            self.sink.push(fresh);
        }
        Ok(self.machine.after_chunk())
    }

    /// The body broke. A claimed length may have been wrong: the digest decides.
    async fn interrupted(&mut self, error: UpstreamError) -> Result<Step, FetchError> {
        debug!(digest = %self.flight.digest, %error, "a download was interrupted");
        self.body = None;
        self.sink.flush().await.map_err(|error| disk(&error))?;
        self.publish();
        if self.machine.may_be_complete() && self.is_match() {
            return Ok(self.machine.complete_early());
        }
        Ok(self.machine.failed(error))
    }

    async fn verify(&mut self) -> Result<u64, FetchError> {
        self.body = None;
        self.sink.flush().await.map_err(|error| disk(&error))?;
        if self.is_match() {
            return Ok(self.sink.written());
        }
        let found = self.computed().unwrap_or(self.flight.digest);
        Err(self.machine.mismatch(self.flight.digest, found))
    }

    fn is_match(&self) -> bool {
        self.computed() == Some(self.flight.digest)
    }

    fn computed(&self) -> Option<Digest> {
        self.sink.hasher().map(|hasher| hasher.clone().finish())
    }

    /// Lets the readers have what is written, but for the tail.
    fn publish(&self) {
        let Some(spool) = &self.spool else { return };
        self.flight.progress.send_replace(Progress::Streaming {
            file: Arc::clone(&spool.file),
            total: self.machine.total(),
            published: self.machine.publishable(self.sink.written()),
        });
    }

    /// Nobody reads: ends the download and keeps the part, unless somebody joined just now.
    async fn abandon(&mut self) -> Result<(), FetchError> {
        self.sink.flush().await.map_err(|error| disk(&error))?;
        let Self {
            shared,
            flight,
            sink,
            spool,
            ..
        } = self;
        let landed = shared.land_if_unread(flight, || {
            part(spool, sink).and_then(|part| shared.parts.keep(part))
        });
        match landed {
            None => Ok(()),
            Some(replaced) => {
                discard(shared, replaced).await;
                Err(FetchError::Abandoned)
            }
        }
    }

    /// The readers go on at once; keeping the blob is a matter of its own.
    async fn commit(mut self, size: u64) {
        let Some(spool) = self.spool.take() else {
            return;
        };
        let file = Arc::clone(&spool.file);
        self.flight
            .progress
            .send_replace(Progress::Complete { file, size });
        self.shared.ends.count(Ok(()));
        match self.shared.blobs.commit(spool, size).await {
            Ok(()) => debug!(digest = %self.flight.digest, size, "blob cached"),
            Err(error) => {
                warn!(digest = %self.flight.digest, %error, "a verified blob could not be kept");
            }
        }
    }

    async fn fail(mut self, error: FetchError) {
        info!(digest = %self.flight.digest, end = error.label(), %error, "a download ended without its blob");
        self.body = None;
        let flushed = self.sink.flush().await;
        let file = self.spool.as_ref().map(|spool| Arc::clone(&spool.file));
        let published = self.machine.publishable(self.sink.written());
        let resumable = flushed.is_ok() && is_resumable(&error);
        if resumable && let Some(part) = part(&mut self.spool, &self.sink) {
            discard(self.shared, self.shared.parts.keep(part)).await;
        }
        if let Some(spool) = self.spool.take() {
            self.shared.blobs.discard(spool).await;
        }
        let readable = file.filter(|_| resumable).map(|file| (file, published));
        let landing = Landing {
            shared: self.shared,
            flight: self.flight,
        };
        landing.fail(error, readable);
    }
}

/// What happened while receiving.
enum Next {
    Written(io::Result<()>),
    Chunk(Bytes),
    Broken(UpstreamError),
    Ended,
    Deserted,
}

fn current(flight: &Flight) -> Result<(Arc<dyn Source>, Option<u64>), FetchError> {
    flight.source().ok_or(FetchError::Closing)
}

/// Whether what came so far is worth keeping.
fn is_resumable(error: &FetchError) -> bool {
    match error {
        FetchError::Upstream(error) => !is_beyond_the_end(error),
        FetchError::Abandoned | FetchError::Closing => true,
        _ => false,
    }
}

/// The spool as a part that can be resumed, if anything of it is there.
fn part(spool: &mut Option<Spool>, sink: &Sink) -> Option<Part> {
    let received = sink.written();
    let hasher = sink.hasher().filter(|_| received > 0)?.clone();
    spool.take().map(|spool| Part {
        spool,
        hasher,
        received,
    })
}

async fn discard(shared: &Shared, part: Option<Part>) {
    if let Some(part) = part {
        shared.blobs.discard(part.spool).await;
    }
}

/// Resolves when nobody reads the flight and it is not worth finishing: too much is missing, or the process closes.
async fn deserted(shared: &Shared, flight: &Flight, missing: Option<u64>) {
    let affordable = missing.is_some_and(|missing| missing <= shared.settings.finish_abandoned);
    if affordable {
        shared.tasks.closing().await;
    }
    while flight.readers() > 0 {
        flight.unread.notified().await;
    }
}
