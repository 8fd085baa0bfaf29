//! OpenAI's chat completions: what the bridge reads and edits of a request, a reply and a stream.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. Everything is found in the caller's and the provider's
//! own bytes and edited there; nothing is re-encoded.

mod error;
mod fold;
mod reply;
mod request;
mod stream;
mod template;
mod usage;

pub(crate) use error::{InBandError, bridge_error, error_codes, error_event, error_type};
pub(crate) use reply::{ChatReply, Malformed};
pub(crate) use request::{ChatRequest, Invalid};
pub(crate) use stream::{ChatRelay, Progress, StreamFault};
pub(crate) use usage::{Tokens, Usage, UsageSum};

/// What one round's answer says, whether it came whole or as a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    pub(crate) completion: Completion,
    /// The tool calls of the first choice, in call order.
    pub(crate) calls: Vec<Call>,
    /// Whether the caller has already been shown the start of a call of its own, so that the turn is the caller's.
    pub(crate) callers_turn: bool,
}

/// What an answer says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Completion {
    /// The provider's id of it.
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) service_tier: Option<String>,
    pub(crate) usage: Option<Usage>,
}

/// A tool call, as the model asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON text, if the model got it right.
    pub(crate) arguments: String,
}
