//! The limits whose refusals are counted.

/// Why something was refused or cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "some limits are those of a feature")]
pub(crate) enum Limit {
    /// Bytes of one request body.
    RequestBody,
    /// Bytes that all requests together hold.
    HeldBodies,
    /// Bytes of a model's name.
    ModelName,
    /// Interceptions at once, of one actor too, and bytes of events on their way.
    Places,
    /// The recorder is closed.
    RecorderClosed,
    /// A caller that stopped reading its answer.
    Reader,
    /// Time of the provider or of a whole request.
    Time,
    /// Bytes of an answer, or of a part of it that must be held.
    ResponseBody,
    Rounds,
    /// Bytes that rounds append.
    Appended,
    /// Time of a tool's call.
    ToolTime,
    /// Bytes of a recorded text.
    RecordedText,
    /// The number of tools that a provider accepts.
    OfferedTools,
    /// Bytes of a tool's definition, or of all those of a server.
    ToolDefinitions,
    /// Steps through the schema of a tool.
    Schema,
    /// Messages of a tool server that nobody asked for.
    ServerMessages,
}

// === impl Limit ===

impl Limit {
    /// The value of the label `limit`.
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "for the label"))]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RequestBody => "request_body",
            Self::HeldBodies => "held_bodies",
            Self::ModelName => "model_name",
            Self::Places => "places",
            Self::RecorderClosed => "recorder_closed",
            Self::Reader => "reader",
            Self::Time => "time",
            Self::ResponseBody => "response_body",
            Self::Rounds => "rounds",
            Self::Appended => "appended",
            Self::ToolTime => "tool_time",
            Self::RecordedText => "recorded_text",
            Self::OfferedTools => "offered_tools",
            Self::ToolDefinitions => "tool_definitions",
            Self::Schema => "schema",
            Self::ServerMessages => "server_messages",
        }
    }
}
