//! The state of the servers, for operators: plain data that serialises.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// Whether a server can be called.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::mcp::McpServerState;
///
/// assert_eq!(serde_json::to_string(&McpServerState::Connecting).unwrap(), r#""connecting""#);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum McpServerState {
    /// The first attempt to connect is under way.
    Connecting,
    /// The server can be called.
    Ready,
    /// The server cannot be called. The connection is tried again; the tools of the last good listing stay on offer.
    Away,
}

/// The state of one server at one moment.
///
/// `in_state` serialises as `in_state_ms`, in whole milliseconds.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::mcp::{McpServer, McpServerState, McpServers};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_llm_bridge::mcp::McpServerError> {
/// let servers = McpServers::connect([McpServer::command("wiki", "mcp-wiki", ["--key=s3cret"])], [])?;
/// let wiki = &servers.snapshot()[0];
/// assert_eq!(wiki.name, "wiki");
/// assert_eq!(wiki.address, "mcp-wiki");
/// assert_eq!(wiki.state, McpServerState::Connecting);
/// assert!(wiki.tools.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct McpServerSnapshot {
    /// The name that its operator gave it.
    pub name: String,
    /// Its URL without user information and query, or its program without arguments, unless
    /// [`McpServer::show_as`](super::McpServer::show_as) says otherwise.
    pub address: String,
    /// Whether it can be called.
    pub state: McpServerState,
    /// For how long it has been in this state.
    #[serde(rename = "in_state_ms", serialize_with = "millis")]
    pub in_state: Duration,
    /// Attempts to connect that failed since it was last ready.
    pub failed_attempts: u32,
    /// The own names of the tools on offer, in the server's order: those of its last good listing.
    pub tools: Vec<String>,
    /// The last error, without secrets.
    pub last_error: Option<String>,
}

fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(time.as_millis())
        .unwrap_or(u64::MAX)
        .serialize(serializer)
}
