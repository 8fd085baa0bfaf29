//! Reads the past for all pages: one query at a time, its result is reused for some seconds, and after a failure the
//! database is not asked for a while, so that reloading the page cannot load a slow database further.

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
/// How long the database is not asked after a failure.
pub(super) const REST: Duration = Duration::from_secs(10);

/// The source of the past: a database or memory.
pub(super) struct Past {
    /// Without one, from memory.
    history: Option<Arc<History>>,
    ledger: Arc<Mutex<Ledger>>,
    /// Locked during a query.
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The data of each range's pictures as last read.
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

    /// Whether prompts can be read: memory has none.
    pub(super) fn has_prompts(&self) -> bool {
        self.history.is_some()
    }

    /// The pictures' data as JSON, at most some seconds old. `None` if the database fails; the log says why.
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

    /// The prompts of one request. `None` if the database fails; the log says why.
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

/// Asks the database, unless it failed a short time ago, and passes the answer to `keep`.
async fn ask<T: Send + 'static>(
    mut state: OwnedMutexGuard<State>,
    query: impl Future<Output = Result<T, String>> + Send + 'static,
    keep: impl FnOnce(&mut State, &T) + Send + 'static,
) -> Option<T> {
    if state.failed.is_some_and(|at| since(at) < REST) {
        return None;
    }
    // A task, which a client that leaves does not cancel: the database would work on, and the next client would start
    // a second query beside the first.
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
        // Only to the log: it may name hosts and files.
        warn!(problem, "the operator's page cannot read the records");
        state.failed = Some(Instant::now());
        None
    });
    asking.await.ok().flatten()
}

fn since(at: Instant) -> Duration {
    Instant::now().saturating_duration_since(at)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Reloading the page must not run more queries.
    #[tokio::test(start_paused = true)]
    async fn a_database_that_does_not_answer_is_asked_by_one_query_at_a_time_and_then_not_for_a_while() {
        let state = Arc::new(tokio::sync::Mutex::new(State::default()));
        let queries = Arc::new(AtomicU32::new(0));
        let read = || async {
            let queries = Arc::clone(&queries);
            let query = async move {
                queries.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<Result<(), String>>().await
            };
            ask(Arc::clone(&state).lock_owned().await, query, |_, ()| {}).await
        };
        let start = Instant::now();
        for _ in 0..3 {
            let reading = timeout(Duration::from_secs(1), read());
            reading.await.expect_err("this client leaves before the answer");
        }
        assert_eq!(queries.load(Ordering::Relaxed), 1, "the others waited for the first");
        for _ in 0..3 {
            assert_eq!(read().await, None);
        }
        assert_eq!((queries.load(Ordering::Relaxed), since(start)), (1, PATIENCE));
        tokio::time::advance(REST).await;
        for _ in 0..3 {
            assert_eq!(read().await, None);
        }
        assert_eq!(
            (queries.load(Ordering::Relaxed), since(start)),
            (2, 2 * PATIENCE + REST)
        );
    }
}
