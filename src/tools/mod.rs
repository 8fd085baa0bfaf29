//! Injected tools: a tool is a definition that the model reads and a tower service that runs its calls.
//!
//! Because it is a service, the layers you know fit on it: a concurrency limit for a fragile backend, a retry policy, a
//! shorter time-out, tracing. [`tool_fn`] makes one from a closure, [`Tool::new`] from any service. The bridge calls a
//! fresh clone for each call, once it is ready. Calls of one turn run side by side; an error, a panic or a time-out becomes
//! the answer that the model gets, never an HTTP error.
//!
//! A [`Tools`] value is a snapshot, cheap to clone; the layer has one, or a live [`ToolSource`] of them, and a request
//! extension may bring another.
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
mod name;
mod registry;
mod schema;
mod source;

#[cfg(test)]
mod tests;

pub use self::{
    call::{ToolCall, ToolDefinition, ToolOutput},
    registry::{Tool, Tools, tool_fn},
    source::ToolSource,
};
pub(crate) use self::{name::PREFIX, registry::Registered};
