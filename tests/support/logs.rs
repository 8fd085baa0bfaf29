//! Captures the bridge's logs, down to trace level, as text. The crate's own tests use it, too.

use std::io;
use std::sync::{Arc, Mutex, Once, PoisonError};

use tracing::Dispatch;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;

/// Collects this thread's log lines for as long as it lives, and those of threads that are given its dispatch.
pub(crate) struct Logs {
    buffer: Buffer,
    dispatch: Dispatch,
    _guard: tracing::dispatcher::DefaultGuard,
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

/// To be called before anything is logged on any thread.
///
/// If one thread meets an event for the first time, without a subscriber, at the moment when another thread begins to
/// capture, the event could be switched off for both. This subscriber enables nothing but may change its mind, so no
/// event is ever switched off.
pub(crate) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(dynamic_filter_fn(|_, _| false));
        // Fails if there is one already, which serves as well.
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
}

// === impl Logs ===

impl Logs {
    pub(crate) fn capture() -> Self {
        listen();
        let buffer = Buffer::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(buffer.clone());
        let dispatch = Dispatch::new(subscriber.finish());
        Self {
            buffer,
            _guard: tracing::dispatcher::set_default(&dispatch),
            dispatch,
        }
    }

    /// For another thread.
    pub(crate) fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    pub(crate) fn text(&self) -> String {
        let buffer = self.buffer.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&buffer).into_owned()
    }
}

// === impl Buffer ===

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Buffer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
