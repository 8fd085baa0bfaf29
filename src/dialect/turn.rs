//! The values that pass between the bridge and every dialect: a turn and its calls, results, faults and errors.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;

use super::usage::Usage;
use crate::error::BridgeError;
use crate::tools::Registered;
use crate::types::ReportedUsage;

/// The facts of a request that records, spans and key choice need.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// The call that the last message answers, if it is a tool's result.
    pub(crate) correlating_tool_call_id: Option<String>,
    /// The client's session, if the body names it.
    pub(crate) session: Option<String>,
    /// The caller's `prompt_cache_key`.
    pub(crate) cache_key: Option<String>,
    /// Whether the caller asks for a format of the answer, such as a JSON schema.
    pub(crate) has_format: bool,
}

/// A member of the request that the bridge may add or change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Addition {
    /// `tools`, and `tool_choice` with it.
    Tools,
    /// `parallel_tool_calls`.
    ParallelToolCalls,
    /// `stream_options`.
    StreamOptions,
    /// `include`.
    Include,
}

/// How many calls one turn may have.
pub(crate) const MAX_CALLS: usize = 1_000;

/// How many parts one turn may have: content blocks, or output items. Each takes memory besides its own bytes.
pub(crate) const MAX_PARTS: usize = 10_000;

/// The longest error that is parsed, in bytes. Parsed, it takes a multiple of its length.
pub(crate) const MAX_ERROR: usize = 256 << 10;

/// One round's answer, whether it came whole or as a stream.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) completion: Completion,
    /// In call order.
    pub(crate) calls: Vec<Call>,
    /// Whether another round follows: the first call is ours, and the turn is whole.
    pub(crate) is_ours: bool,
    /// The model's thoughts, for records that ask for them.
    pub(crate) thoughts: Vec<Thought>,
}

/// A piece of the model's reasoning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thought {
    /// The API's name for it, such as `thinking`.
    pub(crate) source: &'static str,
    pub(crate) content: String,
}

/// An answer's own description.
#[derive(Clone, Debug, Default)]
pub(crate) struct Completion {
    /// The provider's id of the answer.
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) service_tier: Option<String>,
    pub(crate) usage: Option<Usage>,
}

/// A tool call, as the model asked for it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON text, unless the model made a mistake.
    pub(crate) arguments: String,
    pub(crate) owner: Owner,
    pub(crate) kind: CallKind,
}

/// The owner of a tool call. It is decided once, where the call is read.
#[derive(Clone, Debug, Default)]
pub(crate) enum Owner {
    #[default]
    Caller,
    Ours(Registered),
    /// It has the prefix of ours, but the model made it up.
    Nobody,
}

/// The form of a call, which decides the form of its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CallKind {
    #[default]
    Function,
    /// A custom tool: its input is text.
    Custom,
}

/// The result of one call, for the model.
#[derive(Debug)]
pub(crate) struct ToolResult<'a> {
    pub(crate) call: &'a Call,
    pub(crate) text: String,
    pub(crate) is_error: bool,
}

/// The kind of an event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A comment, or a field without data.
    Aside,
    /// A part of the answer that the caller does not see yet, or never.
    Held,
    /// A part of the answer that was appended for the caller.
    Shown,
    /// The end of the answer.
    Done,
}

/// Why an answer is not one of its API.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The provider sent an error inside a success.
    Refused(InBandError),
    /// The answer has another shape; the text is for logs.
    Shape(&'static str),
}

/// An error that came inside a successful answer.
#[derive(Debug)]
pub(crate) struct InBandError {
    /// The status that the provider would have sent if it had not begun with a 200.
    pub(crate) status: StatusCode,
    /// The error as the API's error body.
    pub(crate) body: Bytes,
}

/// The names and texts of a provider's error that rules look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorNames {
    pub(crate) code: Option<String>,
    pub(crate) kind: Option<String>,
    /// Anthropic's `error.details.error_code`.
    pub(crate) detail: Option<String>,
    pub(crate) message: Option<String>,
    /// The request's parameter that is at fault.
    pub(crate) param: Option<String>,
}

/// An error that ends a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ErrorWords<'a> {
    /// The provider's error body, redacted.
    Provider {
        status: StatusCode,
        body: &'a [u8],
    },
    Bridge(&'a BridgeError),
}

/// Why a body is not a request of its API, and which parameter is at fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) message: Cow<'static, str>,
    pub(crate) param: Option<&'static str>,
}

/// The parts of the rounds before the last that the caller's answer needs.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    /// The first answer's id, as JSON text.
    pub(crate) id: Option<Bytes>,
    /// The parts of earlier answers that the caller may see, as JSON text.
    pub(crate) shown: Vec<Bytes>,
    /// Other members of earlier answers, to be merged into the last one's, by name, in the order of the rounds.
    pub(crate) members: Vec<(&'static str, Bytes)>,
    /// Every earlier round's usage that was reported.
    pub(crate) usages: Vec<Usage>,
    /// The operator's choice, if there is one.
    pub(crate) reported_usage: Option<ReportedUsage>,
}

/// An answer that the provider keeps, by the id that the caller knows and by the provider's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownId {
    pub(crate) shown: String,
    pub(crate) stored: String,
}

// === impl Turn ===

impl Turn {
    /// Whether `calls` begin with one of ours: the first call decides the owner of a mixed turn.
    pub(crate) fn begins_with_ours(calls: &[Call]) -> bool {
        calls.first().is_some_and(|call| !call.is_callers())
    }
}

// === impl Call ===

impl Call {
    pub(crate) fn is_callers(&self) -> bool {
        matches!(self.owner, Owner::Caller)
    }
}

// === impl Earlier ===

impl Earlier {
    /// The values that earlier answers have under `name`.
    pub(crate) fn members_of(&self, name: &str) -> impl Iterator<Item = &Bytes> {
        let members = self.members.iter();
        members.filter_map(move |(found, value)| (*found == name).then_some(value))
    }
}

// === impl ErrorNames ===

impl ErrorNames {
    /// All names that a rule may match, the most specific first.
    pub(crate) fn codes(&self) -> impl Iterator<Item = &str> {
        [&self.detail, &self.code, &self.kind]
            .into_iter()
            .filter_map(|name| name.as_deref())
    }

    pub(crate) fn any(&self, wanted: &[&str]) -> bool {
        self.codes().any(|code| wanted.contains(&code))
    }
}

// === impl Invalid ===

impl Invalid {
    #[cold]
    pub(crate) fn new(message: &'static str, param: &'static str) -> Self {
        Self {
            message: message.into(),
            param: Some(param),
        }
    }
}
