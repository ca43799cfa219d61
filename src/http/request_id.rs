//! The id under which a request is logged, and which its answer carries.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::sys::random;

/// Client and server name a request by this header.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over from a client, in characters.
const LIMIT: usize = 64;

/// The client's own id when it is at most 64 visible ASCII characters, otherwise a new one of 16 hex digits.
pub(super) fn request_id(headers: &HeaderMap) -> Arc<str> {
    headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=LIMIT).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(|| format!("{:016x}", random::unique()).into(), Into::into)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn given(value: &[u8]) -> Arc<str> {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        request_id(&headers)
    }

    #[test]
    fn a_clients_id_is_kept_up_to_64_visible_characters() {
        assert_eq!(&*given(b"a-1/~"), "a-1/~");
        assert_eq!(given(&[b'x'; 64]).len(), 64);
    }

    #[test]
    fn any_other_is_replaced() {
        for value in [&b""[..], b"with space", b"\"\xc3\xa4", &[b'x'; 65]] {
            let id = given(value);
            assert_eq!(id.len(), 16);
            assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
