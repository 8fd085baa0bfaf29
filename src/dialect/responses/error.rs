//! Writes our errors in the API's shape, and reads the provider's, also inside a success.
//!
//! Source: <https://platform.openai.com/docs/guides/error-codes>.

use bytes::Bytes;
use http::StatusCode;

use crate::dialect::numeric_status;
use crate::dialect::openai_error::body;
pub(super) use crate::dialect::openai_error::read_error;
use crate::dialect::turn::{ErrorNames, ErrorWords, InBandError};
use crate::error::{BridgeError, BridgeErrorKind};

/// The names and the text of an error that ends a stream.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) kind: String,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

/// The body of the bridge's own error answer.
pub(super) fn error_body(error: &BridgeError) -> Bytes {
    let (kind, code) = names(error.kind());
    body(error.message(), kind, error.faulty_param(), code)
}

/// The API's `type` and `code` for a kind of error.
fn names(kind: BridgeErrorKind) -> (&'static str, Option<&'static str>) {
    match kind {
        BridgeErrorKind::RequestInvalid | BridgeErrorKind::RequestUnreadable | BridgeErrorKind::NotFound => {
            ("invalid_request_error", None)
        }
        BridgeErrorKind::RequestTooLarge => ("invalid_request_error", Some("request_too_large")),
        BridgeErrorKind::RequestUnsupported => ("invalid_request_error", Some("unsupported_content_encoding")),
        BridgeErrorKind::NoCredential | BridgeErrorKind::NoActor => ("authentication_error", Some("invalid_api_key")),
        BridgeErrorKind::WebsocketUnsupported => ("invalid_request_error", Some("websocket_unsupported")),
        BridgeErrorKind::KeysCoolingDown => ("rate_limit_error", Some("rate_limit_exceeded")),
        BridgeErrorKind::KeysRevoked
        | BridgeErrorKind::UpstreamFailed
        | BridgeErrorKind::UpstreamInvalid
        | BridgeErrorKind::UpstreamTimeout
        | BridgeErrorKind::TooManyRounds
        | BridgeErrorKind::RecorderUnavailable
        | BridgeErrorKind::Overloaded => ("api_error", Some("server_error")),
    }
}

/// The `type` in the body of [`error_body`].
pub(super) fn error_type(kind: BridgeErrorKind) -> &'static str {
    names(kind).0
}

/// An error that came inside a success, as an `error` event or as the `error` of a response: its status, and its text
/// as the body of an HTTP answer.
pub(super) fn in_band(error: &[u8]) -> InBandError {
    let mut names = read_error(error).unwrap_or_default();
    // In a flat event, `type` is that of the event and not of the error.
    names.kind = names.kind.filter(|kind| kind != "error");
    let status = status(&names);
    let kind = names.kind.as_deref().unwrap_or_else(|| type_of(status));
    let message = names.message.as_deref().unwrap_or("the provider failed");
    InBandError {
        status,
        body: body(message, kind, names.param.as_deref(), names.code.as_deref()),
    }
}

/// Whether an error is about the key, so that another key may do better.
pub(super) fn is_about_the_key(error: &[u8]) -> bool {
    let status = in_band(error).status;
    [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
    ]
    .contains(&status)
}

/// The status that the provider would have sent if it had not begun with a 200.
fn status(names: &ErrorNames) -> StatusCode {
    const LIMITS: [&str; 4] = [
        "rate_limit_exceeded",
        "rate_limit_error",
        "insufficient_quota",
        "billing_hard_limit_reached",
    ];
    const KEYS: [&str; 4] = [
        "invalid_api_key",
        "authentication_error",
        "account_deactivated",
        "key_expired",
    ];
    if let Some(status) = numeric_status(names) {
        return status;
    }
    if names.any(&LIMITS) {
        StatusCode::TOO_MANY_REQUESTS
    } else if names.any(&KEYS) {
        StatusCode::UNAUTHORIZED
    } else if names.any(&["permission_error", "permission_denied"]) {
        StatusCode::FORBIDDEN
    } else if names.any(&["server_is_overloaded", "slow_down"]) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if names.any(&["server_error", "api_error"]) || names.codes().next().is_none() {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::BAD_REQUEST
    }
}

fn type_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

/// The code for an error that has none. Clients of a stream ask again after `server_error`, and give up after
/// `invalid_prompt`.
fn code_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "invalid_api_key",
        StatusCode::FORBIDDEN => "permission_denied",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT => "server_error",
        _ if status.is_client_error() => "invalid_prompt",
        _ => "server_error",
    }
}

// === impl Words ===

impl From<ErrorWords<'_>> for Words {
    fn from(error: ErrorWords<'_>) -> Self {
        match error {
            ErrorWords::Provider { status, body } => {
                let names = read_error(body);
                let is_readable = names.as_ref().is_some_and(|names| names.message.is_some());
                let ErrorNames {
                    code,
                    kind,
                    message,
                    param,
                    ..
                } = names.filter(|_| is_readable).unwrap_or_default();
                Self {
                    kind: kind.unwrap_or_else(|| type_of(status).to_owned()),
                    code: code.unwrap_or_else(|| code_of(status).to_owned()),
                    message: message.unwrap_or_else(|| "the provider refused to go on".to_owned()),
                    param,
                }
            }
            ErrorWords::Bridge(error) => {
                let (kind, code) = names(error.kind());
                let mut message = error.message().to_owned();
                // Codex reads from this text how long to wait: a stream has no `Retry-After`.
                if let Some(seconds) = error.retry_after_seconds() {
                    message.push_str(&format!(". Please try again in {seconds}s."));
                }
                Self {
                    kind: kind.to_owned(),
                    code: code.unwrap_or(kind).to_owned(),
                    message,
                    param: None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_error_inside_a_success_gets_the_status_it_stands_for() {
        for (error, status, code) in [
            (
                r#"{"type":"error","code":"rate_limit_exceeded","message":"m","param":null,"sequence_number":2}"#,
                429,
                "rate_limit_exceeded",
            ),
            (
                r#"{"type":"error","error":{"type":"x","code":"insufficient_quota","message":"m"}}"#,
                429,
                "insufficient_quota",
            ),
            (r#"{"code":"invalid_api_key","message":"m"}"#, 401, "invalid_api_key"),
            (r#"{"code":"server_error","message":"m"}"#, 500, "server_error"),
            (
                r#"{"code":"server_is_overloaded","message":"m"}"#,
                503,
                "server_is_overloaded",
            ),
            (r#"{"code":"slow_down","message":"m"}"#, 503, "slow_down"),
            (r#"{"code":"invalid_prompt","message":"m"}"#, 400, "invalid_prompt"),
            (
                r#"{"code":"context_length_exceeded","message":"m"}"#,
                400,
                "context_length_exceeded",
            ),
            (r#"{"code":"404","message":"m"}"#, 404, "404"),
        ] {
            let found = in_band(error.as_bytes());
            let body: Value = serde_json::from_slice(&found.body).unwrap();
            assert_eq!(
                (found.status.as_u16(), &body["error"]["code"]),
                (status, &json!(code)),
                "{error}"
            );
            assert_eq!(body["error"]["message"], "m");
            assert_ne!(body["error"]["type"], "error");
        }
        assert_eq!(in_band(br#"{"type":"error"}"#).status, 500);
        assert_eq!(in_band(b"[]").status, 500);
    }

    #[test]
    fn words_of_a_stream_are_those_of_the_provider_or_ours() {
        let words = |body: &str| {
            Words::from(ErrorWords::Provider {
                status: StatusCode::TOO_MANY_REQUESTS,
                body: body.as_bytes(),
            })
        };
        let theirs = words(r#"{"error":{"message":"m","type":"t","code":"c","param":"p"}}"#);
        assert_eq!((&*theirs.message, &*theirs.kind, &*theirs.code), ("m", "t", "c"));
        assert_eq!(theirs.param.as_deref(), Some("p"));
        let page = words("<html>");
        assert_eq!((&*page.kind, &*page.code), ("rate_limit_error", "rate_limit_exceeded"));
        for (status, code) in [
            (400, "invalid_prompt"),
            (401, "invalid_api_key"),
            (403, "permission_denied"),
            (404, "invalid_prompt"),
            (409, "server_error"),
            (500, "server_error"),
            (503, "server_error"),
        ] {
            let body = br#"{"error":{"message":"m","type":"t","param":null,"code":null}}"#;
            let status = StatusCode::from_u16(status).unwrap();
            let words = Words::from(ErrorWords::Provider { status, body });
            assert_eq!((&*words.kind, &*words.code), ("t", code), "{status}");
        }
        let ours = BridgeError::new(BridgeErrorKind::KeysCoolingDown, "no key").retry_after(7);
        let ours = Words::from(ErrorWords::Bridge(&ours));
        assert_eq!(
            (&*ours.code, &*ours.message),
            ("rate_limit_exceeded", "no key. Please try again in 7s.")
        );
    }
}
