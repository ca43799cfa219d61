//! The `Link` header of a paginated list (RFC 8288), as registries send it with `tags/list`.
//!
//! The link's URL is never followed: only its `last` and `n` go into a request of our own making, so an upstream
//! cannot send us elsewhere.

use super::query::Query;

/// The longest header in bytes that is looked at.
const LIMIT: usize = 8 * 1024;

/// The most links in one header.
const LINKS_LIMIT: usize = 16;

/// The longest `last` in bytes: more than a tag, since some registries put a token there.
const LAST_LIMIT: usize = 2048;

/// Where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextLink {
    /// The page size that the registry proposes.
    pub n: Option<u64>,
    /// The entry after which the next page begins; never empty.
    pub last: String,
}

/// The next page that a `Link` header points to, or `None` when this was the last one or the header is malformed.
///
/// ```
/// use mirror::oci::{NextLink, next_link};
///
/// let next = next_link("</v2/library/nginx/tags/list?last=1.27&n=100>; rel=\"next\"");
/// assert_eq!(next, Some(NextLink { n: Some(100), last: "1.27".into() }));
/// ```
pub fn next_link(header: &str) -> Option<NextLink> {
    if header.len() > LIMIT {
        return None;
    }
    let mut rest = header;
    for _ in 0..LINKS_LIMIT {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        let (parameters, following) = split_unquoted(after, ',');
        if is_next(parameters) {
            return page(target);
        }
        rest = following;
    }
    None
}

/// What stands before the first `separator` outside a quoted string, and what follows it.
fn split_unquoted(text: &str, separator: char) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    let found = text.char_indices().find(|&(_, character)| {
        let quote = character == '"' && !escaped;
        escaped = quoted && character == '\\' && !escaped;
        quoted ^= quote;
        character == separator && !quoted
    });
    let parts = found.and_then(|(at, _)| text.split_at_checked(at));
    let (before, after) = parts.unwrap_or((text, ""));
    (before, after.strip_prefix(separator).unwrap_or_default())
}

/// Whether one of the parameters is `rel` and names `next` among its relation types.
fn is_next(parameters: &str) -> bool {
    let mut rest = parameters;
    while !rest.is_empty() {
        let (parameter, following) = split_unquoted(rest, ';');
        if parameter
            .split_once('=')
            .is_some_and(|(name, value)| is_rel_next(name, value))
        {
            return true;
        }
        rest = following;
    }
    false
}

fn is_rel_next(name: &str, value: &str) -> bool {
    let relations = value.trim().trim_matches('"');
    let next = |relation: &str| relation.eq_ignore_ascii_case("next");
    name.trim().eq_ignore_ascii_case("rel") && relations.split_ascii_whitespace().any(next)
}

fn page(target: &str) -> Option<NextLink> {
    let query = target.split('#').next()?.split_once('?')?.1;
    let query = Query::parse(query).ok()?;
    let last = query.one("last").ok()??;
    let n = query.one("n").ok()?.and_then(|n| n.parse().ok());
    (last.len() <= LAST_LIMIT).then(|| NextLink {
        n,
        last: last.into(),
    })
}

#[cfg(test)]
mod tests;
