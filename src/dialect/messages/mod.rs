//! Anthropic's Messages: what the bridge reads and edits of a request, a reply and a stream.
//!
//! Source: <https://docs.anthropic.com/en/api/messages>. Everything is found in the caller's and the provider's own bytes
//! and edited there: a signature of the model's thinking covers the bytes, so nothing is re-encoded.

mod blocks;
mod error;
mod fold;
mod opening;
mod relay;
mod reply;
mod request;
mod usage;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::HeaderName;
use serde_json::Value;
use uuid::Uuid;

use self::request::MessagesRequest;
use super::offer::object_schema;
use super::turn::{ErrorNames, Invalid};
use super::{Api, Paths, Purpose, Request, quote};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::tools::ToolDefinition;
use crate::types::{CredentialHeader, Dialect};

/// The API as the bridge sees it.
#[derive(Debug)]
pub(super) struct Messages;

/// Appends one element of `tools`, with no member beyond the three: each further one needs a beta or takes one of the
/// caller's four cache breakpoints.
fn define(name: &str, tool: &ToolDefinition, out: &mut String) {
    // An injected name has nothing to escape.
    out.extend([r#"{"name":""#, name, "\""]);
    if let Some(description) = tool.text() {
        out.extend([r#","description":"#, &quote(description)]);
    }
    out.extend([r#","input_schema":"#, &input_schema(tool.schema()), "}"]);
}

/// A tool's whole schema. The API demands `"type":"object"`, which JSON schema allows to leave out.
fn input_schema(schema: Option<&Value>) -> String {
    match schema.and_then(Value::as_object) {
        Some(schema) if !schema.is_empty() && schema.get("type").is_none_or(|kind| kind != "object") => {
            let mut schema = schema.clone();
            schema.insert("type".to_owned(), "object".into());
            object_schema(Some(&Value::Object(schema)))
        }
        _ => object_schema(schema),
    }
}

// === impl Messages ===

impl Api for Messages {
    fn dialect(&self) -> Dialect {
        Dialect::Messages
    }

    fn paths(&self) -> &'static Paths {
        &Paths {
            answer: "/messages",
            below_any_base: false,
            count: Some("/messages/count_tokens"),
            refuses_websocket: false,
        }
    }

    fn provider(&self) -> &'static str {
        "anthropic"
    }

    fn request(&self, body: Rope, scanner: &Scanner, purpose: Purpose) -> Result<Box<dyn Request>, Invalid> {
        Ok(Box::new(MessagesRequest::read(body, scanner, purpose)?))
    }

    fn error_body(&self, error: &BridgeError, id: Option<Uuid>) -> Bytes {
        error::error_body(error, id)
    }

    fn error_type(&self, kind: BridgeErrorKind) -> &'static str {
        error::error_type(kind)
    }

    fn read_error(&self, body: &[u8]) -> Option<ErrorNames> {
        error::read_error(body)
    }

    fn key_header(&self) -> &'static CredentialHeader {
        static X_API_KEY: CredentialHeader = CredentialHeader::header(HeaderName::from_static("x-api-key"));
        &X_API_KEY
    }

    fn error_id_header(&self) -> Option<HeaderName> {
        Some(HeaderName::from_static("request-id"))
    }
}
