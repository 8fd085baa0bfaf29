//! Tools from closures: the model calls them, and the caller never knows.
//!
//! A tool is a definition and a tower service. [`tool_fn`] makes the service from a closure. A tool that needs its own
//! time-out or a limit of concurrent calls is a service with tower's layers around it.
//!
//! Run it with `cargo run --example closure_tools`, its test with `cargo test --example closure_tools`.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, Tools, tool_fn};
use tower_llm_bridge::{BridgeLayer, RequestBody};

#[derive(Deserialize)]
struct Sum {
    numbers: Vec<f64>,
}

/// A tool that is only a closure.
fn add() -> Tool {
    let definition = ToolDefinition::new("add")
        .description("Adds numbers")
        .parameters(json!({
            "type": "object",
            "properties": { "numbers": { "type": "array", "items": { "type": "number" } } },
            "required": ["numbers"],
        }));
    tool_fn(definition, async |call: ToolCall| {
        let Sum { numbers } = call.parse()?;
        Ok::<_, serde_json::Error>(json!(numbers.iter().sum::<f64>()))
    })
}

/// A service with layers: at most 4 calls at once in the whole process, 2 s for each. Waiting for one of the 4 places does
/// not count: tower's time-out begins with the call. `BridgeLayer::tool_timeout` bounds both together.
fn search() -> Tool {
    let definition = ToolDefinition::new("search")
        .server("docs")
        .description("Searches the handbook");
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(2))
        .concurrency_limit(4)
        .service_fn(async |_: ToolCall| Ok::<_, BoxError>(ToolOutput::text("Page 7: see page 8.")));
    Tool::new(definition, service)
}

/// Plays a model that adds first, and answers with the tool's result.
async fn provider(request: Request<RequestBody<Full<Bytes>>>) -> Result<Response<Full<Bytes>>, BoxError> {
    let request: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let last = request["messages"].as_array().and_then(|messages| messages.last());
    let result = last
        .filter(|message| message["role"] == "tool")
        .map(|message| &message["content"]);
    let message = match result {
        Some(sum) => json!({"role": "assistant", "content": sum}),
        None => json!({"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": "bmcp_local_add", "arguments": r#"{"numbers":[20,22]}"#}}]}),
    };
    let reply = json!({"id": "chatcmpl-1", "choices": [{"index": 0, "message": message}]});
    Ok(Response::new(reply.to_string().into()))
}

async fn ask() -> Result<Value, BoxError> {
    let layer = BridgeLayer::new()
        .pool(KeyPool::from_secrets(["sk-0123456789"])?)
        .tools(Tools::new([add(), search()]));
    let question = json!({"model": "m", "messages": [{"role": "user", "content": "20 + 22?"}]});
    let request = Request::post("/v1/chat/completions").body(Full::from(question.to_string()))?;
    let response = layer.layer(service_fn(provider)).oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let reply = ask().await?;
    std::io::Write::write_all(&mut std::io::stdout(), format!("{reply:#}\n").as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_caller_gets_the_answer_and_sees_no_call() {
        let reply = ask().await.unwrap();
        let message = &reply["choices"][0]["message"];
        assert_eq!(message["content"], "42.0");
        assert!(message.get("tool_calls").is_none());
    }
}
