//! Gives every error of the gateway itself the provider's shape, so that an SDK can show its message.

use std::any::Any;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tower_llm_bridge::{Dialect, error_body};
use tracing::{error, warn};

use super::edge::Fault;
use crate::upstream::WithCauses;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The dialect of a caller's errors: decided by the path, and where both providers have it, by the header of
/// Anthropic's clients.
pub(super) fn dialect_of(path: &str, headers: &HeaderMap) -> Dialect {
    let below = path.strip_prefix("/v1").unwrap_or(path);
    let is_common = below.starts_with("/models");
    if below.starts_with("/messages") || is_common && headers.contains_key("anthropic-version") {
        Dialect::Messages
    } else {
        Dialect::ChatCompletions
    }
}

fn refusal(dialect: Dialect, status: StatusCode, message: &str) -> Response {
    let body = error_body(dialect, status, message);
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

pub(super) async fn not_found(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let message = format!("Unknown URL ({method} {}); this gateway does not serve it", uri.path());
    refusal(dialect_of(uri.path(), &headers), StatusCode::NOT_FOUND, &message)
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let message = format!("{method} is not allowed on {}", uri.path());
    refusal(
        dialect_of(uri.path(), &headers),
        StatusCode::METHOD_NOT_ALLOWED,
        &message,
    )
}

/// For a request that broke a rule of the [edge](super::edge).
pub(super) fn of_upload(dialect: Dialect, fault: Fault) -> Response {
    let (status, limit) = match fault {
        Fault::Host => (StatusCode::BAD_REQUEST, None),
        Fault::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Some("upload")),
        Fault::TooDense => (StatusCode::PAYLOAD_TOO_LARGE, Some("decompression")),
        Fault::Stalled => (StatusCode::REQUEST_TIMEOUT, Some("upload_stall")),
        Fault::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, Some("decoders")),
    };
    if let Some(limit) = limit {
        metrics::counter!("llm_bridge.refusals", "limit" => limit).increment(1);
    }
    warn!(status = status.as_u16(), %fault, "a request is refused");
    refusal(dialect, status, &fault.to_string())
}

/// For requests that the bridge passed on unread: their failures arrive as errors.
pub(super) fn unreachable(dialect: Dialect, error: &WithCauses) -> Response {
    warn!(%error, "the provider could not be asked");
    refusal(dialect, StatusCode::BAD_GATEWAY, "The provider could not be reached")
}

/// The message may tell a secret, and the hook has printed it to the operator already: the caller gets none of it.
pub(super) fn panicked(dialect: Dialect, _: Box<dyn Any + Send>) -> Response {
    error!("a request panicked");
    let message = "Internal error of the gateway";
    refusal(dialect, StatusCode::INTERNAL_SERVER_ERROR, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_shape_that_their_caller_reads() {
        let (openai, mut anthropic) = (HeaderMap::new(), HeaderMap::new());
        anthropic.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        for (path, headers, dialect) in [
            ("/v1/messages", &openai, Dialect::Messages),
            ("/messages/count_tokens", &openai, Dialect::Messages),
            ("/v1/models", &openai, Dialect::ChatCompletions),
            ("/v1/models", &anthropic, Dialect::Messages),
            ("/v1/chat/completions", &anthropic, Dialect::ChatCompletions),
            ("/", &openai, Dialect::ChatCompletions),
        ] {
            assert_eq!(dialect_of(path, headers), dialect, "{path}");
        }
    }
}
