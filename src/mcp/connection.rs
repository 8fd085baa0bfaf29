//! The connection to one server as its tools use it: the current peer, and the calls.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rmcp::{Peer, RoleClient, model::CallToolRequestParams, service::ServiceError};
use serde_json::Value;
use tokio::sync::Notify;
use tracing::{Instrument, Span, field::Empty};

use super::{
    error::{McpServerError, McpServerErrorKind},
    output::output,
    room::Room,
    server::{Endpoint, McpServer},
    session::{Connector, explain},
};
use crate::{
    extensions::Actor,
    tools::{Tool, ToolCall, ToolDefinition, ToolOutput, tool_fn},
};

/// Shared by a server's supervisor and its tools.
pub(super) struct Connection {
    pub(super) server: McpServer,
    pub(super) connector: Connector,
    /// None while the server is away.
    pub(super) peer: ArcSwapOption<Peer<RoleClient>>,
    /// Wakes the supervisor: the list of tools may have changed, or the server may be gone.
    pub(super) changed: Arc<Notify>,
    room: Room,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(server: McpServer) -> Result<Self, McpServerError> {
        let connector = Connector::new(&server)
            .map_err(|problem| server.error(McpServerErrorKind::Client, server.secrets.mask(&problem)))?;
        Ok(Self {
            room: Room::new(server.max_calls),
            connector,
            server,
            peer: ArcSwapOption::empty(),
            changed: Arc::default(),
        })
    }

    pub(super) fn tool(self: &Arc<Self>, definition: ToolDefinition) -> Tool {
        let connection = Arc::clone(self);
        tool_fn(definition, move |call| {
            let connection = Arc::clone(&connection);
            async move {
                let span = connection.span(call.name());
                Ok::<_, std::convert::Infallible>(connection.call(call).instrument(span).await)
            }
        })
    }

    /// OpenTelemetry's [names for
    /// MCP](https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/mcp.md), without the
    /// session's id: anybody who knows it can use the session.
    fn span(&self, tool: &str) -> Span {
        let span = tracing::debug_span!(
            "mcp_call",
            "otel.name" = format_args!("tools/call {tool}"),
            "otel.kind" = "client",
            "mcp.method.name" = "tools/call",
            "mcp.protocol.version" = Empty,
            "gen_ai.operation.name" = "execute_tool",
            "gen_ai.tool.name" = tool,
            "network.transport" = Empty,
            "server.address" = Empty,
            "server.port" = Empty,
            "rpc.response.status_code" = Empty,
            "error.type" = Empty,
        );
        match &self.server.endpoint {
            #[cfg(feature = "mcp-http")]
            Endpoint::Http(endpoint) => {
                span.record("network.transport", "tcp");
                span.record("server.address", endpoint.url.host_str());
                span.record("server.port", endpoint.url.port_or_known_default());
            }
            Endpoint::Command(_) => {
                span.record("network.transport", "pipe");
            }
            Endpoint::Stream(_) => {}
        }
        span
    }

    /// Runs one call. If the future is dropped before its end, the SDK sends `notifications/cancelled` to the server.
    async fn call(&self, mut call: ToolCall) -> ToolOutput {
        let name = &self.server.name;
        let span = Span::current();
        let actor = call.extensions().get::<Actor>().map(Actor::id);
        let _place = self.room.enter(actor).await;
        let Some(peer) = self.peer.load_full() else {
            span.record("error.type", "not_connected");
            return ToolOutput::error(format!(
                "the tool {} is not reachable: its server {name} is not connected at present, try again later",
                call.name()
            ));
        };
        if !span.is_disabled()
            && let Some(info) = peer.peer_info()
        {
            span.record("mcp.protocol.version", info.protocol_version.as_str());
        }
        let mut params = CallToolRequestParams::new(call.name().to_owned());
        // Not copied: they may be vast.
        if let Value::Object(arguments) = call.take_arguments() {
            params = params.with_arguments(arguments);
        }
        match peer.call_tool(params).await {
            Ok(result) => {
                if result.is_error == Some(true) {
                    span.record("error.type", "tool_error");
                }
                output(result).await
            }
            Err(ServiceError::McpError(error)) => {
                span.record("rpc.response.status_code", error.code.0);
                span.record("error.type", error.code.0);
                ToolOutput::error(self.server.secrets.mask(&error.message))
            }
            Err(error) => {
                span.record("error.type", "connection");
                let reason = self.server.secrets.mask(&explain(&error));
                tracing::debug!(
                    server = name,
                    tool = call.name(),
                    error = reason,
                    "a call got no answer"
                );
                self.changed.notify_one();
                // The reason is for the operator's log alone: it may name addresses.
                ToolOutput::error(format!(
                    "the tool server {name} failed before it answered; the call may or may not have taken effect"
                ))
            }
        }
    }
}
