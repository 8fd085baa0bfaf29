//! A demo provider for a first try: it speaks all three APIs on loopback, refuses the first of its two keys, and asks
//! for a tool when the prompt is about the time.

mod chat;
mod messages;
mod model;
mod provider;
mod responses;

use std::{convert::Infallible, io, net::SocketAddr, time::SystemTime};

use serde_json::json;
use tower_llm_bridge::BaseUri;
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, tool_fn};

/// Always over its rate limit.
const LIMITED_KEY: &str = "demo-key-always-limited";
const WORKING_KEY: &str = "demo-key-that-works";

/// A running demo provider, and the keys to use it with.
pub struct Demo {
    pub base: BaseUri,
    pub keys: Vec<String>,
}

// === impl Demo ===

impl Demo {
    /// Listens on a free port of the loopback interface until the process ends.
    pub async fn start() -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let base = BaseUri::parse(&base).map_err(io::Error::other)?;
        tokio::spawn(axum::serve(listener, provider::routes()).into_future());
        Ok(Self {
            base,
            keys: vec![LIMITED_KEY.into(), WORKING_KEY.into()],
        })
    }
}

/// The tool that the bridge adds to every request: a closure.
pub fn tools() -> Vec<Tool> {
    let definition = ToolDefinition::new("current_time")
        .server("clock")
        .description("The current date and time in UTC.")
        .parameters(json!({ "type": "object", "properties": {}, "additionalProperties": false }));
    vec![tool_fn(definition, |_: ToolCall| async {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        Ok::<_, Infallible>(ToolOutput::text(now.to_string()))
    })]
}

/// A text that says how to try it.
pub fn how_to_try(gateway: SocketAddr) -> String {
    let body = r#"{"model":"demo","messages":[{"role":"user","content":"What time is it?"}]}"#;
    let message = r#"{"model":"demo","max_tokens":99,"messages":[{"role":"user","content":"What time is it?"}]}"#;
    format!(
        "a demo provider is inside, try:
  curl http://{gateway}/v1/chat/completions -H 'content-type: application/json' -d '{body}'
  curl http://{gateway}/v1/messages -H 'content-type: application/json' -d '{message}'
Claude Code:
  export ANTHROPIC_BASE_URL=http://{gateway} ANTHROPIC_AUTH_TOKEN=any
  claude -p 'What time is it?'
Codex, in ~/.codex/config.toml:
  model_provider = \"gateway\"
  [model_providers.gateway]
  name = \"gateway\"
  base_url = \"http://{gateway}/v1\"
  wire_api = \"responses\""
    )
}
