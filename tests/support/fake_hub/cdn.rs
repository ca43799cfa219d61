//! The host that holds the blobs: signed addresses, ranges, and no `Authorization`.

use super::answer::Answer;
use super::request::{Request, Target};
use super::state::State;

pub(super) fn answer(state: &State, request: &Request) -> Answer {
    let Target::SignedBlob { digest } = Target::parse(&request.path) else {
        return error(404, "NoSuchKey");
    };
    if request.header("authorization").is_some() {
        // S3 and R2 do the same: a signed address and a header are two mechanisms.
        return error(400, "OnlyOneAuthMechanismAllowed");
    }
    let signature = request.parameter("signature").unwrap_or_default();
    if state.signatures.get(&signature) != Some(&digest) {
        return error(403, "AccessDenied");
    }
    blob(state, request, &digest)
}

/// A blob to anyone: what a stranger serves.
pub(super) fn foreign(state: &State, request: &Request) -> Answer {
    match Target::parse(&request.path) {
        Target::SignedBlob { digest } => blob(state, request, &digest),
        _ => error(404, "NoSuchKey"),
    }
}

fn blob(state: &State, request: &Request, digest: &str) -> Answer {
    let Some(bytes) = state.blobs.get(digest) else {
        return error(404, "NoSuchKey");
    };
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    let etag = format!("\"{}\"", hex.get(..32).unwrap_or(hex));
    let unchanged = request.header("if-range").is_none_or(|it| it == etag);
    let range = request.header("range").filter(|_| unchanged);
    Answer::new(200, "application/octet-stream", bytes.clone())
        .with("accept-ranges", "bytes")
        .with("etag", &etag)
        .with_range(range)
}

fn error(status: u16, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    Answer::new(status, "application/xml", body)
}
