//! A tool server that is too large, too noisy or too slow does not harm the others.

use std::time::Duration;

use http::Request;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_llm_bridge::{
    Actor,
    mcp::{McpServer, McpServerState, McpServers},
    tools::{Tool, ToolCall},
};

use crate::support::{Fake, Log, names, until};

fn definition(name: &str, description: usize, schema: &Value) -> Value {
    json!({ "name": name, "description": "d".repeat(description), "inputSchema": schema })
}

/// 24 levels of two references each.
fn exponential() -> Value {
    let mut definitions = serde_json::Map::new();
    for level in 0..24 {
        let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
        definitions.insert(format!("d{level}"), json!({ "anyOf": [next, next] }));
    }
    definitions.insert("d24".to_owned(), json!({ "type": "integer" }));
    json!({ "type": "object", "properties": { "n": { "$ref": "#/$defs/d0" } }, "$defs": definitions })
}

#[tokio::test(start_paused = true)]
async fn tools_that_are_too_large_are_left_out_and_logged_once() {
    let log = Log::start();
    let fake = Fake::default();
    let object = json!({ "type": "object" });
    fake.set_definitions(vec![
        definition("long", 8 << 20, &object),
        definition(
            "wide",
            1,
            &json!({ "type": "object", "description": "d".repeat(32 << 10) }),
        ),
        definition("deep", 1, &exponential()),
        definition("good", 30 << 10, &object),
    ]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    assert_eq!(names(&servers), ["bmcp_s_good"]);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(log.count(&["WARN", "left out", "count=3", "long"]), 1, "{}", log.text());

    let many: Vec<Value> = (0..20)
        .map(|n| definition(&format!("t{n:02}"), 30 << 10, &object))
        .collect();
    fake.set_definitions(many);
    sleep(Duration::from_secs(61)).await;
    // As many as fit into 256 KiB.
    assert_eq!(names(&servers).len(), 8);
    assert_eq!(names(&servers)[7], "bmcp_s_t07");
    assert_eq!(log.count(&["WARN", "left out"]), 2, "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_ends_the_session() {
    let fake = Fake::with(&["echo"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    until(|| !fake.peers().is_empty()).await;
    let peer = fake.peers().remove(0);
    for _ in 0..200 {
        // Fails once the session has ended.
        let _ = peer.notify_tool_list_changed().await;
    }
    fake.closed().next().await;
    until(|| servers.snapshot()[0].state == McpServerState::Away).await;
    let error = servers.snapshot()[0].last_error.clone().unwrap();
    assert!(error.contains("more than 100 messages in a second"), "{error}");
    assert_eq!(names(&servers), ["bmcp_s_echo"]);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(servers.snapshot()[0].state, McpServerState::Ready);
}

#[tokio::test(start_paused = true)]
async fn announcements_without_end_are_followed_ever_more_rarely() {
    let fake = Fake::with(&["echo"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    let before = fake.pages_read();
    for _ in 0..600 {
        fake.announce().await;
        sleep(Duration::from_millis(100)).await;
    }
    let listings = fake.pages_read() - before;
    assert!((5..=8).contains(&listings), "{listings} listings in a minute");
}

#[cfg(unix)]
#[tokio::test]
async fn a_child_that_prints_for_ever_is_ended() {
    let server = McpServer::command("s", "yes", [""; 0]);
    let servers = McpServers::connect([server], []).unwrap();
    servers.settled().await;
    let error = servers.snapshot()[0].last_error.clone().unwrap();
    assert_eq!(error, "it sent too much that is no message");
}

/// A call on behalf of a caller.
fn call(tool: &Tool, actor: &str) -> tokio::task::JoinHandle<Instant> {
    let mut call = ToolCall::new("call_1", tool.definition().name(), json!({}));
    let mut request = Request::new(());
    request.extensions_mut().insert(Actor::new(actor));
    *call.extensions_mut() = request.extensions().clone();
    let called = tool.clone().oneshot(call);
    tokio::spawn(async move {
        called.await.unwrap();
        Instant::now()
    })
}

#[tokio::test(start_paused = true)]
async fn slow_calls_of_one_actor_do_not_hold_up_another() {
    let fake = Fake::with(&["echo", "slow"]);
    let servers = McpServers::connect([fake.server("s").max_calls(8)], []).unwrap();
    servers.settled().await;
    let tools: Vec<Tool> = servers.tools().into_iter().collect();
    let [echo, slow] = &tools[..] else {
        panic!("two tools");
    };
    let slow: Vec<_> = (0..16).map(|_| call(slow, "greedy")).collect();
    for _ in 0..4 {
        fake.started().next().await;
    }
    let start = Instant::now();
    assert_eq!(call(echo, "other").await.unwrap(), start);
    // Half of the places, and no more.
    sleep(Duration::from_secs(1)).await;
    fake.started().next().await;
    assert!(fake.started().none());
    for call in slow {
        call.abort();
    }
}
