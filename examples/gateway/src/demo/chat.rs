//! The demo model behind OpenAI's chat completions.

use axum::{
    Json,
    body::Bytes,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    model::{self, Asked, Turn},
    provider::{self, next_id, now},
};

pub(super) async fn completions(body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return provider::invalid_json();
    };
    let asked = asked(&request);
    let id = format!("chatcmpl-demo-{}", next_id());
    let (text, message, finish_reason) = match model::turn(&asked) {
        Turn::Say(text) => (text.clone(), json!({ "role": "assistant", "content": text }), "stop"),
        Turn::Call(name) => {
            let function = json!({ "name": name, "arguments": "{}" });
            let call = json!({ "id": format!("call_{id}"), "type": "function", "function": function });
            let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
            (String::new(), message, "tool_calls")
        }
    };
    let completion = model::tokens(&text);
    let usage = json!({
        "prompt_tokens": asked.tokens,
        "completion_tokens": completion,
        "total_tokens": asked.tokens + completion,
        "prompt_tokens_details": { "cached_tokens": 0 },
    });
    let answer = |object, choices: Value, usage: Value| {
        let model = request["model"].clone();
        json!({ "id": id, "object": object, "created": now(), "model": model, "choices": choices, "usage": usage })
    };
    if request["stream"] != true {
        let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason });
        return Json(answer("chat.completion", json!([choice]), usage)).into_response();
    }

    let chunk = |choices, usage| format!("data: {}\n\n", answer("chat.completion.chunk", choices, usage));
    let delta = |delta, reason: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        chunk(json!([choice]), Value::Null)
    };
    let mut events = Vec::new();
    if text.is_empty() {
        let mut message = message;
        message["tool_calls"][0]["index"] = 0.into();
        events.push(delta(message, Value::Null));
    } else {
        events.push(delta(json!({ "role": "assistant", "content": "" }), Value::Null));
        let words = text.split_inclusive(' ');
        events.extend(words.map(|word| delta(json!({ "content": word }), Value::Null)));
    }
    events.push(delta(json!({}), finish_reason.into()));
    if request["stream_options"]["include_usage"] == true {
        events.push(chunk(json!([]), usage));
    }
    events.push("data: [DONE]\n\n".into());
    provider::stream(events)
}

fn asked(request: &Value) -> Asked {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = messages.last().unwrap_or(&Value::Null);
    let tools = if request["tool_choice"] == "none" {
        Vec::new()
    } else {
        model::names(request, |tool| &tool["function"]["name"])
    };
    Asked {
        said: model::text(&last["content"]),
        is_result: last["role"] == "tool",
        tools,
        tokens: messages
            .iter()
            .map(|message| model::tokens(&model::text(&message["content"])))
            .sum(),
    }
}
