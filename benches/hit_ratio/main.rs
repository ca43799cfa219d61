//! How often the cache has what it is asked for when it is too small for everything:
//!
//! ```text
//! cargo bench --bench hit_ratio              # 100,000 requests per trace, about a minute
//! cargo bench --bench hit_ratio -- --quick   # 10,000
//! ```
//!
//! The mirror's own eviction (`Blobs` over the real index, with files that have a size and no content) beside plain
//! LRU and beside one that knows the future and lets go what is wanted again last. The traces are generated from fixed
//! seeds, so that two runs agree to the last digit. `docs/benchmarks.md` explains them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that measures: what it cannot prepare ends it"
)]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "random sizes and ratios: no figure here needs more than 52 bits"
)]

mod disk;
mod policies;
mod trace;

use policies::Ratio;
use trace::{Request, footprint};

/// What the cache may take, in hundredths of all that is ever asked for.
const CAPACITIES: [u64; 3] = [3, 10, 30];

fn main() {
    let is_quick = std::env::args().any(|word| word == "--quick");
    let requests = if is_quick { 10_000 } else { 100_000 };
    println!(
        "| trace | capacity | mirror | LRU | knows the future | mirror, bytes | LRU, bytes | knows, bytes |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, trace) in trace::all(requests) {
        for percent in CAPACITIES {
            compare(name, &trace, percent);
        }
    }
}

fn compare(name: &str, trace: &[Request], percent: u64) {
    let capacity = footprint(trace) / 100 * percent;
    let ours = policies::mirror(trace, capacity);
    let lru = policies::lru(trace, policies::usable(capacity));
    let knowing = policies::knowing(trace, policies::usable(capacity));
    let objects = |ratio: Ratio| ratio.objects * 100.0;
    let bytes = |ratio: Ratio| ratio.bytes * 100.0;
    println!(
        "| {name} | {percent} % | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
        objects(ours),
        objects(lru),
        objects(knowing),
        bytes(ours),
        bytes(lru),
        bytes(knowing),
    );
}
