//! Writes our errors in the shape of Anthropic's Messages, and reads the provider's.
//!
//! Source: <https://docs.anthropic.com/en/api/errors>.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::dialect::numeric_status;
use crate::dialect::turn::{ErrorNames, ErrorWords, InBandError, MAX_ERROR};
use crate::dialect::writer::on_one_line;
use crate::error::{BridgeError, BridgeErrorKind};

/// The body of the bridge's own error answer; `id` is the interception's.
pub(super) fn error_body(error: &BridgeError, id: Option<Uuid>) -> Bytes {
    let mut detail = json!({"type": error_type(error.kind()), "message": error.message()});
    if error.kind() == BridgeErrorKind::RequestUnsupported {
        detail["details"] = json!({"error_code": "request_body_encoding_unsupported"});
    }
    let body = json!({"type": "error", "error": detail, "request_id": id.map(|id| id.to_string())});
    Bytes::from(body.to_string())
}

/// The API's `type` for a kind of error.
pub(super) fn error_type(kind: BridgeErrorKind) -> &'static str {
    match kind {
        BridgeErrorKind::RequestInvalid
        | BridgeErrorKind::RequestUnreadable
        | BridgeErrorKind::RequestUnsupported
        | BridgeErrorKind::WebsocketUnsupported => "invalid_request_error",
        BridgeErrorKind::RequestTooLarge => "request_too_large",
        BridgeErrorKind::NoCredential | BridgeErrorKind::NoActor => "authentication_error",
        BridgeErrorKind::NotFound => "not_found_error",
        BridgeErrorKind::KeysCoolingDown => "rate_limit_error",
        BridgeErrorKind::KeysRevoked
        | BridgeErrorKind::UpstreamFailed
        | BridgeErrorKind::UpstreamInvalid
        | BridgeErrorKind::TooManyRounds => "api_error",
        BridgeErrorKind::UpstreamTimeout => "timeout_error",
        BridgeErrorKind::Overloaded | BridgeErrorKind::RecorderUnavailable => "overloaded_error",
    }
}

/// Reads `{"type":"error","error":{…}}`; compatible hosts leave the outer `type` out.
pub(super) fn read_error(body: &[u8]) -> Option<ErrorNames> {
    if body.len() > MAX_ERROR {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?.as_object()?;
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    Some(ErrorNames {
        code: text(error.get("code")),
        kind: text(error.get("type")),
        detail: text(error.get("details").and_then(|details| details.get("error_code"))),
        message: text(error.get("message")),
        param: text(error.get("param")),
    })
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
    let status = match names.kind.as_deref() {
        Some("invalid_request_error") => 400,
        Some("authentication_error") => 401,
        Some("billing_error") => 402,
        Some("permission_error") => 403,
        Some("not_found_error") => 404,
        Some("request_too_large") => 413,
        Some("rate_limit_error") => 429,
        Some("api_error") => 500,
        Some("timeout_error") => 504,
        // Anthropic's own status, which no standard has.
        Some("overloaded_error") => 529,
        _ => return numeric_status(names).unwrap_or(StatusCode::BAD_GATEWAY),
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY)
}

/// The event that ends a stream with an error. The provider's error keeps its own bytes, on one line, if it has the
/// API's shape.
pub(super) fn error_event(error: ErrorWords<'_>, id: Uuid) -> Vec<u8> {
    let mut data = match error {
        ErrorWords::Provider { body, .. } if read_error(body).is_some() => body.trim_ascii().to_vec(),
        ErrorWords::Provider { .. } => {
            let error = BridgeError::new(BridgeErrorKind::UpstreamFailed, "the provider refused to go on");
            error_body(&error, Some(id)).to_vec()
        }
        ErrorWords::Bridge(error) => error_body(error, Some(id)).to_vec(),
    };
    on_one_line(&mut data);
    [b"event: error\ndata: ", &data[..], b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// M15: every error of ours is the API's.
    #[test]
    fn our_errors_have_the_apis_shape() {
        let id = Uuid::from_u128(7);
        for (kind, status, name) in [
            (BridgeErrorKind::RequestInvalid, 400, "invalid_request_error"),
            (BridgeErrorKind::RequestUnreadable, 400, "invalid_request_error"),
            (BridgeErrorKind::NoCredential, 401, "authentication_error"),
            (BridgeErrorKind::NoActor, 401, "authentication_error"),
            (BridgeErrorKind::NotFound, 404, "not_found_error"),
            (BridgeErrorKind::RequestTooLarge, 413, "request_too_large"),
            (BridgeErrorKind::RequestUnsupported, 415, "invalid_request_error"),
            (BridgeErrorKind::KeysCoolingDown, 429, "rate_limit_error"),
            (BridgeErrorKind::KeysRevoked, 502, "api_error"),
            (BridgeErrorKind::UpstreamFailed, 502, "api_error"),
            (BridgeErrorKind::UpstreamInvalid, 502, "api_error"),
            (BridgeErrorKind::TooManyRounds, 502, "api_error"),
            (BridgeErrorKind::RecorderUnavailable, 503, "overloaded_error"),
            (BridgeErrorKind::UpstreamTimeout, 504, "timeout_error"),
        ] {
            assert_eq!(kind.status(), status, "{kind:?}");
            let body: Value = serde_json::from_slice(&error_body(&BridgeError::new(kind, "why"), Some(id))).unwrap();
            assert_eq!(body["type"], "error");
            assert_eq!(
                (&body["error"]["type"], &body["error"]["message"]),
                (&json!(name), &json!("why"))
            );
            assert_eq!(body["request_id"], id.to_string());
            let encoding = body["error"]["details"]["error_code"].as_str();
            assert_eq!(encoding.is_some(), kind == BridgeErrorKind::RequestUnsupported);
        }
        let unnamed = error_body(&BridgeError::new(BridgeErrorKind::KeysRevoked, "why"), None);
        assert!(
            unnamed.ends_with(br#""request_id":null,"type":"error"}"#),
            "{unnamed:?}"
        );
    }

    /// M24: a firewall's page has no names.
    #[test]
    fn only_the_apis_errors_have_names() {
        let names = read_error(
            br#"{"type":"error","error":{"type":"permission_error","message":"m",
            "details":{"error_code":"organization_on_hold"}},"request_id":"req_1"}"#,
        )
        .unwrap();
        assert_eq!(
            names.codes().collect::<Vec<_>>(),
            ["organization_on_hold", "permission_error"]
        );
        assert_eq!(names.message.as_deref(), Some("m"));
        for not_an_error in [&b"<html>"[..], b"", b"{}", br#"{"error":"text"}"#, b"[]", b"null"] {
            assert!(read_error(not_an_error).is_none());
        }
    }

    #[test]
    fn an_error_inside_a_success_gets_the_status_of_its_type() {
        for (kind, status) in [
            ("invalid_request_error", 400),
            ("authentication_error", 401),
            ("billing_error", 402),
            ("permission_error", 403),
            ("not_found_error", 404),
            ("request_too_large", 413),
            ("rate_limit_error", 429),
            ("api_error", 500),
            ("timeout_error", 504),
            ("overloaded_error", 529),
            ("new_error", 502),
        ] {
            let body = json!({"type": "error", "error": {"type": kind, "message": "m"}}).to_string();
            let error = in_band(Bytes::from(body.clone()));
            assert_eq!(
                (error.status.as_u16(), &error.body[..]),
                (status, body.as_bytes()),
                "{kind}"
            );
        }
        assert_eq!(in_band(Bytes::from_static(br#"{"error":{"code":503}}"#)).status, 503);
    }

    #[test]
    fn an_error_event_is_one_line() {
        let event = |body: &str| {
            let words = ErrorWords::Provider {
                status: StatusCode::BAD_GATEWAY,
                body: body.as_bytes(),
            };
            String::from_utf8(error_event(words, Uuid::nil())).unwrap()
        };
        assert_eq!(
            event("{\n\"error\": {\"n\": 1.10}}\r\n"),
            "event: error\ndata: { \"error\": {\"n\": 1.10}}\n\n"
        );
        let ours = event("oops");
        assert!(
            ours.contains("refused to go on") && ours.contains("api_error"),
            "{ours}"
        );
        assert!(ours.starts_with("event: error\ndata: {") && ours.ends_with("}\n\n"));
    }
}
