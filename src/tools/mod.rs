//! Injected tools: a tool is a definition that the model reads and a tower service that runs its calls.
//!
//! [`tool_fn`] makes a tool from a closure, [`Tool::new`] from any service. The bridge clones the service for each call and
//! waits until the clone is ready. Calls of one turn run side by side. An error, a panic or a time-out is told to the model;
//! it never becomes an HTTP error.
//!
//! Ordinary tower layers fit around a tool, those of MCP servers included ([`Tool::layer`]): a concurrency limit for a
//! fragile backend, a retry policy, a shorter time-out, tracing, an approval. A [`ToolCall`] knows its server, and its
//! caller: the request's extensions, with the [`Actor`](crate::Actor) in them.
//!
//! A [`Tools`] value is a snapshot, cheap to clone. It can be iterated, filtered and merged. The layer has one, or a live
//! [`ToolSource`] of them; a `Tools` in a request's extensions replaces the layer's for that request.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//!
//! use serde_json::json;
//! use tower::ServiceBuilder;
//! use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, Tools, tool_fn};
//!
//! let clock = tool_fn(ToolDefinition::new("clock").description("The time, in UTC"), |_call| async {
//!     Ok::<_, std::convert::Infallible>("12:00")
//! });
//!
//! let search = Tool::new(
//!     ToolDefinition::new("search").server("docs").parameters(json!({
//!         "type": "object",
//!         "properties": { "query": { "type": "string" } },
//!         "required": ["query"],
//!     })),
//!     ServiceBuilder::new()
//!         .concurrency_limit(4)
//!         .timeout(Duration::from_secs(5))
//!         .service_fn(|call: ToolCall| async move {
//!             let query = call.arguments()["query"].as_str().unwrap_or_default();
//!             Ok::<_, tower::BoxError>(ToolOutput::text(format!("no page on {query}")))
//!         }),
//! );
//!
//! let tools = Tools::new([clock, search]);
//! assert!(tools.names().eq(["bmcp_docs_search", "bmcp_local_clock"]));
//! ```

mod call;
#[cfg_attr(
    not(feature = "json-schema"),
    allow(dead_code, reason = "the cost of a check is for the validator alone")
)]
mod expansion;
mod name;
mod numbers;
mod registry;
mod schema;
mod service;
mod set;
mod source;
mod validation;

#[cfg(test)]
mod tests;

#[cfg(feature = "mcp")]
#[cfg(feature = "mcp")]
pub(crate) use self::expansion::is_within_expansion_limit;
pub use self::{
    call::{ToolCall, ToolDefinition, ToolOutput},
    registry::{Tool, Tools, tool_fn},
    service::ToolFuture,
    set::{IntoIter, Iter},
    source::ToolSource,
};
pub(crate) use self::{name::PREFIX, registry::Registered};
