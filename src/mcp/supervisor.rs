//! The task of one server: connects, lists the tools, watches the connection, and starts again when it is lost.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    announcements::Announcements,
    backoff::Backoff,
    connection::Connection,
    list::{ListError, Listing, list},
    published::Published,
    session::Session,
    snapshot::McpServerState,
};
use crate::metrics::{self, Limit};
use crate::tools::ToolDefinition;

/// For the handshake with all pages of the list; for the list alone later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of listings that no announcement asked for. They also find that an HTTP server which nobody calls is gone.
const REFRESH: Duration = Duration::from_secs(60);
/// A connection of this length counts as a good one: the next back-off starts short again.
const STABLE: Duration = Duration::from_secs(30);

/// Keeps one server connected, for as long as it is polled.
pub(super) struct Supervisor {
    connection: Arc<Connection>,
    published: Arc<Published>,
    /// The server's index in `published`.
    index: usize,
    backoff: Backoff,
    /// The last good listing, on offer even while the server is away.
    offered: Vec<ToolDefinition>,
    /// The left-out tools that were logged.
    logged: Vec<String>,
}

// === impl Supervisor ===

impl Supervisor {
    pub(super) fn new(connection: Arc<Connection>, published: Arc<Published>, index: usize) -> Self {
        Self {
            connection,
            published,
            index,
            backoff: Backoff::default(),
            offered: Vec::new(),
            logged: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match connect(Arc::clone(&self.connection)).await {
                Ok((session, listing)) => {
                    let since = Instant::now();
                    self.enter_ready(&session, listing);
                    let reason = self.watch(session).await;
                    if Instant::now().saturating_duration_since(since) >= STABLE {
                        self.backoff.reset();
                    }
                    self.connection.peer.store(None);
                    self.enter_away(&reason);
                }
                Err(reason) => self.note_failed_attempt(&reason),
            }
            sleep(self.backoff.next()).await;
        }
    }

    /// Lists the tools when they change and every minute, until the connection is lost. Returns why it is.
    async fn watch(&mut self, session: Session) -> String {
        let peer = session.peer().clone();
        let flood = session.service().flood();
        let mut announcements = Announcements::default();
        let mut closed = pin!(session.waiting());
        // The flood's reason is there before the SDK notices the end of its transport.
        let lost = || flood.reason().unwrap_or_else(|| "the connection was closed".to_owned());
        loop {
            tokio::select! {
                _ = &mut closed => return lost(),
                reason = flood.noticed() => return reason,
                () = self.connection.changed.notified() => {
                    let next = announcements.next_listing(Instant::now());
                    tokio::select! {
                        _ = &mut closed => return lost(),
                        () = sleep_until(next) => {}
                    }
                }
                () = sleep(REFRESH) => {}
            }
            let listed = tokio::select! {
                _ = &mut closed => return lost(),
                listed = timeout(CONNECT_TIMEOUT, list(&self.connection.server, peer.clone())) => listed,
            };
            match listed {
                Ok(Ok(listing)) => {
                    if self.publish_if_changed(listing) {
                        tracing::info!(
                            server = self.connection.server.name,
                            tools = self.offered.len(),
                            "MCP server's tools changed"
                        );
                    }
                }
                // The server answers, so its tools can be called: its last good listing stays.
                Ok(Err(ListError::Refused(reason))) => self.note_error(&reason),
                Ok(Err(ListError::Gone(reason))) => return reason,
                Err(_) => return "tools/list took too long".to_owned(),
            }
        }
    }

    fn enter_ready(&mut self, session: &Session, listing: Listing) {
        self.publish_if_changed(listing);
        self.connection.peer.store(Some(Arc::new(session.peer().clone())));
        tracing::info!(
            server = self.connection.server.name,
            tools = self.offered.len(),
            "MCP server is ready"
        );
        self.published.update_status(self.index, |status| {
            status.enter(McpServerState::Ready);
            status.failed_attempts = 0;
            status.last_error = None;
        });
    }

    fn note_failed_attempt(&mut self, reason: &str) {
        let mut first = false;
        self.published.update_status(self.index, |status| {
            status.failed_attempts = status.failed_attempts.saturating_add(1);
            first = status.state == McpServerState::Connecting;
        });
        if first {
            self.enter_away(reason);
        } else {
            self.note_error(reason);
        }
    }

    fn enter_away(&self, reason: &str) {
        let error = self.connection.server.secrets.mask(reason);
        tracing::warn!(
            server = self.connection.server.name,
            error,
            tools = self.offered.len(),
            "MCP server is away: its tools stay on offer, calls fail until it is back"
        );
        self.published.update_status(self.index, |status| {
            status.enter(McpServerState::Away);
            status.last_error = Some(error);
        });
    }

    fn note_error(&self, reason: &str) {
        let error = self.connection.server.secrets.mask(reason);
        tracing::debug!(
            server = self.connection.server.name,
            error,
            "MCP server does not answer"
        );
        self.published
            .update_status(self.index, |status| status.last_error = Some(error));
    }

    /// Publishes the list if it changed, and returns whether it did. If not, requests keep getting the very same set.
    fn publish_if_changed(&mut self, listing: Listing) -> bool {
        let Listing { definitions, left_out } = listing;
        self.log_left_out(left_out);
        if definitions == self.offered {
            return false;
        }
        let tools = definitions
            .iter()
            .map(|definition| self.connection.tool(definition.clone()));
        self.published.replace_tools(self.index, tools.collect());
        let names = definitions
            .iter()
            .map(|definition| definition.name().to_owned())
            .collect();
        self.published.update_status(self.index, |status| status.tools = names);
        self.offered = definitions;
        true
    }

    /// Logs the left-out tools, unless these are the ones that were logged last.
    fn log_left_out(&mut self, left_out: Vec<String>) {
        if !left_out.is_empty() && left_out != self.logged {
            tracing::warn!(
                server = self.connection.server.name,
                count = left_out.len(),
                first = left_out[0],
                "tools of an MCP server are too large and are left out"
            );
            metrics::refused(Limit::ToolDefinitions);
        }
        self.logged = left_out;
    }
}

async fn connect(connection: Arc<Connection>) -> Result<(Session, Listing), String> {
    let connecting = async {
        let session = connection.connector.open(Arc::clone(&connection.changed)).await?;
        match list(&connection.server, session.peer().clone()).await {
            Ok(listing) => Ok((session, listing)),
            Err(ListError::Refused(reason) | ListError::Gone(reason)) => Err(reason),
        }
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs())),
    }
}
