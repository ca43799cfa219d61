//! An index in memory, for simulations: a power cut loses its newest transactions, a kill loses none.
//!
//! It does what [`SqliteIndex`](super::SqliteIndex) does, except that it keeps any number of lists and facts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;

use super::{
    BlobRecord, Epoch, Index, IndexError, ListRecord, ManifestArrival, ManifestRecord, Membership,
    RepositoryKey, TagRecord, Usage, Victim, Walked, WalkedTag,
};
use crate::oci::{Digest, Tag};
use crate::registry::{Memo, MemoError, Noted, Topic};
use crate::sys::clock::Timestamp;
use crate::sys::fs::Power;
use crate::sys::sync::{Mutex, MutexGuard};

/// An index in memory. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryIndex {
    journal: Arc<Mutex<Journal>>,
    power: Power,
    /// The operation that fails, counted down.
    failing: Arc<AtomicU64>,
    before_doom: Hook,
}

/// What is done with blobs before they are noted as doomed.
#[derive(Clone, Default)]
struct Hook(Option<Act>);

type Act = Arc<dyn Fn(&[Digest]) + Send + Sync>;

type Transaction = Arc<dyn Fn(&mut Facts) + Send + Sync>;

#[derive(Default)]
struct Journal {
    facts: Facts,
    /// What survives a power cut for certain.
    lasting: Facts,
    /// What has happened since.
    transactions: Vec<Transaction>,
}

#[derive(Clone, Default)]
struct Facts {
    blobs: BTreeMap<Digest, Row>,
    doomed: BTreeSet<Digest>,
    manifests: BTreeMap<Digest, ManifestRecord>,
    tags: HashMap<(RepositoryKey, Tag), TagRecord>,
    members: HashMap<(RepositoryKey, Digest), Membership>,
    lists: HashMap<(RepositoryKey, String), ListRecord>,
    notes: BTreeMap<String, String>,
    memos: BTreeMap<(Topic, String), Noted>,
}

#[derive(Clone, Copy)]
struct Row {
    record: BlobRecord,
    used: Timestamp,
    rank: Timestamp,
    segment: Segment,
}

/// A place in the order of eviction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Once,
    Again,
    Pinned,
}

impl MemoryIndex {
    /// An empty index.
    pub(crate) fn new(power: Power) -> Self {
        Self::holding(Facts::default(), power)
    }

    fn holding(facts: Facts, power: Power) -> Self {
        let journal = Journal {
            lasting: facts.clone(),
            facts,
            transactions: Vec::new(),
        };
        Self {
            journal: Arc::new(Mutex::new(journal)),
            power,
            failing: Arc::new(AtomicU64::new(u64::MAX)),
            before_doom: Hook::default(),
        }
    }

    /// This index, for one who does `first` with blobs before they are noted as doomed: too early.
    pub(crate) fn with_hook(&self, first: impl Fn(&[Digest]) + Send + Sync + 'static) -> Self {
        Self {
            before_doom: Hook(Some(Arc::new(first))),
            ..self.clone()
        }
    }

    /// The index as the next start finds it when the power goes now, and how many transactions it has lost. The
    /// same seed loses the same.
    pub(crate) fn power_cut(&self, seed: u64) -> (Self, usize) {
        let journal = self.journal();
        let mut random = Rng::with_seed(seed);
        let all = journal.transactions.len();
        // None or a few are as likely as any number.
        let lost = match random.u8(0..4) {
            0 => 0,
            1 => random.usize(0..=all),
            _ => random.usize(0..=all.min(4)),
        };
        let mut facts = journal.lasting.clone();
        for transaction in &journal.transactions[..all - lost] {
            transaction(&mut facts);
        }
        (Self::holding(facts, self.power.clone()), lost)
    }

    /// Makes everything so far survive a power cut.
    pub(crate) fn checkpoint(&self) {
        let mut journal = self.journal();
        journal.lasting = journal.facts.clone();
        journal.transactions.clear();
    }

    /// Fails the `n`-th operation from now on (0 is the next).
    pub(crate) fn fail_at(&self, n: u64) {
        self.failing.store(n, Ordering::SeqCst);
    }

    /// Fails nothing any more.
    pub(crate) fn heal(&self) {
        self.fail_at(u64::MAX);
    }

    /// Every blob with its length in bytes. Takes no power.
    pub(crate) fn rows(&self) -> BTreeMap<Digest, u64> {
        let journal = self.journal();
        let rows = journal.facts.blobs.iter();
        rows.map(|(digest, row)| (*digest, row.record.size))
            .collect()
    }

    /// The blobs whose files are to go. Takes no power.
    pub(crate) fn notes(&self) -> BTreeSet<Digest> {
        self.journal().facts.doomed.clone()
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap()
    }

    fn powered(&self) -> Result<MutexGuard<'_, Journal>, IndexError> {
        let is_powered = self.power.draw().is_ok();
        let is_due = self.failing.load(Ordering::SeqCst) == 0;
        let left = self.failing.load(Ordering::SeqCst).checked_sub(1);
        self.failing
            .store(left.unwrap_or(u64::MAX), Ordering::SeqCst);
        if is_powered && !is_due {
            return Ok(self.journal());
        }
        Err(IndexError::Database {
            path: PathBuf::from("memory"),
            source: rusqlite::Error::InvalidQuery,
        })
    }

    fn read<T>(&self, query: impl FnOnce(&Facts) -> T) -> Result<T, IndexError> {
        Ok(query(&self.powered()?.facts))
    }

    fn write(
        &self,
        transaction: impl Fn(&mut Facts) + Send + Sync + 'static,
    ) -> Result<(), IndexError> {
        let mut journal = self.powered()?;
        transaction(&mut journal.facts);
        journal.transactions.push(Arc::new(transaction));
        Ok(())
    }
}

impl Memo for MemoryIndex {
    fn recall(&self, topic: Topic, key: &str) -> Result<Option<Noted>, MemoError> {
        Ok(self.read(|facts| facts.memos.get(&(topic, key.to_owned())).cloned())?)
    }

    fn remember(&self, topic: Topic, key: &str, noted: &Noted) -> Result<(), MemoError> {
        let (key, noted) = ((topic, key.to_owned()), noted.clone());
        Ok(self.write(move |facts| drop(facts.memos.insert(key.clone(), noted.clone())))?)
    }

    fn forget(&self, topic: Topic, key: &str) -> Result<(), MemoError> {
        let key = (topic, key.to_owned());
        Ok(self.write(move |facts| drop(facts.memos.remove(&key)))?)
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("blobs", &self.facts.blobs.len())
            .field("transactions", &self.transactions.len())
            .finish_non_exhaustive()
    }
}

impl Facts {
    fn insert_blob(&mut self, digest: Digest, record: BlobRecord) {
        let row = self.blobs.entry(digest).or_insert(Row {
            record,
            used: record.stored,
            rank: record.stored,
            segment: Segment::Once,
        });
        row.record = record;
    }

    fn bytes(&self, counts: impl Fn(&Row) -> bool) -> u64 {
        let rows = self.blobs.values().filter(|row| counts(row));
        rows.map(|row| row.record.size.div_ceil(4096) * 4096).sum()
    }

    fn touch(&mut self, uses: &[(Digest, Timestamp)]) {
        for (digest, at) in uses {
            if let Some(row) = self.blobs.get_mut(digest) {
                (row.used, row.rank) = (row.used.max(*at), row.rank.max(*at));
                row.segment = row.segment.max(Segment::Again);
            }
        }
    }

    fn demote(&mut self, bytes: u64, now: Timestamp) {
        let held = self.bytes(|row| row.segment == Segment::Again);
        let excess = held.saturating_sub(bytes);
        let mut before = 0;
        for digest in self.by_rank() {
            let row = self.blobs.get_mut(&digest).unwrap();
            if row.segment == Segment::Again && before < excess {
                before += row.record.size;
                (row.segment, row.rank) = (Segment::Once, now);
            }
        }
    }

    fn pin(&mut self, digests: &[Digest]) {
        for (digest, row) in &mut self.blobs {
            if digests.contains(digest) {
                row.segment = Segment::Pinned;
            } else if row.segment == Segment::Pinned {
                row.segment = Segment::Once;
            }
        }
    }

    /// In the order of eviction, without those that are pinned.
    fn by_rank(&self) -> Vec<Digest> {
        let place = |(digest, row): (&Digest, &Row)| (row.segment, row.rank, *digest);
        let unpinned = |(_, row): &(&Digest, &Row)| row.segment < Segment::Pinned;
        let mut places: Vec<_> = self.blobs.iter().filter(unpinned).map(place).collect();
        places.sort_unstable();
        places.into_iter().map(|(_, _, digest)| digest).collect()
    }

    fn doom(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.blobs.remove(digest);
            self.doomed.insert(*digest);
        }
    }

    fn insert_member(&mut self, key: &RepositoryKey, digest: Digest, size: Option<u64>) {
        let place = self.members.entry((key.clone(), digest));
        let member = place.or_insert(Membership { size });
        member.size = size.or(member.size);
    }
}

fn walked((digest, row): (Digest, Row)) -> Walked {
    Walked {
        digest,
        size: row.record.size,
        stored: row.record.stored,
        used: row.used,
        pinned: row.segment == Segment::Pinned,
    }
}

impl Index for MemoryIndex {
    fn blob(&self, digest: Digest) -> Result<Option<BlobRecord>, IndexError> {
        self.read(|facts| facts.blobs.get(&digest).map(|row| row.record))
    }

    fn insert_blob(&self, digest: Digest, record: BlobRecord) -> Result<(), IndexError> {
        self.write(move |facts| facts.insert_blob(digest, record))
    }

    fn remove_blob(&self, digest: Digest) -> Result<(), IndexError> {
        self.write(move |facts| {
            facts.blobs.remove(&digest);
        })
    }

    fn confirm_blob(&self, digest: Digest, epoch: Epoch) -> Result<(), IndexError> {
        self.write(move |facts| {
            if let Some(row) = facts.blobs.get_mut(&digest) {
                row.record.epoch = row.record.epoch.max(epoch);
            }
        })
    }

    fn walk_blobs(&self, after: Option<Digest>, limit: u64) -> Result<Vec<Walked>, IndexError> {
        self.read(|facts| {
            // In the order of their texts, as a database has them.
            let mut texts: Vec<_> = facts.blobs.keys().map(|it| (it.to_string(), *it)).collect();
            texts.sort_unstable();
            let after = after.map(|after| after.to_string()).unwrap_or_default();
            let rest = texts.into_iter().filter(|(text, _)| *text > after);
            let rows = rest.map(|(_, digest)| (digest, facts.blobs[&digest]));
            rows.map(walked)
                .take(usize::try_from(limit).unwrap())
                .collect()
        })
    }

    fn pin_blobs(&self, digests: &[Digest]) -> Result<(), IndexError> {
        let digests = digests.to_vec();
        self.write(move |facts| facts.pin(&digests))
    }

    fn usage(&self) -> Result<Usage, IndexError> {
        self.read(|facts| Usage {
            blobs: facts.blobs.len() as u64,
            bytes: facts.bytes(|_| true),
            protected: facts.bytes(|row| row.segment == Segment::Again),
            pinned: facts.bytes(|row| row.segment == Segment::Pinned),
        })
    }

    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), IndexError> {
        let uses = uses.to_vec();
        self.write(move |facts| facts.touch(&uses))
    }

    fn demote(&self, bytes: u64, now: Timestamp) -> Result<(), IndexError> {
        self.write(move |facts| facts.demote(bytes, now))
    }

    fn victims(&self, skip: u64, limit: u64) -> Result<Vec<Victim>, IndexError> {
        let [skip, limit] = [skip, limit].map(|count| usize::try_from(count).unwrap());
        self.read(|facts| {
            let victim = |digest| Victim {
                digest,
                size: facts.blobs[&digest].record.size,
            };
            let chosen = facts.by_rank().into_iter().skip(skip).take(limit);
            chosen.map(victim).collect()
        })
    }

    fn doom(&self, digests: &[Digest]) -> Result<(), IndexError> {
        if let Hook(Some(first)) = &self.before_doom {
            first(digests);
        }
        let digests = digests.to_vec();
        self.write(move |facts| facts.doom(&digests))
    }

    fn doomed(&self) -> Result<Vec<Digest>, IndexError> {
        self.read(|facts| facts.doomed.iter().copied().collect())
    }

    fn bury(&self, digests: &[Digest]) -> Result<(), IndexError> {
        let digests = digests.to_vec();
        self.write(move |facts| facts.doomed.retain(|digest| !digests.contains(digest)))
    }

    fn manifest(&self, digest: Digest) -> Result<Option<ManifestRecord>, IndexError> {
        self.read(|facts| facts.manifests.get(&digest).cloned())
    }

    fn insert_manifest(&self, arrival: &ManifestArrival<'_>) -> Result<(), IndexError> {
        let (key, digest) = (arrival.repository.clone(), arrival.digest);
        let (record, members) = (arrival.record.clone(), arrival.members.to_vec());
        let tag = arrival.tag.map(|(tag, checked)| (tag.clone(), checked));
        self.write(move |facts| {
            let manifests = &mut facts.manifests;
            manifests.entry(digest).or_insert_with(|| record.clone());
            facts.insert_member(&key, digest, Some(record.bytes.len() as u64));
            for (member, size) in &members {
                facts.insert_member(&key, *member, Some(*size));
            }
            if let Some((tag, checked)) = tag.clone() {
                let record = TagRecord { digest, checked };
                facts.tags.insert((key.clone(), tag), record);
            }
        })
    }

    fn tag(&self, repository: &RepositoryKey, tag: &Tag) -> Result<Option<TagRecord>, IndexError> {
        let key = (repository.clone(), tag.clone());
        self.read(|facts| facts.tags.get(&key).copied())
    }

    fn set_tag(
        &self,
        repository: &RepositoryKey,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<(), IndexError> {
        let key = (repository.clone(), tag.clone());
        self.write(move |facts| {
            facts.tags.insert(key.clone(), record);
        })
    }

    fn walk_tags(
        &self,
        after: Option<&WalkedTag>,
        limit: u64,
    ) -> Result<Vec<WalkedTag>, IndexError> {
        let place = |it: &WalkedTag| {
            let RepositoryKey { upstream, name } = &it.repository;
            [upstream, name.as_str(), it.tag.as_str()].map(str::to_owned)
        };
        self.read(|facts| {
            let walked =
                |((repository, tag), record): (&(RepositoryKey, Tag), &TagRecord)| WalkedTag {
                    repository: repository.clone(),
                    tag: tag.clone(),
                    digest: record.digest,
                };
            let mut tags: Vec<_> = facts.tags.iter().map(walked).collect();
            tags.retain(|tag| after.is_none_or(|after| place(tag) > place(after)));
            tags.sort_by_key(place);
            tags.truncate(usize::try_from(limit).unwrap());
            tags
        })
    }

    fn note(&self, key: &str) -> Result<Option<String>, IndexError> {
        self.read(|facts| facts.notes.get(key).cloned())
    }

    fn set_notes(&self, notes: &[(&str, &str)]) -> Result<(), IndexError> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let notes: Vec<_> = notes.iter().map(own).collect();
        self.write(move |facts| facts.notes.extend(notes.iter().cloned()))
    }

    fn member(
        &self,
        repository: &RepositoryKey,
        digest: Digest,
    ) -> Result<Option<Membership>, IndexError> {
        self.read(|facts| facts.members.get(&(repository.clone(), digest)).copied())
    }

    fn insert_member(
        &self,
        repository: &RepositoryKey,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<(), IndexError> {
        let repository = repository.clone();
        self.write(move |facts| facts.insert_member(&repository, digest, size))
    }

    fn list(
        &self,
        repository: &RepositoryKey,
        key: &str,
    ) -> Result<Option<ListRecord>, IndexError> {
        let key = (repository.clone(), key.to_owned());
        self.read(|facts| facts.lists.get(&key).cloned())
    }

    fn set_list(
        &self,
        repository: &RepositoryKey,
        key: &str,
        list: &ListRecord,
    ) -> Result<(), IndexError> {
        let (key, list) = ((repository.clone(), key.to_owned()), list.clone());
        self.write(move |facts| {
            facts.lists.insert(key.clone(), list.clone());
        })
    }
}

mod tests {
    use super::*;
    use crate::index::suite;
    use crate::oci::Checksum;

    fn record(size: u64) -> BlobRecord {
        BlobRecord {
            size,
            stored: Timestamp::from_millis(size),
            checksum: Checksum::default(),
            epoch: Epoch::default(),
        }
    }

    #[test]
    fn passes_the_suite() {
        let index = MemoryIndex::new(Power::new());
        suite::run(&|| index.clone());
    }

    #[test]
    fn a_power_cut_loses_the_newest_transactions_and_none_before_the_checkpoint() {
        let index = MemoryIndex::new(Power::new());
        for seed in 0..8 {
            index.insert_blob(suite::digest(seed), record(1)).unwrap();
            if seed == 2 {
                index.checkpoint();
            }
        }
        let mut found = BTreeSet::new();
        for seed in 0..200 {
            let (cut, lost) = index.power_cut(seed);
            let rows = cut.rows();
            let expected: BTreeMap<_, _> = (0..8)
                .take(8 - lost)
                .map(|seed| (suite::digest(seed), 1))
                .collect();
            assert_eq!(rows, expected, "{seed}");
            found.insert(rows.len());
        }
        assert_eq!(found, (3..=8).collect());
    }

    #[test]
    fn without_power_nothing_changes_and_single_operations_fail() {
        let power = Power::new();
        let index = MemoryIndex::new(power.clone());
        index.fail_at(1);
        index.insert_blob(suite::digest(1), record(1)).unwrap();
        index.insert_blob(suite::digest(2), record(2)).unwrap_err();
        index.insert_blob(suite::digest(3), record(3)).unwrap();
        index.fail_at(0);
        index.heal();
        power.stop_at(0);
        index.doom(&[suite::digest(1)]).unwrap_err();
        index.blob(suite::digest(1)).unwrap_err();
        power.restore();
        assert_eq!(index.usage().unwrap().blobs, 2);
        assert_eq!(index.rows().len(), 2);
        assert!(index.notes().is_empty());
    }
}
