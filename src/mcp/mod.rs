//! The tools of [MCP](https://modelcontextprotocol.io) servers, among the same [`Tools`](crate::tools::Tools) that
//! closures use.
//!
//! [`McpServers::connect`] starts one background task per [`McpServer`]. The task connects, lists the server's tools,
//! lists them again when the server says that they changed (and once a minute, for servers that do not say so), and
//! connects again with growing pauses when the server is gone. After each change a new set is published. A request keeps
//! the set that it began with.
//!
//! - A server that is down when the program starts does not hold up the others: it is logged once and tried again.
//! - The list is stable: while a server is away, or does not list its tools, those of its last good listing stay on
//!   offer. A call of one fails at once, and tells the model that the tool is not reachable. So the provider's prompt
//!   cache stays valid, and so does thinking that models bind to the list of tools.
//! - A call that the bridge gives up, because of its time-out or because the caller left, is cancelled at the server
//!   (`notifications/cancelled`).
//! - Text reaches the model as it is. Any other result reaches it as the protocol's own JSON, with its images, audio,
//!   resources and structured content.
//!
//! The task that belongs to a server ends, and its child process with it, when the last [`McpServers`] handle is
//! dropped; a layer that was given one holds one.
//!
//! Layers fit around these tools as around others: `ToolSource::from(&servers)` is a live set, and
//! [`ToolSource::map`](crate::tools::ToolSource::map) changes each set of it.
//!
//! # HTTPS
//!
//! The feature `mcp` is for child processes and byte streams; [`McpServer::http`] needs the feature `mcp-http`, which
//! brings `reqwest`, **without TLS**. Cargo unifies features over a whole build, so a TLS feature or a cryptography
//! provider of ours would be forced on the application. The application chooses, in one of two ways:
//!
//! - It depends on `reqwest` 0.13 with a TLS feature: `rustls` (its provider is aws-lc-rs), `native-tls`, or
//!   `rustls-no-provider` with a provider of the application's choice, installed at the beginning of `main`:
//!   `rustls::crypto::ring::default_provider().install_default()`. Nothing else is needed.
//! - It gives the server its own client: [`McpServer::client`].
//!
//! Without either, `https` servers are away, and their snapshot says why.
//!
//! # Limits
//!
//! A tool server is not trusted with the service's memory and time:
//!
//! | of | limit | beyond it |
//! |---|---|---|
//! | a tool's name, description and schema | 32 KiB | the tool is left out, and logged once |
//! | all tools of one server | 256 KiB, 10,000 tools | the others are left out; no listing |
//! | a tool's schema, its references followed | 10,000 schema objects, 128 levels | the tool is left out |
//! | calls of one server at once | 64 ([`McpServer::max_calls`]) | they wait in line |
//! | of these, calls of one actor once half are taken | a quarter | they wait in line |
//! | requests and notifications of a server | 100 a second | the session ends, and is opened again after a pause |
//! | progress notifications | 1,000 a second, all of them discarded | as above |
//! | lines or events that are not messages | 1,000 a second, 20 MiB without one | as above |
//! | listings after an announced change | at once, then after twice the pause, up to 60 s | they wait |
//! | one message | 16 MiB, by the SDK | it is discarded |
//!
//! The SDK, `rmcp`, starts a task for each request of a server and would take up any number of them; the bounds above are
//! around its transport. Comments in an event stream cost time, and are not counted.
//!
//! # Examples
//!
//! ```no_run
//! use tower_llm_bridge::BridgeLayer;
//! use tower_llm_bridge::mcp::{McpServer, McpServers};
//! use tower_llm_bridge::tools::{ToolDefinition, tool_fn};
//!
//! # #[cfg(feature = "mcp-http")]
//! # async fn run(token: &str) -> Result<(), tower_llm_bridge::mcp::McpServerError> {
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

mod announcements;
mod backoff;
mod child;
mod connection;
mod error;
mod flood;
#[cfg(feature = "mcp-http")]
mod http;
#[cfg(feature = "mcp-http")]
mod http_server;
mod list;
mod output;
mod published;
mod room;
mod secret;
mod server;
mod servers;
mod session;
mod snapshot;
mod supervisor;

pub use self::{
    error::{McpServerError, McpServerErrorKind},
    server::McpServer,
    servers::McpServers,
    snapshot::{McpServerSnapshot, McpServerState},
};
