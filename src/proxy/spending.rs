//! Who spent an upstream's budget: every manifest that was fetched from the upstream itself, which is what Docker Hub
//! counts as a pull, by the client that caused it.
//!
//! A fetch that many clients wait for is counted to the one who began it, one that nobody waits for to `background`.
//! Two counts are kept of each upstream, both bounded:
//! - of the running hour and the six before it, which covers Docker Hub's window: at most [`ROWS`] of client, user and
//!   repository. A new one takes the place of the one with the fewest pulls, which is counted as `other` from then on.
//!   This count is written down, and outlives a restart; but of what is never to be cached nothing is written;
//! - since the process began, as metrics: the first [`SERIES`] of client and repository, all later ones as `other`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use serde::{Deserialize, Serialize, Serializer};

use super::Inner;
use crate::oci::{Reference, RepositoryName};
use crate::registry::{Caller, Memo, MemoError, Noted, Topic};
use crate::sys::clock::{Clock, Timestamp};
use crate::upstream::{ManifestBody, UpstreamError};

/// The most rows of an upstream.
const ROWS: usize = 1_000;
/// The most series of an upstream among the metrics, without the one of all others.
const SERIES: usize = 1_000;
/// How many hours count beside the running one.
const HOURS: u64 = 6;
const HOUR: Duration = Duration::from_hours(1);

/// All clients but those that have a series of their own.
const OTHER: &str = "other";
/// What nobody waits for.
const BACKGROUND: &str = "background";
/// A client without an account.
const ANONYMOUS: &str = "anonymous";
/// A client on a unix socket.
const LOCAL: &str = "local";

/// Whom a pull is counted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spender {
    /// A client at this address; `None` on a unix socket.
    Client(Option<IpAddr>),
    /// Nobody in particular.
    Background,
}

impl Spender {
    pub(super) const fn of(caller: &Caller) -> Self {
        Self::Client(caller.address)
    }

    fn key(self, repository: &RepositoryName) -> Key {
        let (client, user) = match self {
            Self::Client(Some(address)) => (address.to_string(), ANONYMOUS),
            Self::Client(None) => (LOCAL.to_owned(), ANONYMOUS),
            Self::Background => (BACKGROUND.to_owned(), BACKGROUND),
        };
        Key {
            client,
            user: user.to_owned(),
            repository: repository.as_str().to_owned(),
        }
    }
}

/// The counts of all upstreams. Clones share them.
#[derive(Clone)]
pub struct Spending(Arc<Shared>);

struct Shared {
    memo: Arc<dyn Memo>,
    clock: Arc<dyn Clock>,
    accounts: Mutex<BTreeMap<Arc<str>, Account>>,
}

/// What was spent of one upstream's budget, the most first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The beginning of the first hour that counts.
    pub since: Timestamp,
    /// By client, user and repository.
    pub rows: Vec<SpentRow>,
    /// The pulls of those who have no row.
    pub other: u64,
}

/// The pulls of one client from one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentRow {
    /// The client's address, `local` on a unix socket, or `background`.
    pub client: String,
    /// The user's name: `anonymous` without an account.
    pub user: String,
    /// The repository, as the upstream names it.
    pub repository: String,
    /// How many.
    pub pulls: u64,
}

impl Spending {
    /// Counts that are written to `memo`.
    pub fn new(memo: Arc<dyn Memo>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            memo,
            clock,
            accounts: Mutex::default(),
        }))
    }

    /// Goes on from what an earlier process wrote of `upstream`. Blocks.
    ///
    /// # Errors
    /// [`MemoError`]: it cannot be read; counting begins anew.
    pub fn restore(&self, upstream: &str) -> Result<(), MemoError> {
        let noted = self.0.memo.recall(Topic::Spending, upstream)?;
        let window = noted.and_then(|noted| serde_json::from_str(&noted.value).ok());
        if let Some(window) = window {
            let account = Account {
                window,
                ..Account::default()
            };
            self.accounts().insert(upstream.into(), account);
        }
        Ok(())
    }

    /// Writes down what has changed since it was last written. Blocks.
    ///
    /// # Errors
    /// [`MemoError`]: something could not be written; it is tried again with the next call.
    pub fn write(&self) -> Result<(), MemoError> {
        let at = self.0.clock.wall();
        let hour = hour(at);
        let mut changed = Vec::new();
        for (upstream, account) in self.accounts().iter_mut() {
            if std::mem::take(&mut account.changed) {
                account.window.forget(hour);
                let value = serde_json::to_string(&account.window);
                let value = value.map_err(|error| MemoError(error.to_string()))?;
                changed.push((Arc::clone(upstream), value));
            }
        }
        let mut written = Ok(());
        for (upstream, value) in changed {
            let noted = Noted { value, at };
            if let Err(error) = self.0.memo.remember(Topic::Spending, &upstream, &noted) {
                if let Some(account) = self.accounts().get_mut(&upstream) {
                    account.changed = true;
                }
                written = Err(error);
            }
        }
        written
    }

    /// What was spent of `upstream`'s budget within the hours that count.
    pub fn spent(&self, upstream: &str) -> Spent {
        let hour = hour(self.0.clock.wall());
        let accounts = self.accounts();
        let spent = accounts
            .get(upstream)
            .map(|account| account.window.spent(hour));
        let since = hour.saturating_sub(HOURS).saturating_mul(millis(HOUR));
        Spent {
            since: Timestamp::from_millis(since),
            ..spent.unwrap_or_default()
        }
    }

    fn note(&self, upstream: &Arc<str>, key: Key, is_written: bool) {
        let hour = hour(self.0.clock.wall());
        let mut accounts = self.accounts();
        let account = accounts.entry(Arc::clone(upstream)).or_default();
        account.note(key, hour, is_written);
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Account>> {
        self.0
            .accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Spending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spending").finish_non_exhaustive()
    }
}

impl Inner {
    /// Fetches a manifest, and counts it to `spender`.
    pub(super) async fn pull(
        &self,
        spender: Spender,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestBody, UpstreamError> {
        let upstream = &self.parts.upstream;
        let body = upstream.get_manifest(name, reference).await?;
        if !body.from_mirror {
            let key = spender.key(name);
            let tag = match reference {
                Reference::Tag(tag) => Some(tag),
                Reference::Digest(_) => None,
            };
            let is_written = !self.passes(name, tag);
            self.parts.spending.note(upstream.name(), key, is_written);
        }
        Ok(body)
    }
}

/// Whose pulls, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key {
    client: String,
    user: String,
    repository: String,
}

#[derive(Default)]
struct Account {
    window: Window,
    /// Since the process began, by client and repository.
    series: BTreeMap<(String, String), u64>,
    /// Whether the window has changed since it was written.
    changed: bool,
}

impl Account {
    fn note(&mut self, key: Key, hour: u64, is_written: bool) {
        let series = (key.client.clone(), key.repository.clone());
        let room = self.series.len() < SERIES || self.series.contains_key(&series);
        let other = || (OTHER.to_owned(), OTHER.to_owned());
        let series = if room { series } else { other() };
        *self.series.entry(series).or_default() += 1;
        self.window.note(key, hour, is_written);
        self.changed |= is_written;
    }
}

/// The hours that count.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    #[serde(serialize_with = "written")]
    rows: Vec<Row>,
    other: Hours,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    hours: Hours,
    /// Whether the row is kept in memory only. Two rows may differ in nothing else.
    #[serde(skip)]
    is_unwritten: bool,
}

fn written<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().filter(|row| !row.is_unwritten))
}

/// Pulls by the hour in which they were made.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Hours(BTreeMap<u64, u64>);

impl Window {
    fn note(&mut self, key: Key, hour: u64, is_written: bool) {
        let is_unwritten = !is_written;
        let same = |row: &&mut Row| row.key == key && row.is_unwritten == is_unwritten;
        if let Some(row) = self.rows.iter_mut().find(same) {
            return row.hours.add(hour, 1);
        }
        self.forget(hour);
        if self.rows.len() >= ROWS {
            self.dismiss(hour);
        }
        let mut hours = Hours::default();
        hours.add(hour, 1);
        self.rows.push(Row {
            key,
            hours,
            is_unwritten,
        });
    }

    /// Drops what no longer counts.
    fn forget(&mut self, now: u64) {
        self.rows.iter_mut().for_each(|row| row.hours.forget(now));
        self.rows.retain(|row| !row.hours.0.is_empty());
        self.other.forget(now);
    }

    /// Counts the row with the fewest pulls as `other`; of several the oldest.
    fn dismiss(&mut self, now: u64) {
        let rows = self.rows.iter().enumerate();
        let fewest = rows.min_by_key(|(_, row)| row.hours.sum(now));
        let Some(place) = fewest.map(|(place, _)| place) else {
            return;
        };
        for (hour, pulls) in self.rows.remove(place).hours.0 {
            self.other.add(hour, pulls);
        }
    }

    fn spent(&self, now: u64) -> Spent {
        let row = |row: &Row| SpentRow {
            client: row.key.client.clone(),
            user: row.key.user.clone(),
            repository: row.key.repository.clone(),
            pulls: row.hours.sum(now),
        };
        let mut rows: Vec<SpentRow> = self.rows.iter().map(row).collect();
        rows.retain(|row| row.pulls > 0);
        rows.sort_by(|one, other| {
            let names = |row: &SpentRow| (row.repository.clone(), row.client.clone());
            let by_pulls = other.pulls.cmp(&one.pulls);
            by_pulls.then_with(|| names(one).cmp(&names(other)))
        });
        Spent {
            rows,
            other: self.other.sum(now),
            ..Spent::default()
        }
    }
}

impl Hours {
    fn add(&mut self, hour: u64, pulls: u64) {
        let count = self.0.entry(hour).or_default();
        *count = count.saturating_add(pulls);
    }

    fn forget(&mut self, now: u64) {
        self.0.retain(|hour, _| counts(*hour, now));
    }

    fn sum(&self, now: u64) -> u64 {
        let hours = self.0.iter().filter(|(hour, _)| counts(**hour, now));
        hours.map(|(_, pulls)| pulls).sum()
    }
}

/// Hours to come do not count: what a clock that was set back has left.
const fn counts(hour: u64, now: u64) -> bool {
    hour <= now && now - hour <= HOURS
}

fn hour(at: Timestamp) -> u64 {
    at.as_millis() / millis(HOUR)
}

const fn millis(duration: Duration) -> u64 {
    duration.as_secs() * 1_000
}

/// Reports who pulled what since the process began.
#[derive(Debug)]
pub struct SpendingCollector(pub Spending);

impl Collector for SpendingCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Manifests fetched from the upstream, by the client that began it: what Docker Hub counts";
        let name = "mirror_upstream_pulls";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (upstream, account) in self.0.accounts().iter() {
            for ((client, repository), pulls) in &account.series {
                let labels = [
                    ("upstream", &**upstream),
                    ("client", client),
                    ("repository", repository),
                ];
                let metric = family.encode_family(&labels)?;
                ConstCounter::new(*pulls).encode(metric)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::MemoryIndex;
    use crate::sys::clock::ManualClock;
    use crate::sys::fs::Power;

    fn key(client: &str) -> Key {
        Key {
            client: client.to_owned(),
            user: ANONYMOUS.to_owned(),
            repository: "library/nginx".to_owned(),
        }
    }

    fn pulls(window: &Window, now: u64) -> Vec<(String, u64)> {
        let rows = window.spent(now).rows.into_iter();
        rows.map(|row| (row.client, row.pulls)).collect()
    }

    #[test]
    fn an_hour_counts_until_six_more_have_passed() {
        let mut window = Window::default();
        window.note(key("a"), 100, true);
        window.note(key("a"), 101, true);
        assert_eq!(pulls(&window, 106), [("a".to_owned(), 2)]);
        assert_eq!(pulls(&window, 107), [("a".to_owned(), 1)]);
        assert_eq!(pulls(&window, 108), []);
        window.forget(108);
        assert_eq!(window, Window::default());
        // The clock was set back.
        window.note(key("a"), 100, true);
        assert_eq!(pulls(&window, 99), []);
    }

    #[test]
    fn beyond_the_limit_the_fewest_pulls_are_summed_up() {
        let mut window = Window::default();
        for number in 0..ROWS {
            window.note(key(&number.to_string()), 1, true);
            window.note(key(&number.to_string()), 1, true);
        }
        window.note(key("once"), 1, true);
        assert_eq!((window.rows.len(), window.spent(1).other), (ROWS, 2));
        // Not one of those that pulled twice.
        for _ in 0..3 {
            window.note(key("late"), 1, true);
        }
        let spent = window.spent(1);
        assert_eq!((window.rows.len(), spent.other), (ROWS, 3));
        assert_eq!((&*spent.rows[0].client, spent.rows[0].pulls), ("late", 3));
        let all: u64 = spent.rows.iter().map(|row| row.pulls).sum();
        assert_eq!(all + spent.other, 2 * ROWS as u64 + 4);
    }

    #[test]
    fn metrics_have_a_series_for_the_first_ones() {
        let mut account = Account::default();
        for number in 0..SERIES + 5 {
            account.note(key(&number.to_string()), 1, true);
        }
        account.note(key("7"), 1, true);
        assert_eq!(account.series.len(), SERIES + 1);
        let series = |client: &str, repository: &str| {
            account.series[&(client.to_owned(), repository.to_owned())]
        };
        assert_eq!(series(OTHER, OTHER), 5);
        assert_eq!(series("7", "library/nginx"), 2);
    }

    #[test]
    fn what_was_written_is_known_to_the_next_process() {
        let memo: Arc<dyn Memo> = Arc::new(MemoryIndex::new(Power::new()));
        let clock = ManualClock::starting_at(Timestamp::from_millis(1_700_000_000_000));
        let spending = || Spending::new(Arc::clone(&memo), Arc::<ManualClock>::clone(&clock));
        let (first, hub) = (spending(), Arc::from("docker.io"));
        let nginx = "library/nginx".parse().unwrap();
        let address = "192.0.2.7".parse().ok();
        first.note(&hub, Spender::Client(address).key(&nginx), true);
        first.note(&hub, Spender::Client(None).key(&nginx), true);
        first.note(&hub, Spender::Background.key(&nginx), true);
        first.write().unwrap();

        let second = spending();
        second.restore("docker.io").unwrap();
        second.restore("ghcr.io").unwrap();
        let spent = second.spent("docker.io");
        let clients: Vec<_> = spent
            .rows
            .iter()
            .map(|row| (&*row.client, &*row.user))
            .collect();
        let expected = [
            ("192.0.2.7", ANONYMOUS),
            (BACKGROUND, BACKGROUND),
            (LOCAL, ANONYMOUS),
        ];
        assert_eq!(clients, expected);
        assert_eq!(spent, first.spent("docker.io"));
        // What is not to be written is counted all the same.
        first.note(
            &hub,
            Spender::Background.key(&"me/secret".parse().unwrap()),
            false,
        );
        first.write().unwrap();
        first.note(&hub, Spender::Background.key(&nginx), true);
        first.write().unwrap();
        assert_eq!(first.spent("docker.io").rows.len(), 4);
        let noted = memo.recall(Topic::Spending, "docker.io").unwrap().unwrap();
        assert!(noted.value.contains("library/nginx"));
        assert!(!noted.value.contains("secret"));
        assert_eq!(second.spent("ghcr.io").rows, []);
        clock.advance(HOUR * 7);
        assert_eq!(second.spent("docker.io").rows, []);
    }
}
