//! Records in a database: sinks that drain [`Events`](super::Events) into SQLite (feature `sqlite`) or PostgreSQL
//! (feature `postgres`).
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
//! - `cost` is the amount; its currency is in `cost_currency`.
//! - Counts are 64-bit signed; `metadata`, `extra` and `args` are JSON.
//!
//! # Delivery
//!
//! With a [`spool`](SqliteSink::spool), an event is written to that file by the thread that emits it. A thread of the
//! sink reads the file and writes the events to the database in batches, one transaction each. A database that is down,
//! or gone in the middle of a batch, loses nothing: the batch is sent again, and rows that are there already stay as
//! they are. The spool is bounded. While it is full or cannot be written, events are queued, and the recorder's places
//! slow new requests.
//!
//! After a kill (`kill -9`, a crash) and a new start with the same spool, no emitted event is lost and none is stored
//! twice. The tokens of a round are emitted before the caller has the end of its answer, so the database has them of
//! every answer that reached its caller. Three things are lost:
//!
//! - the end of an interception under way: its `outcome` stays NULL, though its caller may have the whole answer;
//! - the part of an answer that the process had not read;
//! - events that were queued because the spool was full or could not be written.
//!
//! A power failure may also take the last seconds of the spool, as it is not synced to disk. Without a spool, events
//! wait in memory, and a kill loses them.
//!
//! The spool belongs on a local disk: the threads that serve requests write to it, a few microseconds for each event.
//!
//! The database cannot hold everything. A NUL in a text becomes U+FFFD, and a count over 63 bits the largest that fits.
//! A row that the database still refuses is set aside in the file `<spool>.rejected`, and the others are stored. That
//! file is bounded to 64 MiB. Beyond it, and without a spool, a refused row is lost. Each is counted in the [`Summary`]
//! and named in the log by its ids, without its content.
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
mod error;
mod half;
mod line;
#[cfg(feature = "postgres")]
mod postgres;
mod private;
mod row;
mod run;
mod schema;
mod settings;
#[cfg(feature = "sqlite")]
mod sqlite;
mod summary;
mod writer;

#[cfg(test)]
mod tests;

#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::PostgresSink;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use self::sqlite::SqliteSink;
pub use self::{
    error::{SqlError, SqlErrorKind},
    summary::Summary,
};
