//! What `mirror stats` shows, and writing down what it counts.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use humantime::format_rfc3339_seconds;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::proxy::{Spending, Spent, SpentRow};
use crate::sys::clock::{self, Timestamp};
use crate::sys::tasks;
use crate::upstream::Upstream;

/// The version of the page's form.
const SCHEMA: u32 = 1;

/// How long a pull may stay unwritten.
const PERIOD: Duration = Duration::from_mins(1);

/// The page that the server writes and the command reads.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stats {
    pub(crate) schema: u32,
    pub(crate) version: String,
    pub(crate) upstreams: Vec<UpstreamStats>,
}

/// Times are RFC 3339 in UTC; `null` is what the upstream has not told.
#[derive(Serialize, Deserialize)]
pub(crate) struct UpstreamStats {
    pub(crate) name: String,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    pub(crate) window_seconds: Option<u64>,
    pub(crate) counted_to: Option<String>,
    pub(crate) told_at: Option<String>,
    pub(crate) limited_until: Option<String>,
    pub(crate) suspended: bool,
    pub(crate) refused: u64,
    pub(crate) requests: Vec<Requests>,
    pub(crate) fetched_bytes: u64,
    pub(crate) pulls: Pulls,
}

/// Requests of one kind that ended in one way, since the mirror was started.
#[derive(Serialize, Deserialize)]
pub(crate) struct Requests {
    pub(crate) kind: String,
    pub(crate) code: String,
    pub(crate) count: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Pulls {
    pub(crate) since: String,
    pub(crate) total: u64,
    pub(crate) other: u64,
    pub(crate) by_client: Vec<Sum>,
    pub(crate) by_repository: Vec<Sum>,
    pub(crate) rows: Vec<SpentRow>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) name: String,
    pub(crate) pulls: u64,
}

/// The page, as JSON.
pub(super) fn page(upstreams: &[Upstream], spending: &Spending) -> serde_json::Result<Bytes> {
    let of = |upstream| UpstreamStats::new(upstream, spending);
    let page = Stats {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        upstreams: upstreams.iter().map(of).collect(),
    };
    serde_json::to_vec(&page).map(Bytes::from)
}

impl UpstreamStats {
    fn new(upstream: &Upstream, spending: &Spending) -> Self {
        let (ledger, counters) = (upstream.ledger(), upstream.counters());
        let requests = counters.requests.iter();
        let requests = requests.map(|(kind, class, count)| Requests {
            kind: kind.label().to_owned(),
            code: class.label().to_owned(),
            count: *count,
        });
        Self {
            name: upstream.name().to_string(),
            limit: ledger.limit,
            remaining: ledger.remaining,
            window_seconds: ledger.window.map(|window| window.as_secs()),
            counted_to: ledger.source,
            told_at: ledger.updated.map(shown),
            limited_until: ledger.limited_until.map(shown),
            suspended: upstream.is_suspended(),
            refused: upstream.refused(),
            requests: requests.collect(),
            fetched_bytes: counters.blob_bytes,
            pulls: Pulls::new(spending.spent(upstream.name())),
        }
    }
}

impl Pulls {
    fn new(spent: Spent) -> Self {
        let Spent { since, rows, other } = spent;
        let known: u64 = rows.iter().map(|row| row.pulls).sum();
        Self {
            since: shown(since),
            total: known.saturating_add(other),
            other,
            by_client: sums(&rows, |row| &row.client),
            by_repository: sums(&rows, |row| &row.repository),
            rows,
        }
    }
}

/// The pulls by one part of a row, the most first.
fn sums(rows: &[SpentRow], part: impl Fn(&SpentRow) -> &String) -> Vec<Sum> {
    let mut sums = BTreeMap::<&String, u64>::new();
    for row in rows {
        *sums.entry(part(row)).or_default() += row.pulls;
    }
    let sum = |(name, pulls): (&String, u64)| Sum {
        name: name.clone(),
        pulls,
    };
    let mut sums: Vec<Sum> = sums.into_iter().map(sum).collect();
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.pulls));
    sums
}

fn shown(at: Timestamp) -> String {
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(at.as_millis()));
    at.map_or_else(String::new, |at| format_rfc3339_seconds(at).to_string())
}

/// Writes down who spent what from time to time, and at the end.
pub(super) async fn write_always(spending: Spending, closing: impl Future<Output = ()>) {
    let mut closing = pin!(closing);
    loop {
        let over = clock::timeout(PERIOD, &mut closing).await.is_ok();
        let spending = spending.clone();
        if let Err(error) = tasks::blocking(move || spending.write()).await {
            warn!(%error, "who pulled what is not written");
        }
        if over {
            return;
        }
    }
}
