//! Metrics through the facade of the crate `metrics`: measurements of the bridge for dashboards and alarms.
//!
//! The application installs a recorder of its choice, for example that of `metrics-exporter-prometheus`; without one,
//! nothing is kept. [`METRICS`] lists all metrics with their units, labels and bucket bounds, and [`describe`] tells the
//! recorder their units and meanings. Names are OpenTelemetry's where its conventions for generative AI have one.
//!
//! | name | kind | unit | labels | meaning |
//! |---|---|---|---|---|
//! | `gen_ai.client.token.usage` | histogram | count | `gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.request.model`, `gen_ai.token.type` | Tokens of one round; the input includes what the provider's cache held. |
//! | `gen_ai.client.operation.duration` | histogram | seconds | `gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.request.model`, `outcome` | Time from the admission of a request to its end, all rounds included. |
//! | `gen_ai.server.time_to_first_token` | histogram | seconds | `gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.request.model` | Time from the admission of a streamed request to the first part of its answer. |
//! | `llm_bridge.cache.tokens` | counter | count | `gen_ai.provider.name`, `gen_ai.request.model`, `class` | Input tokens that the provider read from its prompt cache, or wrote to it. |
//! | `llm_bridge.cost` | histogram | count | `gen_ai.provider.name`, `gen_ai.request.model`, `currency` | Cost of one round, in units of the currency; rounds without a price are left out. |
//! | `llm_bridge.overhead` | histogram | seconds | `gen_ai.provider.name`, `llm_bridge.dialect` | Time from a whole request to its answer, or to the first part of a stream, less the time of the inner service and of tools. |
//! | `llm_bridge.interceptions.in_flight` | gauge | count | | Requests that were admitted and have not ended. |
//! | `llm_bridge.recorder.free_places` | gauge | count | | Interceptions that the recorder would admit now. |
//! | `llm_bridge.keys` | gauge | count | `gen_ai.provider.name`, `state` | Keys by state, when they were last published. |
//! | `llm_bridge.key.attempts` | counter | count | `credential_hint`, `outcome` | Calls of the provider with a key of a pool, by what the answer said about the key. |
//! | `llm_bridge.key.transitions` | counter | count | `credential_hint`, `scope`, `state` | Changes of what rests: a model in a key's domain, the whole domain, or the key. |
//! | `llm_bridge.key.exhaustions` | counter | count | `gen_ai.provider.name`, `reason` | Requests for which no key was usable. |
//! | `llm_bridge.tool.calls` | counter | count | `tool_server`, `gen_ai.tool.name`, `outcome` | Calls of injected tools. |
//! | `llm_bridge.tool.call.duration` | histogram | seconds | `tool_server` | Time of a call of an injected tool. |
//! | `llm_bridge.tool_server.up` | gauge | count | `tool_server` | 1 while a tool server can be called, else 0. |
//! | `llm_bridge.sink.written` | counter | count | `sink` | Events that a sink has stored. |
//! | `llm_bridge.sink.waiting` | gauge | count | `sink` | Events that a sink has received and not stored yet. |
//! | `llm_bridge.sink.failures` | counter | count | `sink`, `reason` | Attempts to store events that failed because the sink was unavailable, and events that it refused. |
//! | `llm_bridge.refusals` | counter | count | `limit` | What was refused or cut because it was over a limit. |
//!
//! # Labels are bounded
//!
//! Model names come from callers, so a model gets its own label only once a provider has answered for it, and at most
//! 64 models of one [`BridgeLayer`](crate::BridgeLayer) and its clones do; all others are `other`. The same bound holds
//! for tools and for key hints. At most 64 tool servers, and 8 currencies of each model, are reported at all. No label
//! has a user's id, a key, or a text of a request.
//!
//! # The state of keys
//!
//! A rest ends by itself, without an event. So [`KeyPool::publish_metrics`](crate::pool::KeyPool::publish_metrics) sets
//! the gauge `llm_bridge.keys`; call it before each collection.
//!
//! # Cost
//!
//! A request reports some ten numbers. With the exporter for Prometheus that is 1.6 µs and 9 allocations; without a
//! recorder an answered request allocates nothing for it.
//!
//! # Example
//!
//! ```
//! use tower_llm_bridge::metrics::{METRICS, MetricKind, describe};
//!
//! // After the recorder is installed, once.
//! describe();
//!
//! // The bounds of each histogram, for an exporter that asks for them.
//! for metric in METRICS.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
//!     assert!(metric.buckets.is_sorted() && !metric.buckets.is_empty(), "{}", metric.name);
//! }
//! ```

mod limit;
#[cfg_attr(feature = "metrics", path = "meter.rs")]
#[cfg_attr(not(feature = "metrics"), path = "absent.rs")]
mod meter;
#[cfg(feature = "metrics")]
mod names;
#[cfg(feature = "metrics")]
mod table;

#[cfg(feature = "metrics")]
pub(crate) use self::meter::keys;
#[cfg(feature = "mcp")]
pub(crate) use self::meter::tool_server_up;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::meter::{sink_failed, sink_waiting, sink_written};
#[cfg(feature = "metrics")]
pub use self::table::{METRICS, Metric, MetricKind, describe};
pub(crate) use self::{
    limit::Limit,
    meter::{IS_ON, KeyMeter, Meter, Operation, Stopwatch, free_places, refused},
};
