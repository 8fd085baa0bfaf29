//! Which tools are on offer: pages, limits, patterns, changes, and a caller's own sets.

use std::convert::Infallible;

use serde_json::Value;
use tower_llm_bridge::{
    BridgeLayer,
    mcp::{McpServer, McpServers},
    tools::{ToolDefinition, Tools, tool_fn},
};

use crate::support::{Fake, converse, names, until};

#[tokio::test(start_paused = true)]
async fn all_pages_are_read_and_the_providers_limit_is_kept() {
    let tools: Vec<String> = (0..300).map(|n| format!("t{n:03}")).collect();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let fake = Fake::with(&tools).paged(100);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    assert_eq!(fake.pages_read(), 3);
    assert_eq!(names(&servers).len(), 300);
    assert_eq!(servers.snapshot()[0].tools.len(), 300);

    let layer = BridgeLayer::new().tools(&servers);
    let mut conversation = converse(&layer, None);
    let asked = conversation.provider.next().await;
    assert_eq!(asked.tools().len(), 128);
    assert_eq!(asked.tools()[127], "bmcp_s_t127");
    asked.finish();
    conversation.caller.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn patterns_are_about_the_tools_own_name_and_deny_wins() {
    let fake = Fake::with(&["read_file", "read_secret", "write_file"]);
    let server = fake.server("bmcp").allow("^read_").unwrap().deny("secret").unwrap();
    let servers = McpServers::connect([server], []).unwrap();
    servers.settled().await;
    assert_eq!(names(&servers), ["bmcp_bmcp_read_file"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_list_reaches_the_next_request_and_not_the_one_under_way() {
    let fake = Fake::with(&["a", "b"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    let layer = BridgeLayer::new().tools(&servers);

    let mut conversation = converse(&layer, None);
    let asked = conversation.provider.next().await;
    assert_eq!(asked.tools(), ["bmcp_s_a", "bmcp_s_b"]);
    fake.set_tools(&["b", "c"]);
    fake.announce().await;
    until(|| names(&servers) == ["bmcp_s_b", "bmcp_s_c"]).await;
    assert_eq!(servers.snapshot()[0].tools, ["b", "c"]);
    asked.call("bmcp_s_a");
    let asked = conversation.provider.next().await;
    assert_eq!(asked.tools(), ["bmcp_s_a", "bmcp_s_b"]);
    assert_eq!(asked.told(), "a {}");
    asked.finish();
    conversation.caller.await.unwrap();

    let mut conversation = converse(&layer, None);
    let asked = conversation.provider.next().await;
    assert_eq!(asked.tools(), ["bmcp_s_b", "bmcp_s_c"]);
    asked.finish();
    conversation.caller.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_announce_changes_is_asked_every_minute() {
    let fake = Fake::with(&["a"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    fake.set_tools(&["b"]);
    tokio::time::sleep(std::time::Duration::from_secs(59)).await;
    assert_eq!(names(&servers), ["bmcp_s_a"]);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(names(&servers), ["bmcp_s_b"]);
}

#[tokio::test(start_paused = true)]
async fn tools_of_servers_and_of_this_process_are_one_set() {
    let ping = tool_fn(ToolDefinition::new("ping"), |_call| async {
        Ok::<_, Infallible>("pong")
    });
    let (a, b) = (Fake::with(&["x"]), Fake::with(&["x"]));
    let servers = McpServers::connect([a.server("a"), b.server("b")], [ping]).unwrap();
    assert_eq!(names(&servers), ["bmcp_local_ping"]);
    servers.settled().await;
    assert_eq!(names(&servers), ["bmcp_a_x", "bmcp_b_x", "bmcp_local_ping"]);
}

#[tokio::test(start_paused = true)]
async fn a_requests_own_tools_replace_the_servers() {
    let fake = Fake::with(&["a"]);
    let servers = McpServers::connect([fake.server("s")], []).unwrap();
    servers.settled().await;
    let layer = BridgeLayer::new().tools(&servers);
    let mine = tool_fn(ToolDefinition::new("mine"), |_call| async {
        Ok::<_, Infallible>("yes")
    });
    let mut conversation = converse(&layer, Some(Tools::new([mine])));
    let asked = conversation.provider.next().await;
    assert_eq!(asked.tools(), ["bmcp_local_mine"]);
    asked.call("bmcp_local_mine");
    let asked = conversation.provider.next().await;
    assert_eq!(asked.told(), "yes");
    asked.finish();
    let answer: Value = conversation.caller.await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "done");
}

#[tokio::test]
async fn two_servers_of_one_name_are_refused() {
    let twice = || McpServer::command("s", "true", [""; 0]);
    let error = McpServers::connect([twice(), twice()], []).unwrap_err();
    assert_eq!(error.to_string(), "MCP server s: there is another one of this name");
    assert!(McpServers::connect([McpServer::command("", "true", [""; 0])], []).is_err());
}
