//! The operator's page: requests as they run and end, keys and their rests, tool servers, and pictures of tokens, costs
//! and times. A router to serve as it is, or to mount in your own application.
//!
//! - The page is one HTML file, one style sheet and one script, compiled in: no build step, nothing from the internet.
//! - All open pages share one snapshot a second, written once; each gets only what changed.
//! - History comes from the database of the records if there is one, else from memory, which is bounded.
//! - Prompts are never kept here. With a database the page shows one on demand, read from there.
//! - Whatever callers, models and tool servers write reaches the browser as JSON, and the page as text nodes.
//! - `GET` changes nothing. A change needs the page's own `Origin`, as browsers send it.
//!
//! **The router does not authenticate anybody.** The gateway's listener does, and checks `Host`; an application that
//! mounts the router must do both. When it is nested, its path ends with a slash:
//!
//! ```no_run
//! # async fn example(events: tower_llm_bridge::record::Events) {
//! use axum::Router;
//! use gateway::page::{self, Page};
//! use tower_llm_bridge::pool::KeyPool;
//!
//! let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"]).unwrap();
//! let page = Page::new().pool("openai", pool.clone());
//! let events = events.inspect(page.observer()); // Then to the sink, as before.
//! let app: Router = Router::new().nest("/operator/", page::router(page));
//! # drop((events, app));
//! # }
//! ```

mod database;
mod feed;
mod history;
mod hours;
mod ledger;
mod past;
mod routes;
mod view;

#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tower_llm_bridge::{mcp::McpServers, pool::KeyPool, record::Event};

use self::ledger::Ledger;
pub(crate) use self::routes::style;
pub use self::{database::History, routes::router};

/// The parts that the page shows.
pub struct Page {
    ledger: Arc<Mutex<Ledger>>,
    pools: Vec<(String, KeyPool)>,
    servers: Option<McpServers>,
    history: Option<History>,
    has_logout: bool,
}

// === impl Page ===

impl Page {
    /// An empty page.
    pub fn new() -> Self {
        Self {
            ledger: Arc::default(),
            pools: Vec::new(),
            servers: None,
            history: None,
            has_logout: false,
        }
    }

    /// Shows the keys of `pool`, under the provider's name, and lets operators restore them.
    #[must_use]
    pub fn pool(mut self, provider: impl Into<String>, pool: KeyPool) -> Self {
        self.pools.push((provider.into(), pool));
        self
    }

    /// Shows the state of tool servers.
    #[must_use]
    pub fn servers(mut self, servers: McpServers) -> Self {
        self.servers = Some(servers);
        self
    }

    /// Takes the past from the database of the records.
    #[must_use]
    pub fn history(mut self, history: Option<History>) -> Self {
        self.history = history;
        self
    }

    /// Shows a button to log out. It sends a form by `POST` to `logout` next to the page, which the application answers.
    #[must_use]
    pub fn logout(mut self, is_offered: bool) -> Self {
        self.has_logout = is_offered;
        self
    }

    /// The reader of the events, for [`Events::inspect`](tower_llm_bridge::record::Events::inspect). It takes a fraction of
    /// a microsecond an event, waits at most for a snapshot of the page, and never panics.
    pub fn observer(&self) -> impl FnMut(&Event) + Send + Sync + 'static {
        let ledger = Arc::clone(&self.ledger);
        move |event| {
            // A mistake in the page must not end the records.
            let folded = catch_unwind(AssertUnwindSafe(|| lock(&ledger).fold(event)));
            if folded.is_err() {
                tracing::error!("the operator's page could not take an event");
            }
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// A panic under the lock leaves numbers that are off by one event at most.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
