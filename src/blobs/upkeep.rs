//! What is done to blobs that nobody asks for: letting the old ones go, and reading each again from time to time.
//!
//! All of it goes in small steps that survive the end of the process, reads no more of the index at once than a page,
//! and makes way for clients.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Blobs, BlobsError, HeldBlob, NoRoom, ReserveError, Trust, read};
use crate::index::{IndexError, Walked};
use crate::oci::{Digest, Hasher};
use crate::sys::clock::{self, Timestamp};
use crate::sys::tasks;

/// How many rows are looked at between two pauses.
const PAGE: u64 = 256;
const PAUSE: Duration = Duration::from_millis(20);

/// How often blobs are looked at for their age.
const EXPIRY_PERIOD: Duration = Duration::from_mins(10);

/// How much is hashed at a time, and per second; while clients are served, an eighth of that.
const STEP: u64 = 1024 * 1024;
const RATE: u64 = 16 * STEP;
const BUSY_DIVISOR: u32 = 8;

/// How long after the start a scrub begins: clients, and whatever else a booted machine starts, come first.
const SCRUB_DELAY: Duration = Duration::from_mins(1);

/// How long to wait after a failure of the disk or the index, and how often to look whether a scrub is due.
const RETRY: Duration = Duration::from_mins(1);

/// The place of a scrub is noted after so many blobs, or so many bytes.
const NOTED_BLOBS: u64 = 100;
const NOTED_BYTES: u64 = 64 * STEP;

const SCRUB: &str = "scrub";

/// When cached blobs go without being in anybody's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Blobs that were stored longer ago go.
    pub max_age: Option<Duration>,
    /// Blobs that were last used longer ago go.
    pub unused_for: Option<Duration>,
}

impl Expiry {
    fn is_over(&self, blob: &Walked, now: Timestamp) -> bool {
        let longer = |limit: Option<Duration>, since| {
            let age = now.since(since).unwrap_or_default();
            limit.is_some_and(|limit| age > limit)
        };
        !blob.pinned && (longer(self.max_age, blob.stored) || longer(self.unused_for, blob.used))
    }
}

/// How far a scrub has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// When this pass began.
    began: Timestamp,
    /// The last blob that was read; `None` at the beginning and, with `done`, at the end.
    after: Option<Digest>,
    done: bool,
}

impl Blobs {
    /// Lets blobs go that are too old, until `closing`.
    pub async fn expire_always(self, expiry: Expiry, closing: impl Future<Output = ()>) {
        if expiry == Expiry::default() {
            return;
        }
        let mut closing = pin!(closing);
        while clock::timeout(EXPIRY_PERIOD, &mut closing).await.is_err() {
            match self.expire(expiry).await {
                Ok(0) => {}
                Ok(gone) => info!(gone, "blobs that were too old were removed"),
                Err(error) => warn!(%error, "blobs that are too old cannot be removed"),
            }
        }
    }

    /// Removes the blobs that are too old now; yields their number. Pinned ones stay, and those that are read.
    pub async fn expire(&self, expiry: Expiry) -> Result<u64, IndexError> {
        self.write_uses().await?;
        let (mut after, mut gone) = (None, 0);
        loop {
            let this = self.clone();
            let page = tasks::blocking(move || this.expire_page(expiry, after));
            let (last, removed) = page.await?;
            gone += removed;
            if last.is_none() {
                return Ok(gone);
            }
            after = last;
            clock::sleep(PAUSE).await;
        }
    }

    fn expire_page(
        &self,
        expiry: Expiry,
        after: Option<Digest>,
    ) -> Result<(Option<Digest>, u64), IndexError> {
        self.space.pins.refresh(&*self.index)?;
        let page = self.index.walk_blobs(after, PAGE)?;
        let now = self.clock.wall();
        let over = |blob: &&Walked| expiry.is_over(blob, now) && !self.space.is_read(blob.digest);
        let gone: Vec<_> = page.iter().filter(over).map(|blob| blob.digest).collect();
        self.space.remove(&gone)?;
        Ok((page.last().map(|blob| blob.digest), gone.len() as u64))
    }

    /// Evicts what is over the cap, which may have been lowered since the last run. Pulls get their turn in between.
    ///
    /// # Errors
    /// There is no room for anything.
    pub async fn make_room(&self) -> Result<(), ReserveError> {
        loop {
            match self.extend(self.reserve_nothing(), 1).await.1 {
                Err(ReserveError::NoRoom(NoRoom::NotYet { .. })) => clock::sleep(PAUSE).await,
                made => return made,
            }
        }
    }

    /// Reads every blob again once per `period`, until `closing`.
    pub async fn scrub_always(self, period: Option<Duration>, closing: impl Future<Output = ()>) {
        let Some(period) = period else { return };
        let scrubbing = async {
            clock::sleep(SCRUB_DELAY.min(period)).await;
            loop {
                if let Err(error) = self.scrub(period).await {
                    warn!(%error, "the scrub pauses");
                }
                clock::sleep(RETRY.min(period)).await;
            }
        };
        tasks::until(closing, scrubbing).await;
    }

    /// Goes on with the scrub to the end of its pass, or begins a new one if `period` is over since the last began.
    pub async fn scrub(&self, period: Duration) -> Result<(), BlobsError> {
        let mut place = self.place().await?;
        if place.done {
            let age = self.clock.wall().since(place.began).unwrap_or_default();
            if age < period {
                return Ok(());
            }
            place = Place::default();
        }
        if place.after.is_none() {
            place.began = self.clock.wall();
        }
        self.scrub_from(place).await
    }

    async fn scrub_from(&self, mut place: Place) -> Result<(), BlobsError> {
        let (mut blobs, mut bytes) = (0, 0);
        while let Some(next) = self.next_after(place.after).await? {
            self.scrub_blob(next.digest).await?;
            place.after = Some(next.digest);
            blobs += 1;
            bytes += next.size;
            if blobs >= NOTED_BLOBS || bytes >= NOTED_BYTES {
                (blobs, bytes) = (0, 0);
                self.note_place(place).await?;
            }
        }
        self.remove_strays().await?;
        place = Place {
            after: None,
            done: true,
            ..place
        };
        Ok(self.note_place(place).await?)
    }

    async fn next_after(&self, after: Option<Digest>) -> Result<Option<Walked>, IndexError> {
        let index = Arc::clone(&self.index);
        let page = tasks::blocking(move || index.walk_blobs(after, 1)).await?;
        Ok(page.into_iter().next())
    }

    /// Reads one blob, slowly; one that does not have its digest is out of the way after that.
    async fn scrub_blob(&self, digest: Digest) -> Result<(), BlobsError> {
        let this = self.clone();
        let (found, trust) = tasks::blocking(move || this.find(digest)).await?;
        let super::Lookup::Held(held) = found else {
            // Where much is missing, each of them costs a line of log and a row.
            clock::sleep(PAUSE).await;
            return Ok(());
        };
        if !self.is_right(digest, &held).await {
            held.reading
                .condemn("the scrub found that it does not have its digest")
                .await;
        } else if trust == Trust::Unverified {
            let this = self.clone();
            tasks::blocking(move || this.confirm(digest)).await?;
        }
        Ok(())
    }

    async fn is_right(&self, digest: Digest, held: &HeldBlob) -> bool {
        let (mut hasher, mut at) = (Hasher::new(digest.algorithm()), 0);
        while at < held.size {
            let (file, end) = (Arc::clone(&held.file), held.size.min(at + STEP));
            let step = tasks::blocking(move || {
                let read = read::hash(&*file, &mut hasher, at, end);
                read.map(|()| hasher)
            });
            let Ok(taken) = step.await else { return false };
            clock::sleep(self.pace(end - at)).await;
            (hasher, at) = (taken, end);
        }
        hasher.finish() == digest
    }

    /// How long to rest after `bytes`.
    fn pace(&self, bytes: u64) -> Duration {
        let rest = Duration::from_micros(bytes.saturating_mul(1_000_000) / RATE);
        // The scrub is a reader itself.
        if self.space.readers() > 1 {
            rest * BUSY_DIVISOR
        } else {
            rest
        }
    }

    /// In a new epoch, removes the files whose rows a power cut has taken, until `closing`.
    pub async fn tidy_up(self, closing: impl Future<Output = ()>) {
        if !self.current().is_new {
            return;
        }
        let removing = async {
            if let Err(error) = self.remove_strays().await {
                warn!(%error, "files that the index does not know stay until the next scrub");
            }
        };
        tasks::until(closing, removing).await;
    }

    /// Removes files that no row knows: a power cut may lose the row of a blob and keep its file.
    pub async fn remove_strays(&self) -> Result<(), BlobsError> {
        for shard in 0..=u8::MAX {
            let this = self.clone();
            let removed = tasks::blocking(move || this.remove_strays_of(shard)).await?;
            if removed > 0 {
                info!(removed, "files that the index does not know were removed");
            }
            clock::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub(super) fn remove_strays_of(&self, shard: u8) -> Result<usize, BlobsError> {
        let mut strays = Vec::new();
        for digest in self.store.list(shard)? {
            if self.index.blob(digest)?.is_none() {
                strays.push(digest);
            }
        }
        if !strays.is_empty() {
            // Looked at once more there, one by one, while none is being committed.
            self.space.unlink(&strays)?;
        }
        Ok(strays.len())
    }

    async fn place(&self) -> Result<Place, IndexError> {
        let index = Arc::clone(&self.index);
        let noted = tasks::blocking(move || index.note(SCRUB)).await?;
        Ok(noted.as_deref().and_then(parse).unwrap_or_default())
    }

    async fn note_place(&self, place: Place) -> Result<(), IndexError> {
        let index = Arc::clone(&self.index);
        tasks::blocking(move || index.set_notes(&[(SCRUB, &format(place))])).await
    }
}

/// `<milliseconds> <digest>`, or `<milliseconds> done` at the end of a pass.
fn format(place: Place) -> String {
    let began = place.began.as_millis();
    match place.after {
        Some(digest) => format!("{began} {digest}"),
        None => format!("{began} done"),
    }
}

fn parse(text: &str) -> Option<Place> {
    let (began, rest) = text.split_once(' ')?;
    let done = rest == "done";
    let after = (!done).then(|| rest.parse()).transpose().ok()?;
    let began = Timestamp::from_millis(began.parse().ok()?);
    Some(Place { began, after, done })
}
