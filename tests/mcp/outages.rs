//! Servers that are down, crash, stay away and come back.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use tower_llm_bridge::{
    BridgeLayer,
    mcp::{McpServerState, McpServers},
};

use crate::support::{Fake, Log, call_once, converse, names};

fn state(servers: &McpServers) -> McpServerState {
    servers.snapshot()[0].state
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_at_start_is_said_once_and_holds_up_nobody() {
    let log = Log::start();
    let (down, up) = (Fake::with(&["a"]), Fake::with(&["b"]));
    down.go_down();
    let servers = McpServers::connect([down.server("down"), up.server("up")], []).unwrap();
    servers.settled().await;
    assert_eq!(names(&servers), ["bmcp_up_b"]);
    sleep(Duration::from_secs(600)).await;
    let snapshot = &servers.snapshot()[0];
    assert_eq!(snapshot.state, McpServerState::Away);
    assert_eq!(snapshot.last_error.as_deref(), Some("connection refused"));
    // Pauses from half a second up to a minute, each cut by half at most.
    assert!((12..=30).contains(&snapshot.failed_attempts), "{snapshot:?}");
    assert!(snapshot.in_state >= Duration::from_secs(600), "{snapshot:?}");
    assert_eq!(log.count(&["WARN", "MCP server is away"]), 1, "{}", log.text());

    down.come_up();
    sleep(Duration::from_secs(61)).await;
    assert_eq!(names(&servers), ["bmcp_down_a", "bmcp_up_b"]);
    let snapshot = &servers.snapshot()[0];
    assert_eq!((snapshot.state, snapshot.failed_attempts), (McpServerState::Ready, 0));
    assert_eq!(snapshot.last_error, None);
    assert_eq!(log.count(&["INFO", "MCP server is ready"]), 2, "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_of_a_conversation_is_told_and_the_restart_is_used() {
    let fake = Fake::with(&["crash", "echo"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    let layer = BridgeLayer::new().tools(&servers);
    let mut conversation = converse(&layer, None);

    let asked = conversation.provider.next().await;
    fake.go_down();
    asked.call("bmcp_s_crash");
    let asked = conversation.provider.next().await;
    let told = r#"{"error":true,"message":"the tool server s failed before it answered; the call may or may not have taken effect"}"#;
    assert_eq!(asked.told(), told);

    // Away: the model is told at once, while the tools are still on offer.
    assert_eq!(state(&servers), McpServerState::Away);
    let before = tokio::time::Instant::now();
    asked.call("bmcp_s_echo");
    let asked = conversation.provider.next().await;
    let told = r#"{"error":true,"message":"the tool echo is not reachable: its server s is not connected at present, try again later"}"#;
    assert_eq!(asked.told(), told);
    assert_eq!(tokio::time::Instant::now(), before);
    assert_eq!(names(&servers), ["bmcp_s_crash", "bmcp_s_echo"]);

    fake.set_tools(&["crash", "echo", "new"]);
    fake.come_up();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(state(&servers), McpServerState::Ready);
    asked.call("bmcp_s_echo");
    let asked = conversation.provider.next().await;
    assert_eq!(asked.told(), "echo {}");
    asked.finish();
    conversation.caller.await.unwrap();
    assert_eq!(names(&servers), ["bmcp_s_crash", "bmcp_s_echo", "bmcp_s_new"]);
}

#[tokio::test(start_paused = true)]
async fn the_tools_of_a_server_that_stays_away_stay_on_offer() {
    let log = Log::start();
    let fake = Fake::with(&["echo", "more"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    let layer = BridgeLayer::new().tools(&servers);
    let offered = definitions(&layer).await;
    fake.go_down();
    fake.crash();
    sleep(Duration::from_secs(86_400)).await;
    assert_eq!(state(&servers), McpServerState::Away);
    assert_eq!(servers.snapshot()[0].tools, ["echo", "more"]);
    assert_eq!(definitions(&layer).await, offered);
    assert_eq!(log.count(&["WARN", "MCP server is away"]), 1, "{}", log.text());
    let told = call_once(&layer, "bmcp_s_echo", &json!({})).await;
    assert!(told.contains("the tool echo is not reachable"), "{told}");

    fake.come_up();
    sleep(Duration::from_secs(61)).await;
    assert_eq!(definitions(&layer).await, offered);
    assert_eq!(call_once(&layer, "bmcp_s_echo", &json!({})).await, "echo {}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_changes_nothing() {
    let fake = Fake::with(&["echo"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    let layer = BridgeLayer::new().tools(&servers);
    let offered = definitions(&layer).await;
    fake.refuse_listings();
    fake.announce().await;
    sleep(Duration::from_secs(200)).await;
    assert_eq!(state(&servers), McpServerState::Ready);
    let error = servers.snapshot()[0].last_error.clone();
    assert_eq!(error.as_deref(), Some("no list today"));
    assert_eq!(definitions(&layer).await, offered);

    // The same for a server that comes back without a list.
    fake.crash();
    sleep(Duration::from_secs(200)).await;
    assert_eq!(state(&servers), McpServerState::Away);
    assert_eq!(definitions(&layer).await, offered);
}

/// The definitions that the next request carries, as they are in its body.
async fn definitions(layer: &BridgeLayer) -> String {
    let mut conversation = converse(layer, None);
    let asked = conversation.provider.next().await;
    let definitions = asked.body["tools"].to_string();
    asked.finish();
    conversation.caller.await.unwrap();
    definitions
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_the_connection() {
    let fake = Fake::with(&["echo"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    let layer = BridgeLayer::new().tools(&servers);
    drop(servers);
    sleep(Duration::from_secs(300)).await;
    assert!(fake.closed().none());
    assert_eq!(call_once(&layer, "bmcp_s_echo", &json!({})).await, "echo {}");
    drop(layer);
    fake.closed().next().await;
}
