//! A tool as a tower service, so that ordinary layers fit around it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tower::{BoxError, Layer, Service};

use super::{Tool, ToolCall, ToolOutput, registry::ToolService};

/// The future of one call of a [`Tool`].
#[must_use = "a future does nothing until it is polled"]
pub struct ToolFuture(<ToolService as Service<ToolCall>>::Future);

// === impl Tool ===

impl Tool {
    /// Puts a layer around the tool. Its definition stays.
    ///
    /// The layer gets the tool itself, so it can read the [`definition`](Self::definition) of the tool that it wraps.
    ///
    /// # Examples
    ///
    /// Only Ada may run the tools under this layer:
    ///
    /// ```
    /// use serde_json::json;
    /// use tower::{ServiceExt, layer::layer_fn, service_fn};
    /// use tower_llm_bridge::Actor;
    /// use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, tool_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower::BoxError> {
    /// let only_ada = layer_fn(|tool: Tool| {
    ///     service_fn(move |call: ToolCall| {
    ///         let tool = tool.clone();
    ///         async move {
    ///             if call.extensions().get::<Actor>().map(Actor::id) == Some("ada") {
    ///                 tool.oneshot(call).await
    ///             } else {
    ///                 Ok(ToolOutput::error("you may not do this"))
    ///             }
    ///         }
    ///     })
    /// });
    /// let delete = tool_fn(ToolDefinition::new("delete"), |_call| async { Ok::<_, std::convert::Infallible>("deleted") });
    /// let delete = delete.layer(&only_ada);
    ///
    /// let mut call = ToolCall::new("call_1", "delete", json!({}));
    /// assert!(delete.clone().oneshot(call.clone()).await?.is_error());
    /// call.extensions_mut().insert(Actor::new("ada"));
    /// assert_eq!(delete.oneshot(call).await?.content(), "deleted");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the layer is around the tool that is returned"]
    pub fn layer<L>(self, layer: &L) -> Self
    where
        L: Layer<Self>,
        L::Service: Service<ToolCall, Response = ToolOutput> + Clone + Send + Sync + 'static,
        <L::Service as Service<ToolCall>>::Error: Into<BoxError>,
        <L::Service as Service<ToolCall>>::Future: Send,
    {
        let definition = self.clone();
        definition.with_service(layer.layer(self))
    }
}

impl Service<ToolCall> for Tool {
    type Response = ToolOutput;
    type Error = BoxError;
    type Future = ToolFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service_mut().poll_ready(cx)
    }

    fn call(&mut self, call: ToolCall) -> ToolFuture {
        ToolFuture(self.service_mut().call(call))
    }
}

// === impl ToolFuture ===

impl Future for ToolFuture {
    type Output = Result<ToolOutput, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ToolFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolFuture").finish_non_exhaustive()
    }
}
