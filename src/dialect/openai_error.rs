//! The JSON of OpenAI's errors, which chat completions and Responses share.
//!
//! Source: <https://platform.openai.com/docs/guides/error-codes>.

use bytes::Bytes;
use serde_json::{Value, json};

use super::turn::{ErrorNames, MAX_ERROR};

/// The body of an HTTP answer.
pub(super) fn body(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Bytes {
    let body = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
    body.to_string().into()
}

/// Reads `{"error":{…}}`. Some of OpenAI's own gateways leave the wrapper out.
pub(super) fn read_error(body: &[u8]) -> Option<ErrorNames> {
    if body.len() > MAX_ERROR {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let detail = match body.get("error") {
        Some(wrapped) if !wrapped.is_null() => wrapped.as_object()?,
        _ => body
            .as_object()
            .filter(|body| body.contains_key("code") || body.contains_key("type"))?,
    };
    let text = |name| match detail.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    Some(ErrorNames {
        code: text("code"),
        kind: text("type"),
        detail: None,
        message: text("message"),
        param: text("param"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_wrapped_and_bare_errors() {
        let read = |body: &str| {
            let names = read_error(body.as_bytes()).unwrap();
            names.codes().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(read(r#"{"error":{"code":"a","type":"b","message":1}}"#), ["a", "b"]);
        assert_eq!(read(r#"{"error":{"code":429}}"#), ["429"]);
        assert_eq!(read(r#"{"code":"a","type":"b"}"#), ["a", "b"]);
        assert_eq!(read(r#"{"error":null,"code":"a"}"#), ["a"]);
        assert!(read(r#"{"error":{"code":null}}"#).is_empty());
        for not_an_error in [&b"<html>"[..], b"", b"{}", br#"{"error":"text"}"#, b"[]"] {
            assert!(read_error(not_an_error).is_none());
        }
    }
}
