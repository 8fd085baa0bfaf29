//! The demo model behind OpenAI's Responses.

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

pub(super) async fn responses(body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return provider::invalid_json();
    };
    let asked = asked(&request);
    let id = next_id();
    let (text, item) = match model::turn(&asked) {
        Turn::Say(text) => {
            let part = json!({ "type": "output_text", "text": text, "annotations": [] });
            let item = json!({ "type": "message", "id": format!("msg_demo_{id}"), "role": "assistant", "status": "completed", "content": [part] });
            (text, item)
        }
        Turn::Call(name) => {
            let item = json!({
                "type": "function_call", "id": format!("fc_demo_{id}"), "call_id": format!("call_demo_{id}"),
                "name": name, "arguments": "{}", "status": "completed",
            });
            (String::new(), item)
        }
    };
    let output = model::tokens(&text);
    let response = |status: &str, items: Value, usage: Value| {
        json!({
            "id": format!("resp_demo_{id}"), "object": "response", "created_at": now(), "status": status, "error": null,
            "incomplete_details": null, "instructions": null, "metadata": {}, "model": request["model"], "output": items,
            "parallel_tool_calls": request["parallel_tool_calls"] != false, "temperature": 1.0, "top_p": 1.0,
            "tool_choice": request.get("tool_choice").cloned().unwrap_or_else(|| "auto".into()),
            "tools": request.get("tools").cloned().unwrap_or_else(|| json!([])), "usage": usage,
        })
    };
    let usage = json!({
        "input_tokens": asked.tokens, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": output, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": asked.tokens + output,
    });
    let done = response("completed", json!([item]), usage);
    if request["stream"] != true {
        return Json(done).into_response();
    }

    let begun = response("in_progress", json!([]), Value::Null);
    let mut bare = item.clone();
    bare["status"] = "in_progress".into();
    let mut steps = vec![
        ("response.created", json!({ "response": begun })),
        ("response.in_progress", json!({ "response": begun })),
    ];
    if text.is_empty() {
        bare["arguments"] = "".into();
        let place = json!({ "item_id": item["id"], "output_index": 0 });
        let with = |name: &str, value: &str| {
            let mut event = place.clone();
            event[name] = value.into();
            event
        };
        steps.push(("response.output_item.added", json!({ "output_index": 0, "item": bare })));
        steps.push(("response.function_call_arguments.delta", with("delta", "{}")));
        steps.push(("response.function_call_arguments.done", with("arguments", "{}")));
    } else {
        bare["content"] = json!([]);
        let place = json!({ "item_id": item["id"], "output_index": 0, "content_index": 0 });
        let with = |name: &str, value: Value| {
            let mut event = place.clone();
            event[name] = value;
            event
        };
        let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
        steps.push(("response.output_item.added", json!({ "output_index": 0, "item": bare })));
        steps.push(("response.content_part.added", with("part", part(""))));
        for word in text.split_inclusive(' ') {
            let mut delta = with("delta", word.into());
            delta["logprobs"] = json!([]);
            steps.push(("response.output_text.delta", delta));
        }
        let mut whole = with("text", text.as_str().into());
        whole["logprobs"] = json!([]);
        steps.push(("response.output_text.done", whole));
        steps.push(("response.content_part.done", with("part", part(&text))));
    }
    steps.push(("response.output_item.done", json!({ "output_index": 0, "item": item })));
    steps.push(("response.completed", json!({ "response": done })));
    let event = |(number, (kind, mut data)): (usize, (&str, Value))| {
        data["type"] = kind.into();
        data["sequence_number"] = number.into();
        format!("event: {kind}\ndata: {data}\n\n")
    };
    provider::stream(steps.into_iter().enumerate().map(event).collect())
}

fn asked(request: &Value) -> Asked {
    let tools = if request["tool_choice"] == "none" {
        Vec::new()
    } else {
        model::names(request, |tool| &tool["name"])
    };
    let items = match &request["input"] {
        Value::String(text) => vec![json!({ "role": "user", "content": text })],
        Value::Array(items) => items.clone(),
        _ => Vec::new(),
    };
    let words = |item: &Value| match &item["output"] {
        Value::Null => model::text(&item["content"]),
        output => model::text(output),
    };
    let last = items.last().unwrap_or(&Value::Null);
    Asked {
        said: words(last),
        is_result: last["type"] == "function_call_output",
        tools,
        tokens: items.iter().map(|item| model::tokens(&words(item))).sum(),
    }
}
