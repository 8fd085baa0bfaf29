//! Errors in the API's shape: ours, written; the provider's, read.
//!
//! Source: <https://platform.openai.com/docs/guides/error-codes>.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{BridgeError, BridgeErrorKind};

/// An error that came inside a successful answer.
#[derive(Debug)]
pub(crate) struct InBandError {
    /// The whole JSON object, `{"error":…}` and what else there is.
    pub(crate) body: Bytes,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    error: Detail<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    code: Option<Value>,
}

/// The body of an answer of our own.
pub(crate) fn bridge_error(error: &BridgeError) -> Bytes {
    let (kind, code) = words(error.kind());
    let body = json!({"error": {
        "message": error.message(),
        "type": kind,
        "param": error.faulty_param(),
        "code": code,
    }});
    Bytes::from(body.to_string())
}

/// The API's `type` and `code` for a kind of error.
fn words(kind: BridgeErrorKind) -> (&'static str, Option<&'static str>) {
    match kind {
        BridgeErrorKind::RequestInvalid | BridgeErrorKind::RequestUnreadable => ("invalid_request_error", None),
        BridgeErrorKind::RequestTooLarge => ("invalid_request_error", Some("request_too_large")),
        BridgeErrorKind::RequestUnsupported => ("invalid_request_error", Some("unsupported_media_type")),
        BridgeErrorKind::NoCredential => ("invalid_request_error", Some("invalid_api_key")),
        BridgeErrorKind::NoActor => ("invalid_request_error", Some("unauthenticated")),
        BridgeErrorKind::KeysCoolingDown => ("rate_limit_error", Some("rate_limit_exceeded")),
        BridgeErrorKind::KeysRevoked
        | BridgeErrorKind::UpstreamFailed
        | BridgeErrorKind::UpstreamInvalid
        | BridgeErrorKind::UpstreamTimeout
        | BridgeErrorKind::TooManyRounds
        | BridgeErrorKind::RecorderUnavailable => ("api_error", Some("server_error")),
    }
}

/// The `type` that the body of [`bridge_error`] has.
pub(crate) fn error_type(kind: BridgeErrorKind) -> &'static str {
    words(kind).0
}

/// The words by which a provider's error can be told: its `code` and its `type`.
pub(crate) fn error_codes(body: &[u8]) -> Vec<String> {
    let wrapped = serde_json::from_slice::<Body<'_>>(body).map(|body| body.error);
    // Some of the API's own fronts leave the wrapper out.
    let Ok(detail) = wrapped.or_else(|_| serde_json::from_slice::<Detail<'_>>(body)) else {
        return Vec::new();
    };
    let code = detail.code.and_then(|code| match code {
        Value::String(code) => Some(code),
        Value::Number(code) => Some(code.to_string()),
        _ => None,
    });
    code.into_iter().chain(detail.kind.map(Cow::into_owned)).collect()
}

/// A provider's error as the data of one event: its own bytes, on one line.
pub(crate) fn error_event(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    value.get("error").filter(|error| !error.is_null())?;
    // Valid JSON has line breaks between its tokens only.
    let text = std::str::from_utf8(body.trim_ascii()).ok()?;
    Some(text.replace(['\r', '\n'], " "))
}

// === impl InBandError ===

impl InBandError {
    /// The status that the provider would have sent, had it not begun with a 200.
    pub(crate) fn status(&self, codes: &[String]) -> StatusCode {
        let numeric = codes
            .iter()
            .find_map(|code| code.parse().ok())
            .filter(|code| (400..600).contains(code));
        if let Some(status) = numeric.and_then(|code: u16| StatusCode::from_u16(code).ok()) {
            return status;
        }
        let any = |words: &[&str]| codes.iter().any(|code| words.contains(&code.as_str()));
        if any(&[
            "rate_limit_exceeded",
            "rate_limit_error",
            "insufficient_quota",
            "tokens",
            "requests",
        ]) {
            StatusCode::TOO_MANY_REQUESTS
        } else if any(&["invalid_api_key", "authentication_error", "account_deactivated"]) {
            StatusCode::UNAUTHORIZED
        } else if any(&["permission_error", "permission_denied", "model_not_found"]) {
            StatusCode::FORBIDDEN
        } else if any(&["invalid_request_error"]) {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::BAD_GATEWAY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_whatever_there_is() {
        assert_eq!(
            error_codes(br#"{"error":{"code":"a","type":"b","message":1}}"#),
            ["a", "b"]
        );
        assert_eq!(error_codes(br#"{"error":{"code":429}}"#), ["429"]);
        assert_eq!(error_codes(br#"{"code":"a","type":"b"}"#), ["a", "b"]);
        for none in [
            &b"<html>"[..],
            b"",
            b"{}",
            br#"{"error":"text"}"#,
            br#"{"error":{"code":null}}"#,
        ] {
            assert!(error_codes(none).is_empty());
        }
    }

    #[test]
    fn an_error_inside_a_success_gets_the_status_it_stands_for() {
        for (codes, status) in [
            (&["429"][..], 429),
            (&["insufficient_quota", "insufficient_quota"], 429),
            (&["invalid_api_key", "invalid_request_error"], 401),
            (&["invalid_request_error"], 400),
            (&["1234"], 502),
            (&[], 502),
        ] {
            let codes: Vec<String> = codes.iter().map(|&code| code.to_owned()).collect();
            assert_eq!(InBandError { body: Bytes::new() }.status(&codes), status, "{codes:?}");
        }
    }

    #[test]
    fn an_error_event_is_one_line() {
        assert_eq!(
            error_event(b"{\n \"error\": {\n\"code\": 1}}").unwrap(),
            r#"{  "error": { "code": 1}}"#
        );
        assert_eq!(
            error_event(b"{\"error\":{\"cost\":1.10}}\r\n").unwrap(),
            r#"{"error":{"cost":1.10}}"#
        );
        assert!(error_event(b"{}").is_none());
        assert!(error_event(b"oops").is_none());
    }
}
