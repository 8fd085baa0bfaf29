//! Every error of the gateway's own has the provider's shape, so that an SDK shows its message instead of choking.

use std::any::Any;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::json;
use tracing::{error, warn};

use super::edge::Fault;
use crate::upstream::WithCauses;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn refusal(status: StatusCode, kind: &str, code: Option<&str>, message: &str) -> Response {
    let body = json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

fn invalid_request(status: StatusCode, code: Option<&str>, message: &str) -> Response {
    refusal(status, "invalid_request_error", code, message)
}

/// In the shape of the API that the path belongs to.
pub(super) async fn not_found(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let message = format!("Unknown URL ({method} {}): this gateway does not serve it", uri.path());
    let path = uri.path().strip_prefix("/v1").unwrap_or(uri.path());
    if path.starts_with("/messages") || headers.contains_key("anthropic-version") {
        let error = json!({ "type": "not_found_error", "message": message });
        let body = json!({ "type": "error", "error": error, "request_id": null });
        return (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response();
    }
    invalid_request(StatusCode::NOT_FOUND, Some("unknown_url"), &message)
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{method} is not allowed on {}", uri.path());
    invalid_request(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_supported"), &message)
}

/// For a request that broke a rule of the [edge](super::edge).
pub(super) fn of_upload(fault: Fault) -> Response {
    let (status, code) = match fault {
        Fault::Host => (StatusCode::BAD_REQUEST, None),
        Fault::TooLarge | Fault::TooDense => (StatusCode::PAYLOAD_TOO_LARGE, None),
        Fault::Stalled => (StatusCode::REQUEST_TIMEOUT, Some("request_timeout")),
    };
    warn!(status = status.as_u16(), %fault, "a request is refused");
    invalid_request(status, code, &fault.to_string())
}

/// For requests that the bridge passed on without reading: their failures come up as errors.
pub(super) async fn unreachable(error: WithCauses) -> Response {
    warn!(%error, "the provider could not be asked");
    refusal(
        StatusCode::BAD_GATEWAY,
        "api_error",
        Some("server_error"),
        "The provider could not be reached",
    )
}

/// The message may tell a secret, and the hook has printed it to the operator already: the caller gets none of it.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    error!("a request panicked");
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "api_error",
        Some("server_error"),
        "Internal error of the gateway",
    )
}
