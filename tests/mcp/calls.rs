//! The outcomes of a call: results of every kind, errors, time-outs, and callers that leave.

use std::time::Duration;

use serde_json::{Value, json};
use tower_llm_bridge::{BridgeLayer, mcp::McpServers};

use crate::support::{Fake, Log, call_once, converse};

async fn connect(tools: &[&str]) -> (Fake, BridgeLayer) {
    let fake = Fake::with(tools);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    // The layer alone keeps the connection.
    (fake, BridgeLayer::new().tools(servers))
}

#[tokio::test(start_paused = true)]
async fn arguments_and_words_arrive_as_they_are() {
    let (_fake, layer) = connect(&["echo"]).await;
    let told = call_once(&layer, "bmcp_s_echo", &json!({ "city": "Oslo" })).await;
    assert_eq!(told, r#"echo {"city":"Oslo"}"#);
}

#[tokio::test(start_paused = true)]
async fn pictures_and_resources_reach_the_model_as_the_protocols_json() {
    let (_fake, layer) = connect(&["picture", "structured"]).await;
    let told: Value = serde_json::from_str(&call_once(&layer, "bmcp_s_picture", &json!({})).await).unwrap();
    assert_eq!(
        told["content"],
        json!([
            { "type": "text", "text": "see:" },
            { "type": "image", "data": "aGk=", "mimeType": "image/png" },
            { "type": "resource", "resource": { "uri": "file:///a.txt", "mimeType": "text/plain", "text": "hello" } },
        ])
    );
    assert_eq!(
        call_once(&layer, "bmcp_s_structured", &json!({})).await,
        r#"{"celsius":4}"#
    );
}

#[tokio::test(start_paused = true)]
async fn errors_are_told_as_errors() {
    let (_fake, layer) = connect(&["fail", "refuse"]).await;
    let told = call_once(&layer, "bmcp_s_fail", &json!({})).await;
    assert_eq!(told, r#"{"error":true,"message":"no such city"}"#);
    let told = call_once(&layer, "bmcp_s_refuse", &json!({})).await;
    assert_eq!(told, r#"{"error":true,"message":"city is no string"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_slow_tool_is_given_up_and_the_server_is_told() {
    let (fake, layer) = connect(&["slow"]).await;
    let layer = layer.tool_timeout(Duration::from_secs(5));
    let told = call_once(&layer, "bmcp_s_slow", &json!({})).await;
    assert_eq!(
        told,
        r#"{"error":true,"message":"the tool did not answer within 5 seconds"}"#
    );
    fake.cancelled().next().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_cancels_the_call() {
    let (fake, layer) = connect(&["slow"]).await;
    let mut conversation = converse(&layer, None);
    conversation.provider.next().await.call("bmcp_s_slow");
    fake.started().next().await;
    assert!(fake.cancelled().none());
    conversation.caller.abort();
    fake.cancelled().next().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_has_a_span_with_the_names_of_the_conventions() {
    let log = Log::start();
    let (_fake, layer) = connect(&["echo"]).await;
    call_once(&layer, "bmcp_s_echo", &json!({})).await;
    let span = [
        "mcp_call{",
        r#"mcp.method.name="tools/call""#,
        r#"gen_ai.tool.name="echo""#,
        r#"gen_ai.operation.name="execute_tool""#,
        "mcp.protocol.version=",
        "close",
    ];
    assert_eq!(log.count(&span), 1, "{}", log.text());
}
