//! Builds the requests, replies and streams of Messages.

use http::{Request, header};
use serde_json::{Value, json};

use crate::support::*;

pub(crate) const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// `POST /v1/messages?beta=true` with this body.
pub(crate) fn messages(body: &Value) -> Request<MockBody> {
    post("/v1/messages?beta=true", body.to_string())
}

pub(crate) fn post(path: &str, body: String) -> Request<MockBody> {
    Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header("anthropic-version", "2023-06-01")
        .body(body.into())
        .unwrap()
}

pub(crate) fn question(stream: bool) -> Value {
    json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
}

/// A reply of these blocks.
pub(crate) fn reply(content: &Value, stop_reason: &str) -> Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {"input_tokens": 3, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 20, "output_tokens": 5}})
}

pub(crate) fn words(text: &str) -> Value {
    reply(&json!([{"type": "text", "text": text}]), "end_turn")
}

/// A reply that calls one tool.
pub(crate) fn call(name: &str) -> Value {
    reply(
        &json!([{"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}]),
        "tool_use",
    )
}

pub(crate) fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

/// The events of a reply, one by one.
pub(crate) fn events(reply: &Value) -> Vec<String> {
    let mut start = reply.clone();
    (start["content"], start["stop_reason"]) = (json!([]), Value::Null);
    let mut events = vec![event(&json!({"type": "message_start", "message": start}))];
    for (index, block) in reply["content"].as_array().unwrap().iter().enumerate() {
        let (mut begun, delta) = (
            block.clone(),
            match &block["text"] {
                Value::String(text) => json!({"type": "text_delta", "text": text}),
                _ => json!({"type": "input_json_delta", "partial_json": block["input"].to_string()}),
            },
        );
        if block["type"] == "text" {
            begun["text"] = "".into();
        }
        events.extend([
            event(&json!({"type": "content_block_start", "index": index, "content_block": begun})),
            event(&json!({"type": "content_block_delta", "index": index, "delta": delta})),
            event(&json!({"type": "content_block_stop", "index": index})),
        ]);
    }
    let delta = json!({"stop_reason": reply["stop_reason"], "stop_sequence": null});
    let usage = json!({"output_tokens": reply["usage"]["output_tokens"]});
    events.push(event(&json!({"type": "message_delta", "delta": delta, "usage": usage})));
    events.push(event(&json!({"type": "message_stop"})));
    events
}

pub(crate) fn stream(reply: &Value) -> Reply {
    Reply::events(events(reply).concat())
}

/// An error as the provider sends it.
pub(crate) fn error(kind: &str) -> String {
    json!({"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_1"}).to_string()
}

pub(crate) fn refusal(status: u16, kind: &str) -> Reply {
    Reply::new(status, error(kind)).header("content-type", "application/json")
}

/// The keys that the provider got, as this API sends them.
pub(crate) fn keys(seen: &[Seen]) -> Vec<&str> {
    seen.iter()
        .map(|seen| seen.header("x-api-key").unwrap_or_default())
        .collect()
}
