//! Builds the requests, replies and streams of Responses.

use http::{Request, header};
use serde_json::{Value, json};

use crate::support::*;

/// `POST /v1/responses` with this body.
pub(crate) fn responses(body: &Value) -> Request<MockBody> {
    Request::post("/v1/responses")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into())
        .unwrap()
}

pub(crate) fn question(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "input": "hi"})
}

pub(crate) fn words(text: &str) -> Value {
    json!({"id": format!("msg_{text}"), "type": "message", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []}]})
}

pub(crate) fn call(name: &str) -> Value {
    json!({"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": name,
        "arguments": r#"{"text":"x"}"#})
}

/// A response of these items.
pub(crate) fn reply(id: &str, status: &str, items: &[Value]) -> Value {
    json!({"id": id, "object": "response", "status": status, "model": "m-1", "output": items,
        "usage": {"input_tokens": 30, "input_tokens_details": {"cached_tokens": 10}, "output_tokens": 5, "total_tokens": 35}})
}

pub(crate) fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

/// The events of a response, one by one.
pub(crate) fn events(id: &str, items: &[Value]) -> Vec<String> {
    let mut datas = vec![
        json!({"type": "response.created", "response": reply(id, "in_progress", &[])}),
        json!({"type": "response.in_progress", "response": reply(id, "in_progress", &[])}),
    ];
    for (index, item) in items.iter().enumerate() {
        let mut begun = item.clone();
        begun["status"] = "in_progress".into();
        datas.push(json!({"type": "response.output_item.added", "output_index": index, "item": begun}));
        datas.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    datas.push(json!({"type": "response.completed", "response": reply(id, "completed", items)}));
    for (number, data) in datas.iter_mut().enumerate() {
        data["sequence_number"] = number.into();
    }
    datas.iter().map(event).collect()
}

pub(crate) fn stream(id: &str, items: &[Value]) -> Reply {
    Reply::events(events(id, items).concat())
}

/// A whole reply or a stream of the same items.
pub(crate) fn round(streams: bool, id: &str, items: &[Value]) -> Reply {
    if streams {
        stream(id, items)
    } else {
        Reply::from(reply(id, "completed", items).to_string())
    }
}

/// The events that the caller got, checked as a strict client does.
pub(crate) fn read(answer: &Answer) -> Vec<Value> {
    read_text(answer.text())
}

/// The same from the text of a stream.
pub(crate) fn read_text(text: &str) -> Vec<Value> {
    let datas = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = datas.map(|data| serde_json::from_str(data).unwrap()).collect();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{text}");
    }
    assert_eq!(events[0]["type"], "response.created", "{text}");
    events
}

pub(crate) fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// An error as the provider sends it.
pub(crate) fn refusal(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}});
    Reply::new(status, body.to_string()).header("content-type", "application/json")
}
