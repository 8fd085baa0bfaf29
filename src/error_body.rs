//! Errors of an application's own layers, in the shape that a model API's SDKs understand.

use bytes::Bytes;
use http::StatusCode;

use crate::dialect;
use crate::error::{BridgeError, BridgeErrorKind};
use crate::types::Dialect;

/// The JSON body of an error in the shape of `dialect`, for an application's own refusals: its 401 for a stranger, its
/// 429 for a caller over quota. SDKs cannot read plain text there.
///
/// Send it with `content-type: application/json` and the same `status`. The shapes are those of
/// [OpenAI](https://platform.openai.com/docs/guides/error-codes) and
/// [Anthropic](https://docs.anthropic.com/en/api/errors).
///
/// # Examples
///
/// ```
/// use http::StatusCode;
/// use tower_llm_bridge::{Dialect, error_body};
///
/// let body = error_body(Dialect::ChatCompletions, StatusCode::TOO_MANY_REQUESTS, "your team is over its quota");
/// let body: serde_json::Value = serde_json::from_slice(&body)?;
/// assert_eq!(body["error"]["type"], "rate_limit_error");
/// assert_eq!(body["error"]["message"], "your team is over its quota");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[must_use]
pub fn error_body(dialect: Dialect, status: StatusCode, message: &str) -> Bytes {
    let error = BridgeError::new(kind(status), message.to_owned());
    dialect::api(dialect).error_body(&error, None)
}

/// The kind of error that an API sends with `status`.
fn kind(status: StatusCode) -> BridgeErrorKind {
    match status {
        StatusCode::UNAUTHORIZED => BridgeErrorKind::NoActor,
        StatusCode::NOT_FOUND => BridgeErrorKind::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => BridgeErrorKind::RequestTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => BridgeErrorKind::RequestUnsupported,
        StatusCode::UPGRADE_REQUIRED => BridgeErrorKind::WebsocketUnsupported,
        StatusCode::TOO_MANY_REQUESTS => BridgeErrorKind::KeysCoolingDown,
        StatusCode::SERVICE_UNAVAILABLE => BridgeErrorKind::RecorderUnavailable,
        StatusCode::GATEWAY_TIMEOUT => BridgeErrorKind::UpstreamTimeout,
        status if status.is_client_error() => BridgeErrorKind::RequestInvalid,
        _ => BridgeErrorKind::UpstreamFailed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_status_has_the_name_that_its_api_gives_it() {
        for (status, messages, chat) in [
            (400, "invalid_request_error", "invalid_request_error"),
            (401, "authentication_error", "invalid_request_error"),
            (404, "not_found_error", "invalid_request_error"),
            (413, "request_too_large", "invalid_request_error"),
            (429, "rate_limit_error", "rate_limit_error"),
            (500, "api_error", "api_error"),
            (503, "overloaded_error", "api_error"),
            (504, "timeout_error", "api_error"),
        ] {
            let kind = |dialect| {
                let body = error_body(dialect, StatusCode::from_u16(status).unwrap(), "no");
                let body: Value = serde_json::from_slice(&body).unwrap();
                body["error"]["type"].as_str().unwrap().to_owned()
            };
            assert_eq!(kind(Dialect::Messages), messages, "{status}");
            assert_eq!(kind(Dialect::ChatCompletions), chat, "{status}");
        }
    }
}
