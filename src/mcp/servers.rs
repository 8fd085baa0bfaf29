//! The handle on all servers: it starts their supervisors, and ends them when its last clone is dropped.

use std::{collections::HashSet, fmt, sync::Arc};

use tokio::task::JoinSet;

use super::{
    connection::Connection,
    error::{McpServerError, McpServerErrorKind},
    published::Published,
    server::McpServer,
    snapshot::McpServerSnapshot,
    supervisor::Supervisor,
};
use crate::tools::{Tool, ToolSource, Tools};

/// A handle on the tasks that keep MCP servers connected. They end with the last handle.
///
/// # Examples
///
/// A server in this process, over a pipe in memory:
///
/// ```
/// use rmcp::handler::server::ServerHandler;
/// use tower_llm_bridge::BridgeLayer;
/// use tower_llm_bridge::mcp::{McpServer, McpServerState, McpServers};
///
/// struct NoTools;
/// impl ServerHandler for NoTools {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_llm_bridge::mcp::McpServerError> {
/// let local = McpServer::stream("local", || async {
///     let (ours, theirs) = tokio::io::duplex(4096);
///     tokio::spawn(async move {
///         if let Ok(server) = rmcp::serve_server(NoTools, theirs).await {
///             let _ = server.waiting().await;
///         }
///     });
///     Ok(ours)
/// });
/// let servers = McpServers::connect([local], [])?;
/// servers.settled().await;
/// assert_eq!(servers.snapshot()[0].state, McpServerState::Ready);
///
/// let layer = BridgeLayer::new().tools(&servers);
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "the servers are disconnected when the last handle is dropped"]
pub struct McpServers {
    published: Arc<Published>,
    /// The supervisors, which end when the set is dropped.
    _supervisors: Arc<JoinSet<()>>,
}

// === impl McpServers ===

impl McpServers {
    /// Starts one supervisor task for each server and returns at once. `local` are tools of this process, in the same set.
    ///
    /// # Errors
    ///
    /// When a server has no name or the name of another one, or when its HTTP client cannot be built.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime. With a server over HTTP, also if the application switched on the feature
    /// `rustls-no-provider` of `reqwest` without installing a provider: `reqwest` does.
    pub fn connect(
        servers: impl IntoIterator<Item = McpServer>,
        local: impl IntoIterator<Item = Tool>,
    ) -> Result<Self, McpServerError> {
        Self::connect_all(servers.into_iter().collect(), local.into_iter().collect())
    }

    /// Not generic: a caller's crate would compile the supervisors again, and the MCP SDK with them.
    fn connect_all(servers: Vec<McpServer>, local: Vec<Tool>) -> Result<Self, McpServerError> {
        let mut names = HashSet::new();
        for server in &servers {
            if server.name.is_empty() {
                return Err(server.error(McpServerErrorKind::Name, "it has no name"));
            }
            if !names.insert(&server.name) {
                return Err(server.error(McpServerErrorKind::Name, "there is another one of this name"));
            }
        }

        let published = Arc::new(Published::new(&servers, local));
        let connections: Vec<Connection> = servers.into_iter().map(Connection::new).collect::<Result<_, _>>()?;
        let mut supervisors = JoinSet::new();
        for (index, connection) in connections.into_iter().enumerate() {
            let supervisor = Supervisor::new(Arc::new(connection), Arc::clone(&published), index);
            supervisors.spawn(supervisor.run());
        }
        Ok(Self {
            published,
            _supervisors: Arc::new(supervisors),
        })
    }

    /// The tools on offer now, with those of this process.
    ///
    /// For one user's own tools in addition to these, merge the sets and put the result into the extensions of the
    /// user's request: a set there replaces the layer's.
    #[must_use]
    pub fn tools(&self) -> Tools {
        self.published.tools()
    }

    /// Waits until each server was ready once, or has failed once.
    pub async fn settled(&self) {
        self.published.settled().await;
    }

    /// The state of every server now, in the order that they were given in.
    #[must_use]
    pub fn snapshot(&self) -> Vec<McpServerSnapshot> {
        self.published.snapshot()
    }
}

impl From<McpServers> for ToolSource {
    fn from(servers: McpServers) -> Self {
        Self::from_fn(move || servers.tools())
    }
}

impl From<&McpServers> for ToolSource {
    fn from(servers: &McpServers) -> Self {
        servers.clone().into()
    }
}

impl fmt::Debug for McpServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("McpServers").field(&self.snapshot()).finish()
    }
}
