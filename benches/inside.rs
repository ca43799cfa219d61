//! Single steps of an answer, measured by criterion:
//!
//! ```text
//! cargo bench --bench inside            # everything
//! cargo bench --bench inside -- index   # what has that in its name
//! ```
//!
//! `index` is over a file with 10,000 blobs, in the page cache. A `flight` is a whole cold download of 4 MiB from
//! memory, to a file and to one reader: hashing, writing, reading, committing and removing it again.

#![expect(
    clippy::unwrap_used,
    reason = "a program that measures: what it cannot prepare ends it"
)]

use std::future::poll_fn;
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, stream};
use http::Method;
use serde_json::json;
use tokio::runtime::Runtime;

use mirror::blobs::{Blobs, Limits, Share};
use mirror::fetch::{self, Fetch, Source};
use mirror::index::{
    BlobRecord, Epoch, Index, ManifestArrival, ManifestRecord, RepositoryKey, SqliteIndex,
};
use mirror::oci::{Algorithm, Checksum, Digest, Manifest, Request, Tag};
use mirror::registry::BlobRead as _;
use mirror::store::{FsStore, Sync};
use mirror::sys::clock::{SystemClock, Timestamp};
use mirror::sys::fs::{Disk, OsDisk};
use mirror::sys::tasks::Tasks;
use mirror::upstream::{BlobBody, UpstreamError};

const MIB: usize = 1024 * 1024;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

const BLOBS: u64 = 10_000;

fn digest_of(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_le_bytes())
}

fn digest(criterion: &mut Criterion) {
    let content = vec![7; MIB];
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("sha256 of 1 MiB", |bencher| {
        bencher.iter(|| Digest::of(Algorithm::Sha256, black_box(&content)));
    });
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let digest = digest_of(1);
    let paths = [
        ("tag", "/v2/library/nginx/manifests/1.27".to_owned()),
        ("digest", format!("/v2/library/nginx/manifests/{digest}")),
        ("blob", format!("/v2/library/nginx/blobs/{digest}")),
    ];
    let mut group = criterion.benchmark_group("request");
    for (name, path) in &paths {
        let parse = || Request::parse(&Method::GET, black_box(path), None, None).unwrap();
        group.bench_function(*name, |bencher| bencher.iter(parse));
    }
    group.finish();
}

/// A manifest with ten layers.
fn manifest_bytes() -> Bytes {
    let descriptor = |number: u64| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest_of(number).to_string(),
            "size": 1_000_000 + number,
        })
    };
    let layers: Vec<_> = (1..=10).map(descriptor).collect();
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest_of(0).to_string(),
        "size": 7_000,
    });
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    manifest.to_string().into()
}

fn manifests(criterion: &mut Criterion) {
    let bytes = manifest_bytes();
    criterion.bench_function("manifest of ten layers", |bencher| {
        bencher.iter(|| Manifest::parse(black_box(bytes.clone()), Some(MANIFEST)).unwrap());
    });
}

fn index(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let index = SqliteIndex::open(&directory.path().join("index.sqlite3")).unwrap();
    let (repository, tag) = fill(&index);
    let mut group = criterion.benchmark_group("index");
    group.bench_function("tag", |bencher| {
        bencher.iter(|| index.tag(black_box(&repository), &tag).unwrap().unwrap());
    });
    let mut numbers = (0..BLOBS).cycle();
    let mut next = || digest_of(numbers.next().unwrap_or_default());
    group.bench_function("blob", |bencher| {
        bencher.iter(|| index.blob(next()).unwrap().unwrap());
    });
    group.bench_function("member", |bencher| {
        bencher.iter(|| index.member(&repository, next()).unwrap().unwrap());
    });
    group.finish();
}

/// One repository with a tagged manifest that names every blob.
fn fill(index: &SqliteIndex) -> (RepositoryKey, Tag) {
    let repository = RepositoryKey {
        upstream: "docker.io".into(),
        name: "library/nginx".parse().unwrap(),
    };
    let tag: Tag = "latest".parse().unwrap();
    let now = Timestamp::from_millis(1);
    let record = BlobRecord {
        size: 1,
        stored: now,
        checksum: Checksum::default(),
        epoch: Epoch::default(),
    };
    let digests = || (0..BLOBS).map(digest_of);
    digests().for_each(|digest| index.insert_blob(digest, record).unwrap());
    let members: Vec<_> = digests().map(|digest| (digest, 1)).collect();
    let record = ManifestRecord {
        media_type: MANIFEST.into(),
        bytes: manifest_bytes(),
    };
    let arrival = ManifestArrival {
        repository: &repository,
        digest: Digest::of(Algorithm::Sha256, &record.bytes),
        record: &record,
        members: &members,
        tag: Some((&tag, now)),
    };
    index.insert_manifest(&arrival).unwrap();
    (repository, tag)
}

/// A blob that is sent from memory, in pieces of 64 KiB.
struct Memory(Bytes);

impl Source for Memory {
    fn open(&self, offset: u64) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
        let rest = self
            .0
            .slice(usize::try_from(offset).unwrap_or(usize::MAX)..);
        let pieces: Vec<_> = rest
            .chunks(64 * 1024)
            .map(|piece| rest.slice_ref(piece))
            .collect();
        let pieces = stream::iter(pieces.into_iter().map(Ok));
        let body = BlobBody::new(
            "memory".to_owned(),
            offset,
            Some(self.0.len() as u64),
            pieces,
        );
        async { Ok(body) }.boxed()
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn stall(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn retries(&self) -> u32 {
        0
    }
}

fn blobs_below(directory: &Path) -> Blobs {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let store = FsStore::open(Arc::clone(&disk), directory, Sync::Never).unwrap();
    let index = SqliteIndex::open(&directory.join("index.sqlite3")).unwrap();
    let limits = Limits {
        max_size: Share::Bytes(1 << 30),
        min_free: Share::Bytes(0),
    };
    let (store, index) = (Arc::new(store), Arc::new(index));
    Blobs::new(disk, directory, store, index, SystemClock::new(), limits)
}

fn flights(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let blobs = blobs_below(directory.path());
    let settings = fetch::Settings {
        finish_abandoned: u64::MAX,
    };
    let fetch = Fetch::new(blobs.clone(), Tasks::new(), settings);
    let content = Bytes::from(vec![7; 4 * MIB]);
    let digest = Digest::of(Algorithm::Sha256, &content);
    let source: Arc<dyn Source> = Arc::new(Memory(content.clone()));
    let mut group = criterion.benchmark_group("flight");
    group.throughput(Throughput::Bytes(content.len() as u64));
    group.bench_function("4 MiB from memory", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let read = fly(&fetch, digest, Arc::clone(&source)).await;
                assert_eq!(read, content.len());
                blobs.reading(digest).condemn("measured").await;
            });
        });
    });
    group.finish();
}

/// Downloads and reads the blob; returns its length once the flight has ended.
async fn fly(fetch: &Fetch, digest: Digest, source: Arc<dyn Source>) -> usize {
    let reader = fetch.join(digest, None, source);
    let mut body = pin!(reader.stream(None, None));
    let mut read = 0;
    while let Some(chunk) = poll_fn(|cx| body.as_mut().poll_chunk(cx)).await {
        read += chunk.unwrap().len();
    }
    while fetch.running() > 0 {
        tokio::task::yield_now().await;
    }
    read
}

criterion_group!(steps, digest, requests, manifests, index, flights);
criterion_main!(steps);
