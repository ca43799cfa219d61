//! `registry-1.docker.io`: challenges, manifests, redirects to blobs, tags, referrers.

use serde_json::{Value, json};
use std::time::Instant;

use super::answer::Answer;
use super::record::Origin;
use super::request::{Request, Target};
use super::state::{Manifest, Repository, State};

/// The `service` of a challenge.
pub(super) const SERVICE: &str = "registry.docker.io";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Answer::error(405, "UNSUPPORTED", "The operation is unsupported.");
    }
    let target = Target::parse(&request.path);
    let answer = match (authorize(state, request, &target), target) {
        (Err(challenge), _) => challenge,
        (Ok(()), Target::Ping) => Answer::json(200, &json!({})),
        (
            Ok(()),
            Target::Manifest {
                repository,
                reference,
            },
        ) => manifest(state, request, &repository, &reference),
        (Ok(()), Target::Blob { repository, digest }) => blob(state, request, &repository, &digest),
        (Ok(()), Target::Tags { repository }) => tags(state, request, &repository),
        (Ok(()), Target::Referrers { repository, digest }) => {
            referrers(state, request, &repository, &digest)
        }
        (Ok(()), _) => Answer::new(404, "text/plain; charset=utf-8", "404 page not found\n"),
    };
    answer.with("docker-distribution-api-version", "registry/2.0")
}

/// 401 without a valid token for exactly the repository asked for; also when there is no such
/// repository, as Docker Hub does.
fn authorize(state: &State, request: &Request, target: &Target) -> Result<(), Answer> {
    let token = request
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    let grant = token
        .and_then(|token| state.tokens.get(token))
        .filter(|grant| grant.expires > Instant::now());
    let repository = target.repository();
    let allowed = match (grant, repository) {
        (None, Some(_)) => false,
        (grant, None) => grant.is_some() || !matches!(target, Target::Ping),
        (Some(grant), Some(name)) => {
            grant.repositories.contains(name) && state.repositories.contains_key(name)
        }
    };
    if allowed {
        return Ok(());
    }
    let realm = format!("{}/token", state.url(Origin::Token));
    let error = match (token, grant) {
        (None, _) => "",
        (Some(_), None) => "invalid_token",
        (Some(_), Some(_)) => "insufficient_scope",
    };
    Err(challenge(&realm, repository, error))
}

/// A 401 with a Bearer challenge; `error` may be empty.
pub(super) fn challenge(realm: &str, repository: Option<&str>, error: &str) -> Answer {
    let mut value = format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"");
    if let Some(name) = repository {
        value += &[",scope=\"repository:", name, ":pull\""].concat();
    }
    if !error.is_empty() {
        value += &[",error=\"", error, "\""].concat();
    }
    Answer::error(401, "UNAUTHORIZED", "authentication required").with("www-authenticate", &value)
}

fn manifest(state: &mut State, request: &Request, name: &str, reference: &str) -> Answer {
    let Some((digest, manifest)) = state.repositories[name]
        .manifest(reference)
        .map(|(digest, manifest)| (digest.to_owned(), manifest.clone()))
    else {
        return Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    let answer = if request.is_head() || state.limit.take() {
        manifest_answer(&digest, manifest)
    } else {
        too_many_requests(state)
    };
    with_rate_limit(state, answer)
}

fn manifest_answer(digest: &str, manifest: Manifest) -> Answer {
    Answer::new(200, &manifest.media_type, manifest.bytes)
        .with("docker-content-digest", digest)
        .with("etag", &format!("\"{digest}\""))
}

/// The answer of a client that has used up its pulls.
fn too_many_requests(state: &State) -> Answer {
    let message = "You have reached your unauthenticated pull rate limit. \
                   https://www.docker.com/increase-rate-limit";
    let answer = Answer::error(429, "TOOMANYREQUESTS", message);
    match state.limit.retry_after {
        Some(after) => answer.with("retry-after", &after.as_secs().to_string()),
        None => answer,
    }
}

fn with_rate_limit(state: &State, answer: Answer) -> Answer {
    let Some(limit) = state.limit.limit else {
        return answer;
    };
    let remaining = state.limit.remaining();
    answer
        .with("ratelimit-limit", &format!("{limit};w=21600"))
        .with("ratelimit-remaining", &format!("{remaining};w=21600"))
        .with("docker-ratelimit-source", "127.0.0.1")
}

fn blob(state: &mut State, request: &Request, name: &str, digest: &str) -> Answer {
    if !state.repositories[name].blobs.contains(digest) {
        return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    }
    if !state.direct_blobs {
        return Answer::redirect(&state.signed_url(Origin::Cdn, digest));
    }
    Answer::new(200, "application/octet-stream", state.blobs[digest].clone())
        .with("docker-content-digest", digest)
        .with("etag", &format!("\"{digest}\""))
        .with("accept-ranges", "bytes")
        .with_range(request.header("range"))
}

fn tags(state: &State, request: &Request, name: &str) -> Answer {
    let last = request.parameter("last").unwrap_or_default();
    let asked = request.parameter("n").and_then(|n| n.parse().ok());
    let page = [asked, state.tags_page].into_iter().flatten().min();
    let after: Vec<&String> = state.repositories[name]
        .tags
        .keys()
        .filter(|tag| **tag > last)
        .collect();
    let shown = &after[..page.unwrap_or(usize::MAX).min(after.len())];
    let answer = Answer::json(200, &json!({"name": name, "tags": shown}));
    match (shown.last(), page) {
        (Some(last), Some(page)) if shown.len() < after.len() => {
            let next = format!("</v2/{name}/tags/list?last={last}&n={page}>; rel=\"next\"");
            answer.with("link", &next)
        }
        _ => answer,
    }
}

fn referrers(state: &State, request: &Request, name: &str, digest: &str) -> Answer {
    if !state.referrers {
        return Answer::new(404, "text/plain; charset=utf-8", "404 page not found\n");
    }
    let wanted = request.parameter("artifactType");
    let manifests: Vec<Value> = descriptors_of(&state.repositories[name], digest)
        .filter(|it| wanted.is_none() || it["artifactType"].as_str() == wanted.as_deref())
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let answer = Answer::json(200, &index).with("content-type", INDEX);
    match wanted {
        Some(_) => answer.with("oci-filters-applied", "artifactType"),
        None => answer,
    }
}

/// The descriptors of the manifests whose subject is `digest`.
fn descriptors_of<'a>(
    repository: &'a Repository,
    digest: &'a str,
) -> impl Iterator<Item = Value> + 'a {
    repository.manifests.iter().filter_map(move |(own, it)| {
        let body: Value = serde_json::from_slice(&it.bytes).ok()?;
        if body["subject"]["digest"] != digest {
            return None;
        }
        let mut descriptor =
            json!({"mediaType": it.media_type, "digest": own, "size": it.bytes.len()});
        let kinds = [&body["artifactType"], &body["config"]["mediaType"]];
        if let Some(kind) = kinds.iter().find(|kind| kind.is_string()) {
            descriptor["artifactType"] = (**kind).clone();
        }
        if body["annotations"].is_object() {
            descriptor["annotations"] = body["annotations"].clone();
        }
        Some(descriptor)
    })
}
