//! Errors as answers: the one place where an error becomes a status, an OCI error code and headers.
//!
//! The statuses follow from what clients do with them. A 429 makes containerd repeat five times at once and podman
//! wait for minutes, where a 503 sends everyone to the next host. A 404 says that the content does not exist, which a
//! mirror without its upstream cannot know. A 401 makes clients send the upstream's credentials, so there is none.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};

use super::body::Content;
use super::reply::Reply;
use crate::oci::error::{Code, ErrorBody};
use crate::oci::range::Unsatisfiable;
use crate::oci::request::{Request, RequestError};
use crate::registry::{ErrorReason, Outcome, RegistryError};

/// When to come back to an upstream that cannot be reached.
const RETRY_UNREACHABLE: Duration = Duration::from_secs(5);

/// When to come back to an upstream that limits and does not say for how long.
const RETRY_LIMITED: Duration = Duration::from_mins(1);

/// The answer to a request that no registry sees.
pub(super) fn of_request(error: &RequestError) -> Reply {
    let reason = match error.status() {
        StatusCode::NOT_FOUND => ErrorReason::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ErrorReason::Unsupported,
        _ => ErrorReason::BadRequest,
    };
    let reply = reply(error.status(), reason, &error.body());
    match error {
        RequestError::MethodNotAllowed { allow } => reply.allow(allow),
        _ => reply,
    }
}

/// The answer when the registry has none.
pub(super) fn of_registry(error: &RegistryError, request: &Request) -> Reply {
    let (status, code) = status(error);
    let body = ErrorBody::new(code, error.to_string());
    let reply = refusal(status, error.outcome(), &body);
    match error {
        RegistryError::RangeNotSatisfiable { size } => {
            let total = Unsatisfiable { total: *size };
            reply.with(CONTENT_RANGE, total.content_range())
        }
        RegistryError::RateLimited { retry_after, .. } => {
            retry(reply, retry_after.unwrap_or(RETRY_LIMITED))
        }
        RegistryError::Unreachable { .. } | RegistryError::Timeout { .. } => {
            retry(reply, RETRY_UNREACHABLE)
        }
        RegistryError::Unsupported { .. } => reply.allow(readable(request)),
        RegistryError::ManifestUnknown { .. }
        | RegistryError::BlobUnknown { .. }
        | RegistryError::NameUnknown { .. }
        | RegistryError::Negative { .. }
        | RegistryError::UpstreamUnknown { .. }
        | RegistryError::Denied { .. }
        | RegistryError::BadUpstream { .. }
        | RegistryError::Internal { .. } => reply,
    }
}

/// The answer to a request that is refused for its form.
pub(super) fn bad_request(message: &str) -> Reply {
    let body = ErrorBody::new(Code::Unsupported, message);
    reply(StatusCode::BAD_REQUEST, ErrorReason::BadRequest, &body)
}

/// The answer to a method that a page of this server does not have.
pub(super) fn method_not_allowed(allow: &'static str) -> Reply {
    of_request(&RequestError::MethodNotAllowed { allow })
}

/// The answer to a client of HTTP/1.0 that asks for content of unknown length.
pub(super) fn version_not_supported() -> Reply {
    let message = "the length of this content is not known yet, which needs HTTP/1.1";
    let body = ErrorBody::new(Code::Unsupported, message);
    let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    reply(status, ErrorReason::BadRequest, &body)
}

/// The answer when this server failed to make one.
pub(super) fn internal(message: &str) -> Reply {
    let body = ErrorBody::new(Code::Unknown, message);
    reply(
        StatusCode::INTERNAL_SERVER_ERROR,
        ErrorReason::Internal,
        &body,
    )
}

fn status(error: &RegistryError) -> (StatusCode, Code) {
    match error {
        RegistryError::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, Code::ManifestUnknown),
        RegistryError::BlobUnknown { .. } => (StatusCode::NOT_FOUND, Code::BlobUnknown),
        RegistryError::NameUnknown { .. } | RegistryError::UpstreamUnknown { .. } => {
            (StatusCode::NOT_FOUND, Code::NameUnknown)
        }
        RegistryError::Negative { unknown } => status(unknown),
        RegistryError::Denied { .. } => (StatusCode::FORBIDDEN, Code::Denied),
        RegistryError::RangeNotSatisfiable { .. } => {
            (StatusCode::RANGE_NOT_SATISFIABLE, Code::SizeInvalid)
        }
        RegistryError::Unsupported { .. } => (StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported),
        RegistryError::RateLimited { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::TooManyRequests)
        }
        RegistryError::Unreachable { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::Unknown),
        RegistryError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, Code::Unknown),
        RegistryError::BadUpstream { .. } => (StatusCode::BAD_GATEWAY, Code::Unknown),
        RegistryError::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown),
    }
}

/// What can be done where `request` cannot: the value of `Allow`.
fn readable(request: &Request) -> &'static str {
    match request {
        Request::Version
        | Request::ManifestGet { .. }
        | Request::ManifestHead { .. }
        | Request::ManifestPut { .. }
        | Request::ManifestDelete { .. }
        | Request::BlobGet { .. }
        | Request::BlobHead { .. }
        | Request::BlobDelete { .. } => "GET, HEAD",
        Request::TagsList { .. } | Request::Referrers { .. } => "GET",
        Request::Catalog { .. }
        | Request::UploadStart { .. }
        | Request::UploadChunk { .. }
        | Request::UploadFinish { .. }
        | Request::UploadStatus { .. }
        | Request::UploadCancel { .. } => "",
    }
}

fn retry(reply: Reply, after: Duration) -> Reply {
    // At least a second: zero would invite to come back at once.
    reply.with(RETRY_AFTER, after.as_secs().max(1).to_string())
}

fn reply(status: StatusCode, reason: ErrorReason, body: &ErrorBody) -> Reply {
    refusal(status, Outcome::Error(reason), body)
}

fn refusal(status: StatusCode, outcome: Outcome, body: &ErrorBody) -> Reply {
    Reply::new(status)
        .with(CONTENT_TYPE, ErrorBody::CONTENT_TYPE)
        .content(Content::Full(body.to_bytes()))
        .refused(outcome, body.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_status_that_clients_handle_best() {
        let message = || "why".to_owned();
        let table = [
            (
                RegistryError::UpstreamUnknown { host: message() },
                404,
                Code::NameUnknown,
            ),
            (
                RegistryError::Denied { message: message() },
                403,
                Code::Denied,
            ),
            (
                RegistryError::RangeNotSatisfiable { size: 7 },
                416,
                Code::SizeInvalid,
            ),
            (
                RegistryError::Unsupported { message: message() },
                405,
                Code::Unsupported,
            ),
            (
                RegistryError::RateLimited {
                    message: message(),
                    retry_after: None,
                },
                503,
                Code::TooManyRequests,
            ),
            (
                RegistryError::Unreachable { message: message() },
                503,
                Code::Unknown,
            ),
            (
                RegistryError::Timeout { message: message() },
                504,
                Code::Unknown,
            ),
            (
                RegistryError::BadUpstream { message: message() },
                502,
                Code::Unknown,
            ),
            (
                RegistryError::Internal { message: message() },
                500,
                Code::Unknown,
            ),
        ];
        for (error, expected, code) in table {
            assert_eq!(
                status(&error),
                (StatusCode::from_u16(expected).unwrap(), code),
                "{error:?}"
            );
        }
        let name = "library/nginx".parse().unwrap();
        let unknown = RegistryError::NameUnknown { name };
        assert_eq!(status(&unknown), (StatusCode::NOT_FOUND, Code::NameUnknown));
        let remembered = RegistryError::Negative {
            unknown: Box::new(unknown),
        };
        assert_eq!(
            status(&remembered),
            (StatusCode::NOT_FOUND, Code::NameUnknown)
        );
        assert_eq!(remembered.outcome(), Outcome::Negative);
    }
}
