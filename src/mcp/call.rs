//! One call of one tool, and what the model is told of its result.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rmcp::{
    Peer, RoleClient,
    model::{CallToolRequestParams, CallToolResult, ContentBlock},
    service::ServiceError,
};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tracing::{Instrument, Span, field::Empty};

use super::{
    server::{Endpoint, McpServer},
    session::explain,
};
use crate::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, tool_fn};

/// The way from a server's tools to whatever connection it has at the moment.
pub(super) struct Link {
    pub(super) server: McpServer,
    /// None while the server is away.
    pub(super) peer: ArcSwapOption<Peer<RoleClient>>,
    /// Wakes the server's task: its list of tools may have changed, or it may be gone.
    pub(super) look: Arc<Notify>,
}

// === impl Link ===

impl Link {
    pub(super) fn new(server: McpServer) -> Self {
        Self {
            server,
            peer: ArcSwapOption::empty(),
            look: Arc::default(),
        }
    }

    pub(super) fn tool(self: &Arc<Self>, definition: ToolDefinition) -> Tool {
        let link = Arc::clone(self);
        tool_fn(definition, move |call| {
            let link = Arc::clone(&link);
            async move {
                let span = link.span(call.name());
                Ok::<_, std::convert::Infallible>(link.call(call).instrument(span).await)
            }
        })
    }

    /// OpenTelemetry's
    /// [names for MCP](https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/mcp.md). The
    /// session's id is not among them: to know it is to have the session.
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
            Endpoint::Http(url) => {
                span.record("network.transport", "tcp");
                span.record("server.address", url.host_str());
                span.record("server.port", url.port_or_known_default());
            }
            Endpoint::Command(_) => {
                span.record("network.transport", "pipe");
            }
            Endpoint::Stream(_) => {}
        }
        span
    }

    /// Dropped before its end, it tells the server that nobody waits any more: the SDK sends `notifications/cancelled`
    /// for a request whose future is dropped.
    async fn call(&self, call: ToolCall) -> ToolOutput {
        let name = &self.server.name;
        let span = Span::current();
        let Some(peer) = self.peer.load_full() else {
            span.record("error.type", "not_connected");
            return ToolOutput::error(format!(
                "the tool server {name} is not connected at present, try again later"
            ));
        };
        if !span.is_disabled()
            && let Some(info) = peer.peer_info()
        {
            span.record("mcp.protocol.version", info.protocol_version.as_str());
        }
        let mut params = CallToolRequestParams::new(call.name().to_owned());
        if let Some(arguments) = call.arguments().as_object() {
            params = params.with_arguments(arguments.clone());
        }
        match peer.call_tool(params).await {
            Ok(result) => {
                if result.is_error == Some(true) {
                    span.record("error.type", "tool_error");
                }
                output(&result)
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
                self.look.notify_one();
                // Why is the operator's to know: it may name addresses.
                ToolOutput::error(format!(
                    "the tool server {name} failed before it answered; the call may or may not have taken effect"
                ))
            }
        }
    }
}

/// Words reach the model as they are, anything else as the protocol's own JSON.
fn output(result: &CallToolResult) -> ToolOutput {
    let text = words(result);
    if result.is_error == Some(true) {
        return ToolOutput::error(text.unwrap_or_else(|| raw(result)));
    }
    match text {
        Some(text) => ToolOutput::text(text),
        None => ToolOutput::text(raw(result)),
    }
}

/// The result, if it is nothing but words.
fn words(result: &CallToolResult) -> Option<String> {
    let texts: Option<Vec<&str>> = result
        .content
        .iter()
        .map(|block| match block {
            ContentBlock::Text(text) => Some(text.text.as_str()),
            _ => None,
        })
        .collect();
    let texts = texts.filter(|texts| !texts.is_empty())?;
    let says_the_same = |structured: &Value| {
        // For older clients a server repeats its structured content as one text.
        matches!(texts[..], [text] if serde_json::from_str::<Value>(text).is_ok_and(|value| value == *structured))
    };
    if result.structured_content.as_ref().is_none_or(says_the_same) {
        Some(texts.join("\n"))
    } else {
        None
    }
}

fn raw(result: &CallToolResult) -> String {
    let mut value = json!({ "content": result.content });
    if let Some(structured) = &result.structured_content {
        value["structuredContent"] = structured.clone();
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(value: Value) -> CallToolResult {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn words_stay_words() {
        let one = result(json!({ "content": [{ "type": "text", "text": "4 °C" }] }));
        assert_eq!(output(&one), ToolOutput::text("4 °C"));
        let two = result(json!({ "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }));
        assert_eq!(output(&two), ToolOutput::text("a\nb"));
        let same = json!({ "content": [{ "type": "text", "text": "{\"c\": 4}" }], "structuredContent": { "c": 4 } });
        assert_eq!(output(&result(same)), ToolOutput::text("{\"c\": 4}"));
    }

    #[test]
    fn every_other_kind_is_the_protocols_own_json() {
        let content = json!([
            { "type": "text", "text": "see" },
            { "type": "image", "data": "aGk=", "mimeType": "image/png" },
            { "type": "audio", "data": "aGk=", "mimeType": "audio/wav" },
            { "type": "resource", "resource": { "uri": "file:///a", "mimeType": "text/plain", "text": "a" } },
            { "type": "resource", "resource": { "uri": "file:///b", "mimeType": "x/y", "blob": "aGk=" } },
            { "type": "resource_link", "uri": "file:///c", "name": "c" },
        ]);
        let read = |value| -> Value { serde_json::from_str(output(&result(value)).content()).unwrap() };
        for block in content.as_array().unwrap().iter().skip(1) {
            let value = json!({ "content": [block] });
            assert_eq!(read(value.clone()), value);
        }
        let all = json!({ "content": content, "structuredContent": { "n": null } });
        assert_eq!(read(all.clone()), all);
        let differs = json!({ "content": [{ "type": "text", "text": "four" }], "structuredContent": { "c": 4 } });
        assert_eq!(read(differs.clone()), differs);
        let nothing = json!({ "content": [] });
        assert_eq!(read(nothing.clone()), nothing);
    }

    #[test]
    fn errors_are_told_as_errors() {
        let words = json!({ "content": [{ "type": "text", "text": "no such city" }], "isError": true });
        assert_eq!(output(&result(words)), ToolOutput::error("no such city"));
        let image =
            json!({ "content": [{ "type": "image", "data": "aGk=", "mimeType": "image/png" }], "isError": true });
        let told = output(&result(image));
        assert!(told.is_error() && told.content().contains("image/png"), "{told:?}");
    }
}
