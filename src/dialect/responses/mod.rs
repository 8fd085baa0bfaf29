//! OpenAI's Responses: the parts of a request, a reply and a stream that the bridge reads and edits.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses>. Everything is found in the caller's and the
//! provider's own bytes and edited there; no item is re-encoded, and no type of item has to be known.

mod caller;
mod define;
mod error;
mod event_kind;
mod failure;
mod items;
mod object;
mod relay;
mod reply;
mod request;
mod round;
mod sorter;
mod usage;

#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;
use http::HeaderName;
use uuid::Uuid;

use self::request::ResponsesRequest;
use super::turn::{ErrorNames, Invalid};
use super::{Api, Paths, Purpose, Request};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::types::Dialect;

/// The API as the bridge sees it.
#[derive(Debug)]
pub(super) struct Responses;

// === impl Responses ===

impl Api for Responses {
    fn dialect(&self) -> Dialect {
        Dialect::Responses
    }

    fn paths(&self) -> &'static Paths {
        &Paths {
            answer: "/responses",
            below_any_base: false,
            count: None,
            refuses_websocket: true,
        }
    }

    fn request(&self, body: Rope, scanner: &Scanner, _: Purpose) -> Result<Box<dyn Request>, Invalid> {
        Ok(Box::new(ResponsesRequest::read(body, scanner)?))
    }

    fn error_body(&self, error: &BridgeError, _: Option<Uuid>) -> Bytes {
        error::error_body(error)
    }

    fn error_type(&self, kind: BridgeErrorKind) -> &'static str {
        error::error_type(kind)
    }

    fn read_error(&self, body: &[u8]) -> Option<ErrorNames> {
        error::read_error(body)
    }

    fn stored_member(&self, below: &str) -> Option<&'static str> {
        matches!(below, "/responses/compact" | "/responses/input_tokens").then_some("previous_response_id")
    }

    fn stored_id(&self, below: &str) -> Option<Range<usize>> {
        const PREFIX: &str = "/responses/";
        let rest = below.strip_prefix(PREFIX)?;
        // These two are endpoints and not ids: they take a whole request.
        if matches!(rest, "compact" | "input_tokens") {
            return None;
        }
        let id = rest.split('/').next().unwrap_or_default();
        Some(PREFIX.len()..PREFIX.len() + id.len())
    }

    fn sticky_headers(&self) -> &'static [&'static str] {
        // Opaque state of a coding agent's turn, for the provider's own routing.
        &["x-codex-turn-state"]
    }

    fn error_id_header(&self) -> Option<HeaderName> {
        Some(HeaderName::from_static("x-request-id"))
    }
}
