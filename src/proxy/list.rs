//! Lists: tags and referrers, kept with the freshness of a tag.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Inner;
use super::around::PASSED;
use super::failure::{Failure, Wanted};
use super::negative::Subject;
use super::spending::Spender;
use crate::index::ListRecord;
use crate::oci::{Digest, MediaType, Reference, RepositoryName, Tag};
use crate::registry::{
    Answer, MissReason, Outcome, PageRequest, ReferrersContent, RegistryError, TagPage,
};
use crate::sys::single_flight::Role;
use crate::sys::{clock, tasks};

/// How many tags are asked for at a time.
const PAGE: u64 = 1000;
/// The most tags that are listed of one repository.
const TAGS_LIMIT: usize = 200_000;
/// The most pages that are asked for, should an upstream send short ones.
const PAGES_LIMIT: usize = 2_000;

pub(super) const TAGS_KEY: &str = "tags";

/// A list as the upstream gave it.
pub(super) type FetchedList = ListRecord;

impl Inner {
    pub(super) async fn tags(
        self: &Arc<Self>,
        name: &RepositoryName,
        page: &PageRequest,
    ) -> Result<Answer<TagPage>, RegistryError> {
        let failed = |failure: Failure| failure.registry_error(Wanted::List(name));
        let question = {
            let (inner, name) = (Arc::clone(self), name.clone());
            || async move { inner.ask_tags(&name).await }
        };
        let list = self
            .list(name, TAGS_KEY.to_owned(), question)
            .await
            .map_err(failed)?;
        page_of(list, page, name)
    }

    pub(super) async fn referrers(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        artifact_type: Option<&str>,
        spender: Spender,
    ) -> Result<Answer<ReferrersContent>, RegistryError> {
        let failed = |failure: Failure| failure.registry_error(Wanted::List(name));
        let question = {
            let (inner, name) = (Arc::clone(self), name.clone());
            || async move { inner.ask_referrers(&name, digest, spender).await }
        };
        let list = self
            .list(name, referrers_key(digest), question)
            .await
            .map_err(failed)?;
        referrers_of(list, artifact_type, name)
    }

    /// The list under `key`: fresh, asked for anew, or stale when the upstream fails.
    async fn list<F>(
        self: &Arc<Self>,
        name: &RepositoryName,
        key: String,
        question: impl FnOnce() -> F + Send,
    ) -> Result<Answer<Bytes>, Failure>
    where
        F: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        if self.passes(name, None) {
            return self.ask_list(name, &key, question).await;
        }
        let held = self.held_list(name, &key).await;
        let age = held
            .as_ref()
            .and_then(|held| self.parts.clock.wall().since(held.fetched));
        match held {
            Some(held) if self.is_fresh_list(age, name) => {
                let mut answer = self.answer(held.bytes, Outcome::Hit);
                answer.age = age;
                Ok(answer)
            }
            _ if self.is_absent(name, Subject::List(key.clone())).await => Err(Failure::Remembered),
            Some(held) => {
                let outlasts = self.settings.freshness.outlasts_failure(age);
                let asked = self.ask_list(name, &key, question);
                let answer = if outlasts {
                    let limit = self.settings.revalidate_timeout;
                    let asked = clock::timeout(limit, asked).await;
                    asked.unwrap_or(Err(Failure::Late(limit)))
                } else {
                    asked.await
                };
                match answer {
                    Err(failure) if failure.is_offline() || outlasts && !failure.is_absence() => {
                        Ok(self.stale_list(name, held.bytes, age, &failure))
                    }
                    answer => answer,
                }
            }
            None => self.ask_list(name, &key, question).await,
        }
    }

    fn stale_list(
        &self,
        name: &RepositoryName,
        bytes: Bytes,
        age: Option<Duration>,
        failure: &Failure,
    ) -> Answer<Bytes> {
        info!(%name, %failure, "serving a stale list");
        let mut answer = self.answer(bytes, Outcome::Stale(failure.stale_reason()));
        answer.age = age;
        answer.warning = Some(format!(
            "this list of {name} is served from the cache: {failure}"
        ));
        answer
    }

    /// The list as it is held, if that may be served when `why` is the reason for not asking for it.
    pub(super) async fn list_as_held(
        &self,
        name: &RepositoryName,
        key: &str,
        why: Failure,
    ) -> Option<Answer<Bytes>> {
        if self.passes(name, None) {
            return None;
        }
        let ListRecord { bytes, fetched } = self.held_list(name, key).await?;
        let age = self.parts.clock.wall().since(fetched);
        if self.is_fresh_list(age, name) {
            let mut answer = self.answer(bytes, Outcome::Hit);
            answer.age = age;
            return Some(answer);
        }
        let outlasts = self.settings.freshness.outlasts_failure(age);
        outlasts.then(|| self.stale_list(name, bytes, age, &why))
    }

    async fn held_list(&self, name: &RepositoryName, key: &str) -> Option<ListRecord> {
        let (repository, key) = (self.key(name), key.to_owned());
        self.fact(move |index| index.list(&repository, &key)).await
    }

    /// Asks the upstream for a list, once however many ask, and keeps it unless it is to be passed through.
    async fn ask_list<F>(
        self: &Arc<Self>,
        name: &RepositoryName,
        key: &str,
        question: impl FnOnce() -> F + Send,
    ) -> Result<Answer<Bytes>, Failure>
    where
        F: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        let passes = self.passes(name, None);
        let kept = || {
            let (inner, repository, key) = (Arc::clone(self), self.key(name), key.to_owned());
            let asked = question();
            async move {
                let subject = Subject::List(key.clone());
                let bytes = match asked.await {
                    Ok(bytes) => bytes,
                    Err(failure) => {
                        inner
                            .note_absence(&repository.name, subject, &failure)
                            .await;
                        return Err(failure);
                    }
                };
                let list = ListRecord {
                    bytes,
                    fetched: inner.parts.clock.wall(),
                };
                if passes {
                    return Ok(list);
                }
                inner.end_absences(&repository.name, [subject]).await;
                let (index, written) = (Arc::clone(&inner.parts.index), list.clone());
                let kept =
                    tasks::blocking(move || index.set_list(&repository, &key, &written)).await;
                if let Err(error) = kept {
                    warn!(%error, "a list cannot be kept");
                }
                Ok(list)
            }
        };
        let (answer, role) = self.listing.run((name.clone(), key.to_owned()), kept).await;
        let list = answer.unwrap_or(Err(Failure::Busy))?;
        let outcome = match role {
            _ if passes => PASSED,
            Role::Leader => Outcome::Miss(MissReason::Absent),
            Role::Follower => Outcome::Coalesced,
        };
        Ok(self.answer(list.bytes, outcome))
    }

    /// All tags, in byte order, as a JSON array.
    async fn ask_tags(&self, name: &RepositoryName) -> Result<Bytes, Failure> {
        let (mut tags, mut last) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_LIMIT {
            let upstream = &self.parts.upstream;
            let page = upstream.tags(name, Some(PAGE), last.as_deref()).await?;
            tags.extend(page.tags);
            if tags.len() > TAGS_LIMIT {
                break;
            }
            // A page that does not advance would be asked for for ever.
            match page.next_last {
                Some(next) if last.as_ref() != Some(&next) => last = Some(next),
                _ => {
                    tags.sort_unstable();
                    tags.dedup();
                    self.end_absences_of_tags(name, &tags).await;
                    return encode(&tags);
                }
            }
        }
        // Half a list would be taken for the whole.
        Err(Failure::bad(format!(
            "{} lists more tags of {name} than are kept: {TAGS_LIMIT}, in {PAGES_LIMIT} pages",
            self.upstream_name()
        )))
    }

    /// The referrers by the upstream's API or, where it has none, by the tag that stands in for it.
    async fn ask_referrers(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: Digest,
        spender: Spender,
    ) -> Result<Bytes, Failure> {
        if let Some(bytes) = self.parts.upstream.referrers(name, digest).await? {
            entries(&bytes)?;
            return Ok(bytes);
        }
        let tag = format!("{}-{}", digest.algorithm(), digest.encoded());
        let tag = tag.get(..tag.len().min(97)).unwrap_or_default();
        let tag: Tag = tag.parse().map_err(|_| Failure::bad("no referrers tag"))?;
        let reference = Reference::Tag(tag.clone());
        match self.pull(spender, name, &reference).await {
            Ok(body) => {
                let manifest = if self.passes(name, Some(&tag)) {
                    self.verified(body, None)?.1
                } else {
                    self.keep(name, body, None, None).await?
                };
                entries(&manifest.bytes).map(|_| manifest.bytes)
            }
            Err(error) => match Failure::from(error) {
                failure if failure.is_absence() => encode(&index(&[])),
                failure => Err(failure),
            },
        }
    }
}

impl<T> Answer<T> {
    /// The same decision about another value.
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        let Self {
            value,
            outcome,
            age,
            upstream,
            warning,
        } = self;
        Answer {
            value: change(value),
            outcome,
            age,
            upstream,
            warning,
        }
    }
}

/// What the list of a manifest's referrers is kept under.
pub(super) fn referrers_key(digest: Digest) -> String {
    format!("referrers/{digest}")
}

/// The page of a kept list of tags.
pub(super) fn page_of(
    list: Answer<Bytes>,
    page: &PageRequest,
    name: &RepositoryName,
) -> Result<Answer<TagPage>, RegistryError> {
    let tags: Vec<String> = serde_json::from_slice(&list.value).map_err(|error| {
        let failure = Failure::Local(format!("a kept list of tags is broken: {error}").into());
        failure.registry_error(Wanted::List(name))
    })?;
    Ok(list.map(|_| slice(tags, page)))
}

/// Of a kept list of referrers those of one artifact type, or all.
pub(super) fn referrers_of(
    list: Answer<Bytes>,
    artifact_type: Option<&str>,
    name: &RepositoryName,
) -> Result<Answer<ReferrersContent>, RegistryError> {
    let failed = |failure: Failure| failure.registry_error(Wanted::List(name));
    let Some(wanted) = artifact_type else {
        return Ok(list.map(|bytes| ReferrersContent {
            bytes,
            filtered: false,
        }));
    };
    let filtered = filter(&list.value, wanted).map_err(failed)?;
    Ok(list.map(|_| ReferrersContent {
        bytes: filtered,
        filtered: true,
    }))
}

/// The page of `tags`, which are in byte order.
fn slice(mut tags: Vec<String>, page: &PageRequest) -> TagPage {
    let start = page
        .last
        .as_ref()
        .map_or(0, |last| tags.partition_point(|tag| tag <= last));
    let mut tags = tags.split_off(start);
    let limit = page.limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let more = limit > 0 && tags.len() > limit;
    tags.truncate(limit);
    TagPage { tags, more }
}

fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": MediaType::OciIndex.as_str(), "manifests": manifests })
}

fn entries(index: &Bytes) -> Result<Vec<Value>, Failure> {
    let mut index: Value = serde_json::from_slice(index)
        .map_err(|error| Failure::bad(format!("the list of referrers is not JSON: {error}")))?;
    match index.get_mut("manifests").map(Value::take) {
        Some(Value::Array(manifests)) => Ok(manifests),
        _ => Err(Failure::bad("the list of referrers is no index")),
    }
}

/// The index with only the entries of one artifact type.
fn filter(bytes: &Bytes, artifact_type: &str) -> Result<Bytes, Failure> {
    let is_wanted =
        |entry: &Value| entry.get("artifactType").and_then(Value::as_str) == Some(artifact_type);
    let manifests: Vec<Value> = entries(bytes)?.into_iter().filter(is_wanted).collect();
    encode(&index(&manifests))
}

fn encode(value: &impl serde::Serialize) -> Result<Bytes, Failure> {
    let encoded = serde_json::to_vec(value);
    encoded
        .map(Bytes::from)
        .map_err(|error| Failure::Local(error.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: Option<u64>, last: Option<&str>) -> (Vec<String>, bool) {
        let tags = ["1", "2", "B", "a"].map(str::to_owned).to_vec();
        let TagPage { tags, more } = slice(
            tags,
            &PageRequest {
                limit,
                last: last.map(str::to_owned),
            },
        );
        (tags, more)
    }

    #[test]
    fn pages_are_cut_by_the_specification() {
        let all = || ["1", "2", "B", "a"].map(str::to_owned).to_vec();
        assert_eq!(page(None, None), (all(), false));
        assert_eq!(page(Some(4), None), (all(), false));
        assert_eq!(page(Some(3), None), (all()[..3].to_vec(), true));
        assert_eq!(page(Some(0), None), (vec![], false));
        assert_eq!(page(Some(2), Some("1")), (all()[1..3].to_vec(), true));
        assert_eq!(
            page(None, Some("A is not listed")),
            (all()[2..].to_vec(), false)
        );
        assert_eq!(page(Some(u64::MAX), Some("z")), (vec![], false));
    }

    #[test]
    fn referrers_are_filtered_by_artifact_type() {
        let list = index(&[
            json!({ "artifactType": "a/b", "size": 1 }),
            json!({ "size": 2 }),
        ]);
        let filtered = filter(&encode(&list).unwrap(), "a/b").unwrap();
        assert_eq!(
            entries(&filtered).unwrap(),
            [json!({ "artifactType": "a/b", "size": 1 })]
        );
        assert!(filter(&Bytes::from_static(b"<html>"), "a/b").is_err());
    }
}
