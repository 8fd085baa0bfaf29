//! Anthropic's Messages: the parts of a request, a reply and a stream that the bridge reads and edits.
//!
//! Source: <https://docs.anthropic.com/en/api/messages>. Everything is found in the caller's and the provider's own bytes
//! and edited there: a signature of the model's thinking covers the bytes, so nothing is re-encoded.

mod blocks;
mod define;
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
use uuid::Uuid;

use self::request::MessagesRequest;
use super::turn::{ErrorNames, Invalid};
use super::{Api, Paths, Purpose, Request};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::types::{CredentialHeader, Dialect};

/// The API as the bridge sees it.
#[derive(Debug)]
pub(super) struct Messages;

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
