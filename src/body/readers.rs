//! Ends answers whose callers stopped reading, once another request needs the recorder's place or the bytes that they
//! hold.
//!
//! No task and no timer per answer: readers are checked only while places or bytes are scarce.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Twice the keep-alive interval: within it every active reader has asked for bytes.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(20);

/// The least time between two checks of all readers: while something is scarce, every request asks for one.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Frames below this length are not watched: a writer buffers a few frames at most.
const WATCHED: usize = 4 << 10;

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
    last_read: Arc<LastRead>,
    state: Mutex<State<T>>,
}

/// When a reader last asked for bytes, or took them. An active reader asks every 10 s at least, since keep-alives wake it;
/// a slow one that asks for more only once it has taken all of a writer's buffer.
struct LastRead {
    began: Instant,
    millis: AtomicU64,
    /// Whether it asked, and the provider has nothing yet.
    waits: AtomicBool,
}

/// Bytes whose writer drops them once the reader has taken them.
struct Piece {
    bytes: Bytes,
    last_read: Arc<LastRead>,
}

pub(super) struct State<T> {
    /// None once it has ended, or once its place was taken back.
    pub(super) source: Option<T>,
    /// Whether the place was taken back.
    pub(super) is_cut: bool,
}

/// A [`Stream`] of any kind.
trait EndStalled: Send + Sync {
    /// Ends the answer if its reader has taken no bytes for `patience`; whether it did.
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
            last_read: Arc::new(LastRead {
                began: Instant::now(),
                millis: AtomicU64::new(0),
                waits: AtomicBool::new(false),
            }),
            state: Mutex::new(State {
                source: Some(source),
                is_cut: false,
            }),
        });
        let weak: Weak<Stream<T>> = Arc::downgrade(&stream);
        registry.streams.insert(id, weak);
        stream
    }

    /// Ends every stream whose reader has taken no bytes for `patience`; returns their number.
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
        self.last_read.waits.store(false, Ordering::Relaxed);
        self.last_read.note();
        lock(&self.state)
    }

    /// Notes that the reader waits for the provider. A driver need not: its keep-alives make the reader ask again.
    pub(super) fn note_wait(&self) {
        self.last_read.waits.store(true, Ordering::Relaxed);
    }

    /// `bytes`, which tell when their writer is done with them.
    pub(super) fn watch(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < WATCHED {
            return bytes;
        }
        let last_read = Arc::clone(&self.last_read);
        Bytes::from_owner(Piece { bytes, last_read })
    }

    pub(super) fn has_ended(&self) -> bool {
        let state = lock(&self.state);
        state.source.is_none() && !state.is_cut
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

impl<T: Send> EndStalled for Stream<T> {
    fn end_stalled(&self, now: Instant, patience: Duration) -> bool {
        // A locked state is being read at this moment.
        let Ok(mut state) = self.state.try_lock() else {
            return false;
        };
        if self.last_read.before(now) < patience {
            return false;
        }
        let source = state.source.take();
        state.is_cut |= source.is_some();
        drop(state);
        source.is_some()
    }
}

impl<T> Drop for Stream<T> {
    fn drop(&mut self) {
        lock(&self.readers.0).streams.remove(&self.id);
    }
}

// === impl LastRead ===

impl LastRead {
    fn note(&self) {
        let millis = Instant::now().saturating_duration_since(self.began).as_millis();
        self.millis
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long before `now` it was.
    fn before(&self, now: Instant) -> Duration {
        if self.waits.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let then = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began).saturating_sub(then)
    }
}

// === impl Piece ===

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.last_read.note();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
