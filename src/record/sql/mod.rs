//! Records in a database: sinks that drain [`Events`] into SQLite (feature `sqlite`) or PostgreSQL (feature `postgres`).
//!
//! A sink creates its tables and brings older ones up to date. Columns are named as the fields of [`Event`](super::Event):
//!
//! | table | columns | key |
//! |---|---|---|
//! | `interceptions` | `id`, `at` of the start, then the fields of `started` and `ended` | `id` |
//! | `prompts`, `token_usage`, `tool_usage`, `model_thoughts` | `interception_id`, `sequence`, `at`, the event's fields | the first two |
//!
//! - An interception that has not ended has no `outcome`.
//! - `credential_hint` is the key tried last, and the caller's own until one was tried.
//! - `cost` is the amount; its currency stands in `cost_currency`.
//! - Counts are 64-bit signed; `metadata`, `extra` and `args` are JSON.
//!
//! # Delivery
//!
//! [`run`](SqliteSink::run) receives events on its thread, and a second thread writes them in batches, one transaction
//! each. With a [`spool`](SqliteSink::spool) an event goes to that file
//! first, and only then counts as received. A database that is down, or gone in the
//! middle of a batch, loses nothing: the batch is sent again, and rows that are there already stay as they are. Killed
//! at any point, a sink finds in the spool the events that the database does not have. The spool is bounded: when it is
//! full, the sink receives no more, and the recorder's places slow new requests.
//!
//! The spool outlives the process. After a power failure its last moments may be missing, as it is not synced to disk.
//!
//! The database cannot hold everything. A NUL in a text becomes U+FFFD, and a count over 63 bits the largest that fits.
//! A row that the database refuses all the same is set aside in the file `<spool>.rejected`, and the others are stored.
//! Each is said in a log line and counted in the [`Summary`].
//!
//! # Examples
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use hyper::body::Bytes;
//! # use tower::{Layer, ServiceExt, service_fn};
//! # use tower_llm_bridge::{BridgeLayer, RequestBody, pool::KeyPool};
//! # let provider = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
//! #     let reply = r#"{"id":"chatcmpl-1","choices":[{"message":{"role":"assistant","content":"Hi"}}]}"#;
//! #     Ok::<_, std::convert::Infallible>(Response::new(Full::from(reply)))
//! # });
//! # let folder = std::env::temp_dir().join(format!("records-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! use tower_llm_bridge::record::{Recorder, sql::SqliteSink};
//!
//! let (recorder, events) = Recorder::channel(1024);
//! let sink = SqliteSink::open(folder.join("records.db"))?.spool(folder.join("records.spool"));
//! let writer = std::thread::spawn(move || sink.run(events));
//!
//! let service = BridgeLayer::new()
//!     .pool(KeyPool::from_secrets(["sk-0123456789abcdefghij"])?)
//!     .recorder(recorder)
//!     .layer(provider);
//! let request = Request::post("/v1/chat/completions")
//!     .body(Full::from(r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#))?;
//! service.oneshot(request).await?.into_body().collect().await?;
//!
//! // The last recorder is gone: the sink drains the events and ends.
//! let summary = writer.join().map_err(|_| "the sink panicked")??;
//! assert_eq!((summary.stored(), summary.left_in_spool()), (3, 0));
//! # std::fs::remove_dir_all(folder)?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sqlite"))]
//! # fn main() {}
//! ```

mod backlog;
#[cfg(feature = "postgres")]
mod postgres;
mod private;
mod row;
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
mod writer;

#[cfg(test)]
mod tests;

use std::{fmt, io, path::PathBuf, sync::Arc, thread, time::Duration};

use tokio::runtime;

#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::PostgresSink;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use self::sqlite::SqliteSink;
use self::{
    backlog::Backlog,
    writer::{Connect, Writer},
};
use super::Events;

/// How much is received before it is appended to the backlog.
const CHUNK: usize = 256 << 10;

/// The work of a sink that ran to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    stored: u64,
    mended: u64,
    set_aside: u64,
    left_in_spool: u64,
}

/// A sink that cannot start, or cannot go on.
pub struct SqlError {
    kind: SqlErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of [`SqlError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SqlErrorKind {
    /// The address of the database cannot be read.
    Address,
    /// The database cannot be opened, or its tables cannot be made.
    Database,
    /// The tables are of a newer version of this crate.
    Version,
    /// The spool cannot be opened or written, or another process has it.
    Spool,
    /// Events ended while the database was down, and no spool was there to keep the rest.
    Lost,
}

/// The settings that both sinks have.
#[derive(Clone, Debug)]
struct Settings {
    spool: Option<PathBuf>,
    max_backlog: u64,
    batch: usize,
    batch_wait: Duration,
    drain: Duration,
}

/// The setters that both sinks have.
macro_rules! setters {
    () => {
        /// Keeps events in this file until the database has them. Without one they are kept in memory.
        #[must_use]
        pub fn spool(mut self, path: impl Into<std::path::PathBuf>) -> Self {
            self.settings.spool = Some(path.into());
            self
        }

        /// How many bytes of events may wait for the database, in the spool or else in memory; 1 GiB or else 64 MiB by
        /// default. Beyond it no events are received, which slows the admission of new requests.
        #[must_use]
        pub fn max_backlog(mut self, bytes: u64) -> Self {
            self.settings.max_backlog = bytes.max(1);
            self
        }

        /// Writes a batch once it has so many events, or once the oldest has waited so long; 500 and 200 ms by default.
        #[must_use]
        pub fn batch(mut self, events: usize, wait: std::time::Duration) -> Self {
            self.settings.batch = events.max(1);
            self.settings.batch_wait = wait;
            self
        }

        /// How long to go on trying, after the last event came, with a database that is down; 10 s by default.
        #[must_use]
        pub fn drain_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.drain = timeout;
            self
        }
    };
}
use setters;

/// Receives all of `events` on this thread, while a second one writes them.
fn run(settings: Settings, connect: impl Connect, events: Events) -> Result<Summary, SqlError> {
    let backlog = Arc::new(Backlog::open(&settings)?);
    let no_thread =
        |error: io::Error| SqlError::new(SqlErrorKind::Database, "the record writer cannot start").with(error);
    let runtime = runtime::Builder::new_current_thread().build().map_err(no_thread)?;
    let writing = thread::Builder::new()
        .name("record-writer".to_owned())
        .spawn({
            let backlog = Arc::clone(&backlog);
            move || Writer::new(settings, backlog, connect).run()
        })
        .map_err(no_thread)?;
    runtime.block_on(receive(events, &backlog));
    writing
        .join()
        .unwrap_or_else(|_| Err(SqlError::new(SqlErrorKind::Database, "the record writer panicked")))
}

/// Moves events to the backlog until the last one came, or until the writer gave up. Blocks its thread while the backlog
/// is full.
async fn receive(mut events: Events, backlog: &Backlog) {
    let (mut chunk, mut receipts) = (Vec::new(), Vec::new());
    loop {
        let received = tokio::select! {
            biased;
            () = backlog.abandoned() => break,
            received = events.recv_with_receipt() => received,
        };
        let Some((event, receipt)) = received else { break };
        push(&mut chunk, &event);
        receipts.push(receipt);
        while chunk.len() < CHUNK
            && let Some((event, receipt)) = events.try_recv_with_receipt()
        {
            push(&mut chunk, &event);
            receipts.push(receipt);
        }
        let is_read = backlog.append(&chunk);
        // Only now may other interceptions have their places.
        receipts.clear();
        chunk.clear();
        chunk.shrink_to(2 * CHUNK);
        if !is_read {
            break;
        }
    }
    // After the writer gave up: the spool takes for the next run the events that are queued.
    while let Some(event) = events.try_recv() {
        push(&mut chunk, &event);
    }
    if !chunk.is_empty() {
        backlog.append(&chunk);
    }
    backlog.close();
}

fn push(chunk: &mut Vec<u8>, event: &super::Event) {
    let start = chunk.len();
    match serde_json::to_writer(&mut *chunk, event) {
        Ok(()) => chunk.push(b'\n'),
        Err(error) => {
            chunk.truncate(start);
            tracing::error!(%error, id = %event.interception_id, "a record cannot be written as JSON");
        }
    }
}

// === impl Summary ===

impl Summary {
    /// Events that the database has, those from an earlier run's spool included.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Stored events in which a text or a count had to be changed.
    #[must_use]
    pub fn mended(&self) -> u64 {
        self.mended
    }

    /// Events that the database refused, now in `<spool>.rejected` if there is a spool.
    #[must_use]
    pub fn set_aside(&self) -> u64 {
        self.set_aside
    }

    /// Events that wait in the spool for the next run.
    #[must_use]
    pub fn left_in_spool(&self) -> u64 {
        self.left_in_spool
    }
}

// === impl SqlError ===

impl SqlError {
    fn new(kind: SqlErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    fn spool(message: &str, error: io::Error) -> Self {
        Self::new(SqlErrorKind::Spool, message).with(error)
    }

    fn with(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> SqlErrorKind {
        self.kind
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlError")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for SqlError {}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            spool: None,
            max_backlog: 0,
            batch: 500,
            batch_wait: Duration::from_millis(200),
            drain: Duration::from_secs(10),
        }
    }
}

impl Settings {
    fn max_backlog(&self) -> u64 {
        match (self.max_backlog, &self.spool) {
            (0, Some(_)) => 1 << 30,
            (0, None) => 64 << 20,
            (bytes, _) => bytes,
        }
    }
}
