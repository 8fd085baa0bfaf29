//! The requests of callers and the answers of the provider, in the format of each API.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support;

/// One of the APIs under measurement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Messages,
    Responses,
}

// === impl Api ===

impl Api {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    /// The API that serves `path`.
    pub(crate) fn of(path: &str) -> Self {
        let all = [Self::Messages, Self::Responses];
        all.into_iter().find(|api| api.path() == path).unwrap_or(Self::Chat)
    }

    /// The end of a stream, in bytes that the gateway never edits.
    pub(crate) fn end(self) -> &'static [u8] {
        match self {
            Self::Chat => b"data: [DONE]\n\n",
            Self::Messages => b"data: {\"type\":\"message_stop\"}\n\n",
            Self::Responses => b",\"user\":null}}\n\n",
        }
    }

    /// A request of exactly `length` bytes, 16 KiB at least: an agent's conversation with its tools and long results.
    pub(crate) fn request(self, length: usize) -> Bytes {
        match self {
            Self::Chat => support::request(length, true),
            Self::Messages => {
                let tools = Value::from_iter((0..12).map(|number| {
                    json!({"name": format!("Tool{number}"), "description": "What it does. ".repeat(60), "input_schema": schema()})
                }));
                let head = format!(
                    r#"{{"model":"claude-opus-5-5","max_tokens":32000,"stream":true,"system":[{{"type":"text","text":"You are a careful \"engineer\".\n","cache_control":{{"type":"ephemeral"}}}}],"metadata":{{"user_id":"{{\"session_id\":\"5d1f\"}}"}},"tools":{tools},"messages":[{{"role":"user","content":[{{"type":"text","text":"Run the tests, please."}}]}}"#
                );
                support::fill(&head, "]}", length, |number, text| {
                    format!(
                        r#",{{"role":"assistant","content":[{{"type":"tool_use","id":"toolu_{number:04}","name":"Tool1","input":{{"path":"src/lib.rs"}}}}]}},{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"toolu_{number:04}","content":"{text}"}}]}}"#
                    )
                })
            }
            Self::Responses => {
                let tools = Value::from_iter((0..9).map(|number| {
                    json!({"type": "function", "name": format!("tool_{number}"), "description": "What it does. ".repeat(40),
                        "parameters": schema(), "strict": false})
                }));
                let head = format!(
                    r#"{{"model":"gpt-9","stream":true,"store":false,"include":["reasoning.encrypted_content"],"parallel_tool_calls":true,"tools":{tools},"input":[{{"type":"message","role":"user","content":[{{"type":"input_text","text":"Run the tests, please."}}]}}"#
                );
                support::fill(&head, "]}", length, |number, text| {
                    format!(
                        r#",{{"type":"function_call","id":"fc_{number:04}","call_id":"call_{number:04}","name":"tool_1","arguments":"{{\"path\":\"src/lib.rs\"}}","status":"completed"}},{{"type":"function_call_output","call_id":"call_{number:04}","output":"{text}"}}"#
                    )
                })
            }
        }
    }

    /// A streamed answer of `count` deltas, event by event.
    pub(crate) fn events(self, count: usize) -> Vec<Bytes> {
        match self {
            Self::Chat => support::events(count),
            Self::Messages => messages(count),
            Self::Responses => responses(count),
        }
    }
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"path": {"type": "string", "description": "Where it is"}}, "required": ["path"]})
}

fn words(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!(" word{number}"))
}

fn messages(count: usize) -> Vec<Bytes> {
    let usage = json!({"input_tokens": 12, "cache_creation_input_tokens": 310, "cache_read_input_tokens": 28410,
        "cache_creation": {"ephemeral_5m_input_tokens": 310, "ephemeral_1h_input_tokens": 0}, "output_tokens": 1,
        "service_tier": "standard"});
    let message = json!({"id": "msg_01XFDUDYJgAACzvnptvVoYEL", "type": "message", "role": "assistant",
        "model": "claude-opus-5-5", "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage});
    let delta = |text| json!({"index": 0, "delta": {"type": "text_delta", "text": text}});
    let begun = json!({"index": 0, "content_block": {"type": "text", "text": ""}});
    let stop = json!({"delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": count}});
    let mut events = vec![
        ("message_start", json!({ "message": message })),
        ("content_block_start", begun),
        ("ping", json!({})),
    ];
    events.extend(words(count).map(|text| ("content_block_delta", delta(text))));
    events.extend([
        ("content_block_stop", json!({"index": 0})),
        ("message_delta", stop),
        ("message_stop", json!({})),
    ]);
    let events = events.into_iter();
    events.map(|(kind, members)| event(kind, "", &members)).collect()
}

fn responses(count: usize) -> Vec<Bytes> {
    let text: String = words(count).collect();
    let part = |text: &str| json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text});
    let item = |text: &str, status: &str| {
        let content = if text.is_empty() {
            json!([])
        } else {
            json!([part(text)])
        };
        json!({"id": "msg_68af40", "type": "message", "status": status, "role": "assistant", "content": content})
    };
    let object = |status: &str, output: Value, usage: Value| {
        let object = json!({"id": "resp_68af40", "object": "response", "created_at": 1_741_570_283, "status": status,
            "error": null, "incomplete_details": null, "instructions": null, "metadata": {}, "model": "gpt-9",
            "output": output, "parallel_tool_calls": true, "previous_response_id": null, "store": false,
            "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "usage": usage, "user": null});
        json!({ "response": object })
    };
    let usage = json!({"input_tokens": 9120, "input_tokens_details": {"cached_tokens": 8192}, "output_tokens": count,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9120 + count});
    let begun = object("in_progress", json!([]), Value::Null);
    let done = object("completed", json!([item(&text, "completed")]), usage);
    let inside =
        |name: &str, value: Value| json!({"item_id": "msg_68af40", "output_index": 0, "content_index": 0, name: value});
    let whole = |item: Value| json!({"output_index": 0, "item": item});
    let mut events = vec![
        ("response.created", begun.clone()),
        ("response.in_progress", begun),
        ("response.output_item.added", whole(item("", "in_progress"))),
        ("response.content_part.added", inside("part", part(""))),
    ];
    events.extend(words(count).map(|word| ("response.output_text.delta", inside("delta", word.into()))));
    events.extend([
        ("response.output_text.done", inside("text", text.as_str().into())),
        ("response.content_part.done", inside("part", part(&text))),
        ("response.output_item.done", whole(item(&text, "completed"))),
        ("response.completed", done),
    ]);
    let events = events.into_iter().enumerate();
    let numbered = |(number, (kind, members))| event(kind, &format!(r#","sequence_number":{number}"#), &members);
    events.map(numbered).collect()
}

/// An event with its type first, as the providers write it.
fn event(kind: &str, number: &str, members: &Value) -> Bytes {
    let members = members.to_string();
    let members = members.trim_start_matches('{');
    let comma = if members == "}" { "" } else { "," };
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{number}{comma}{members}\n\n").into()
}
