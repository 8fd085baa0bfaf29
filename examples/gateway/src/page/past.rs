//! The past as pages ask for it: each picture is drawn once for all of them, and a database that fails is left alone for a
//! while, however often somebody reloads.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};
use tracing::warn;
use uuid::Uuid;

use super::{
    database::History,
    history::{self, Range},
    ledger::Ledger,
    lock,
};

/// How long a database may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a database is not asked after a failure.
pub(super) const REST: Duration = Duration::from_secs(20);

/// Where the past comes from.
pub(super) struct Past {
    /// Without one, from memory.
    history: Option<Arc<History>>,
    ledger: Arc<Mutex<Ledger>>,
    /// Locked while the database is asked: by one query at a time.
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The pictures of each range, as they were drawn last.
    drawn: [Option<(Instant, Bytes)>; 2],
    failed: Option<Instant>,
}

// === impl Past ===

impl Past {
    pub(super) fn new(history: Option<History>, ledger: Arc<Mutex<Ledger>>) -> Self {
        Self {
            history: history.map(Arc::new),
            ledger,
            state: Arc::default(),
        }
    }

    /// Whether there are prompts: memory keeps none.
    pub(super) fn has_prompts(&self) -> bool {
        self.history.is_some()
    }

    /// The pictures' data as JSON, at most some seconds old. `None` if it cannot be read now; the log says why.
    pub(super) async fn pictures(&self, range: Range) -> Option<Bytes> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        let max_age = history::max_age(self.history.is_some());
        match &state.drawn[range as usize] {
            Some((at, json)) if since(*at) < max_age => return Some(json.clone()),
            _ => {}
        }
        let Some(history) = &self.history else {
            let pictures = history::from_memory(&lock(&self.ledger), range);
            let json = Bytes::from(serde_json::to_vec(&pictures).ok()?);
            state.draw(range, json.clone());
            return Some(json);
        };
        let history = Arc::clone(history);
        let query = async move {
            let pictures = history.pictures(range).await?;
            serde_json::to_vec(&pictures)
                .map(Bytes::from)
                .map_err(|error| error.to_string())
        };
        ask(state, query, move |state, json| state.draw(range, json.clone())).await
    }

    /// The prompts of one request. `None` if they cannot be read now; the log says why.
    pub(super) async fn prompts(&self, id: Uuid) -> Option<Vec<String>> {
        let history = Arc::clone(self.history.as_ref()?);
        let state = Arc::clone(&self.state).lock_owned().await;
        ask(state, async move { history.prompts(id).await }, |_, _| {}).await
    }
}

// === impl State ===

impl State {
    fn draw(&mut self, range: Range, json: Bytes) {
        self.drawn[range as usize] = Some((Instant::now(), json));
    }
}

/// Asks the database unless it has just failed, and lets `keep` see the answer.
async fn ask<T: Send + 'static>(
    mut state: OwnedMutexGuard<State>,
    query: impl Future<Output = Result<T, String>> + Send + 'static,
    keep: impl FnOnce(&mut State, &T) + Send + 'static,
) -> Option<T> {
    if state.failed.is_some_and(|at| since(at) < REST) {
        return None;
    }
    // A task: it goes on when its reader leaves, so that the next one waits for it rather than ask anew beside it.
    let asking = tokio::spawn(async move {
        let problem = match timeout(PATIENCE, query).await {
            Ok(Ok(answer)) => {
                state.failed = None;
                keep(&mut state, &answer);
                return Some(answer);
            }
            Ok(Err(problem)) => problem,
            Err(_) => "no answer in time".to_owned(),
        };
        // Only here: it may name hosts and files.
        warn!(problem, "the operator's page cannot read the records");
        state.failed = Some(Instant::now());
        None
    });
    asking.await.ok().flatten()
}

fn since(at: Instant) -> Duration {
    Instant::now().saturating_duration_since(at)
}
