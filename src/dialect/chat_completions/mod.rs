//! OpenAI's chat completions: the parts of a request, a reply and a stream that the bridge reads and edits.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. Everything is found in the caller's and the provider's
//! own bytes and edited there; nothing is re-encoded.

mod define;
mod error;
mod fold;
mod merge;
mod relay;
mod reply;
mod request;
mod template;
mod usage;

use bytes::Bytes;
use uuid::Uuid;

use self::request::ChatRequest;
use super::turn::{ErrorNames, ErrorWords, Invalid};
use super::{Api, Paths, Purpose, Request};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::types::Dialect;

/// The API as the bridge sees it.
#[derive(Debug)]
pub(super) struct ChatCompletions;

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
