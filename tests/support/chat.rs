//! Builds requests and replies of chat completions, and a tool.

use std::convert::Infallible;

use http::{Request, header};
use serde_json::{Value, json};
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, tool_fn};

use super::body::MockBody;

/// `POST /v1/chat/completions` with this body.
pub(crate) fn chat(body: impl Into<MockBody>) -> Request<MockBody> {
    Request::post("/v1/chat/completions")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .expect("a request")
}

/// The body of [`ask`].
pub(crate) fn asked(prompt: &str) -> String {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}).to_string()
}

/// The plainest request.
pub(crate) fn ask(prompt: &str) -> Request<MockBody> {
    chat(asked(prompt))
}

/// [`ask`] for a stream.
pub(crate) fn ask_streamed(prompt: &str) -> Request<MockBody> {
    let messages = json!([{"role": "user", "content": prompt}]);
    chat(json!({"model": "gpt-4o", "messages": messages, "stream": true}).to_string())
}

/// One event of a streamed reply, with one letter of text.
pub(crate) const CHUNK: &str = "data: {\"id\":\"a\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";

/// A text reply. It costs 10 tokens in, 5 out.
pub(crate) fn completion(text: &str) -> String {
    reply(&json!({"role": "assistant", "content": text, "refusal": null}), "stop")
}

/// A reply that calls one tool, with the id `call_1`.
pub(crate) fn tool_call(name: &str, arguments: &str) -> String {
    tool_calls(&[("call_1", name, arguments)])
}

/// A reply that calls tools: id, name, arguments.
pub(crate) fn tool_calls(calls: &[(&str, &str, &str)]) -> String {
    let calls: Vec<Value> = calls
        .iter()
        .map(|(id, name, arguments)| {
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        })
        .collect();
    reply(
        &json!({"role": "assistant", "content": null, "tool_calls": calls}),
        "tool_calls",
    )
}

fn reply(message: &Value, finish_reason: &str) -> String {
    json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        "service_tier": "default",
    })
    .to_string()
}

/// `reply` with another `usage`.
pub(crate) fn with_usage(reply: &str, usage: Value) -> String {
    let mut reply: Value = serde_json::from_str(reply).expect("a reply");
    reply["usage"] = usage;
    reply.to_string()
}

/// The name under which the model sees [`echo`].
pub(crate) const ECHO: &str = "bmcp_local_echo";

/// A tool whose result is its arguments.
pub(crate) fn echo() -> Tool {
    tool_fn(ToolDefinition::new("echo"), |call: ToolCall| async move {
        Ok::<_, Infallible>(call.arguments().clone())
    })
}

/// A string in JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
