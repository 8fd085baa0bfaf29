//! A tower layer between AI clients and model providers.
//!
//! [`BridgeLayer`] wraps any inner HTTP service. For a request that speaks a model API it
//!
//! - rewrites authentication for each attempt and walks a [pool of keys](pool) on 401, 403 and 429;
//! - injects the company's [tools], runs the tool rounds that the model asks for, and hides them from the caller;
//! - emits [recording events](record) (who, prompt, tokens, tools, outcome, which key) on a channel, losing none;
//! - leaves everything else unchanged, byte for byte.
//!
//! ```text
//! request ─ route ── not ours ────────────────────────────────► inner service ─► its own response
//!             │ ours
//!             ▼
//!           intake     reads the body, takes Actor, Credential and Tools, records `started`
//!             ▼
//!           attempt ◄────────────────┐   one key after the other: lease, send, judge, report
//!             ▼ an answer            │
//!           rounds     run the tools that the model called, ask again
//!             ▼ the caller's turn
//!           answer     the provider's own bytes, but for `id` and `usage`
//! ```
//!
//! # Example
//!
//! No socket is needed to try it: the inner service here is a closure that plays the provider.
//!
//! ```
//! use http::{Request, Response, header};
//! use http_body_util::{BodyExt, Full};
//! use hyper::body::Bytes;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_llm_bridge::{BridgeLayer, RequestBody};
//! use tower_llm_bridge::pool::KeyPool;
//! use tower_llm_bridge::record::Recorder;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let provider = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
//!     let limited = request.headers()[header::AUTHORIZATION] == "Bearer sk-first-key";
//!     Ok::<_, std::convert::Infallible>(if limited {
//!         Response::builder().status(429).body(Full::default()).unwrap()
//!     } else {
//!         let reply = r#"{"id":"chatcmpl-1","choices":[{"message":{"role":"assistant","content":"Hi"}}]}"#;
//!         Response::new(Full::from(reply))
//!     })
//! });
//!
//! let (recorder, mut events) = Recorder::channel(1024);
//! let service = BridgeLayer::new()
//!     .pool(KeyPool::from_secrets(["sk-first-key", "sk-second-key"])?)
//!     .recorder(recorder)
//!     .layer(provider);
//!
//! let request = Request::post("/v1/chat/completions")
//!     .body(Full::from(r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#))?;
//! let response = service.oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! let body = response.into_body().collect().await?.to_bytes();
//! assert!(body.ends_with(br#""choices":[{"message":{"role":"assistant","content":"Hi"}}]}"#));
//!
//! let mut names = Vec::new();
//! while let Some(event) = events.recv().await {
//!     names.push(serde_json::to_value(&event)?["event"].as_str().unwrap_or_default().to_owned());
//! }
//! assert_eq!(names, ["started", "prompt_usage", "ended"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it belongs in a stack
//!
//! - **Above** it: layers about the caller and the whole conversation: authentication (it inserts an [`Actor`], and for
//!   a caller with its own key a [`Credential`], in the request's extensions; the bridge removes both before it calls
//!   the inner service), rate and concurrency limits, tower-http's `RequestDecompressionLayer`, `RequestBodyLimitLayer`
//!   and `RequestBodyTimeoutLayer`, tracing, request ids.
//! - **Below** it: layers about one call of the provider. Each attempt and each round is a separate request there,
//!   marked with [`UpstreamAttempt`]: timeouts, metrics and retries of 5xx apply per call. The bridge itself never
//!   repeats a 5xx: it may have been paid for.
//! - A concurrency limit belongs above. Below the bridge, a handle that reserves a slot and does not use it starves the
//!   rounds of running requests; tower's readiness makes that unavoidable.
//!
//! The layer releases the slot that `poll_ready` reserved, and waits for readiness right before every call of the inner
//! service. So no slot is held during a slow upload or while the recorder is full.
//!
//! # Errors
//!
//! An intercepted request is always answered: the service's `Err` is only ever the inner service's, for a request that
//! was left alone. The provider's own errors come through as they are. The bridge's own have the provider's shape, and
//! carry a [`BridgeError`] in the response's extensions.
//!
//! # What one caller can cost the others
//!
//! Each limit is enforced where the bytes enter. A request that exceeds one is refused; the others keep what they hold,
//! unless their caller has stopped reading.
//!
//! | of | default | setter | beyond it |
//! |---|---|---|---|
//! | one request body | 32 MiB | [`max_request_body`](BridgeLayer::max_request_body) | 413 |
//! | bodies of requests, whole answers, what streams keep, and appended rounds, all together | 512 MiB, the last eighth for small requests, an eighth for the large ones of one actor once half is taken | [`max_held_bodies`](BridgeLayer::max_held_bodies) | 503 to the request that asks for more |
//! | top-level members of a request · their names together | 1,000 · 256 KiB | | 400 |
//! | a model's name | 256 bytes | [`max_model_name`](BridgeLayer::max_model_name) | 400 |
//! | one reply, or the held part of a streamed turn | 32 MiB | [`max_response_body`](BridgeLayer::max_response_body) | 502 |
//! | calls in one turn · content blocks or output items | 1,000 · 10,000 | | 502 |
//! | a provider's error | 1 MiB, parsed only up to 256 KiB | | 502 |
//! | an answer's names and ids that are kept for records · its usage | 1 KiB · 64 KiB | | cut, and says so · not read |
//! | calls of ours of one request at once | 16 | [`max_parallel_tools`](BridgeLayer::max_parallel_tools) | they wait in line |
//! | one call of ours | 60 s | [`tool_timeout`](BridgeLayer::tool_timeout) | the model is told |
//! | the arguments of a call of ours | 1 MiB | | the model is told |
//! | a tool's result | 1 MiB | [`max_tool_result`](BridgeLayer::max_tool_result) | cut, and says so |
//! | rounds | 32 | [`max_rounds`](BridgeLayer::max_rounds) | the model answers without tools |
//! | bytes that rounds append | 32 MiB | [`max_appended`](BridgeLayer::max_appended) | the model answers without tools |
//! | one attempt · a silent stream · a whole request | 600 s · 600 s · 1 h | [`attempt_timeout`](BridgeLayer::attempt_timeout) · [`stream_idle_timeout`](BridgeLayer::stream_idle_timeout) · [`request_timeout`](BridgeLayer::request_timeout) | 504, or the stream's error event |
//! | a reader that does not read | 60 s | [`reader_patience`](BridgeLayer::reader_patience) | its answer ends once another request needs the place or the bytes |
//! | interceptions at once · places of one actor | the channel's size · an eighth | [`Recorder`](record::Recorder) | they wait 5 s, then 503 |
//! | events on their way · a recorded text | 256 MiB · 64 KiB | [`Recorder`](record::Recorder) | as for places · cut, and says so |
//! | bytes that are scanned or relayed without a yield | 16 KiB | | |
//! | work over many bytes that cannot yield half-way | 1 MiB | | on another thread, half of the cores at most |
//! | memory of one value that is freed | 1 MiB | | on another thread |
//!
//! Connections, uploads that stall, decompression, header sizes and what the kernel buffers of an answer that nobody reads
//! are the server's above the layer; the gateway example bounds them. It runs its tool servers on a separate thread: their
//! SDK parses whatever they send where it is polled. An answer of a keyed path, such as a list of models, is relayed unread
//! and counts as a small request's bytes.
//! Not limited: where no caller has an [`Actor`], only the limits of all requests together bound them; a provider that
//! answers slowly holds the request's body for as long as the time-outs allow.
//!
//! # Features
//!
//! - `json-schema`: check a call's arguments against the whole JSON schema of its tool, not only its `required` list.
//! - `mcp`: the tools of MCP servers that are child processes or byte streams (see the module `mcp`).
//! - `mcp-http`: MCP servers over HTTP as well; the application chooses the TLS.
//! - `test-util`: a provider that answers by a script, for your own tests (see the module `test_util`).
//! - `metrics`: numbers for dashboards and alarms, through the facade of that name (see the module `metrics`).
//! - `prices`: the providers' public prices, for the cost of each round (see [`record::price`]).
//! - `sqlite`, `postgres`: records in a database (see the module `record::sql`).

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(fuzzing)]
#[doc(hidden)]
#[path = "fuzzing.rs"]
pub mod __fuzzing;
mod base_uri;
mod body;
mod bridge;
mod dialect;
mod error;
mod error_body;
mod excerpt;
mod extensions;
mod future;
mod json;
mod layer;
#[cfg(test)]
#[path = "../tests/support/logs.rs"]
mod logs;
#[cfg(feature = "mcp")]
#[cfg_attr(docsrs, doc(cfg(feature = "mcp")))]
pub mod mcp;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod metrics;
pub mod pool;
pub mod record;
mod redact;
pub mod response_ids;
mod rope;
mod service;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod test_util;
pub mod tools;
mod types;
mod upstream;
mod vast;

pub use base_uri::{BaseUri, BaseUriError, BaseUriErrorKind, SetBaseUri};
pub use body::{RequestBody, ResponseBody};
pub use bridge::{HeaderPatternError, PathError};
pub use error::{BridgeError, BridgeErrorKind};
pub use error_body::error_body;
pub use extensions::{Actor, Credential, Intercepted, UpstreamAttempt};
pub use future::ResponseFuture;
pub use layer::BridgeLayer;
pub use service::Bridge;
pub use types::{Dialect, ReportedUsage};

/// The README's examples are compiled and run like any other.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
