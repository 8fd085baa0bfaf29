//! The data that the supervisors publish: the tools on offer, and the state of each server.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};

use super::{
    server::McpServer,
    snapshot::{McpServerSnapshot, McpServerState},
};
use crate::{
    metrics,
    tools::{Tool, Tools},
};

/// Written by one supervisor per server, read by everybody.
pub(super) struct Published {
    tools: ArcSwap<Tools>,
    /// The tools of each server, then those of this process. Only a change of the tools takes the lock.
    listings: Mutex<Vec<Vec<Tool>>>,
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

// === impl Published ===

impl Published {
    pub(super) fn new(servers: &[McpServer], local: Vec<Tool>) -> Self {
        let mut listings = vec![Vec::new(); servers.len()];
        listings.push(local);
        Self {
            tools: ArcSwap::from_pointee(listings.iter().flatten().cloned().collect()),
            listings: Mutex::new(listings),
            statuses: watch::Sender::new(servers.iter().map(Status::new).collect()),
        }
    }

    pub(super) fn tools(&self) -> Tools {
        Tools::clone(&self.tools.load())
    }

    /// Replaces the tools of the server at `index` and publishes the whole set.
    pub(super) fn replace_tools(&self, index: usize, tools: Vec<Tool>) {
        // No panic under the lock can leave the listings half changed.
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings[index] = tools;
        // Stored under the lock, so that of two concurrent changes the later one publishes both.
        self.tools.store(Arc::new(listings.iter().flatten().cloned().collect()));
    }

    pub(super) fn update_status(&self, index: usize, change: impl FnOnce(&mut Status)) {
        self.statuses.send_modify(|statuses| change(&mut statuses[index]));
    }

    pub(super) fn snapshot(&self) -> Vec<McpServerSnapshot> {
        let now = Instant::now();
        let statuses = self.statuses.borrow();
        statuses.iter().map(|status| status.snapshot(now)).collect()
    }

    /// Waits until no server is at its first attempt any more.
    pub(super) async fn settled(&self) {
        let settled = |statuses: &Vec<Status>| statuses.iter().all(|status| status.state != McpServerState::Connecting);
        // Fails only without a sender, and `self` is the sender.
        let _ = self.statuses.subscribe().wait_for(settled).await;
    }
}

// === impl Status ===

impl Status {
    fn new(server: &McpServer) -> Self {
        metrics::tool_server_up(&server.name, false, false);
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
        let was_up = self.is_up();
        self.state = state;
        self.since = Instant::now();
        metrics::tool_server_up(&self.name, was_up, self.is_up());
    }

    fn is_up(&self) -> bool {
        self.state == McpServerState::Ready
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

impl Drop for Status {
    fn drop(&mut self) {
        metrics::tool_server_up(&self.name, self.is_up(), false);
    }
}
