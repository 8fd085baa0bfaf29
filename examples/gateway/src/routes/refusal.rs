//! Every error of the gateway's own has the provider's shape, so that an SDK shows its message instead of choking.

use std::any::Any;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use serde_json::json;
use tracing::{error, warn};

use crate::upstream::WithCauses;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn refusal(status: StatusCode, kind: &str, code: Option<&str>, message: &str) -> Response {
    let body = json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

fn invalid_request(status: StatusCode, code: Option<&str>, message: &str) -> Response {
    refusal(status, "invalid_request_error", code, message)
}

pub(super) async fn not_found(method: Method, uri: Uri) -> Response {
    let message = format!(
        "Unknown URL ({method} {}); this gateway serves chat completions and models",
        uri.path()
    );
    invalid_request(StatusCode::NOT_FOUND, Some("unknown_url"), &message)
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{method} is not allowed on {}", uri.path());
    invalid_request(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_supported"), &message)
}

/// Refuses a body whose declared length is over `limit`; `tower_http::limit` would do so in plain text.
#[expect(
    clippy::result_large_err,
    reason = "the type that tower_http::validate_request asks for"
)]
pub(super) fn within<B>(limit: usize) -> impl Fn(&mut Request<B>) -> Result<(), Response> + Clone {
    move |request| {
        let declared = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        match declared {
            Some(length) if limit < length => {
                let message = format!("The request body has {length} bytes, at most {limit} are taken");
                Err(invalid_request(StatusCode::PAYLOAD_TOO_LARGE, None, &message))
            }
            _ => Ok(()),
        }
    }
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
