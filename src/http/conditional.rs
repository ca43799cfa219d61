//! Conditional requests (RFC 9110 section 13) about content that its digest names.

use http::HeaderMap;
use http::header::{HeaderName, IF_NONE_MATCH, IF_RANGE};

use crate::oci::digest::Digest;

/// The entity tag of content: its digest in quotes. Equal tags mean equal bytes.
pub(super) fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client holds this content already: `If-None-Match` lists it, or `*`. Compared weakly (RFC 9110
/// section 13.1.2); a bare digest counts too, as older clients send it.
pub(super) fn is_held(headers: &HeaderMap, digest: &Digest) -> bool {
    if !headers.contains_key(IF_NONE_MATCH) {
        return false;
    }
    let wanted = digest.to_string();
    members(headers, IF_NONE_MATCH).any(|member| {
        let tag = member.strip_prefix("W/").unwrap_or(member);
        member == "*" || tag.trim_matches('"') == wanted
    })
}

/// Whether a range may be answered with a part: there is no `If-Range`, or it names this very content. Compared
/// strongly (RFC 9110 section 13.1.5); a date never matches, as content has none here.
pub(super) fn range_holds(headers: &HeaderMap, digest: &Digest) -> bool {
    match headers.get(IF_RANGE) {
        None => true,
        Some(value) => value.as_bytes() == entity_tag(digest).as_bytes(),
    }
}

/// The members of a list header over all its lines.
fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::oci::digest::Algorithm;

    fn with(name: &HeaderName, lines: &[String]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn every_form_of_the_same_tag_is_recognised() {
        let digest = Digest::of(Algorithm::Sha256, b"content");
        for line in [
            format!("\"{digest}\""),
            format!("W/\"{digest}\""),
            digest.to_string(),
            "*".to_owned(),
            format!("\"sha256:other\", \"{digest}\""),
        ] {
            assert!(
                is_held(&with(&IF_NONE_MATCH, std::slice::from_ref(&line)), &digest),
                "{line}"
            );
        }
        let lines = ["\"a\"".to_owned(), format!("\"{digest}\"")];
        assert!(is_held(&with(&IF_NONE_MATCH, &lines), &digest), "two lines");
    }

    #[test]
    fn another_tag_is_not_held() {
        let digest = Digest::of(Algorithm::Sha256, b"content");
        let other = Digest::of(Algorithm::Sha256, b"other");
        assert!(!is_held(&HeaderMap::new(), &digest));
        assert!(!is_held(
            &with(&IF_NONE_MATCH, &[entity_tag(&other)]),
            &digest
        ));
        assert!(!is_held(&with(&IF_NONE_MATCH, &[String::new()]), &digest));
    }

    #[test]
    fn a_range_holds_for_the_same_content_only() {
        let digest = Digest::of(Algorithm::Sha256, b"content");
        let holds = |line: String| range_holds(&with(&IF_RANGE, &[line]), &digest);
        assert!(range_holds(&HeaderMap::new(), &digest));
        assert!(holds(entity_tag(&digest)));
        assert!(!holds(format!("W/\"{digest}\"")));
        assert!(!holds("\"other\"".into()));
        assert!(!holds("Sat, 29 Oct 1994 19:43:31 GMT".into()));
    }
}
