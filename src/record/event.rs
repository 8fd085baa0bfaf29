//! The events: plain data to keep, clone, write and read back. Their names in JSON are a public contract.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::Cost;
use crate::types::{CredentialKind, Dialect, KeyHint, TokenDetails, TokenUsage};

/// One step of one interception.
///
/// As JSON it is one flat object: these fields, `event` with the name of the [`Fact`], and the fact's own fields. Token
/// counts are members of it, too. Written by `serde_json` it holds no line break, so a file of events is JSON lines.
///
/// It reads back from the same JSON, and a test can build one from `json!`. Members that it does not know are ignored;
/// optional texts, token counts, `metadata`, `extra` and `cost` may be left out.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use tower_llm_bridge::record::{Event, Fact};
///
/// fn tokens(event: &Event) -> u64 {
///     match &event.fact {
///         Fact::TokenUsage { usage, .. } => usage.input + usage.output,
///         _ => 0,
///     }
/// }
///
/// let event: Event = serde_json::from_value(json!({
///     "interception_id": "01980000-0000-7000-8000-000000000001", "sequence": 2, "at": "2026-01-02T03:04:05.123456Z",
///     "event": "token_usage", "msg_id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "input": 7, "output": 3,
/// }))?;
/// assert_eq!(tokens(&event), 10);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// The interception, a UUID version 7; also the `id` of the answer that the caller got.
    pub interception_id: Uuid,
    /// The place within the interception: 0, 1, 2 … without a gap.
    pub sequence: u64,
    /// When it happened, by the wall clock; as JSON in RFC 3339, UTC, with microseconds.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// The step.
    #[serde(flatten)]
    pub fact: Fact,
}

/// The kinds of steps, each with its data.
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fact {
    /// A request was read and admitted; the provider was not called yet.
    #[non_exhaustive]
    Started {
        /// The provider's name as configured, for example `openai`.
        provider: String,
        /// The model API of the request.
        dialect: Dialect,
        /// The model that the caller asked for.
        model: String,
        /// The request's path.
        path: String,
        /// Whether the caller asked for a stream.
        streaming: bool,
        /// The actor's id, if an auth layer named one.
        initiator_id: Option<String>,
        /// The actor's metadata.
        #[serde(default)]
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
    /// The model showed its reasoning. Not recorded unless asked for: it is content.
    #[non_exhaustive]
    ModelThought {
        /// The provider's id of the completion.
        msg_id: String,
        /// The part of the answer that held it: `thinking`, `reasoning_summary` or `commentary`.
        source: String,
        /// The reasoning's text.
        content: String,
    },
    /// One round's tokens.
    #[non_exhaustive]
    TokenUsage {
        /// The provider's id of the completion.
        msg_id: String,
        /// The model that answered, as the provider names it.
        model: String,
        /// The service tier that the request was processed with, as the provider reports it.
        service_tier: Option<String>,
        /// The counts that prices are for; in JSON they are the event's own members.
        #[serde(flatten)]
        usage: TokenUsage,
        /// The provider's other counts.
        #[serde(default)]
        extra: TokenDetails,
        /// The round's price; none if the price of this model, or of these tokens, is not known.
        cost: Option<Cost>,
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
        /// The name of the server that an injected tool belongs to.
        server: Option<String>,
        /// That server's URL.
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
        /// How it ended.
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
        /// Whether the model was offered our tools.
        injection: Injection,
        /// Tokens, summed over rounds; in JSON they are the event's own members.
        #[serde(flatten)]
        usage: TokenUsage,
        /// The price of all rounds; none if one of them has none.
        cost: Option<Cost>,
        /// From `started`, in milliseconds.
        duration_ms: u64,
        /// From `started` to the first part of the answer, in milliseconds.
        time_to_first_token_ms: Option<u64>,
    },
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The caller got the provider's answer, to its end.
    Completed,
    /// The provider answered with an error, or could not be reached, or its answer broke its API's rules.
    UpstreamError,
    /// No key was usable.
    KeysExhausted,
    /// The caller left.
    Cancelled,
    /// The bridge itself failed.
    BridgeError,
}

/// Whether an interception's requests carried injected tools.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::Injection;
///
/// assert_eq!(Injection::Refused.to_string(), "refused");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Injection {
    /// No tool was injected.
    #[default]
    None,
    /// The provider got the tools.
    Offered,
    /// The provider refused a request with the tools, so it got the caller's own.
    Refused,
}

// === impl Fact ===

impl Fact {
    /// The name used as `event` in JSON, for example `token_usage`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::PromptUsage { .. } => "prompt_usage",
            Self::ModelThought { .. } => "model_thought",
            Self::TokenUsage { .. } => "token_usage",
            Self::ToolUsage { .. } => "tool_usage",
            Self::Ended { .. } => "ended",
        }
    }
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

// === impl Injection ===

impl Injection {
    /// The name used in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Offered => "offered",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Times as RFC 3339 text, in UTC, with microseconds.
mod rfc3339 {
    use std::{fmt::Write as _, time::SystemTime};

    use serde::{Deserialize as _, Deserializer, Serializer, de, ser};

    pub(super) fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        // A clock that is set before 1970 must not lose the record.
        let at = (*at).max(SystemTime::UNIX_EPOCH);
        let mut text = String::with_capacity("2026-01-02T03:04:05.123456Z".len());
        write!(text, "{}", humantime::format_rfc3339_micros(at))
            .map_err(|_| ser::Error::custom("a time after the year 9999"))?;
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
