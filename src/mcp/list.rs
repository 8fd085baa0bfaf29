//! Reads the whole of a server's `tools/list`, and leaves out tools that are too large.
//!
//! Not by the SDK's `Peer::list_tools`: that may answer from its cache when the server does not.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use rmcp::{
    Peer, RoleClient,
    model::{ClientRequest, CustomResult, ErrorCode, ListToolsRequest, PaginatedRequestParams, ServerResult},
    service::ServiceError,
};
use serde_json::Value;

use super::{server::McpServer, session::explain};
use crate::tools::{ToolDefinition, is_within_expansion_limit};

// A list without an end must not fill our memory.
const MAX_PAGES: usize = 1_000;
const MAX_TOOLS: usize = 10_000;
// Every caller's every request carries these definitions.
const MAX_DEFINITION: usize = 32 << 10;
const MAX_DEFINITIONS: usize = 256 << 10;
/// In bytes, those of tools that are left out included.
const MAX_LISTED: usize = 16 << 20;

/// Why there is no list.
pub(super) enum ListError {
    /// The server answered with an error.
    Refused(String),
    /// The server did not answer.
    Gone(String),
}

/// The tools of one server.
#[derive(Default)]
pub(super) struct Listing {
    /// Those on offer, in the server's order.
    pub(super) definitions: Vec<ToolDefinition>,
    /// The names of those that are too large.
    pub(super) left_out: Vec<String>,
}

/// Lists the tools that the operator allows.
pub(super) async fn list(server: &McpServer, peer: Peer<RoleClient>) -> Result<Listing, ListError> {
    let mut listing = Listing::default();
    let (mut bytes, mut listed) = (0, 0_usize);
    let mut names = HashSet::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let params = PaginatedRequestParams::default().with_cursor(cursor.clone());
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
            // A server without tools may answer like this.
            Err(ServiceError::McpError(error)) if cursor.is_none() && error.code == ErrorCode::METHOD_NOT_FOUND => {
                return Ok(listing);
            }
            Err(error @ ServiceError::McpError(_)) => return Err(ListError::Refused(explain(&error))),
            Err(error) => return Err(ListError::Gone(explain(&error))),
        };
        for definition in page {
            let size = size(&definition);
            listed = listed.saturating_add(size);
            if listed > MAX_LISTED {
                return Err(refused("the list of tools is too large"));
            }
            // Only the names of definitions within the limit are kept.
            let is_known = size <= MAX_DEFINITION && names.contains(definition.name());
            if is_known || !server.offers(definition.name()) {
                continue;
            }
            if size <= MAX_DEFINITION {
                names.insert(definition.name().to_owned());
            }
            if names.len() > MAX_TOOLS {
                return Err(refused("the list of tools is too long"));
            }
            if size > MAX_DEFINITION || size > MAX_DEFINITIONS - bytes || !is_within_expansion_limit(&definition) {
                listing.left_out.push(shortened(definition.name()));
            } else {
                bytes += size;
                listing.definitions.push(definition);
            }
        }
        match next {
            Some(next) if !next.is_empty() && cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => return Ok(listing),
        }
    }
    Err(refused("the list of tools has too many pages"))
}

/// The bytes of a definition, as far as the server chose them.
fn size(definition: &ToolDefinition) -> usize {
    let description = definition.get_description().map_or(0, str::len);
    let parameters = definition.get_parameters().map_or(0, |schema| schema.to_string().len());
    definition.name().len() + description + parameters
}

/// A name for the log: that of a left-out tool may be a mebibyte long.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
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
