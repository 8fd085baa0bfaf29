//! Bounds the size of one event: callers and models write texts that are recorded, so texts are cut before they are
//! queued.

use std::{collections::BTreeMap, io, mem::size_of};

use serde_json::Value;

use super::{Event, Fact, TokenDetails};
use crate::excerpt::cut;
use crate::metrics::{self, Limit};

/// The longest texts that are recorded, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextLimits {
    /// Of a prompt, thoughts, arguments, an error, a metadata value.
    pub(super) text: usize,
    /// Of an id, a name, a header.
    pub(super) id: usize,
}

/// A part of a fact with allocated memory, by its writer and its limit.
enum Text<'a> {
    /// An id, a name, a header.
    Id(&'a mut String),
    /// A prompt, thoughts, an error.
    Content(&'a mut String),
    /// Arguments of a call.
    Json(&'a mut Value),
    /// The actor's metadata.
    Metadata(&'a mut BTreeMap<String, String>),
    /// A text that the operator configured.
    Configured(&'a mut String),
    /// Numbers by name.
    Counts(&'a mut TokenDetails),
}

/// Counts bytes instead of writing them.
struct Length(usize);

// === impl TextLimits ===

impl Default for TextLimits {
    fn default() -> Self {
        Self {
            text: 64 << 10,
            id: 1 << 10,
        }
    }
}

impl TextLimits {
    /// Cuts every text of `fact` that callers, models or providers write.
    pub(super) fn apply(&self, fact: &mut Fact) {
        let mut was_cut = false;
        each_text(fact, |text| match text {
            Text::Id(text) => was_cut |= cut(text, self.id),
            Text::Content(text) => was_cut |= cut(text, self.text),
            Text::Json(json) => was_cut |= cut_json(json, self.text),
            Text::Metadata(metadata) => {
                for value in metadata.values_mut() {
                    was_cut |= cut(value, self.text);
                }
            }
            Text::Configured(_) | Text::Counts(_) => {}
        });
        if was_cut {
            tracing::info!(event = fact.name(), "a text was too long for its record and was cut");
            metrics::refused(Limit::RecordedText);
        }
    }
}

/// Shows every text of `fact` to `visit`. No pattern ends in `..`, so the compiler reports a new field here.
fn each_text(fact: &mut Fact, mut visit: impl FnMut(Text<'_>)) {
    match fact {
        Fact::Started {
            provider,
            dialect: _,
            model,
            path,
            streaming: _,
            initiator_id,
            metadata,
            client,
            client_session_id,
            user_agent,
            correlating_tool_call_id,
            credential_kind: _,
            credential_hint: _,
        } => {
            visit(Text::Configured(provider));
            visit(Text::Metadata(metadata));
            let optional = [initiator_id, client_session_id, user_agent, correlating_tool_call_id];
            [model, path, client]
                .into_iter()
                .chain(optional.into_iter().flatten())
                .for_each(|id| visit(Text::Id(id)));
        }
        Fact::PromptUsage { msg_id, prompt } => {
            visit(Text::Id(msg_id));
            visit(Text::Content(prompt));
        }
        Fact::ModelThought {
            msg_id,
            source,
            content,
        } => {
            visit(Text::Id(msg_id));
            visit(Text::Id(source));
            visit(Text::Content(content));
        }
        Fact::TokenUsage {
            msg_id,
            model,
            service_tier,
            usage: _,
            extra,
            cost: _,
        } => {
            visit(Text::Counts(extra));
            [msg_id, model]
                .into_iter()
                .chain(service_tier)
                .for_each(|id| visit(Text::Id(id)));
        }
        Fact::ToolUsage {
            msg_id,
            tool_call_id,
            tool,
            server,
            server_url,
            args,
            injected: _,
            invocation_error,
            duration_ms: _,
        } => {
            [msg_id, tool_call_id, tool]
                .into_iter()
                .for_each(|id| visit(Text::Id(id)));
            [server, server_url]
                .into_iter()
                .flatten()
                .for_each(|text| visit(Text::Configured(text)));
            visit(Text::Json(args));
            invocation_error
                .iter_mut()
                .for_each(|error| visit(Text::Content(error)));
        }
        Fact::Ended {
            outcome: _,
            status: _,
            error_type,
            credential_hint: _,
            key_attempts: _,
            rounds: _,
            injection: _,
            usage: _,
            cost: _,
            duration_ms: _,
            time_to_first_token_ms: _,
        } => error_type.iter_mut().for_each(|id| visit(Text::Id(id))),
    }
}

/// Replaces JSON whose text is longer than `limit` by that text, cut. Returns whether it did.
fn cut_json(json: &mut Value, limit: usize) -> bool {
    if let Value::String(text) = json {
        return cut(text, limit);
    }
    let mut length = Length(0);
    // Counting does not fail, and a value has no keys that JSON cannot write.
    let _ = serde_json::to_writer(&mut length, json);
    if length.0 <= limit {
        return false;
    }
    let mut text = json.to_string();
    cut(&mut text, limit);
    *json = Value::String(text);
    true
}

/// The memory that `event` holds, in bytes; without the allocator's overhead.
pub(super) fn memory(event: &mut Event) -> usize {
    let mut held = size_of::<Event>();
    each_text(&mut event.fact, |text| {
        held += match text {
            Text::Id(text) | Text::Content(text) | Text::Configured(text) => text.capacity(),
            Text::Json(json) => memory_of_json(json),
            Text::Metadata(metadata) => memory_of_metadata(metadata),
            Text::Counts(counts) => counts.iter().count() * size_of::<(String, u64)>(),
        };
    });
    held
}

fn memory_of_metadata(metadata: &BTreeMap<String, String>) -> usize {
    metadata
        .iter()
        .map(|(name, value)| size_of::<(String, String)>() + name.capacity() + value.capacity())
        .sum()
}

/// Recurses as deep as `json` is nested; its parser bounds that to 128 levels.
fn memory_of_json(json: &Value) -> usize {
    match json {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.capacity(),
        Value::Array(values) => values
            .iter()
            .map(|value| size_of::<Value>() + memory_of_json(value))
            .sum(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| size_of::<(String, Value)>() + name.capacity() + memory_of_json(value))
            .sum(),
    }
}

// === impl Length ===

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::tests::{prompt, started};

    #[test]
    fn long_arguments_become_their_text() {
        let mut args = json!({ "a": "x".repeat(50), "b": vec![0; 100] });
        let length = args.to_string().len();
        assert!(!cut_json(&mut args, length));
        assert!(args.is_object());
        assert!(cut_json(&mut args, length - 1));
        let text = args.as_str().unwrap();
        assert!(text.starts_with(r#"{"a":"xxx"#) && text.ends_with("in all]"), "{text}");
    }

    #[test]
    fn everything_that_others_write_is_cut() {
        let long = || "x".repeat(1 << 20);
        let facts = [
            json!({
                "event": "started", "provider": "p", "dialect": "messages", "model": long(), "path": long(),
                "streaming": true, "initiator_id": long(), "metadata": { "a": long() }, "client": long(),
                "client_session_id": long(), "user_agent": long(), "correlating_tool_call_id": long(),
                "credential_kind": "byok", "credential_hint": null,
            }),
            json!({ "event": "prompt_usage", "msg_id": long(), "prompt": long() }),
            json!({ "event": "model_thought", "msg_id": long(), "source": long(), "content": long() }),
            json!({ "event": "token_usage", "msg_id": long(), "model": long(), "service_tier": long() }),
            json!({
                "event": "tool_usage", "msg_id": long(), "tool_call_id": long(), "tool": long(),
                "args": [long()], "injected": true, "invocation_error": long(),
            }),
            json!({
                "event": "ended", "outcome": "completed", "error_type": long(), "key_attempts": 1, "rounds": 1,
                "injection": "none", "duration_ms": 1,
            }),
        ];
        for fact in facts {
            let mut fact: Fact = serde_json::from_value(fact).unwrap();
            TextLimits::default().apply(&mut fact);
            let length = serde_json::to_string(&fact).unwrap().len();
            assert!(length < 140 << 10, "{length} bytes of {}", fact.name());
        }
    }

    #[test]
    fn a_cut_is_said_in_the_log_without_the_text() {
        let logs = crate::logs::Logs::capture();
        let mut fact = Fact::PromptUsage {
            msg_id: "m".into(),
            prompt: "secret".repeat(20_000),
        };
        TextLimits::default().apply(&mut fact);
        let text = logs.text();
        assert_eq!(text.matches("was too long for its record").count(), 1, "{text}");
        assert!(text.contains("prompt_usage") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn what_is_short_stays() {
        for fact in [started(), prompt()] {
            let mut limited = fact.clone();
            TextLimits::default().apply(&mut limited);
            assert_eq!(limited, fact);
        }
    }
}
