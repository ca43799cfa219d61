//! Servers take turns, so that a busy minute of the machine hits all of them.

use std::time::Duration;

use crate::servers::{Kind, Server};

/// The samples of each server.
pub(crate) struct Samples<S>(Vec<(Kind, Vec<S>)>);

impl<S> Samples<S> {
    /// Lets each server have `rounds` turns.
    pub(crate) fn take(
        servers: &[Server],
        rounds: usize,
        mut turn: impl FnMut(&Server) -> S,
    ) -> Self {
        let mut samples: Vec<_> = servers.iter().map(|it| (it.kind, Vec::new())).collect();
        for _ in 0..rounds {
            for (server, (_, taken)) in servers.iter().zip(&mut samples) {
                taken.push(turn(server));
            }
        }
        Self(samples)
    }

    /// The median of a figure, for one server; `None` when it was not measured.
    pub(crate) fn median(&self, kind: Kind, figure: impl Fn(&S) -> f64) -> Option<f64> {
        let (_, taken) = self.0.iter().find(|(it, _)| *it == kind)?;
        Some(median(taken.iter().map(figure)))
    }

    pub(crate) fn ours(&self, figure: impl Fn(&S) -> f64) -> f64 {
        self.median(Kind::Mirror, figure).expect("it is measured")
    }
}

/// The middle one, or the upper of the two in the middle.
pub(crate) fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = samples.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
