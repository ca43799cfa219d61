//! Around the cache: one reader's own transfer, when the disk cannot or shall not take part.
//!
//! Nothing is shared and nothing is kept. The rule about the tail holds all the same: the last bytes of a whole blob
//! are handed out only once the digest of all of it matched.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::machine::{HELD_BACK, Machine, Step};
use super::{FetchError, Source};
use crate::oci::{Digest, Hasher};
use crate::sys::{clock, random, tasks};
use crate::upstream::{BlobBody, Doubt};

/// A transfer of a blob, from an offset on, to one reader.
pub(super) struct Direct {
    source: Arc<dyn Source>,
    digest: Digest,
    machine: Machine,
    step: Option<Step>,
    body: Option<BlobBody>,
    /// Raised when the last body was not the blob, or not all of it.
    doubt: Option<Doubt>,
    /// The hash state of all bytes so far; `None` for a part of a blob, which has no digest.
    hasher: Option<Hasher>,
    /// Bytes that wait for the digest, or for the reader.
    held: VecDeque<Bytes>,
    held_bytes: u64,
    verified: bool,
}

impl Direct {
    /// A transfer from `offset` on. `hasher` has the bytes before it, when the whole blob is wanted; `stated` is the
    /// length by a manifest.
    pub(super) fn new(
        source: Arc<dyn Source>,
        digest: Digest,
        stated: Option<u64>,
        offset: u64,
        hasher: Option<Hasher>,
    ) -> Self {
        let machine = Machine::new(stated, offset, source.retries());
        let step = Some(machine.start());
        Self {
            source,
            digest,
            machine,
            step,
            body: None,
            doubt: None,
            verified: hasher.is_none(),
            hasher,
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Whether a part of the blob is wanted, which has no digest; only meant before it is read.
    pub(super) const fn is_part(&self) -> bool {
        self.verified
    }

    /// Waits until the upstream answers; yields the blob's length in bytes, if it is known.
    pub(super) async fn opened(&mut self) -> Result<Option<u64>, FetchError> {
        while self.body.is_none() && !self.is_over() {
            self.advance().await?;
        }
        Ok(self.machine.total())
    }

    /// The next bytes, or `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if let Some(chunk) = self.release() {
                return Ok(Some(chunk));
            }
            if self.is_over() {
                return Ok(None);
            }
            self.advance().await?;
        }
    }

    fn is_over(&self) -> bool {
        self.step.is_none()
    }

    /// The oldest held bytes, if they are not of the tail.
    fn release(&mut self) -> Option<Bytes> {
        let length = self.held.front()?.len() as u64;
        let rest = self.held_bytes.saturating_sub(length);
        if !self.verified && rest < HELD_BACK {
            return None;
        }
        self.held_bytes = rest;
        self.held.pop_front()
    }

    /// One step further.
    async fn advance(&mut self) -> Result<(), FetchError> {
        let Some(step) = self.step.take() else {
            return Ok(());
        };
        self.step = match step {
            Step::Open { offset, backoff } => {
                self.body = None;
                if !backoff.is_zero() {
                    clock::sleep(random::jittered(backoff)).await;
                }
                Some(self.open(offset).await)
            }
            Step::Receive => Some(self.receive().await?),
            Step::Verify => self.verify()?,
            // What the reader has cannot be taken back.
            Step::Restart => {
                return Err(FetchError::Gap {
                    host: self.source.name(),
                    expected: 0,
                    found: 0,
                });
            }
            Step::NextSource(error) => return Err(FetchError::Refused(error)),
            Step::End(error) => return Err(error),
        };
        Ok(())
    }

    async fn open(&mut self, offset: u64) -> Step {
        self.raise_doubt();
        match self.source.open(offset).await {
            Ok(mut body) => {
                let step = self.machine.opened(&body.host, body.start, body.total);
                self.doubt = body.take_doubt();
                if matches!(step, Step::End(_)) && self.doubt.is_some() {
                    return self.machine.start();
                }
                self.body = Some(body);
                step
            }
            Err(error) => self.machine.open_failed(error),
        }
    }

    /// The source of the last body is not to be asked for this blob again, if there is another one.
    fn raise_doubt(&mut self) {
        if let Some(doubt) = self.doubt.take() {
            doubt.raise();
        }
    }

    async fn receive(&mut self) -> Result<Step, FetchError> {
        let Some(body) = self.body.as_mut() else {
            return Ok(self.machine.start());
        };
        let stall = self.source.stall();
        match clock::timeout(stall, body.next_chunk()).await {
            Ok(Some(Ok(chunk))) => self.take(chunk).await,
            Ok(Some(Err(error))) => Ok(self.machine.failed(error)),
            Ok(None) => Ok(self.machine.body_ended()),
            Err(_) => {
                let stalled = self.machine.stalled(stall);
                Ok(self.machine.failed(stalled))
            }
        }
    }

    async fn take(&mut self, mut chunk: Bytes) -> Result<Step, FetchError> {
        let counted = self.machine.chunk(chunk.len() as u64);
        let skipped = counted.inspect_err(|_| self.raise_doubt())?;
        let fresh = chunk.split_off(
            usize::try_from(skipped)
                .unwrap_or(usize::MAX)
                .min(chunk.len()),
        );
        if let Some(mut hasher) = self.hasher.take() {
            let hashed = fresh.clone();
            let update = move || {
                hasher.update(&hashed);
                hasher
            };
            self.hasher = Some(tasks::blocking(update).await);
        }
        if !fresh.is_empty() {
            self.held_bytes = self.held_bytes.saturating_add(fresh.len() as u64);
            self.held.push_back(fresh);
        }
        Ok(self.machine.after_chunk())
    }

    fn verify(&mut self) -> Result<Option<Step>, FetchError> {
        self.body = None;
        if let Some(hasher) = self.hasher.take() {
            let found = hasher.finish();
            if found != self.digest {
                self.raise_doubt();
                return Err(self.machine.mismatch(self.digest, found));
            }
        }
        self.verified = true;
        Ok(None)
    }
}
