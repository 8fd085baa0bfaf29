//! The model APIs, as pure functions of bytes: no HTTP exchange, no keys, no records, no runtime.
//!
//! The bridge sees four traits and the values that all APIs share. Which API a request speaks is decided once, in [`api`].
//!
//! ```text
//! Api ── reads ──► Request ─┬─ reads whole answers ──► Reply    one per round; the last one is sealed for the caller
//!                           └─ relays streams ───────► Relay    one per request; it lives over all rounds
//! ```
//!
//! Objects and not type parameters: a virtual call costs 2 ns per event, and the pipeline is compiled once per service.

mod chat_completions;
mod messages;
pub(crate) mod offer;
mod openai_error;
mod responses;
pub(crate) mod sse;
pub(crate) mod turn;
pub(crate) mod usage;
pub(crate) mod writer;

#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use uuid::Uuid;

use self::sse::Event;
use self::turn::{
    About, Addition, Completion, Earlier, ErrorNames, ErrorWords, Fault, Invalid, Progress, ShownId, ToolResult, Turn,
};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::json::{Scanner, walk};
use crate::rope::Rope;
use crate::tools::Tools;
use crate::types::{CredentialHeader, Dialect, ReportedUsage};

/// The one place that tells the dialects apart.
pub(crate) fn api(dialect: Dialect) -> &'static dyn Api {
    match dialect {
        Dialect::ChatCompletions => &chat_completions::ChatCompletions,
        Dialect::Messages => &messages::Messages,
        Dialect::Responses => &responses::Responses,
    }
}

/// The dialect of errors for a request whose path belongs to several APIs, such as `GET /models`.
pub(crate) fn of_headers(headers: &http::HeaderMap) -> Dialect {
    if headers.contains_key("anthropic-version") {
        Dialect::Messages
    } else {
        Dialect::ChatCompletions
    }
}

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An answer of the model.
    Answer,
    /// A count of the tokens that the request would take: tools are injected, no round follows.
    Count,
}

/// The operator's settings that a request's edits depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfferSettings {
    /// Whether a model that got injected tools may call several at once, if the caller allows it.
    pub(crate) parallel: bool,
    pub(crate) reported_usage: Option<ReportedUsage>,
}

/// What a relay needs besides its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelaySetup {
    /// The interception's id.
    pub(crate) id: Uuid,
    /// Whether the caller's own tool calls must be collected as well.
    pub(crate) recorded: bool,
    /// How many bytes of one turn may be kept for a replay or for records.
    pub(crate) max_held: usize,
}

/// Where an API lies below its base.
#[derive(Debug)]
pub(crate) struct Paths {
    /// The path that is intercepted, such as `/messages`.
    pub(crate) answer: &'static str,
    /// Whether it is intercepted below any base, declared or not: Azure's paths have a deployment before it.
    pub(crate) below_any_base: bool,
    /// The path that counts a request's tokens.
    pub(crate) count: Option<&'static str>,
    /// Whether clients try a websocket first, and use HTTP once it is refused with 426.
    pub(crate) refuses_websocket: bool,
}

/// One model API.
pub(crate) trait Api: Sync {
    fn dialect(&self) -> Dialect;

    fn paths(&self) -> &'static Paths;

    /// The name of the API's own provider in records and spans.
    fn provider(&self) -> &'static str {
        "openai"
    }

    /// Reads a request's body, of which `scanner` has found the top-level members.
    fn request(&self, body: Rope, scanner: &Scanner, purpose: Purpose) -> Result<Box<dyn Request>, Invalid>;

    /// The body of an error of the bridge; `id` is the interception's, if there is one.
    fn error_body(&self, error: &BridgeError, id: Option<Uuid>) -> Bytes;

    /// An error of the bridge as the last event of a stream whose relay is gone.
    fn error_event(&self, error: &BridgeError) -> Bytes {
        let body = self.error_body(error, None);
        [b"event: error\ndata: ", &body[..], b"\n\n"].concat().into()
    }

    /// The API's `type` for an error of the bridge, as [`error_body`](Self::error_body) has it.
    fn error_type(&self, kind: BridgeErrorKind) -> &'static str;

    /// Reads a provider's error; none if `body` is not the API's error.
    fn read_error(&self, body: &[u8]) -> Option<ErrorNames>;

    /// The header of a key that does not name its own.
    fn key_header(&self) -> &'static CredentialHeader {
        static BEARER: CredentialHeader = CredentialHeader::bearer();
        &BEARER
    }

    /// The place of a stored answer's id in a path below the API's base.
    fn stored_id(&self, _below: &str) -> Option<std::ops::Range<usize>> {
        None
    }

    /// The member of a keyed path's body that names a stored answer; `below` is the path below the API's base.
    fn stored_member(&self, _below: &str) -> Option<&'static str> {
        None
    }

    /// The response headers that go back to the same key in the later rounds of a request.
    fn sticky_headers(&self) -> &'static [&'static str] {
        &[]
    }

    /// The response header that carries the interception's id on errors of the bridge.
    fn error_id_header(&self) -> Option<http::HeaderName> {
        None
    }
}

/// A request that was read, with all edits that its rounds share.
pub(crate) trait Request: Send + Sync {
    fn about(&self) -> &About;

    /// The text of the last message, if it is the user's.
    fn prompt(&self) -> Option<String>;

    /// The stored answer that the request builds on, by the id that the caller knows.
    fn previous(&self) -> Option<String> {
        None
    }

    /// Replaces the caller's id of that answer by the provider's.
    fn resolve(&mut self, _id: String) {}

    /// Injects `tools` as far as the API and the caller leave room. Returns whether any was injected.
    fn offer(&mut self, tools: Tools, settings: OfferSettings) -> bool;

    /// The members that the bridge added or changed in the caller's request.
    fn additions(&self) -> Vec<Addition>;

    /// Removes `additions` from all later rounds.
    fn withdraw(&mut self, additions: &[Addition]);

    /// The body of the next round: the caller's own bytes if nothing has to be edited.
    fn encode(&self) -> Rope;

    /// Appends a round: the model's turn, and one result per call of it, in call order.
    fn extend(&mut self, turn: Rope, results: &[ToolResult<'_>]);

    /// Forbids the model to call tools from now on.
    fn forbid_tools(&mut self);

    /// Reads one round's whole answer.
    fn read_reply(&self, body: Rope) -> Result<(Box<dyn Reply>, Turn), Fault>;

    /// A function that does the same, for another thread.
    fn reply_reader(&self) -> ReplyReader;

    /// A relay for all rounds of a stream.
    fn relay(&self, setup: RelaySetup) -> Box<dyn Relay>;
}

/// Reads a whole answer, see [`Request::reply_reader`].
pub(crate) type ReplyReader = Box<dyn FnOnce(Rope) -> Result<(Box<dyn Reply>, Turn), Fault> + Send>;

/// One round's whole answer.
pub(crate) trait Reply: Send {
    /// The model's turn for the next round, byte for byte; `earlier` keeps what the caller's answer needs of it.
    fn replay(self: Box<Self>, earlier: &mut Earlier) -> Rope;

    /// The answer's id, if the provider keeps the answer.
    fn shown_id(&self) -> Option<ShownId> {
        None
    }

    /// The caller's answer, made of this last reply and the kept parts of the `earlier` ones.
    fn seal(self: Box<Self>, id: Uuid, earlier: &Earlier) -> Rope;
}

/// The relay of one stream over all of its rounds.
pub(crate) trait Relay: Send {
    /// Begins a round, or another attempt at it, and forgets what a failed attempt left. `begun` tells whether the
    /// caller was sent anything, even a keep-alive.
    fn begin_round(&mut self, begun: bool);

    /// Takes one event in, and appends to `out` what the caller may see of it.
    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault>;

    /// Called when the provider's body ended without the API's last event. Returns whether the answer is complete
    /// nevertheless. If so, appends to `out` what the caller still needs.
    fn end(&mut self, out: &mut BytesMut) -> bool;

    /// Appends what keeps the caller's connection alive; called after every 10 s without output.
    fn keep_alive(&mut self, out: &mut BytesMut);

    /// Appends an error, as the last event of a stream that has begun.
    fn fail(&mut self, error: ErrorWords<'_>, out: &mut BytesMut);

    /// The provider's id of the round's answer, as far as it is known.
    fn msg_id(&self) -> &str;

    /// The id that the caller was shown, if the provider keeps the answer, and if either is new since this was last asked.
    fn take_shown_id(&mut self) -> Option<ShownId> {
        None
    }

    /// Whether usage was reported, or more of the answer's description, since this was last asked.
    fn take_usage_changed(&mut self) -> bool;

    /// The answer's own description so far.
    fn completion(&self) -> Completion;

    /// The round's turn so far.
    fn turn(&mut self) -> Turn;

    /// Ends a round that is followed by another: the model's turn, byte for byte.
    fn replay(&mut self) -> Rope;

    /// How many bytes of this round are kept, for the next one or for records.
    fn held(&self) -> usize;
}

/// An object without the members named `left_out`.
pub(crate) fn without(object: &[u8], left_out: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(object.len());
    kept.push(b'{');
    for (entry, name, _) in walk::entries(object) {
        if name != left_out {
            if kept.len() > 1 {
                kept.push(b',');
            }
            kept.extend_from_slice(&object[entry]);
        }
    }
    kept.push(b'}');
    kept
}

/// The status in an error's body: some compatible providers send it as a numeric `code`.
pub(crate) fn numeric_status(names: &ErrorNames) -> Option<StatusCode> {
    let code: u16 = names.codes().find_map(|code| code.parse().ok())?;
    StatusCode::from_u16(code)
        .ok()
        .filter(|status| status.is_client_error() || status.is_server_error())
}
