//! Ends answers whose callers stopped reading, once another request needs the recorder's place or the bytes that they
//! hold.
//!
//! No task and no timer per answer: readers are checked only while places or bytes are scarce.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// Twice the keep-alive interval: within it every active reader has asked for bytes.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(20);

/// The least time between two checks of all readers: while something is scarce, every request asks for one.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The rest of a conversation; its output goes through the [`Sink`](super::Sink) that it holds.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All streams of one bridge that are being read.
#[derive(Clone, Default)]
pub(crate) struct Readers(Arc<Mutex<Registry>>);

#[derive(Default)]
struct Registry {
    next: u64,
    looked: Option<Instant>,
    streams: HashMap<u64, Weak<Stream>>,
}

/// One stream; its body owns it.
pub(super) struct Stream {
    id: u64,
    readers: Readers,
    state: Mutex<State>,
}

pub(super) struct State {
    /// None once it has ended, or once its place was taken back.
    pub(super) driver: Option<Driver>,
    /// Whether the place was taken back.
    pub(super) is_cut: bool,
    /// When the reader last asked for bytes. An active reader asks every 10 s at least, since keep-alives wake it.
    asked: Instant,
}

// === impl Readers ===

impl Readers {
    pub(super) fn add(&self, driver: Driver) -> Arc<Stream> {
        let mut registry = lock(&self.0);
        let id = registry.next;
        registry.next += 1;
        let stream = Arc::new(Stream {
            id,
            readers: self.clone(),
            state: Mutex::new(State {
                driver: Some(driver),
                is_cut: false,
                asked: Instant::now(),
            }),
        });
        registry.streams.insert(id, Arc::downgrade(&stream));
        stream
    }

    /// Ends every stream whose reader has not asked for bytes for `patience`; returns their number.
    pub(crate) fn end_stalled(&self, patience: Duration) -> usize {
        let (now, patience) = (Instant::now(), patience.max(SHORTEST_PATIENCE));
        let streams: Vec<_> = {
            let mut registry = lock(&self.0);
            let is_early = |looked: Instant| now.saturating_duration_since(looked) < LOOK_INTERVAL;
            if registry.looked.is_some_and(is_early) {
                return 0;
            }
            registry.looked = Some(now);
            registry.streams.values().filter_map(Weak::upgrade).collect()
        };
        let mut ended = 0;
        for stream in streams {
            // A locked state is being read at this moment.
            let Ok(mut state) = stream.state.try_lock() else {
                continue;
            };
            if now.saturating_duration_since(state.asked) >= patience
                && let Some(driver) = state.driver.take()
            {
                state.is_cut = true;
                ended += 1;
                drop(state);
                drop(driver);
            }
        }
        ended
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

// === impl Stream ===

impl Stream {
    /// The stream's state, for a reader that asks for bytes.
    pub(super) fn ask(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        state.asked = Instant::now();
        state
    }

    pub(super) fn has_ended(&self) -> bool {
        let state = lock(&self.state);
        state.driver.is_none() && !state.is_cut
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        lock(&self.readers.0).streams.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
