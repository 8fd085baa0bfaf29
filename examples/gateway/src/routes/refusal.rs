//! Every error of the gateway's own has the provider's shape, so that an SDK shows its message instead of choking.

use std::any::Any;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::{Value, json};
use tracing::{error, warn};

use super::edge::Fault;
use crate::upstream::WithCauses;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Whose errors a caller reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    OpenAi,
    Anthropic,
}

// === impl Shape ===

impl Shape {
    /// By the path of a request, and for paths that both have by the header that only one's callers send.
    pub(super) fn of(path: &str, headers: &HeaderMap) -> Self {
        let below = path.strip_prefix("/v1").unwrap_or(path);
        let is_anthropic = below.starts_with("/messages") || headers.contains_key("anthropic-version");
        if is_anthropic { Self::Anthropic } else { Self::OpenAi }
    }

    fn body(self, status: StatusCode, code: Option<&str>, message: &str) -> Value {
        let kind = match (self, status) {
            (Self::Anthropic, StatusCode::NOT_FOUND) => "not_found_error",
            (Self::Anthropic, StatusCode::PAYLOAD_TOO_LARGE) => "request_too_large",
            (_, status) if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        };
        match self {
            Self::OpenAi => json!({ "error": { "message": message, "type": kind, "param": null, "code": code } }),
            Self::Anthropic => {
                json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": null })
            }
        }
    }
}

fn refusal(shape: Shape, status: StatusCode, code: Option<&str>, message: &str) -> Response {
    let body = shape.body(status, code, message);
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

pub(super) async fn not_found(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let message = format!("Unknown URL ({method} {}); this gateway does not serve it", uri.path());
    let shape = Shape::of(uri.path(), &headers);
    refusal(shape, StatusCode::NOT_FOUND, Some("unknown_url"), &message)
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let message = format!("{method} is not allowed on {}", uri.path());
    let shape = Shape::of(uri.path(), &headers);
    refusal(
        shape,
        StatusCode::METHOD_NOT_ALLOWED,
        Some("method_not_supported"),
        &message,
    )
}

/// For a request that broke a rule of the [edge](super::edge).
pub(super) fn of_upload(shape: Shape, fault: Fault) -> Response {
    let (status, code) = match fault {
        Fault::Host => (StatusCode::BAD_REQUEST, None),
        Fault::TooLarge | Fault::TooDense => (StatusCode::PAYLOAD_TOO_LARGE, None),
        Fault::Stalled => (StatusCode::REQUEST_TIMEOUT, Some("request_timeout")),
    };
    warn!(status = status.as_u16(), %fault, "a request is refused");
    refusal(shape, status, code, &fault.to_string())
}

/// For requests that the bridge passed on without reading: their failures come up as errors.
pub(super) fn unreachable(shape: Shape, error: &WithCauses) -> Response {
    warn!(%error, "the provider could not be asked");
    refusal(
        shape,
        StatusCode::BAD_GATEWAY,
        Some("server_error"),
        "The provider could not be reached",
    )
}

/// The message may tell a secret, and the hook has printed it to the operator already: the caller gets none of it.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    error!("a request panicked");
    refusal(
        Shape::OpenAi,
        StatusCode::INTERNAL_SERVER_ERROR,
        Some("server_error"),
        "Internal error of the gateway",
    )
}
