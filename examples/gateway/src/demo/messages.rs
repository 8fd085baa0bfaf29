//! The demo model behind Anthropic's Messages.

use axum::{
    Json,
    body::Bytes,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    model::{self, Asked, Turn},
    provider::{self, next_id},
};

pub(super) async fn messages(body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return provider::invalid_json();
    };
    let asked = asked(&request);
    let id = next_id();
    let (block, stop_reason) = match model::turn(&asked) {
        Turn::Say(text) => (json!({ "type": "text", "text": text }), "end_turn"),
        Turn::Call(name) => {
            let id = format!("toolu_demo_{id}");
            (
                json!({ "type": "tool_use", "id": id, "name": name, "input": {} }),
                "tool_use",
            )
        }
    };
    let output = block["text"].as_str().map_or(0, model::tokens);
    let mut message = json!({
        "id": format!("msg_demo_{id}"), "type": "message", "role": "assistant", "model": request["model"],
        "content": [block], "stop_reason": stop_reason, "stop_sequence": null,
        "usage": { "input_tokens": asked.tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output },
    });
    if request["stream"] != true {
        return Json(message).into_response();
    }

    let event = |kind: &str, mut data: Value| {
        data["type"] = kind.into();
        format!("event: {kind}\ndata: {data}\n\n")
    };
    message["content"] = json!([]);
    message["stop_reason"] = Value::Null;
    message["usage"]["output_tokens"] = 0.into();
    let mut events = vec![event("message_start", json!({ "message": message }))];
    let delta = |delta: Value| event("content_block_delta", json!({ "index": 0, "delta": delta }));
    let mut start = block.clone();
    match block["text"].as_str() {
        Some(text) => {
            start["text"] = "".into();
            events.push(event(
                "content_block_start",
                json!({ "index": 0, "content_block": start }),
            ));
            let words = text.split_inclusive(' ');
            events.extend(words.map(|word| delta(json!({ "type": "text_delta", "text": word }))));
        }
        None => {
            events.push(event(
                "content_block_start",
                json!({ "index": 0, "content_block": start }),
            ));
            events.push(delta(json!({ "type": "input_json_delta", "partial_json": "{}" })));
        }
    }
    events.push(event("content_block_stop", json!({ "index": 0 })));
    let stop = json!({ "stop_reason": stop_reason, "stop_sequence": null });
    events.push(event(
        "message_delta",
        json!({ "delta": stop, "usage": { "output_tokens": output } }),
    ));
    events.push(event("message_stop", json!({})));
    provider::stream(events)
}

pub(super) async fn count_tokens(body: Bytes) -> Response {
    match serde_json::from_slice::<Value>(&body) {
        Ok(request) => Json(json!({ "input_tokens": asked(&request).tokens })).into_response(),
        Err(_) => provider::invalid_json(),
    }
}

fn asked(request: &Value) -> Asked {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = messages.iter().rev().find(|message| message["role"] != "system");
    let content = last.map_or(&Value::Null, |message| &message["content"]);
    let is_result = content
        .as_array()
        .is_some_and(|blocks| blocks.iter().any(|block| block["type"] == "tool_result"));
    let tools = if request["tool_choice"]["type"] == "none" {
        Vec::new()
    } else {
        model::names(request, |tool| &tool["name"])
    };
    Asked {
        said: model::text(content),
        is_result,
        tools,
        tokens: messages
            .iter()
            .map(|message| model::tokens(&model::text(&message["content"])))
            .sum(),
    }
}
