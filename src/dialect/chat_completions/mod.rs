//! OpenAI's chat completions: what the bridge reads and edits of a request, a reply and a stream.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. Everything is found in the caller's and the provider's
//! own bytes and edited there; nothing is re-encoded.

mod error;
mod fold;
mod merge;
mod relay;
mod reply;
mod request;
mod usage;

use bytes::Bytes;
use uuid::Uuid;

use self::request::ChatRequest;
use super::offer::object_schema;
use super::turn::{ErrorNames, ErrorWords, Invalid};
use super::{Api, Paths, Purpose, Request, quote};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::tools::ToolDefinition;
use crate::types::Dialect;

/// The API as the bridge sees it.
#[derive(Debug)]
pub(super) struct ChatCompletions;

/// Appends one element of `tools`.
fn define(name: &str, tool: &ToolDefinition, out: &mut String) {
    // An injected name has nothing to escape.
    out.extend([r#"{"type":"function","function":{"name":""#, name, "\""]);
    if let Some(description) = tool.text() {
        out.extend([r#","description":"#, &quote(description)]);
    }
    out.extend([
        r#","parameters":"#,
        &object_schema(tool.schema()),
        r#","strict":false}}"#,
    ]);
}

// === impl ChatCompletions ===

impl Api for ChatCompletions {
    fn dialect(&self) -> Dialect {
        Dialect::ChatCompletions
    }

    fn paths(&self) -> &'static Paths {
        &Paths {
            answer: "/chat/completions",
            below_any_base: true,
            count: None,
            refuses_websocket: false,
        }
    }

    fn request(&self, body: Rope, scanner: &Scanner, _: Purpose) -> Result<Box<dyn Request>, Invalid> {
        Ok(Box::new(ChatRequest::read(body, scanner)?))
    }

    fn error_body(&self, error: &BridgeError, _: Option<Uuid>) -> Bytes {
        error::error_body(error)
    }

    fn error_event(&self, error: &BridgeError) -> Bytes {
        error::error_event(ErrorWords::Bridge(error)).into()
    }

    fn error_type(&self, kind: BridgeErrorKind) -> &'static str {
        error::error_type(kind)
    }

    fn read_error(&self, body: &[u8]) -> Option<ErrorNames> {
        error::read_error(body)
    }
}
