//! The end of a stream that fails: the provider's own event if there is one, else events of ours.

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::caller::HeldEvent;
use super::error::Words;
use super::object::Object;
use crate::json::quote;
use crate::rope::{Edits, Rope};

/// An error that the provider sent as an event.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) event: HeldEvent,
    /// The error as a body, by which it is recognised later.
    pub(super) body: Bytes,
    /// Whether the event ends the stream by itself.
    pub(super) is_terminal: bool,
}

/// The members of an `error` event. Some clients read the members at the top, others those inside.
pub(super) fn error_members(words: &Words) -> String {
    let nested = json!({
        "type": words.kind, "code": words.code, "message": words.message, "param": words.param,
    });
    let (code, message) = (quote(&words.code), quote(&words.message));
    let param = words.param.as_deref().map_or_else(|| "null".to_owned(), quote);
    format!(r#""code":{code},"message":{message},"param":{param},"error":{nested}"#)
}

/// The response object with which a failed stream ends, made of the last `object` that the caller saw and its `output`.
pub(super) fn failed_object(object: Bytes, words: &Words, output: Rope) -> Bytes {
    let places = Object::read(&object);
    let mut edits = Edits::default();
    let error = json!({"code": words.code, "message": words.message}).to_string();
    places.set("status", places.status.clone(), r#""failed""#.into(), &mut edits);
    places.set("error", places.error.clone(), error.into(), &mut edits);
    places.set("output", places.output.clone(), output, &mut edits);
    edits.apply(&object.into()).into_bytes()
}

/// A response object for a stream of which the provider sent none.
pub(super) fn made_object(interception: Uuid, model: &str) -> Bytes {
    let created = interception.get_timestamp().map_or(0, |time| time.to_unix().0);
    let object = json!({
        "id": format!("resp_{}", interception.simple()),
        "object": "response",
        "access_programs": Value::Null,
        "created_at": created,
        "model": model,
        "instructions": Value::Null,
        "incomplete_details": Value::Null,
        "metadata": {},
        "parallel_tool_calls": true,
        "temperature": Value::Null,
        "tool_choice": "auto",
        "tools": [],
        "top_p": Value::Null,
        "usage": Value::Null,
    });
    object.to_string().into()
}
