//! Finding out, in the background, whether an upstream answers again.
//!
//! One task per upstream, and only while something is wrong. It ends when all is well, when nobody has asked for
//! anything for a while, when the process closes, and when the upstream is dropped.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::door::Errand;
use super::failure::Failure;
use super::governor::{Admission, Governor, Remember};
use super::redirect::host_of;
use super::request::Question;
use super::transport::Deadline;
use super::{Inner, Place, UpstreamError};
use crate::registry::{Memo, Topic};
use crate::sys::clock::Clock;
use crate::sys::{clock, tasks};

/// How long a change of the ledger may stay unwritten.
const MEMO_PAUSE: Duration = Duration::from_secs(5);
/// The longest that a probe may take.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(4);

impl Inner {
    /// Does a question's `work`, if it may be asked, and notes what becomes of it.
    ///
    /// # Errors
    /// What `work` fails with, or why it was not begun.
    pub(super) async fn attended<T, F>(
        &self,
        question: &Question,
        work: impl FnOnce(Errand) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let admission = self.door.admit(question)?;
        if admission.begin {
            self.begin_probing();
        }
        let governor = &self.governor(question.repository());
        let errand = admission.errand.max(self.governed(question, governor)?);
        let watch = self.door.watch();
        let asking = self.door.begin();
        // What calls this is not to grow with all that a question may take.
        let result = Box::pin(work(errand)).await;
        drop((asking, admission.trial));
        if result.as_ref().err().is_none_or(Failure::is_final) {
            self.door.told(question);
        }
        match &result {
            Ok(_) => governor.told(question),
            Err(failure) if matches!(failure.error, UpstreamError::RateLimited { .. }) => {
                governor.refused(question);
            }
            // What breaks off when the process closes says nothing.
            Err(failure) if !self.tasks.is_closing() => {
                if self.door.failed(question, watch, failure) {
                    self.begin_probing();
                }
            }
            Err(_) => {}
        }
        self.look_after(governor);
        result.map_err(|failure| failure.error)
    }

    /// What a question is asked for, if it may be.
    ///
    /// # Errors
    /// The upstream limits the rate.
    fn governed(
        &self,
        question: &Question,
        governor: &Arc<Governor>,
    ) -> Result<Errand, UpstreamError> {
        // A mirror that limits the rate rests, and the next one is asked.
        if matches!(self.place, Place::Mirror(_)) {
            return Ok(Errand::Question);
        }
        let (wall, now) = (self.clock.wall(), self.clock.monotonic());
        match governor.admit(question, wall, now) {
            Admission::Passes(errand) => Ok(errand),
            Admission::Refused(retry_after) => {
                self.door.count_refusal();
                self.look_after(governor);
                Err(UpstreamError::RateLimited {
                    host: host_of(&self.base),
                    retry_after,
                })
            }
        }
    }

    /// Has a limit probed for, and a ledger remembered.
    fn look_after(&self, governor: &Arc<Governor>) {
        let Some(memo) = self.governors.memo() else {
            return;
        };
        if governor.is_limiting() && self.door.begin_probing() {
            self.begin_probing();
        }
        let wait = match governor.remember() {
            Remember::No => return,
            Remember::Soon => MEMO_PAUSE,
            Remember::Now => Duration::ZERO,
        };
        let (governor, memo) = (Arc::clone(governor), Arc::clone(memo));
        let (clock, closing) = (Arc::clone(&self.clock), self.tasks.closing());
        drop(self.tasks.spawn("ledger", async move {
            // What is not yet remembered when the process closes is remembered then.
            tasks::until(closing, clock::sleep(wait)).await;
            tasks::blocking(move || remember(&governor, &*memo, &*clock)).await;
        }));
    }

    /// Begins to probe. Whoever calls this has been told to by the door.
    pub(super) fn begin_probing(&self) {
        let probing = probe_until_well(Weak::clone(&self.this));
        let closing = self.tasks.closing();
        let work = async move { tasks::until(closing, probing).await };
        drop(self.tasks.spawn("probe", work));
    }

    /// Asks once, with its token, for the answer's head alone.
    async fn probe(&self, question: &Question) {
        let limit = self.settings.timeout.min(PROBE_LIMIT);
        let deadline = Deadline::after(limit, Arc::clone(&self.clock)).on(Errand::Probe);
        let watch = self.door.watch();
        let failure = match self.walk(&self.control, question, &deadline).await {
            Ok(answered) => {
                let failure = answered.failure(question, self.clock.wall());
                answered.arrived.discard().await;
                failure
            }
            Err(failure) => Some(failure),
        };
        if failure.as_ref().is_none_or(Failure::is_final) {
            self.door.told(question);
        }
        let Some(failure) = failure else {
            return;
        };
        tracing::debug!(error = %failure.error, "a probe was not answered as it should be");
        self.door.failed(question, watch, &failure);
        let is_limited = matches!(failure.error, UpstreamError::RateLimited { .. });
        if failure.is_final() && !is_limited {
            self.governor(question.repository()).inconclusive();
        }
    }

    /// Probes with what is wrong, if anything still is. Returns whether to go on.
    async fn probe_once(&self) -> bool {
        let mut limited = self.governors.all();
        limited.retain(|governor| governor.is_limiting());
        if !self.door.goes_on(!limited.is_empty()) {
            return false;
        }
        let began = self.door.outage_question(&self.ping);
        if let (Some(question), Some(began)) = (self.door.outage_probe(&self.ping), began) {
            self.probe(&question).await;
            // What began it may still fail, alone.
            if question.kind() != began.kind() && !self.door.is_suspended() {
                self.probe(&began).await;
            }
            return true;
        }
        for governor in limited {
            let (wall, now) = (self.clock.wall(), self.clock.monotonic());
            let Some(question) = governor.probe(wall, now) else {
                continue;
            };
            let before = governor.scope();
            // The question may be of who asked as nobody although there is a login.
            let own = Arc::ptr_eq(&self.governor(question.repository()), &governor);
            let nobody = self.anonymous.as_ref().filter(|_| !own);
            let asker = nobody.map_or(self, |nobody| &*nobody.0);
            asker.probe(&question.into_probe(&self.ping)).await;
            if governor.scope() < before {
                self.door.limit_eased();
            }
            self.look_after(&governor);
        }
        true
    }
}

fn remember(governor: &Governor, memo: &dyn Memo, clock: &dyn Clock) {
    let Some(noted) = governor.noted(clock.wall()) else {
        return;
    };
    if let Err(error) = memo.remember(Topic::RateLimit, governor.key(), &noted) {
        tracing::warn!(%error, "a rate limit is not remembered");
    }
}

async fn probe_until_well(upstream: Weak<Inner>) {
    loop {
        let Some(pause) = upstream.upgrade().map(|inner| inner.door.pause()) else {
            return;
        };
        clock::sleep(pause).await;
        let Some(inner) = upstream.upgrade() else {
            return;
        };
        if !inner.probe_once().await {
            return;
        }
    }
}
