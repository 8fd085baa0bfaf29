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

/// The kind whose words an API uses with `status`.
fn kind(status: StatusCode) -> BridgeErrorKind {
    match status {
        StatusCode::UNAUTHORIZED => BridgeErrorKind::NoActor,
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
