//! Records: one ordered channel of events about every interception, for billing, audit and metrics.
//!
//! [`Recorder::channel`] makes the two ends. The layer gets the [`Recorder`]; a task of yours empties [`Events`] and
//! stores each [`Event`]. An event is one flat JSON object on one line, and reads back from it.
//!
//! Nothing is unrecorded and nothing is lost: each interception takes one of `max_interceptions` places before it calls
//! the provider, and from there on its events are queued without waiting. A place is free again when the consumer
//! *receives* the interception's last event. So a slow consumer slows the admission of new requests and never the
//! requests that run. A request waits for a place ([5 s](Recorder::wait) at most), then it is answered 503.
//!
//! The bounds, each with a setter:
//!
//! | bound | default | beyond it |
//! |---|---|---|
//! | [places of one actor](Recorder::max_places_per_actor), once half of all are taken | an eighth | waits, then 503 |
//! | [bytes of events](Recorder::max_queued_bytes) that wait to be received | 256 MiB | new requests wait, then 503 |
//! | [a text](Recorder::max_text): prompt, arguments, error | 64 KiB | cut, with a note of its length |
//! | [an id, a name, a client header](Recorder::max_id) | 1 KiB | cut, with a note of its length |
//!
//! [`price`] gives each round its cost. With the features `sqlite` and `postgres`, the module `sql` has consumers that
//! store events in a database.
//!
//! # Examples
//!
//! A consumer that outlives its database's failures: it keeps the event and tries again. It must not return on an error,
//! because that drops [`Events`] and with it closes the recorder for good. Meanwhile events queue up, and new requests
//! wait once the places are taken. The pair (`interception_id`, `sequence`) tells a database which events it has.
//!
//! ```
//! use std::time::Duration;
//! use tower_llm_bridge::record::{Event, Events, Recorder};
//!
//! # struct Database { failures: u32, lines: Vec<String> }
//! # impl Database {
//! #     async fn insert(&mut self, event: &Event) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! #         if self.failures > 0 {
//! #             self.failures -= 1;
//! #             return Err("out of order".into());
//! #         }
//! #         self.lines.push(serde_json::to_string(event)?);
//! #         Ok(())
//! #     }
//! # }
//! async fn store(mut events: Events, mut database: Database) -> Database {
//!     // Ends when the last recorder is gone and every event was received: a drain.
//!     while let Some(event) = events.recv().await {
//!         let mut pause = Duration::from_millis(10);
//!         while let Err(error) = database.insert(&event).await {
//!             eprintln!("cannot store a record, will try again in {pause:?}: {error}");
//!             tokio::time::sleep(pause).await;
//!             pause = (pause * 2).min(Duration::from_secs(30));
//!         }
//!     }
//!     database
//! }
//!
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
//! # let database = Database { failures: 2, lines: Vec::new() };
//! let (recorder, events) = Recorder::channel(1024);
//! let writer = tokio::spawn(store(events, database));
//!
//! let service = BridgeLayer::new()
//!     .pool(KeyPool::from_secrets(["sk-0123456789abcdefghij"])?)
//!     .recorder(recorder)
//!     .layer(provider);
//! let request = Request::post("/v1/chat/completions")
//!     .body(Full::from(r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#))?;
//! service.oneshot(request).await?.into_body().collect().await?;
//!
//! // The service, and with it the last recorder, is gone: the writer drains the events and ends.
//! let database = writer.await?;
//! assert_eq!(database.lines.len(), 3);
//! assert!(database.lines[2].contains(r#""event":"ended","outcome":"completed""#));
//! # Ok(())
//! # }
//! ```

mod cost;
mod event;
mod events;
mod interception;
#[cfg(feature = "prices")]
mod list_prices;
mod places;
pub mod price;
mod recorder;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub mod sql;
mod text;

#[cfg(test)]
mod tests;

pub use self::{
    cost::{Amount, AmountError, Cost},
    event::{Event, Fact, Injection, Outcome},
    events::Events,
    recorder::Recorder,
};
pub(crate) use self::{interception::Interception, recorder::Unavailable};
pub use crate::types::{CredentialKind, TokenDetails, TokenUsage};
