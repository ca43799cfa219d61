//! Starting, and doing nothing.

use std::thread::sleep;
use std::time::Duration;

use crate::process::Running;
use crate::servers::{Kind, Log, Server};
use crate::stage::Stage;
use crate::table::{Row, Table, Target};
use crate::turns::{median, milliseconds};

/// In MiB.
const MEMORY: f64 = 20.0;

const REST: Duration = Duration::from_millis(500);

pub(crate) fn measure(stage: &Stage, table: &mut Table) {
    let take = |kind| -> Vec<(f64, f64)> {
        let rounds = 0..stage.options.rounds;
        rounds
            .map(|_| sample(&Server::start(kind, stage, Log::Off).running))
            .collect()
    };
    let (ours, nginx) = (take(Kind::Mirror), take(Kind::Nginx));
    let registry = stage.has(Kind::Registry).then(|| take(Kind::Registry));
    let mut add = |what: &str, figure: fn(&(f64, f64)) -> f64, target| {
        let of = |samples: &Vec<(f64, f64)>| median(samples.iter().map(figure));
        let row = Row::new(what, of(&ours)).beside(Some(of(&nginx)), "nginx");
        table.add(row.registry(registry.as_ref().map(of)).target(target));
    };
    add("start to first answer: ms", |it| it.0, Target::None);
    add("idle: MiB", |it| it.1, Target::AtMost(MEMORY));
}

/// The time to the first answer, and the memory some time after.
fn sample(running: &Running) -> (f64, f64) {
    sleep(REST);
    (milliseconds(running.start), running.resident())
}
