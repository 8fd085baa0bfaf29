//! Writes our errors in the shape of chat completions, and reads the provider's.
//!
//! Source: <https://platform.openai.com/docs/guides/error-codes>.

use bytes::Bytes;
use http::StatusCode;

use crate::dialect::numeric_status;
use crate::dialect::openai_error::body;
pub(super) use crate::dialect::openai_error::read_error;
use crate::dialect::turn::{ErrorNames, ErrorWords, InBandError};
use crate::dialect::writer::on_one_line;
use crate::error::{BridgeError, BridgeErrorKind};

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
        BridgeErrorKind::RequestUnsupported => ("invalid_request_error", Some("unsupported_media_type")),
        BridgeErrorKind::NoCredential => ("invalid_request_error", Some("invalid_api_key")),
        BridgeErrorKind::NoActor => ("invalid_request_error", Some("unauthenticated")),
        BridgeErrorKind::WebsocketUnsupported => ("invalid_request_error", Some("websocket_unsupported")),
        BridgeErrorKind::KeysCoolingDown => ("rate_limit_error", Some("rate_limit_exceeded")),
        BridgeErrorKind::KeysRevoked
        | BridgeErrorKind::UpstreamFailed
        | BridgeErrorKind::UpstreamInvalid
        | BridgeErrorKind::UpstreamTimeout
        | BridgeErrorKind::TooManyRounds
        | BridgeErrorKind::Overloaded
        | BridgeErrorKind::RecorderUnavailable => ("api_error", Some("server_error")),
    }
}

/// The `type` in the body of [`error_body`].
pub(super) fn error_type(kind: BridgeErrorKind) -> &'static str {
    names(kind).0
}

/// An error that came inside a success; `body` is the whole JSON object.
pub(super) fn in_band(body: Bytes) -> InBandError {
    let names = read_error(&body).unwrap_or_default();
    InBandError {
        status: status(&names),
        body,
    }
}

/// The status that the provider would have sent if it had not begun with a 200.
fn status(names: &ErrorNames) -> StatusCode {
    if let Some(status) = numeric_status(names) {
        return status;
    }
    if names.any(&[
        "rate_limit_exceeded",
        "rate_limit_error",
        "insufficient_quota",
        "tokens",
        "requests",
    ]) {
        StatusCode::TOO_MANY_REQUESTS
    } else if names.any(&["invalid_api_key", "authentication_error", "account_deactivated"]) {
        StatusCode::UNAUTHORIZED
    } else if names.any(&["permission_error", "permission_denied", "model_not_found"]) {
        StatusCode::FORBIDDEN
    } else if names.any(&["invalid_request_error"]) {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::BAD_GATEWAY
    }
}

/// The event that ends a stream with an error. The provider's error keeps its own bytes, on one line, if it has the
/// API's shape.
pub(super) fn error_event(error: ErrorWords<'_>) -> Vec<u8> {
    let mut data = match error {
        ErrorWords::Provider { body, .. } if read_error(body).is_some() => body.trim_ascii().to_vec(),
        ErrorWords::Provider { .. } => {
            let error = BridgeError::new(BridgeErrorKind::UpstreamFailed, "the provider refused to go on");
            error_body(&error).to_vec()
        }
        ErrorWords::Bridge(error) => error_body(error).to_vec(),
    };
    on_one_line(&mut data);
    [b"data: ", &data[..], b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_inside_a_success_gets_the_status_it_stands_for() {
        for (error, status) in [
            (r#"{"code":"429"}"#, 429),
            (r#"{"code":"insufficient_quota"}"#, 429),
            (r#"{"code":"invalid_api_key","type":"invalid_request_error"}"#, 401),
            (r#"{"type":"invalid_request_error"}"#, 400),
            (r#"{"code":1234}"#, 502),
            (r#"{"code":999}"#, 502),
            (r#"{"code":600}"#, 502),
            (r#"{"code":302}"#, 502),
            (r#"{"code":599}"#, 599),
            ("{}", 502),
        ] {
            let body = format!(r#"{{"error":{error}}}"#);
            assert_eq!(in_band(Bytes::from(body)).status, status, "{error}");
        }
    }

    #[test]
    fn an_error_event_is_one_line() {
        let event = |body: &str| {
            let event = error_event(ErrorWords::Provider {
                status: StatusCode::BAD_GATEWAY,
                body: body.as_bytes(),
            });
            String::from_utf8(event).unwrap()
        };
        assert_eq!(
            event("{\n \"error\": {\n\"code\": 1.10}}\r\n"),
            "data: {  \"error\": { \"code\": 1.10}}\n\n"
        );
        assert!(event("oops").contains("the provider refused to go on"));
    }
}
