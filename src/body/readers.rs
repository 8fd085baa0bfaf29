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

/// All answers of one bridge that are being read.
#[derive(Clone, Default)]
pub(crate) struct Readers(Arc<Mutex<Registry>>);

#[derive(Default)]
struct Registry {
    next: u64,
    looked: Option<Instant>,
    streams: HashMap<u64, Weak<dyn EndStalled>>,
}

/// One answer, made by `T`; its body owns it.
pub(super) struct Stream<T> {
    id: u64,
    readers: Readers,
    state: Mutex<State<T>>,
}

pub(super) struct State<T> {
    /// None once it has ended, or once its place was taken back.
    pub(super) source: Option<T>,
    /// Whether the place was taken back.
    pub(super) is_cut: bool,
    /// When the reader last asked for bytes. An active reader asks every 10 s at least, since keep-alives wake it. None
    /// while it waits for a provider that has none.
    asked: Option<Instant>,
}

/// A [`Stream`] of any kind.
trait EndStalled: Send + Sync {
    /// Ends the answer if its reader has not asked for bytes for `patience`; whether it did.
    fn end_stalled(&self, now: Instant, patience: Duration) -> bool;
}

// === impl Readers ===

impl Readers {
    pub(super) fn add<T: Send + 'static>(&self, source: T) -> Arc<Stream<T>> {
        let mut registry = lock(&self.0);
        let id = registry.next;
        registry.next += 1;
        let stream = Arc::new(Stream {
            id,
            readers: self.clone(),
            state: Mutex::new(State {
                source: Some(source),
                is_cut: false,
                asked: Some(Instant::now()),
            }),
        });
        let weak: Weak<Stream<T>> = Arc::downgrade(&stream);
        registry.streams.insert(id, weak);
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
        let is_ended = |stream: &Arc<dyn EndStalled>| stream.end_stalled(now, patience);
        streams.iter().filter(|stream| is_ended(stream)).count()
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

// === impl Stream ===

impl<T> Stream<T> {
    /// The stream's state, for a reader that asks for bytes.
    pub(super) fn ask(&self) -> MutexGuard<'_, State<T>> {
        let mut state = lock(&self.state);
        state.asked = Some(Instant::now());
        state
    }

    pub(super) fn has_ended(&self) -> bool {
        let state = lock(&self.state);
        state.source.is_none() && !state.is_cut
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

impl<T> State<T> {
    /// Notes that the reader waits for the provider. A driver need not: its keep-alives make the reader ask again.
    pub(super) fn note_wait(&mut self) {
        self.asked = None;
    }
}

impl<T: Send> EndStalled for Stream<T> {
    fn end_stalled(&self, now: Instant, patience: Duration) -> bool {
        // A locked state is being read at this moment.
        let Ok(mut state) = self.state.try_lock() else {
            return false;
        };
        let is_active = |asked| now.saturating_duration_since(asked) < patience;
        if state.asked.is_none_or(is_active) {
            return false;
        }
        let is_ended = state.source.is_some();
        // Under the lock: the reader must not get its last event before what the source hands over when it is dropped.
        state.source = None;
        state.is_cut |= is_ended;
        is_ended
    }
}

impl<T> Drop for Stream<T> {
    fn drop(&mut self) {
        lock(&self.readers.0).streams.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
