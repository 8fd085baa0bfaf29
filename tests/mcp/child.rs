//! A server that is a child process: this test program itself, started again in another role.

use rmcp::ServiceExt;
use serde_json::json;
use tower_llm_bridge::{
    BridgeLayer,
    mcp::{McpServer, McpServerState, McpServers},
};

use crate::support::{Fake, call_once};

const ROLE: &str = "TOWER_LLM_BRIDGE_TEST_CHILD";

/// Not a test: in the child process it is the server, which ends when the parent closes its input.
#[tokio::test]
async fn child() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let inherited = if std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        "everything"
    } else {
        "little"
    };
    let streams = (tokio::io::stdin(), tokio::io::stdout());
    let running = Fake::with(&["echo", inherited]).serve(streams).await.unwrap();
    let _ = running.waiting().await;
    // Otherwise the harness would now wait for its blocked read of the input.
    std::process::exit(0);
}

#[tokio::test]
async fn a_child_process_serves_and_inherits_little() {
    let program = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let server = McpServer::command("s", program, ["--exact", "child::child", "--nocapture", "--quiet"])
        .env(ROLE, "1")
        .unwrap();
    let servers = McpServers::connect([server], []).unwrap();
    servers.settled().await;
    assert_eq!(servers.snapshot()[0].state, McpServerState::Ready, "{servers:?}");
    assert_eq!(servers.snapshot()[0].tools, ["echo", "little"]);
    let layer = BridgeLayer::new().tools(servers);
    assert_eq!(call_once(&layer, "bmcp_s_echo", &json!({})).await, "echo {}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_away() {
    let server = McpServer::command("s", "/nonexistent/program", ["--token=s3cret"]);
    let servers = McpServers::connect([server], []).unwrap();
    servers.settled().await;
    let snapshot = &servers.snapshot()[0];
    assert_eq!(snapshot.state, McpServerState::Away);
    let error = snapshot.last_error.as_deref().unwrap();
    assert!(error.starts_with("cannot be started: "), "{error}");
    assert!(!format!("{servers:?}").contains("s3cret"));
}
