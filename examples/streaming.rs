//! Streaming through axum: the answer goes out event by event, and a tool runs in the middle of it, hidden from the
//! caller.
//!
//! ```text
//! cargo run --example streaming
//! curl -N http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
//!     -d '{"model":"demo","stream":true,"messages":[{"role":"user","content":"What time is it?"}]}'
//! ```

use std::{convert::Infallible, error::Error};

use axum::{Json, Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::post};
use serde_json::{Value, json};
use tower_llm_bridge::{
    BridgeLayer,
    pool::KeyPool,
    record::Recorder,
    tools::{ToolDefinition, Tools, tool_fn},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (recorder, mut events) = Recorder::channel(64);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            tracing::info!(?event);
        }
    });
    tracing_subscriber::fmt().init();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(recorder)?).await?)
}

/// The bridge is a layer like any other, around whatever answers for the provider. Nothing about it is special to
/// streams: a caller who asks for one gets one.
fn app(recorder: Recorder) -> Result<Router, Box<dyn Error>> {
    let clock = tool_fn(
        ToolDefinition::new("clock").description("The time, in UTC"),
        |_call| async { Ok::<_, Infallible>("12:00") },
    );
    let bridge = BridgeLayer::new()
        .pool(KeyPool::from_secrets(["sk-of-the-operator"])?)
        .tools(Tools::new([clock]))
        .recorder(recorder);
    Ok(Router::new()
        .route("/v1/chat/completions", post(provider))
        .layer(bridge))
}

/// Stands in for a provider; a real one is a client with TLS, as in the `gateway` example. Its model asks for the clock
/// once, then answers.
async fn provider(Json(request): Json<Value>) -> impl IntoResponse {
    let event = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk =
            json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "demo", "choices": [choice] });
        format!("data: {chunk}\n\n")
    };
    let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let (deltas, finish) = match messages.last() {
        Some(last) if last["role"] == "tool" => (
            vec![json!({ "content": "It is " }), json!({ "content": last["content"] })],
            "stop",
        ),
        _ => {
            let function = json!({ "name": "bmcp_local_clock", "arguments": "{}" });
            let call = json!({ "index": 0, "id": "call_1", "type": "function", "function": function });
            (vec![json!({ "tool_calls": [call] })], "tool_calls")
        }
    };
    let mut stream = event(json!({ "role": "assistant", "content": "" }), Value::Null);
    stream.extend(deltas.into_iter().map(|delta| event(delta, Value::Null)));
    stream += &event(json!({}), json!(finish));
    ([(CONTENT_TYPE, "text/event-stream")], stream + "data: [DONE]\n\n")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn the_caller_sees_one_answer() {
        let (recorder, mut events) = Recorder::channel(1);
        let ask = json!({ "model": "demo", "stream": true, "messages": [{ "role": "user", "content": "Time?" }] });
        let request = Request::post("/v1/chat/completions")
            .header(CONTENT_TYPE, "application/json")
            .body(ask.to_string())
            .unwrap();
        let response = app(recorder).unwrap().oneshot(request).await.unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        let stream = response.into_body().collect().await.unwrap().to_bytes();
        let stream = str::from_utf8(&stream).unwrap();
        let chunks = stream
            .strip_suffix("data: [DONE]\n\n")
            .unwrap()
            .split_terminator("\n\n");
        let chunks: Vec<Value> = chunks
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect();
        let text: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, "It is 12:00");
        let started = events.recv().await.unwrap();
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk["id"] == started.interception_id.to_string())
        );
        assert!(!stream.contains("bmcp_"));
    }
}
