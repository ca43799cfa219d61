//! A registry that does what its repositories' names say, and remembers what it was asked.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use mirror::oci::range::Span;
use mirror::oci::{Algorithm, ByteRange, Digest, Reference, RepositoryName};
use mirror::registry::{
    Answer, BlobContent, BlobFacts, BlobRead, Caller, Cut, ManifestContent, MissReason, Outcome,
    PageRequest, ReferrersContent, Registry, RegistryError, Reply, StaleReason, TagPage,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

pub(super) const MANIFEST: &[u8] = b"{\n  \"schemaVersion\": 2\n}\n";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const REFERRERS: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
pub(super) const TAGS: [&str; 3] = ["1.0", "1.1", "latest"];

/// What a broken blob ends with.
pub(super) const CUT: &str = "the digest does not match";

type Chunk = Result<Bytes, Cut>;

/// Every repository holds [`MANIFEST`] and [`blob`], except those whose first component asks for a fault.
pub(super) struct Stub {
    calls: Mutex<Vec<String>>,
    feed: Mutex<Option<Receiver<Chunk>>>,
}

/// A blob whose chunks are known beforehand.
struct Chunks(VecDeque<Chunk>);

/// A blob whose chunks the test sends.
struct Feed(Receiver<Chunk>);

/// A blob that never ends.
struct Endless;

/// The content of the one blob: 1000 bytes, each telling its place.
pub(super) fn blob() -> Vec<u8> {
    (0..1000u32)
        .map(|place| u8::try_from(place % 251).unwrap())
        .collect()
}

pub(super) fn blob_digest() -> Digest {
    Digest::of(Algorithm::Sha256, &blob())
}

pub(super) fn manifest_digest() -> Digest {
    Digest::of(Algorithm::Sha256, MANIFEST)
}

impl Stub {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            feed: Mutex::default(),
        })
    }

    /// Everything that was asked, in order.
    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// The sender of the next blob of `fed/blob`.
    pub(super) fn feed(&self) -> Sender<Chunk> {
        let (sender, receiver) = channel(1);
        *self.feed.lock().unwrap() = Some(receiver);
        sender
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn body(&self, name: &RepositoryName, span: Option<Span>) -> Pin<Box<dyn BlobRead>> {
        let content = Bytes::from(blob());
        let chunk = |range: std::ops::Range<usize>| Ok(content.slice(range));
        let cut = Err(Cut { reason: CUT.into() });
        let chunks: Vec<Chunk> = match name.as_str() {
            "fed/blob" => return Box::pin(Feed(self.feed.lock().unwrap().take().unwrap())),
            "endless/blob" => return Box::pin(Endless),
            "cut/blob" | "cut/unsized" => vec![chunk(0..400), cut],
            "short/blob" => vec![chunk(0..400)],
            "long/blob" => vec![chunk(0..1000), chunk(0..1)],
            _ => match span {
                Some(Span { start, end }) => {
                    vec![chunk(
                        usize::try_from(start).unwrap()..usize::try_from(end).unwrap(),
                    )]
                }
                None => vec![chunk(0..600), chunk(600..1000)],
            },
        };
        Box::pin(Chunks(chunks.into()))
    }
}

impl Registry for Stub {
    fn manifest<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        reference: &'a Reference,
    ) -> Reply<'a, ManifestContent> {
        self.called(format!("manifest {name} {reference}"));
        Box::pin(async move {
            if name.as_str() == "pending/app" {
                std::future::pending::<()>().await;
            }
            fault(name, reference)?;
            let manifest = ManifestContent {
                digest: manifest_digest(),
                media_type: MANIFEST_TYPE.into(),
                bytes: MANIFEST.into(),
            };
            let mut answer = Answer::new(manifest, Outcome::Hit);
            answer.age = Some(Duration::from_secs(41));
            answer.upstream = Some("docker.io".into());
            if name.as_str() == "stale/app" {
                answer.outcome = Outcome::Stale(StaleReason::Timeout);
                answer.warning = Some("docker.io does not \"answer\"".into());
            }
            Ok(answer)
        })
    }

    fn blob_facts<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
    ) -> Reply<'a, BlobFacts> {
        self.called(format!("facts {name} {digest}"));
        Box::pin(async move {
            known(name, digest)?;
            Ok(Answer::new(BlobFacts { digest, size: 1000 }, Outcome::Hit))
        })
    }

    fn blob<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Reply<'a, BlobContent> {
        let range_text = range.map_or_else(|| "all".to_owned(), |range| range.to_string());
        self.called(format!("blob {name} {digest} {range_text}"));
        Box::pin(async move {
            known(name, digest)?;
            let span = range.map(|range| range.resolve(1000)).transpose();
            let span =
                span.map_err(|error| RegistryError::RangeNotSatisfiable { size: error.total })?;
            let size = match name.as_str() {
                "endless/blob" => Some(1 << 40),
                "cut/unsized" | "unsized/blob" => None,
                _ => Some(1000),
            };
            let body = self.body(name, span);
            let content = BlobContent {
                digest,
                size,
                span,
                body,
            };
            Ok(Answer::new(content, Outcome::Miss(MissReason::Absent)))
        })
    }

    fn tags<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        page: &'a PageRequest,
    ) -> Reply<'a, TagPage> {
        let PageRequest { limit, last } = page;
        self.called(format!("tags {name} {limit:?} {last:?}"));
        Box::pin(async move {
            let limit = limit.map_or(TAGS.len(), |limit| usize::try_from(limit).unwrap());
            let after = |tag: &&&str| last.as_deref().is_none_or(|last| **tag > last);
            let tags: Vec<String> = TAGS.iter().filter(after).map(ToString::to_string).collect();
            let more = tags.len() > limit;
            let tags = tags.into_iter().take(limit).collect();
            Ok(Answer::new(TagPage { tags, more }, Outcome::Hit))
        })
    }

    fn referrers<'a>(
        &'a self,
        _caller: &'a Caller,
        name: &'a RepositoryName,
        digest: Digest,
        artifact_type: Option<&'a str>,
    ) -> Reply<'a, ReferrersContent> {
        self.called(format!("referrers {name} {digest} {artifact_type:?}"));
        Box::pin(async move {
            let content = ReferrersContent {
                bytes: REFERRERS.into(),
                filtered: artifact_type.is_some(),
            };
            Ok(Answer::new(content, Outcome::Hit))
        })
    }
}

impl BlobRead for Chunks {
    fn poll_chunk(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Poll::Ready(self.0.pop_front())
    }
}

impl BlobRead for Feed {
    fn poll_chunk(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.0.poll_recv(cx)
    }
}

impl BlobRead for Endless {
    fn poll_chunk(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Poll::Ready(Some(Ok(Bytes::from(vec![0; 256 * 1024]))))
    }
}

/// `fault/<kind>` fails with that kind; `absent/...` holds nothing.
fn fault(name: &RepositoryName, reference: &Reference) -> Result<(), RegistryError> {
    let message = "docker.io: why".to_owned();
    Err(match name.as_str() {
        "fault/limited" => RegistryError::RateLimited {
            message,
            retry_after: Some(Duration::from_secs(90)),
        },
        "fault/limited-long" => RegistryError::RateLimited {
            message,
            retry_after: None,
        },
        "fault/unreachable" => RegistryError::Unreachable { message },
        "fault/timeout" => RegistryError::Timeout { message },
        "fault/upstream" => RegistryError::BadUpstream { message },
        "fault/internal" => RegistryError::Internal { message },
        "absent/name" => RegistryError::NameUnknown { name: name.clone() },
        "absent/manifest" => RegistryError::ManifestUnknown {
            name: name.clone(),
            reference: reference.clone(),
        },
        _ => return Ok(()),
    })
}

fn known(name: &RepositoryName, digest: Digest) -> Result<(), RegistryError> {
    if digest == blob_digest() {
        return Ok(());
    }
    let name = name.clone();
    Err(RegistryError::BlobUnknown { name, digest })
}
