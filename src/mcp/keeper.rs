//! The task of one server: connect, list, watch, and again.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    backoff::Backoff,
    call::Link,
    list::{ListError, list},
    servers::Board,
    session::{self, Session},
    snapshot::McpServerState,
};
use crate::tools::ToolDefinition;

/// For the handshake with all pages of the list; for the list alone later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the list is read without being asked to. It is also how an HTTP server that nobody calls is found to be gone.
const REFRESH: Duration = Duration::from_secs(60);
/// How long the tools of a server that went away stay on offer.
const GRACE: Duration = Duration::from_secs(30);
/// A connection that lasts this long was a good one: the next pause starts short again.
const STABLE: Duration = Duration::from_secs(30);

/// Keeps one server connected, for as long as it is polled.
pub(super) struct Keeper {
    link: Arc<Link>,
    board: Arc<Board>,
    /// The server's place on the board.
    place: usize,
    backoff: Backoff,
    /// What is on offer.
    offered: Vec<ToolDefinition>,
    /// When it is withdrawn, while the server is away.
    withdraw_at: Option<Instant>,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(link: Arc<Link>, board: Arc<Board>, place: usize) -> Self {
        Self {
            link,
            board,
            place,
            backoff: Backoff::default(),
            offered: Vec::new(),
            withdraw_at: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.meanwhile(connect(Arc::clone(&self.link))).await {
                Ok((session, definitions)) => {
                    let since = Instant::now();
                    self.ready(&session, definitions);
                    let reason = self.watch(session).await;
                    if Instant::now().saturating_duration_since(since) >= STABLE {
                        self.backoff.reset();
                    }
                    self.away(&reason);
                }
                Err(reason) => self.failed(&reason),
            }
            let pause = self.backoff.next();
            self.meanwhile(sleep(pause)).await;
        }
    }

    /// Runs `work` to its end; when the grace of the tools is over before, they are withdrawn.
    async fn meanwhile<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        if let Some(at) = self.withdraw_at {
            tokio::select! {
                biased;
                output = &mut work => return output,
                () = sleep_until(at) => self.withdraw(),
            }
        }
        work.await
    }

    /// Follows a connection until it is of no use any more, and says why.
    async fn watch(&mut self, session: Session) -> String {
        let peer = session.peer().clone();
        let mut closed = pin!(session.waiting());
        loop {
            tokio::select! {
                _ = &mut closed => return "the connection was closed".to_owned(),
                () = self.link.look.notified() => {}
                () = sleep(REFRESH) => {}
            }
            let listed = tokio::select! {
                _ = &mut closed => return "the connection was closed".to_owned(),
                listed = timeout(CONNECT_TIMEOUT, list(&self.link.server, peer.clone())) => listed,
            };
            match listed {
                Ok(Ok(definitions)) => {
                    if self.publish(definitions) {
                        tracing::info!(
                            server = self.link.server.name,
                            tools = self.offered.len(),
                            "MCP server has other tools"
                        );
                    }
                }
                // It is there, and its tools can be called: what it said before holds.
                Ok(Err(ListError::Refused(reason))) => self.note(&reason),
                Ok(Err(ListError::Gone(reason))) => return reason,
                Err(_) => return "tools/list took too long".to_owned(),
            }
        }
    }

    fn ready(&mut self, session: &Session, definitions: Vec<ToolDefinition>) {
        self.withdraw_at = None;
        self.publish(definitions);
        self.link.peer.store(Some(Arc::new(session.peer().clone())));
        tracing::info!(
            server = self.link.server.name,
            tools = self.offered.len(),
            "MCP server is ready"
        );
        self.board.update(self.place, |status| {
            status.enter(McpServerState::Ready);
            status.failed_attempts = 0;
            status.last_error = None;
        });
    }

    fn away(&mut self, reason: &str) {
        self.link.peer.store(None);
        self.withdraw_at = Some(Instant::now() + GRACE).filter(|_| !self.offered.is_empty());
        self.now_away(reason);
    }

    fn failed(&mut self, reason: &str) {
        let mut first = false;
        self.board.update(self.place, |status| {
            status.failed_attempts = status.failed_attempts.saturating_add(1);
            first = status.state == McpServerState::Connecting;
        });
        if first {
            self.now_away(reason);
        } else {
            self.note(reason);
        }
    }

    fn now_away(&self, reason: &str) {
        let error = self.link.server.secrets.mask(reason);
        tracing::warn!(
            server = self.link.server.name,
            error,
            "MCP server is away, it is tried again"
        );
        self.board.update(self.place, |status| {
            status.enter(McpServerState::Away);
            status.last_error = Some(error);
        });
    }

    fn note(&self, reason: &str) {
        let error = self.link.server.secrets.mask(reason);
        tracing::debug!(server = self.link.server.name, error, "MCP server does not answer");
        self.board.update(self.place, |status| status.last_error = Some(error));
    }

    fn withdraw(&mut self) {
        self.withdraw_at = None;
        self.publish(Vec::new());
        tracing::warn!(
            server = self.link.server.name,
            "MCP server stays away, its tools are withdrawn"
        );
    }

    /// Whether anything is other than before; if not, the set that requests get stays the same to the byte.
    fn publish(&mut self, definitions: Vec<ToolDefinition>) -> bool {
        if definitions == self.offered {
            return false;
        }
        let tools = definitions.iter().map(|definition| self.link.tool(definition.clone()));
        self.board.offer(self.place, tools.collect());
        let names = definitions
            .iter()
            .map(|definition| definition.name().to_owned())
            .collect();
        self.board.update(self.place, |status| status.tools = names);
        self.offered = definitions;
        true
    }
}

async fn connect(link: Arc<Link>) -> Result<(Session, Vec<ToolDefinition>), String> {
    let connecting = async {
        let session = session::open(&link.server, Arc::clone(&link.look)).await?;
        match list(&link.server, session.peer().clone()).await {
            Ok(definitions) => Ok((session, definitions)),
            Err(ListError::Refused(reason) | ListError::Gone(reason)) => Err(reason),
        }
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs())),
    }
}
