//! Reads the whole of a server's `tools/list`.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use rmcp::{
    Peer, RoleClient,
    model::{ClientRequest, CustomResult, ErrorCode, ListToolsRequest, PaginatedRequestParams, ServerResult},
    service::ServiceError,
};
use serde_json::Value;

use super::{server::McpServer, session::explain};
use crate::tools::ToolDefinition;

/// A server that never comes to an end must not fill our memory.
const MAX_PAGES: usize = 1_000;
const MAX_TOOLS: usize = 10_000;

/// Why there is no list.
pub(super) enum ListError {
    /// The server is there and says no.
    Refused(String),
    /// It cannot be talked to.
    Gone(String),
}

/// The tools that the operator wants of the server's, in its order.
pub(super) async fn list(server: &McpServer, peer: Peer<RoleClient>) -> Result<Vec<ToolDefinition>, ListError> {
    let mut definitions = Vec::new();
    let mut names = HashSet::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let params = PaginatedRequestParams::default().with_cursor(cursor.clone());
        // Not `Peer::list_tools`: it may answer from its cache when the server does not.
        let request = ClientRequest::ListToolsRequest(ListToolsRequest::with_param(params));
        let (page, next) = match peer.send_request(request).await {
            Ok(ServerResult::ListToolsResult(result)) => {
                let page: Vec<ToolDefinition> = result.tools.into_iter().map(|tool| known(server, tool)).collect();
                (page, result.next_cursor)
            }
            Ok(ServerResult::CustomResult(CustomResult(result))) => {
                lenient(server, result).ok_or_else(|| refused("the list of tools is not what the protocol promises"))?
            }
            Ok(_) => return Err(refused("the answer to tools/list is no list of tools")),
            // A server without tools may say it this way.
            Err(ServiceError::McpError(error)) if error.code == ErrorCode::METHOD_NOT_FOUND => break,
            Err(error @ ServiceError::McpError(_)) => return Err(ListError::Refused(explain(&error))),
            Err(error) => return Err(ListError::Gone(explain(&error))),
        };
        let wanted = |definition: &ToolDefinition| server.offers(definition.name());
        definitions.extend(
            page.into_iter()
                .filter(|definition| wanted(definition) && names.insert(definition.name().to_owned())),
        );
        if definitions.len() > MAX_TOOLS {
            return Err(refused("the list of tools is too long"));
        }
        match next {
            Some(next) if !next.is_empty() && cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => return Ok(definitions),
        }
    }
    Ok(definitions)
}

fn refused(problem: &str) -> ListError {
    ListError::Refused(problem.to_owned())
}

fn known(server: &McpServer, tool: rmcp::model::Tool) -> ToolDefinition {
    let schema = Value::Object(Arc::unwrap_or_clone(tool.input_schema));
    let description = tool.description.map(Cow::into_owned).or(tool.title);
    define(server, tool.name.into_owned(), description, Some(schema))
}

/// A page that breaks the protocol somewhere is read tool by tool: one bad schema must not take the others away.
fn lenient(server: &McpServer, mut result: Value) -> Option<(Vec<ToolDefinition>, Option<String>)> {
    let next = result.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
    let Value::Array(tools) = result.get_mut("tools")?.take() else {
        return None;
    };
    let read = |mut tool: Value| {
        let name = tool.get("name")?.as_str()?.to_owned();
        let description = tool.get("description").or_else(|| tool.get("title"));
        let description = description.and_then(Value::as_str).map(str::to_owned);
        let schema = tool.get_mut("inputSchema").map(Value::take);
        Some(define(server, name, description, schema.filter(Value::is_object)))
    };
    Some((tools.into_iter().filter_map(read).collect(), next))
}

fn define(server: &McpServer, name: String, description: Option<String>, schema: Option<Value>) -> ToolDefinition {
    let mut definition = ToolDefinition::new(name).server(&*server.name);
    if let Some(url) = server.url() {
        definition = definition.server_url(url);
    }
    if let Some(description) = description {
        definition = definition.description(description);
    }
    if let Some(schema) = schema {
        definition = definition.parameters(schema);
    }
    definition
}
