//! All servers together: one set of tools, one snapshot, one handle that keeps them running.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    call::Link,
    keeper::Keeper,
    server::{InvalidMcpServer, McpServer},
    snapshot::{McpServerSnapshot, McpServerState},
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
/// # async fn main() -> Result<(), tower_llm_bridge::mcp::InvalidMcpServer> {
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
    board: Arc<Board>,
    /// Ends them when it is dropped.
    _tasks: Arc<JoinSet<()>>,
}

/// What the servers' tasks publish, and everybody else reads.
pub(super) struct Board {
    tools: ArcSwap<Tools>,
    /// The tools of each server, behind them those of this process. The lock is for publishing alone.
    offers: Mutex<Vec<Vec<Tool>>>,
    statuses: watch::Sender<Vec<Status>>,
}

pub(super) struct Status {
    name: String,
    address: String,
    pub(super) state: McpServerState,
    since: Instant,
    pub(super) failed_attempts: u32,
    pub(super) tools: Vec<String>,
    pub(super) last_error: Option<String>,
}

// === impl McpServers ===

impl McpServers {
    /// Starts one task for each server and returns at once. `local` are tools of this process, in the same set.
    ///
    /// # Errors
    ///
    /// When a server has no name, or the name of another one.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn connect(
        servers: impl IntoIterator<Item = McpServer>,
        local: impl IntoIterator<Item = Tool>,
    ) -> Result<Self, InvalidMcpServer> {
        let servers: Vec<McpServer> = servers.into_iter().collect();
        let mut names = HashSet::new();
        for server in &servers {
            if server.name.is_empty() {
                return Err(server.invalid("it has no name"));
            }
            if !names.insert(&server.name) {
                return Err(server.invalid("there is another one of this name"));
            }
        }

        let mut offers = vec![Vec::new(); servers.len()];
        offers.push(local.into_iter().collect());
        let board = Arc::new(Board {
            tools: ArcSwap::from_pointee(offers.iter().flatten().cloned().collect()),
            offers: Mutex::new(offers),
            statuses: watch::Sender::new(servers.iter().map(Status::new).collect()),
        });
        let mut tasks = JoinSet::new();
        for (place, server) in servers.into_iter().enumerate() {
            let keeper = Keeper::new(Arc::new(Link::new(server)), Arc::clone(&board), place);
            tasks.spawn(keeper.run());
        }
        Ok(Self {
            board,
            _tasks: Arc::new(tasks),
        })
    }

    /// The tools on offer now, with those of this process.
    ///
    /// For one user's own tools, put them in the extensions of the user's request: they replace the layer's there.
    #[must_use]
    pub fn tools(&self) -> Tools {
        Tools::clone(&self.board.tools.load())
    }

    /// Waits until each server was ready once, or has failed once.
    pub async fn settled(&self) {
        let settled = |statuses: &Vec<Status>| statuses.iter().all(|status| status.state != McpServerState::Connecting);
        // The sender is ours, so it cannot be gone.
        let _ = self.board.statuses.subscribe().wait_for(settled).await;
    }

    /// Every server as it is now, in the order that they were given in.
    #[must_use]
    pub fn snapshot(&self) -> Vec<McpServerSnapshot> {
        let now = Instant::now();
        let statuses = self.board.statuses.borrow();
        statuses.iter().map(|status| status.snapshot(now)).collect()
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

// === impl Board ===

impl Board {
    /// Replaces one server's tools and publishes the whole set.
    pub(super) fn offer(&self, place: usize, tools: Vec<Tool>) {
        // Nothing that runs under the lock can leave it half done.
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers[place] = tools;
        // Stored under the lock, so that of two servers the later one publishes both.
        self.tools.store(Arc::new(offers.iter().flatten().cloned().collect()));
    }

    pub(super) fn update(&self, place: usize, change: impl FnOnce(&mut Status)) {
        self.statuses.send_modify(|statuses| change(&mut statuses[place]));
    }
}

// === impl Status ===

impl Status {
    fn new(server: &McpServer) -> Self {
        Self {
            name: server.name.clone(),
            address: server.address(),
            state: McpServerState::Connecting,
            since: Instant::now(),
            failed_attempts: 0,
            tools: Vec::new(),
            last_error: None,
        }
    }

    pub(super) fn enter(&mut self, state: McpServerState) {
        self.state = state;
        self.since = Instant::now();
    }

    fn snapshot(&self, now: Instant) -> McpServerSnapshot {
        McpServerSnapshot {
            name: self.name.clone(),
            address: self.address.clone(),
            state: self.state,
            in_state: now.saturating_duration_since(self.since),
            failed_attempts: self.failed_attempts,
            tools: self.tools.clone(),
            last_error: self.last_error.clone(),
        }
    }
}
