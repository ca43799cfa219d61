//! The signals that end the process, and the one that has it look at its configuration again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// `SIGTERM` and `SIGINT`, caught from the moment this is made.
///
/// The first process of a container has no default actions: a signal that it does not handle is lost, and the
/// container is killed after its grace period instead. So this is made before anything else. `SIGHUP` ends nothing
/// either, see [`Hangups`]; `SIGPIPE` is ignored by the runtime already.
#[derive(Debug)]
pub struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    /// Starts to catch the signals.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn install() -> io::Result<Self> {
        // A handler stays installed when its stream is dropped, and with it the default action stays off.
        drop(signal(SignalKind::hangup())?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next request to end, and returns the signal's name. The first asks for an orderly end; whoever
    /// asks again does not want to wait.
    pub async fn requested(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// `SIGHUP`, caught from the moment this is made. It asks to read the configuration again and to reopen logs; a closed
/// terminal sends it as well, and does no harm by that.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Starts to catch the signal.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one; several that come before it is waited for count as one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Name, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn each_signal_is_told_and_a_hangup_is_another_matter() {
        let mut signals = ShutdownSignals::install().unwrap();
        let mut hangups = Hangups::install().unwrap();
        kill_process(getpid(), Name::HUP).unwrap();
        kill_process(getpid(), Name::TERM).unwrap();
        assert_eq!(signals.requested().await, "SIGTERM");
        kill_process(getpid(), Name::INT).unwrap();
        assert_eq!(signals.requested().await, "SIGINT");
        hangups.next().await;
    }
}
