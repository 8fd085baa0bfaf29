//! What an operator sees of the servers.

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
    /// Not yet: the first attempt is under way.
    Connecting,
    /// It can.
    Ready,
    /// It cannot, and is tried again.
    Away,
}

/// One server at one moment.
///
/// It serialises with `in_state_ms`, in whole milliseconds, for `in_state`.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::mcp::{McpServer, McpServerState, McpServers};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_llm_bridge::mcp::InvalidMcpServer> {
/// let servers = McpServers::connect([McpServer::http("wiki", "http://127.0.0.1:1/mcp?key=s3cret")?], [])?;
/// let wiki = &servers.snapshot()[0];
/// assert_eq!(wiki.name, "wiki");
/// assert_eq!(wiki.address, "http://127.0.0.1:1/mcp");
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
    /// Its URL without user information and query, or its program without arguments.
    pub address: String,
    /// Whether it can be called.
    pub state: McpServerState,
    /// For how long it has been in this state.
    #[serde(rename = "in_state_ms", serialize_with = "millis")]
    pub in_state: Duration,
    /// Attempts to connect that failed since it was last ready.
    pub failed_attempts: u32,
    /// The own names of the tools on offer, in the server's order. A server that has just gone away still has some.
    pub tools: Vec<String>,
    /// What went wrong last, without secrets.
    pub last_error: Option<String>,
}

fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(time.as_millis())
        .unwrap_or(u64::MAX)
        .serialize(serializer)
}
