//! Records: one ordered channel that says what every interception did, for billing, audit and metrics.
//!
//! [`Recorder::channel`] makes the two ends. The layer gets the [`Recorder`]; a task of yours empties [`Events`] and
//! stores each [`Event`] where you keep such things. An event serialises to one flat JSON object on one line.
//!
//! Nothing is unrecorded and nothing is lost: each interception takes one of `max_interceptions` credits before it calls
//! the provider, and from there on its events are queued without waiting. A credit is free again when the consumer
//! *receives* the interception's last event, so a slow consumer slows the admission of new requests and never the ones
//! that run. A request waits at most 5 s for a credit, then it is answered 503.
//!
//! The queue is bounded by the credits times the events of one interception, which the round limit bounds.
//!
//! # Examples
//!
//! A consumer that writes JSON lines, and drains: it ends when the last recorder is gone and every event was seen.
//!
//! ```
//! use tower_llm_bridge::record::Recorder;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (recorder, mut events) = Recorder::channel(1024);
//! let writer = tokio::spawn(async move {
//!     let mut file = Vec::new();
//!     while let Some(event) = events.recv().await {
//!         event.write_json(&mut file)?;
//!         file.push(b'\n');
//!     }
//!     Ok::<_, serde_json::Error>(file)
//! });
//!
//! // … build the layer with `recorder`, serve, shut down …
//! drop(recorder);
//! assert!(writer.await??.is_empty());
//! # Ok(())
//! # }
//! ```

mod event;
mod interception;
mod json;
mod recorder;

#[cfg(test)]
mod tests;

pub use self::{
    event::{Event, Fact, Outcome, TokenDetails},
    recorder::{Events, Recorder},
};
pub(crate) use self::{interception::Interception, recorder::Unavailable};
pub use crate::types::{CredentialKind, TokenUsage};
