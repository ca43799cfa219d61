//! The decisions of one download, as a plain type: no task, no clock, no disk.
//!
//! The driver tells the machine what happened and does what it says next. Invariants:
//! - readers get no byte that is not written, and the last [`HELD_BACK`] bytes are published only by verification;
//! - an attempt is spent by every failure, and given back only by progress, so the number of attempts is bounded
//!   by the length of the blob;
//! - a wait for a transfer slot that was in vain says nothing of the upstream: it spends no attempt, and has a bound
//!   of its own;
//! - a length that a manifest states binds every answer.

use std::time::Duration;

use super::FetchError;
use crate::oci::Digest;
use crate::upstream::{Phase, UpstreamError};

/// How many bytes at the end of a blob wait for its digest.
pub(super) const HELD_BACK: u64 = 64 * 1024;

/// Progress that gives the spent attempts back.
const REFILL: u64 = 1024 * 1024;

/// How many waits for a transfer slot may be in vain in a row. Each lasts as long as the upstream's time limit.
const SLOT_WAITS: u32 = 20;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// What the driver does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Wait, then open the upstream at the offset.
    Open { offset: u64, backoff: Duration },
    /// Take the next chunk.
    Receive,
    /// Everything is here: compare the digest.
    Verify,
    /// Throw away what is here and begin again: it comes from an earlier download, and nobody continues it.
    Restart,
    /// Ask the next source, because this one has no right to the blob.
    NextSource(UpstreamError),
    /// Give up.
    End(FetchError),
}

/// One download.
#[derive(Debug)]
pub(super) struct Machine {
    /// The length that a manifest states, or that the first answer named.
    total: Option<u64>,
    /// Whether `total` comes from a manifest.
    binding: bool,
    /// Bytes in the spool.
    received: u64,
    /// Whether what is in the spool comes from an earlier download, and no answer has continued it yet.
    inherited: bool,
    /// Bytes of the current answer that are in the spool already.
    skip: u64,
    /// Failures since the last refill.
    failures: u32,
    /// Waits for a transfer slot in vain since the last one that was not.
    slot_waits: u32,
    /// `received` when failures were last forgiven.
    refilled: u64,
    retries: u32,
    /// Who sends the current answer, for errors.
    host: String,
}

impl Machine {
    /// A download of which `received` bytes are there already. `stated` is the length by a manifest.
    pub(super) fn new(stated: Option<u64>, received: u64, retries: u32) -> Self {
        Self {
            total: stated,
            binding: stated.is_some(),
            received,
            inherited: received > 0,
            skip: 0,
            failures: 0,
            slot_waits: 0,
            refilled: received,
            retries,
            host: String::new(),
        }
    }

    /// The length of the whole blob, once it is known.
    pub(super) const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Whether nothing has come yet.
    pub(super) const fn is_untouched(&self) -> bool {
        self.received == 0
    }

    /// How many bytes have come.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes are still missing, if that is known.
    pub(super) fn missing(&self) -> Option<u64> {
        self.total.map(|total| total.saturating_sub(self.received))
    }

    /// How many of the `written` bytes the readers may have before the digest is known to match: all but the tail.
    /// While the length is unknown any byte may be of the tail, so that much is held back of what is there.
    pub(super) fn publishable(&self, written: u64) -> u64 {
        match self.total {
            Some(total) => written.min(total.saturating_sub(HELD_BACK)),
            None => written.saturating_sub(HELD_BACK),
        }
    }

    /// The first step.
    pub(super) fn start(&self) -> Step {
        Step::Open {
            offset: self.received,
            backoff: Duration::ZERO,
        }
    }

    /// `host` answers with a body from `start` on of a blob of `total` bytes.
    pub(super) fn opened(&mut self, host: &str, start: u64, total: Option<u64>) -> Step {
        host.clone_into(&mut self.host);
        self.slot_waits = 0;
        if let (Some(known), Some(claimed)) = (self.total, total)
            && known != claimed
        {
            return Step::End(FetchError::Length {
                host: self.host.clone(),
                expected: known,
                found: claimed,
            });
        }
        self.total = self.total.or(total);
        self.inherited = false;
        match self.received.checked_sub(start) {
            Some(skip) => {
                self.skip = skip;
                self.proceed()
            }
            None => Step::End(FetchError::Gap {
                host: self.host.clone(),
                expected: self.received,
                found: start,
            }),
        }
    }

    fn proceed(&self) -> Step {
        match self.missing() {
            Some(0) => Step::Verify,
            _ => Step::Receive,
        }
    }

    /// The upstream could not be opened.
    pub(super) fn open_failed(&mut self, error: UpstreamError) -> Step {
        match error {
            UpstreamError::NotFound { .. }
            | UpstreamError::Denied { .. }
            | UpstreamError::CredentialsRefused { .. } => Step::NextSource(error),
            UpstreamError::BadAnswer { .. } if self.inherited => Step::Restart,
            error if is_beyond_the_end(&error) && self.inherited => Step::Restart,
            error if is_beyond_the_end(&error) => Step::End(FetchError::Upstream(error)),
            UpstreamError::Offline { .. } => Step::End(FetchError::Upstream(error)),
            // At the very start a bad answer is the answer. In the middle another try may do better.
            UpstreamError::BadAnswer { .. }
            | UpstreamError::RateLimited { .. }
            | UpstreamError::Suspended { .. }
                if self.received == 0 =>
            {
                Step::End(FetchError::Upstream(error))
            }
            // Silence lasts as long as the time limit each time, and somebody waits: it is put up with once more.
            UpstreamError::Unreachable {
                phase: Phase::FirstByte,
                ..
            } if self.received == 0 && self.failures > 0 => Step::End(FetchError::Upstream(error)),
            error => self.failed(error),
        }
    }

    /// `length` bytes arrived. Returns which of them are new, as offsets into the chunk.
    ///
    /// # Errors
    /// The blob is longer than it may be.
    pub(super) fn chunk(&mut self, length: u64) -> Result<u64, FetchError> {
        let skipped = self.skip.min(length);
        self.skip -= skipped;
        let received = self.received.saturating_add(length - skipped);
        match self.total {
            Some(total) if received > total => Err(FetchError::Length {
                host: self.host.clone(),
                expected: total,
                found: received,
            }),
            _ => {
                self.received = received;
                Ok(skipped)
            }
        }
    }

    /// What to do after a chunk.
    pub(super) fn after_chunk(&self) -> Step {
        self.proceed()
    }

    /// The body ended as its framing said it would.
    pub(super) fn body_ended(&mut self) -> Step {
        match self.total {
            Some(total) if self.received < total => {
                let ended = "the body ended early".to_owned();
                self.failed(self.broken(Phase::Body, ended))
            }
            Some(_) => Step::Verify,
            None => {
                self.total = Some(self.received);
                Step::Verify
            }
        }
    }

    /// No byte came for `stall`.
    pub(super) fn stalled(&self, stall: Duration) -> UpstreamError {
        let reason = format!("no byte for {}", humantime::format_duration(stall));
        self.broken(Phase::Stall, reason)
    }

    /// The bytes that are there are not those of the digest.
    pub(super) fn mismatch(&self, expected: Digest, found: Digest) -> FetchError {
        FetchError::Mismatch {
            host: self.host.clone(),
            expected: Box::new(expected),
            found: Box::new(found),
        }
    }

    fn broken(&self, phase: Phase, reason: String) -> UpstreamError {
        UpstreamError::Unreachable {
            host: self.host.clone(),
            phase,
            reason,
        }
    }

    /// The bytes that are there have the digest, whatever length was claimed.
    pub(super) fn complete_early(&mut self) -> Step {
        self.total = Some(self.received);
        Step::Verify
    }

    /// Whether the bytes that are there could be all of the blob although more were claimed.
    pub(super) fn may_be_complete(&self) -> bool {
        !self.binding && self.received > 0
    }

    /// The body broke off, or the upstream could not be opened for a passing reason.
    pub(super) fn failed(&mut self, error: UpstreamError) -> Step {
        if is_slot_wait(&error) {
            return self.waited_in_vain(error);
        }
        self.slot_waits = 0;
        if self.received.saturating_sub(self.refilled) >= REFILL {
            self.failures = 0;
            self.refilled = self.received;
        }
        if self.failures >= self.retries {
            return Step::End(FetchError::Upstream(error));
        }
        let backoff = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(10))
            .min(LAST_BACKOFF);
        self.failures += 1;
        Step::Open {
            offset: self.received,
            backoff,
        }
    }

    /// No transfer slot became free. Queues again at once, since the wait was pause enough.
    fn waited_in_vain(&mut self, error: UpstreamError) -> Step {
        if self.slot_waits >= SLOT_WAITS {
            return Step::End(FetchError::Upstream(error));
        }
        self.slot_waits += 1;
        Step::Open {
            offset: self.received,
            backoff: Duration::ZERO,
        }
    }
}

/// Whether no transfer slot became free: all of them are in use by other downloads.
fn is_slot_wait(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::Unreachable {
            phase: Phase::Slot,
            ..
        }
    )
}

/// Whether the upstream has nothing at the offset asked for: what is here is at least as long as its blob, and wrong.
pub(super) fn is_beyond_the_end(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Status { status: 416, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    const KIB: u64 = 1024;
    const CDN: &str = "cdn";

    fn broken() -> UpstreamError {
        UpstreamError::Unreachable {
            host: "cdn".into(),
            phase: Phase::Body,
            reason: "reset".into(),
        }
    }

    fn absent() -> UpstreamError {
        UpstreamError::NotFound {
            host: "registry".into(),
        }
    }

    #[test]
    fn the_tail_is_held_back_until_verification() {
        let mut machine = Machine::new(Some(100 * KIB), 0, 5);
        assert!(matches!(
            machine.start(),
            Step::Open {
                offset: 0,
                backoff: Duration::ZERO
            }
        ));
        assert!(matches!(
            machine.opened(CDN, 0, Some(100 * KIB)),
            Step::Receive
        ));
        machine.chunk(99 * KIB).unwrap();
        assert_eq!(machine.publishable(20 * KIB), 20 * KIB);
        assert_eq!(machine.publishable(99 * KIB), 36 * KIB);
        assert!(matches!(machine.after_chunk(), Step::Receive));
        machine.chunk(KIB).unwrap();
        assert_eq!(machine.publishable(100 * KIB), 36 * KIB);
        assert!(matches!(machine.after_chunk(), Step::Verify));
    }

    #[test]
    fn without_a_length_any_byte_may_be_the_tail() {
        let mut machine = Machine::new(None, 0, 5);
        assert!(matches!(machine.opened(CDN, 0, None), Step::Receive));
        machine.chunk(100 * KIB).unwrap();
        assert_eq!(machine.publishable(100 * KIB), 36 * KIB);
        assert!(matches!(machine.body_ended(), Step::Verify));
        assert_eq!(machine.total(), Some(100 * KIB));
    }

    #[test]
    fn a_broken_body_is_resumed_where_it_stopped() {
        let mut machine = Machine::new(None, 0, 5);
        machine.opened(CDN, 0, Some(10));
        machine.chunk(6).unwrap();
        assert!(
            matches!(machine.failed(broken()), Step::Open { offset: 6, backoff } if !backoff.is_zero())
        );
        assert!(matches!(machine.opened(CDN, 6, Some(10)), Step::Receive));
        assert_eq!(machine.chunk(4).unwrap(), 0);
        assert!(matches!(machine.after_chunk(), Step::Verify));
    }

    #[test]
    fn an_ignored_range_is_skipped_over() {
        let mut machine = Machine::new(None, 6, 5);
        assert!(matches!(machine.opened(CDN, 0, Some(10)), Step::Receive));
        assert_eq!(machine.chunk(4).unwrap(), 4);
        assert_eq!(machine.chunk(4).unwrap(), 2);
        assert_eq!(machine.missing(), Some(2));
    }

    #[test]
    fn an_answer_from_beyond_the_offset_ends_the_download() {
        let mut machine = Machine::new(None, 6, 5);
        assert!(matches!(
            machine.opened(CDN, 7, Some(10)),
            Step::End(FetchError::Gap { .. })
        ));
    }

    #[test]
    fn lengths_that_disagree_end_the_download() {
        let mut machine = Machine::new(Some(10), 0, 5);
        assert!(matches!(
            machine.opened(CDN, 0, Some(11)),
            Step::End(FetchError::Length { .. })
        ));
        let mut machine = Machine::new(Some(10), 0, 5);
        machine.opened(CDN, 0, None);
        machine.chunk(11).unwrap_err();
    }

    #[test]
    fn a_refused_source_gives_way_to_the_next() {
        assert!(matches!(
            Machine::new(None, 0, 5).open_failed(absent()),
            Step::NextSource(_)
        ));
    }

    #[test]
    fn a_part_that_nobody_continues_is_thrown_away() {
        let status = |status| UpstreamError::Status {
            host: CDN.into(),
            status,
        };
        let bad = || UpstreamError::BadAnswer {
            host: CDN.into(),
            reason: "another part".into(),
        };
        let inherited = || Machine::new(None, 6, 5);
        for error in [status(416), bad()] {
            assert!(matches!(inherited().open_failed(error), Step::Restart));
        }
        assert!(matches!(
            inherited().open_failed(status(503)),
            Step::Open { offset: 6, .. }
        ));
        let mut continued = inherited();
        continued.opened(CDN, 6, None);
        assert!(matches!(
            continued.open_failed(bad()),
            Step::Open { offset: 6, .. }
        ));
        assert!(matches!(
            continued.open_failed(status(416)),
            Step::End(FetchError::Upstream(_))
        ));
    }

    #[test]
    fn silence_at_the_very_start_is_put_up_with_once_more() {
        let silence = || UpstreamError::Unreachable {
            host: "registry".into(),
            phase: Phase::FirstByte,
            reason: "no answer".into(),
        };
        for (received, patience) in [(0, 1), (6, 5)] {
            let mut machine = Machine::new(None, 0, 5);
            machine.opened(CDN, 0, Some(10));
            machine.chunk(received).unwrap();
            for _ in 0..patience {
                assert!(matches!(machine.open_failed(silence()), Step::Open { .. }));
            }
            assert!(matches!(
                machine.open_failed(silence()),
                Step::End(FetchError::Upstream(_))
            ));
        }
    }

    #[test]
    fn attempts_are_bounded_without_progress_and_come_back_with_it() {
        let mut machine = Machine::new(None, 0, 3);
        machine.opened(CDN, 0, Some(100 * REFILL));
        for _ in 0..3 {
            assert!(matches!(machine.failed(broken()), Step::Open { .. }));
        }
        machine.chunk(REFILL).unwrap();
        assert!(matches!(
            machine.failed(broken()),
            Step::Open {
                backoff: FIRST_BACKOFF,
                ..
            }
        ));
        machine.chunk(REFILL - 1).unwrap();
        for _ in 0..2 {
            assert!(matches!(machine.failed(broken()), Step::Open { .. }));
        }
        assert!(matches!(
            machine.failed(broken()),
            Step::End(FetchError::Upstream(_))
        ));
    }

    #[test]
    fn waits_for_a_slot_cost_no_attempt_and_have_a_bound_of_their_own() {
        let in_vain = || UpstreamError::Unreachable {
            host: "registry".into(),
            phase: Phase::Slot,
            reason: "all are in use".into(),
        };
        let queue_up_to_the_limit = |machine: &mut Machine| {
            for _ in 0..SLOT_WAITS {
                assert!(matches!(
                    machine.open_failed(in_vain()),
                    Step::Open {
                        offset: 6,
                        backoff: Duration::ZERO
                    }
                ));
            }
        };
        let mut machine = Machine::new(None, 6, 1);
        queue_up_to_the_limit(&mut machine);
        machine.opened(CDN, 6, Some(10));
        queue_up_to_the_limit(&mut machine);
        assert!(matches!(
            machine.open_failed(broken()),
            Step::Open {
                backoff: FIRST_BACKOFF,
                ..
            }
        ));
        queue_up_to_the_limit(&mut machine);
        assert!(matches!(
            machine.open_failed(in_vain()),
            Step::End(FetchError::Upstream(UpstreamError::Unreachable {
                phase: Phase::Slot,
                ..
            }))
        ));
    }

    #[test]
    fn an_empty_blob_is_verified_without_a_chunk() {
        let mut machine = Machine::new(None, 0, 5);
        assert!(matches!(machine.opened(CDN, 0, Some(0)), Step::Verify));
    }
}
