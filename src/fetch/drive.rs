//! Flies a flight: carries out what the machine decides, on tokio.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use tracing::{debug, info, warn};

use super::flight::{Flight, Progress};
use super::machine::{Machine, Step, is_beyond_the_end};
use super::part::Part;
use super::sink::{Sink, Tally};
use super::{FetchError, Shared, Source};
use crate::blobs::{Lookup, Reservation, ReserveError};
use crate::oci::Digest;
use crate::store::Spool;
use crate::sys::fs::DiskFile;
use crate::sys::{clock, random};
use crate::upstream::{BlobBody, Doubt, UpstreamError};

/// The space that a download of unknown length sets aside at a time.
const STRIDE: u64 = 16 * 1024 * 1024;

/// Runs `flight` to its end.
pub(super) async fn run(shared: Arc<Shared>, flight: Arc<Flight>) {
    let landing = Landing {
        shared: &shared,
        flight: &flight,
    };
    if let Err(error) = fly(&shared, &flight).await {
        let stated = flight.source().and_then(|(_, size)| size);
        landing.fail(error, stated, None, None);
    }
}

/// Takes the flight off the list when its task ends, however it ends.
struct Landing<'a> {
    shared: &'a Arc<Shared>,
    flight: &'a Arc<Flight>,
}

impl Landing<'_> {
    /// `space` is what the readable file takes; it is given back when the last reader has left.
    fn fail(
        &self,
        error: FetchError,
        total: Option<u64>,
        readable: Option<(Arc<dyn DiskFile>, u64)>,
        space: Option<Reservation>,
    ) {
        self.shared.ends.count(Err(&error));
        self.shared.land(self.flight);
        self.flight.progress.send_replace(Progress::Failed {
            error,
            total,
            readable,
            _space: space.map(Arc::new),
        });
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
                    total: None,
                    readable: None,
                    _space: None,
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
            _reading: blob.reading,
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
    /// Raised when the last body was not the blob, or not all of it.
    doubt: Option<Doubt>,
    stall: Duration,
    /// The space that is set aside for the spool.
    reservation: Option<Reservation>,
}

impl<'a> Download<'a> {
    /// Resumes the part that is kept, or starts with an empty spool.
    async fn prepare(shared: &'a Arc<Shared>, flight: &'a Arc<Flight>) -> Result<Self, FetchError> {
        let (source, size) = current(flight)?;
        let part = match shared.parts.take(flight.digest) {
            Some(part) => part,
            None => Part {
                // Where a manifest states the length, no upstream is asked for what there is no room for.
                reservation: match size {
                    Some(size) => Some(reserve(shared, None, size).await?),
                    None => None,
                },
                spool: shared
                    .blobs
                    .spool(flight.digest)
                    .await
                    .map_err(|error| disk(&error))?,
                tally: Tally::new(flight.digest.algorithm()),
                received: 0,
            },
        };
        let machine = Machine::new(size, part.received, source.retries());
        let sink = Sink::new(Arc::clone(&part.spool.file), part.tally, part.received);
        Ok(Self {
            shared,
            flight,
            machine,
            sink,
            spool: Some(part.spool),
            body: None,
            doubt: None,
            stall: source.stall(),
            reservation: part.reservation,
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
                Step::Verify => match self.verify().await {
                    Err(FetchError::Mismatch { .. }) if self.is_worth_another_source() => {
                        self.restart().await?
                    }
                    verified => return verified,
                },
                Step::End(error) => return Err(error),
            };
        }
    }

    async fn open(&mut self, offset: u64, backoff: Duration) -> Result<Step, FetchError> {
        self.body = None;
        self.raise_doubt();
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
        let step = match opened {
            Ok(body) => self.accept(body),
            Err(error) => self.machine.open_failed(error),
        };
        if matches!(step, Step::Receive) {
            self.make_room().await?;
            // What is about to be verified is not announced: an empty blob has no tail to hold back.
            self.publish();
        }
        Ok(step)
    }

    /// Sets space aside for all of the blob or, while its length is unknown, for what comes next.
    async fn make_room(&mut self) -> Result<(), FetchError> {
        let received = self.machine.received();
        let wanted = self
            .machine
            .total()
            .unwrap_or_else(|| received.saturating_add(STRIDE));
        let held = self.reservation.as_ref().map_or(0, Reservation::bytes);
        if let Some(more) = wanted.checked_sub(held).filter(|more| *more > 0) {
            self.reservation = Some(reserve(self.shared, self.reservation.take(), more).await?);
        }
        Ok(())
    }

    /// Throws what is here away and begins again with an empty spool.
    async fn restart(&mut self) -> Result<Step, FetchError> {
        self.raise_doubt();
        if let Some(spool) = self.spool.take() {
            self.shared.blobs.discard(spool).await;
        }
        // Given back first: the new spool takes its place.
        self.reservation = None;
        *self = Self::prepare(self.shared, self.flight).await?;
        Ok(self.machine.start())
    }

    fn accept(&mut self, mut body: BlobBody) -> Step {
        let step = self.machine.opened(&body.host, body.start, body.total);
        self.doubt = body.take_doubt();
        if matches!(step, Step::End(_)) && self.raise_doubt() {
            return self.machine.start();
        }
        self.body = Some(body);
        step
    }

    /// The source of the last body is not to be asked for this blob again. Whether there is another one.
    fn raise_doubt(&mut self) -> bool {
        match self.doubt.take() {
            Some(doubt) => {
                doubt.raise();
                true
            }
            None => false,
        }
    }

    /// Whether other bytes may be had in place of those that are here, and no reader has any of these.
    fn is_worth_another_source(&self) -> bool {
        self.doubt.is_some() && self.machine.publishable(self.sink.written()) == 0
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
                // Nothing more has come: what has is not to wait.
                () = future::ready(()), if self.sink.is_waiting() => Next::Quiet,
                () = deserted(self.shared, self.flight, self.machine.missing()) => Next::Deserted,
            };
            match next {
                Next::Written(result) => {
                    result.map_err(|error| disk(&error))?;
                    self.publish();
                }
                Next::Chunk(chunk) => match self.take(chunk)? {
                    Step::Receive if self.outgrows() => self.make_room().await?,
                    Step::Receive => {}
                    step => return Ok(step),
                },
                Next::Quiet => self.sink.start(),
                Next::Broken(error) => return self.interrupted(error).await,
                Next::Ended => return Ok(self.machine.body_ended()),
                Next::Deserted => self.abandon().await?,
            }
        }
    }

    /// Whether a blob of unknown length needs more space than is set aside.
    fn outgrows(&self) -> bool {
        let held = self.reservation.as_ref().map_or(0, Reservation::bytes);
        self.machine.received().saturating_add(STRIDE / 2) > held && self.machine.total().is_none()
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
        let tally = self.sink.tally()?;
        Some(tally.hasher.clone().finish())
    }

    /// Lets the readers have what is written, but for the tail.
    fn publish(&mut self) {
        let written = self.sink.written();
        if let Some(reservation) = &mut self.reservation {
            reservation.written(written);
        }
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
            reservation,
            ..
        } = self;
        let landed = shared.land_if_unread(flight, || {
            part(spool, sink, reservation).and_then(|part| shared.parts.keep(part))
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
        let (Some(spool), Some(tally)) = (self.spool.take(), self.sink.tally()) else {
            return;
        };
        let checksum = tally.checksum.clone().finish();
        let file = Arc::clone(&spool.file);
        self.flight.progress.send_replace(Progress::Complete {
            file,
            size,
            _reading: self.shared.blobs.reading(self.flight.digest),
        });
        self.shared.ends.count(Ok(()));
        match self.shared.blobs.commit(spool, size, checksum).await {
            Ok(()) => debug!(digest = %self.flight.digest, size, "blob cached"),
            Err(error) => {
                warn!(digest = %self.flight.digest, %error, "a verified blob could not be kept");
            }
        }
    }

    async fn fail(mut self, error: FetchError) {
        info!(digest = %self.flight.digest, end = error.label(), %error, "a download ended without its blob");
        self.body = None;
        if !is_our_own(&error) {
            self.raise_doubt();
        }
        let flushed = self.sink.flush().await;
        let file = self.spool.as_ref().map(|spool| Arc::clone(&spool.file));
        let published = self.machine.publishable(self.sink.written());
        let resumable = flushed.is_ok() && is_resumable(&error);
        if resumable && let Some(part) = part(&mut self.spool, &self.sink, &mut self.reservation) {
            discard(self.shared, self.shared.parts.keep(part)).await;
        }
        if let Some(spool) = self.spool.take() {
            self.shared.blobs.discard(spool).await;
        }
        // Whoever goes around the cache hashes once more what it has had.
        let useful = resumable || error.bypass().is_some();
        let readable = file.filter(|_| useful).map(|file| (file, published));
        let landing = Landing {
            shared: self.shared,
            flight: self.flight,
        };
        landing.fail(
            error,
            self.machine.total(),
            readable,
            self.reservation.take(),
        );
    }
}

/// What happened while receiving.
enum Next {
    Written(io::Result<()>),
    Chunk(Bytes),
    Quiet,
    Broken(UpstreamError),
    Ended,
    Deserted,
}

fn current(flight: &Flight) -> Result<(Arc<dyn Source>, Option<u64>), FetchError> {
    flight.source().ok_or(FetchError::Closing)
}

/// Sets `bytes` more aside. Parts that nobody waits for give way first.
async fn reserve(
    shared: &Shared,
    held: Option<Reservation>,
    bytes: u64,
) -> Result<Reservation, FetchError> {
    let failed = |error: ReserveError| match error {
        ReserveError::NoRoom(reason) => FetchError::NoRoom {
            reason: reason.to_string(),
        },
        error => disk(&error),
    };
    let mut held = held.unwrap_or_else(|| shared.blobs.reserve_nothing());
    for attempt in 0..2 {
        let (back, extended) = shared.blobs.extend(held, bytes).await;
        held = back;
        match extended {
            Err(ReserveError::NoRoom(_)) if attempt == 0 => shared.parts.clear().await,
            extended => return extended.map(|()| held).map_err(failed),
        }
    }
    Ok(held)
}

/// Whether the download ended for a reason that says nothing of who sent the bytes.
const fn is_our_own(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Disk { .. }
            | FetchError::NoRoom { .. }
            | FetchError::Abandoned
            | FetchError::Closing
    )
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
fn part(
    spool: &mut Option<Spool>,
    sink: &Sink,
    reservation: &mut Option<Reservation>,
) -> Option<Part> {
    let received = sink.written();
    let tally = sink.tally().filter(|_| received > 0)?.clone();
    let spool = spool.take()?;
    let mut reservation = reservation.take();
    if let Some(reservation) = &mut reservation {
        reservation.shrink();
    }
    Some(Part {
        spool,
        tally,
        received,
        reservation,
    })
}

async fn discard(shared: &Shared, part: Option<Part>) {
    if let Some(part) = part {
        shared.blobs.discard(part.spool).await;
    }
}

/// Resolves when nobody reads the flight and it is not worth finishing: too much is missing, or the process closes.
async fn deserted(shared: &Shared, flight: &Flight, missing: Option<u64>) {
    let limit = shared.settings.get().finish_abandoned;
    let affordable = missing.is_some_and(|missing| missing <= limit);
    if affordable {
        shared.tasks.closing().await;
    }
    while flight.readers() > 0 {
        flight.unread.notified().await;
    }
}
