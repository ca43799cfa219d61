//! Credentials that were refused are not tried again for a while: a registry or token endpoint may lock an account
//! that is tried with a wrong password again and again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::UpstreamError;
use crate::sys::clock::Clock;

/// How long wrong credentials are not tried again.
const MEMORY: Duration = Duration::from_mins(1);

/// What one host said of the credentials.
pub(super) struct Refusals {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// When the credentials were last refused, and whether the log says so.
#[derive(Default)]
struct State {
    last: Option<(Duration, UpstreamError)>,
    reported: bool,
}

impl Refusals {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    /// The refusal of the last minute.
    pub(super) fn recent(&self) -> Option<UpstreamError> {
        let state = self.state();
        let (at, error) = state.last.as_ref()?;
        let age = self.clock.monotonic().saturating_sub(*at);
        (age < MEMORY).then(|| error.clone())
    }

    /// The credentials were refused. Logged once until they are accepted.
    pub(super) fn refused(&self, error: &UpstreamError) {
        let mut state = self.state();
        state.last = Some((self.clock.monotonic(), error.clone()));
        if !std::mem::replace(&mut state.reported, true) {
            let user = match error {
                UpstreamError::CredentialsRefused { username, .. } => username,
                _ => "",
            };
            tracing::error!(
                user,
                "{error}; correct the upstream's username and password, its logins, or docker login"
            );
        }
    }

    /// The credentials were accepted.
    pub(super) fn accepted(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::{ManualClock, Timestamp};

    #[test]
    fn a_refusal_is_remembered_for_a_minute_and_reported_until_acceptance() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(0));
        let refusals = Refusals::new(Arc::<ManualClock>::clone(&clock));
        assert!(refusals.recent().is_none());
        refusals.refused(&UpstreamError::CredentialsRefused {
            host: "registry.test".into(),
            username: "alice".into(),
        });
        clock.advance(Duration::from_secs(59));
        let recent = refusals.recent();
        let remembered = matches!(recent, Some(UpstreamError::CredentialsRefused { .. }));
        assert!(remembered, "{recent:?}");
        clock.advance(Duration::from_secs(1));
        assert!(refusals.recent().is_none());
        // Tried again, refused again: the log has it already.
        assert!(refusals.state().reported);
        refusals.accepted();
        assert!(!refusals.state().reported);
    }
}
