//! The tools of [MCP](https://modelcontextprotocol.io) servers, among the same [`Tools`](crate::tools::Tools) that
//! closures use.
//!
//! [`McpServers::connect`] starts one background task per [`McpServer`]. The task connects, lists the server's tools,
//! lists them again when the server says that they changed (and once a minute, for servers that do not say so), and
//! connects again with growing pauses when the server is gone. After each change a new set is published, with its
//! definitions encoded; a request keeps the set that it began with.
//!
//! - A server that is down when the program starts does not hold up the others: it is logged once and tried again.
//! - The tools of a server that went away stay on offer for 30 s: most servers are back by then, and a set of tools
//!   that stays the same keeps the provider's prompt cache warm. After that they are withdrawn until it is back. A call
//!   in between fails at once and tells the model why.
//! - A call that the bridge gives up, because of its time-out or because the caller left, is cancelled at the server
//!   (`notifications/cancelled`).
//! - A result in words reaches the model as these words. Any other result reaches it as the protocol's own JSON, with
//!   its images, audio, resources and structured content.
//!
//! The task that belongs to a server ends, and its child process with it, when the last [`McpServers`] handle is
//! dropped; a layer that was given one holds one.
//!
//! # Examples
//!
//! ```no_run
//! use tower_llm_bridge::BridgeLayer;
//! use tower_llm_bridge::mcp::{McpServer, McpServers};
//! use tower_llm_bridge::tools::{ToolDefinition, tool_fn};
//!
//! # async fn run(token: &str) -> Result<(), tower_llm_bridge::mcp::InvalidMcpServer> {
//! let clock = tool_fn(ToolDefinition::new("clock"), |_call| async { Ok::<_, std::convert::Infallible>("12:00") });
//! let servers = McpServers::connect(
//!     [
//!         McpServer::http("wiki", "https://mcp.deepwiki.com/mcp")?.deny("^ask_")?,
//!         McpServer::http("tracker", "https://mcp.example.com/v1")?.authorization(&format!("Bearer {token}"))?,
//!         McpServer::command("files", "npx", ["-y", "@modelcontextprotocol/server-filesystem", "/srv/docs"]),
//!     ],
//!     [clock],
//! )?;
//! let layer = BridgeLayer::new().tools(&servers);
//!
//! for server in servers.snapshot() {
//!     println!("{}: {:?}, {} tools", server.name, server.state, server.tools.len());
//! }
//! # drop(layer);
//! # Ok(())
//! # }
//! ```

mod backoff;
mod call;
mod http;
mod keeper;
mod list;
mod secret;
mod server;
mod servers;
mod session;
mod snapshot;

pub use self::{
    server::{InvalidMcpServer, McpServer},
    servers::McpServers,
    snapshot::{McpServerSnapshot, McpServerState},
};
