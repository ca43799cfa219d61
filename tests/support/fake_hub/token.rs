//! `auth.docker.io`: tokens for scopes, anonymous or for a user.

use std::collections::BTreeSet;

use serde_json::json;

use super::answer::Answer;
use super::request::{Request, Target};
use super::state::State;

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    if Target::parse(&request.path) != Target::Token {
        return Answer::new(404, "text/plain; charset=utf-8", "404 page not found\n");
    }
    if request.method != "GET" {
        return Answer::json(405, &json!({"details": "method not allowed"}));
    }
    match user(state, request) {
        Ok(user) => grant(state, request, user.as_deref()),
        Err(WrongCredentials) => {
            Answer::json(401, &json!({"details": "incorrect username or password"}))
        }
    }
}

/// The foreign host's tokens: anonymous whatever was sent, and good at the registry, so that
/// a client that asks here is seen to get on.
pub(super) fn foreign(state: &mut State, request: &Request) -> Answer {
    grant(state, request, None)
}

/// A token for what the user may pull of the scopes asked for. Less than asked is no error.
fn grant(state: &mut State, request: &Request, user: Option<&str>) -> Answer {
    let repositories: BTreeSet<String> = request
        .parameters("scope")
        .iter()
        .flat_map(|value| value.split(' '))
        .filter_map(pulled_repository)
        .filter(|name| {
            let repository = state.repositories.get(*name);
            repository.is_some_and(|it| it.readable_by(user))
        })
        .map(str::to_owned)
        .collect();
    let ttl = state.token_ttl;
    let token = state.issue_token(repositories, ttl);
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
    Answer::json(
        200,
        &json!({
            "token": token,
            "access_token": token,
            "expires_in": ttl.as_secs(),
            "issued_at": now.to_string(),
        }),
    )
}

/// The repository of a scope `repository:<name>:<actions>` that contains `pull`.
fn pulled_repository(scope: &str) -> Option<&str> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    actions
        .split(',')
        .any(|it| it == "pull" || it == "*")
        .then_some(name)
}

struct WrongCredentials;

fn user(state: &State, request: &Request) -> Result<Option<String>, WrongCredentials> {
    let Some(value) = request.header("authorization") else {
        return Ok(None);
    };
    let (user, password) = basic(value).ok_or(WrongCredentials)?;
    match state.users.get(&user) {
        Some(expected) if *expected == password => Ok(Some(user)),
        _ => Err(WrongCredentials),
    }
}

/// User and password of `Basic <base64>`.
pub(super) fn basic(value: &str) -> Option<(String, String)> {
    let bytes = base64(value.strip_prefix("Basic ")?.trim_end_matches('='))?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Decodes base64 without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0_u32);
    for symbol in text.bytes() {
        let value = ALPHABET.iter().position(|it| *it == symbol)?;
        bits = (bits << 6) | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(out)
}
