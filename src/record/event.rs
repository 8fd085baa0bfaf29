//! What is recorded: plain data, free to keep, clone and serialise. The names are public contract.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::types::{CredentialKind, KeyHint, TokenUsage};

/// One thing that one interception did.
///
/// It serialises as one flat JSON object: these fields, `event` with the name of the [`Fact`], and the fact's own fields.
/// Serialised by `serde_json` it holds no line break, so a file of events is JSON lines.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::{Event, Fact};
///
/// fn tokens(event: &Event) -> u64 {
///     match &event.fact {
///         Fact::TokenUsage { usage, .. } => usage.input + usage.output,
///         _ => 0,
///     }
/// }
/// # let _: fn(&Event) -> u64 = tokens;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The interception, a UUID version 7; also the `id` of the answer that the caller got.
    pub interception_id: Uuid,
    /// The place within the interception: 0, 1, 2 … without a gap.
    pub sequence: u64,
    /// When it happened, by the wall clock; as JSON in RFC 3339, UTC, with microseconds.
    pub at: SystemTime,
    /// What happened.
    pub fact: Fact,
}

/// What happened, with everything that is known about it.
///
/// [`Started`](Self::Started) is the first fact of an interception and [`Ended`](Self::Ended) its last, each exactly once.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::Fact;
///
/// /// A tool call that the caller is not told of, and that an auditor wants to see.
/// fn is_injected(fact: &Fact) -> bool {
///     matches!(fact, Fact::ToolUsage { injected: true, .. })
/// }
/// # let _: fn(&Fact) -> bool = is_injected;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fact {
    /// A request was read and admitted; the provider was not called yet.
    #[non_exhaustive]
    Started {
        /// The provider's name as configured, for example `openai`.
        provider: String,
        /// The model that the caller asked for.
        model: String,
        /// The request's path.
        path: String,
        /// Whether the caller asked for a stream.
        streaming: bool,
        /// The actor's id, if an auth layer named one.
        initiator_id: Option<String>,
        /// The actor's metadata.
        metadata: BTreeMap<String, String>,
        /// The client program, recognised by its headers, or `unknown`.
        client: String,
        /// The client's own session id.
        client_session_id: Option<String>,
        /// The `User-Agent` header.
        user_agent: Option<String>,
        /// The tool call that the last message answers, if it is a tool's: it links this request to an earlier one.
        correlating_tool_call_id: Option<String>,
        /// Whose key is used.
        credential_kind: CredentialKind,
        /// The caller's own key, masked; none for a pool, whose key is not chosen yet.
        credential_hint: Option<KeyHint>,
    },
    /// The last message is the user's.
    #[non_exhaustive]
    PromptUsage {
        /// The provider's id of the completion.
        msg_id: String,
        /// The message's text, or its last text part.
        prompt: String,
    },
    /// One round's tokens.
    #[non_exhaustive]
    TokenUsage {
        /// The provider's id of the completion.
        msg_id: String,
        /// The model that answered, by the provider's word.
        model: String,
        /// The service tier that the request was processed with, by the provider's word.
        service_tier: Option<String>,
        /// The tokens that cost.
        usage: TokenUsage,
        /// The breakdown of the above.
        extra: TokenDetails,
    },
    /// The model called a tool.
    #[non_exhaustive]
    ToolUsage {
        /// The provider's id of the completion.
        msg_id: String,
        /// The provider's id of the call.
        tool_call_id: String,
        /// The tool's name; an injected one's original name.
        tool: String,
        /// The server that an injected tool belongs to.
        server_url: Option<String>,
        /// The arguments, as the model gave them; a string if they are not JSON.
        args: Value,
        /// Whether the tool is ours; else the call is the caller's to run.
        injected: bool,
        /// Why an injected tool's call failed, as the model was told.
        invocation_error: Option<String>,
        /// How long an injected tool's call took, in milliseconds.
        duration_ms: Option<u64>,
    },
    /// The interception is over.
    #[non_exhaustive]
    Ended {
        /// How.
        outcome: Outcome,
        /// The status of the answer, if there was one.
        status: Option<u16>,
        /// The error's type in the answer's body.
        error_type: Option<String>,
        /// The key tried last, masked.
        credential_hint: Option<KeyHint>,
        /// Keys tried, summed over rounds.
        key_attempts: u32,
        /// Rounds begun.
        rounds: u32,
        /// Tokens, summed over rounds.
        usage: TokenUsage,
        /// From `started`, in milliseconds.
        duration_ms: u64,
        /// From `started` to the first part of the answer, in milliseconds.
        time_to_first_token_ms: Option<u64>,
    },
}

/// The parts that a provider breaks its token counts into; they are included in [`TokenUsage`].
///
/// Source: `prompt_tokens_details` and `completion_tokens_details` of
/// [OpenAI's API reference](https://platform.openai.com/docs/api-reference/chat/object).
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::TokenDetails;
///
/// let mut details = TokenDetails::default();
/// details.completion_reasoning = 64;
/// assert!(serde_json::to_string(&details).unwrap().contains(r#""completion_reasoning":64"#));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenDetails {
    /// Audio tokens of the prompt.
    pub prompt_audio: u64,
    /// Audio tokens that the model made.
    pub completion_audio: u64,
    /// Tokens that the model thought with.
    pub completion_reasoning: u64,
    /// Predicted tokens that occur in the completion.
    pub completion_accepted_prediction: u64,
    /// Predicted tokens that do not; they cost all the same.
    pub completion_rejected_prediction: u64,
}

/// How an interception ended.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::Outcome;
///
/// assert_eq!(Outcome::KeysExhausted.to_string(), "keys_exhausted");
/// assert_eq!(serde_json::to_string(&Outcome::Completed).unwrap(), r#""completed""#);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The caller got the provider's answer, to its end.
    Completed,
    /// The provider answered with an error, or could not be reached, or broke its API's promise.
    UpstreamError,
    /// No key was usable.
    KeysExhausted,
    /// The caller left.
    Cancelled,
    /// The bridge itself failed.
    BridgeError,
}

// === impl Outcome ===

impl Outcome {
    /// The name used in records and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::UpstreamError => "upstream_error",
            Self::KeysExhausted => "keys_exhausted",
            Self::Cancelled => "cancelled",
            Self::BridgeError => "bridge_error",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
