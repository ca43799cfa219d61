//! Finding out, in the background, whether an upstream answers again.
//!
//! One task per upstream, and only while something is wrong. It ends when all is well, when nobody has asked for
//! anything for a while, when the process closes, and when the upstream is dropped.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::door::{Door, Errand, Next};
use super::failure::Failure;
use super::request::Question;
use super::transport::Deadline;
use super::{Inner, UpstreamError};
use crate::sys::{clock, tasks};

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
        let watch = self.door.watch();
        let asking = self.door.begin();
        let result = work(admission.errand).await;
        drop(asking);
        if let Err(failure) = &result
            && !self.tasks.is_closing()
            && self.door.failed(question, watch, failure)
        {
            self.begin_probing();
        }
        result.map_err(|failure| failure.error)
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
        match failure {
            None => tracing::debug!("a probe was answered"),
            Some(failure) => {
                tracing::debug!(error = %failure.error, "a probe was not answered as it should be");
                self.door.failed(question, watch, &failure);
            }
        }
    }
}

async fn probe_until_well(upstream: Weak<Inner>) {
    loop {
        clock::sleep(Door::pause()).await;
        let Some(inner) = upstream.upgrade() else {
            return;
        };
        match inner.door.next() {
            Next::Ask(question) => {
                let question = question.into_probe(&inner.ping);
                inner.probe(&question).await;
            }
            Next::End => return,
        }
    }
}
