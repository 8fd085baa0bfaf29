//! The model APIs, as pure functions of bytes: nothing here knows HTTP's exchange, keys, records or a runtime.

pub(crate) mod chat_completions;
pub(crate) mod offer;
pub(crate) mod sse;

/// `text` as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
