//! Events as JSON: the names of all fields, once, and two ways to write them.
//!
//! By hand, because this is done some four times per request, and serde's `flatten`, `tag` and search for escapes are most
//! of what it costs.

use std::{
    cell::Cell,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap},
};

use super::{Event, Fact, TokenDetails};
use crate::types::TokenUsage;

/// A field's name, with what stands around it in JSON text: it is written in one go.
#[derive(Clone, Copy)]
struct Name(&'static str);

/// The [`Name`] that says `$name`, which needs no escapes.
macro_rules! name {
    ($name:literal) => {
        Name(concat!(",\"", $name, "\":"))
    };
}

/// Takes the fields of an event, one after the other.
trait Fields {
    type Error;

    fn text(&mut self, name: Name, value: &str) -> Result<(), Self::Error>;
    fn any<T: Serialize + ?Sized>(&mut self, name: Name, value: &T) -> Result<(), Self::Error>;
    fn counts(&mut self, name: Name, counts: &[(Name, u64)]) -> Result<(), Self::Error>;

    fn text_or_null(&mut self, name: Name, value: Option<&str>) -> Result<(), Self::Error> {
        match value {
            Some(value) => self.text(name, value),
            None => self.any(name, &()),
        }
    }
}

/// An object of numbers.
struct Counts<'a>(&'a [(Name, u64)]);

/// Fields for any serde format.
struct Map<M>(M);

/// Fields as JSON text, of an object that is open.
struct Text<'a>(&'a mut Vec<u8>);

// === impl Name ===

impl Name {
    fn bare(self) -> &'static str {
        self.0
            .strip_prefix(",\"")
            .and_then(|name| name.strip_suffix("\":"))
            .unwrap_or(self.0)
    }
}

// === impl Event ===

impl Event {
    /// Appends the event as JSON, the text that `serde_json` would write for it, for less.
    ///
    /// # Errors
    ///
    /// When the event is from after the year 9999; what was appended by then is of no use.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::record::Event;
    ///
    /// fn line(event: &Event, file: &mut Vec<u8>) -> serde_json::Result<()> {
    ///     event.write_json(file)?;
    ///     file.push(b'\n');
    ///     Ok(())
    /// }
    /// # let _: fn(&Event, &mut Vec<u8>) -> serde_json::Result<()> = line;
    /// ```
    pub fn write_json(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        Text(out).object(|fields| self.fields(fields))
    }

    fn fields<F: Fields<Error: serde::ser::Error>>(&self, fields: &mut F) -> Result<(), F::Error> {
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        fields.text(
            name!("interception_id"),
            self.interception_id.hyphenated().encode_lower(&mut id),
        )?;
        fields.any(name!("sequence"), &self.sequence)?;
        with_rfc3339(self.at, |at| fields.text(name!("at"), at)).map_err(F::Error::custom)??;
        self.fact.fields(fields)
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        self.fields(&mut map)?;
        map.0.end()
    }
}

/// Hands out a time as RFC 3339, in UTC, with microseconds.
fn with_rfc3339<T>(at: SystemTime, take: impl FnOnce(&str) -> T) -> Result<T, &'static str> {
    thread_local! {
        /// The last second and its text without a zone: many events are of the same.
        static LAST: Cell<(u64, String)> = const { Cell::new((0, String::new())) };
    }
    // A clock that is wrong by so much that it is before 1970 is no reason to lose the record.
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (second, mut text) = LAST.take();
    if text.is_empty() || second != since.as_secs() {
        text.clear();
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
        write!(text, "{}", humantime::format_rfc3339_seconds(whole)).map_err(|_| "time beyond year 9999")?;
        text.pop();
    }
    let length = text.len();
    text.push('.');
    let digit = |place| char::from_digit(since.subsec_micros() / place % 10, 10);
    text.extend([100_000, 10_000, 1_000, 100, 10, 1].into_iter().filter_map(digit));
    text.push('Z');
    let taken = take(&text);
    text.truncate(length);
    LAST.set((since.as_secs(), text));
    Ok(taken)
}

// === impl Fact ===

impl Serialize for Fact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        self.fields(&mut map)?;
        map.0.end()
    }
}

impl Fact {
    fn fields<F: Fields>(&self, fields: &mut F) -> Result<(), F::Error> {
        match self {
            Self::Started {
                provider,
                model,
                path,
                streaming,
                initiator_id,
                metadata,
                client,
                client_session_id,
                user_agent,
                correlating_tool_call_id,
                credential_kind,
                credential_hint,
            } => {
                fields.text(name!("event"), "started")?;
                fields.text(name!("provider"), provider)?;
                fields.text(name!("model"), model)?;
                fields.text(name!("path"), path)?;
                fields.any(name!("streaming"), streaming)?;
                fields.text_or_null(name!("initiator_id"), initiator_id.as_deref())?;
                fields.any(name!("metadata"), metadata)?;
                fields.text(name!("client"), client)?;
                fields.text_or_null(name!("client_session_id"), client_session_id.as_deref())?;
                fields.text_or_null(name!("user_agent"), user_agent.as_deref())?;
                fields.text_or_null(name!("correlating_tool_call_id"), correlating_tool_call_id.as_deref())?;
                fields.any(name!("credential_kind"), credential_kind)?;
                fields.any(name!("credential_hint"), credential_hint)
            }
            Self::PromptUsage { msg_id, prompt } => {
                fields.text(name!("event"), "prompt_usage")?;
                fields.text(name!("msg_id"), msg_id)?;
                fields.text(name!("prompt"), prompt)
            }
            Self::TokenUsage {
                msg_id,
                model,
                service_tier,
                usage,
                extra,
            } => {
                fields.text(name!("event"), "token_usage")?;
                fields.text(name!("msg_id"), msg_id)?;
                fields.text(name!("model"), model)?;
                fields.text_or_null(name!("service_tier"), service_tier.as_deref())?;
                for (name, count) in usage.counts() {
                    fields.any(name, &count)?;
                }
                fields.counts(name!("extra"), &extra.counts())
            }
            Self::ToolUsage {
                msg_id,
                tool_call_id,
                tool,
                server_url,
                args,
                injected,
                invocation_error,
                duration_ms,
            } => {
                fields.text(name!("event"), "tool_usage")?;
                fields.text(name!("msg_id"), msg_id)?;
                fields.text(name!("tool_call_id"), tool_call_id)?;
                fields.text(name!("tool"), tool)?;
                fields.text_or_null(name!("server_url"), server_url.as_deref())?;
                fields.any(name!("args"), args)?;
                fields.any(name!("injected"), injected)?;
                fields.text_or_null(name!("invocation_error"), invocation_error.as_deref())?;
                fields.any(name!("duration_ms"), duration_ms)
            }
            Self::Ended {
                outcome,
                status,
                error_type,
                credential_hint,
                key_attempts,
                rounds,
                usage,
                duration_ms,
                time_to_first_token_ms,
            } => {
                fields.text(name!("event"), "ended")?;
                fields.text(name!("outcome"), outcome.as_str())?;
                fields.any(name!("status"), status)?;
                fields.text_or_null(name!("error_type"), error_type.as_deref())?;
                fields.any(name!("credential_hint"), credential_hint)?;
                fields.any(name!("key_attempts"), key_attempts)?;
                fields.any(name!("rounds"), rounds)?;
                fields.counts(name!("usage"), &usage.counts())?;
                fields.any(name!("duration_ms"), duration_ms)?;
                fields.any(name!("time_to_first_token_ms"), time_to_first_token_ms)
            }
        }
    }
}

/// Whether `text` stands for itself in a JSON string.
fn is_plain(text: &str) -> bool {
    const ROW: usize = 16;
    let special = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    // Without an early exit, which the compiler compares all at once.
    let any_in_row = |row: &[u8; ROW]| row.iter().fold(false, |any, &byte| any | special(byte));
    let bytes = text.as_bytes();
    match bytes.last_chunk() {
        // The last row may overlap the one before.
        Some(last) => !any_in_row(last) && !bytes.as_chunks().0.iter().any(any_in_row),
        None => !bytes.iter().any(|&byte| special(byte)),
    }
}

// === impl TokenDetails ===

impl TokenDetails {
    fn counts(&self) -> [(Name, u64); 5] {
        [
            (name!("prompt_audio"), self.prompt_audio),
            (name!("completion_audio"), self.completion_audio),
            (name!("completion_reasoning"), self.completion_reasoning),
            (
                name!("completion_accepted_prediction"),
                self.completion_accepted_prediction,
            ),
            (
                name!("completion_rejected_prediction"),
                self.completion_rejected_prediction,
            ),
        ]
    }
}

impl Serialize for TokenDetails {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Counts(&self.counts()).serialize(serializer)
    }
}

// === impl TokenUsage ===

impl TokenUsage {
    fn counts(&self) -> [(Name, u64); 4] {
        [
            (name!("input"), self.input),
            (name!("output"), self.output),
            (name!("cache_read_input_tokens"), self.cache_read_input_tokens),
            (name!("cache_write_input_tokens"), self.cache_write_input_tokens),
        ]
    }
}

impl Serialize for TokenUsage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Counts(&self.counts()).serialize(serializer)
    }
}

// === impl Counts ===

impl Serialize for Counts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, count)| (name.bare(), count)))
    }
}

// === impl Map ===

impl<M: SerializeMap> Fields for Map<M> {
    type Error = M::Error;

    fn text(&mut self, name: Name, value: &str) -> Result<(), M::Error> {
        self.0.serialize_entry(name.bare(), value)
    }

    fn any<T: Serialize + ?Sized>(&mut self, name: Name, value: &T) -> Result<(), M::Error> {
        self.0.serialize_entry(name.bare(), value)
    }

    fn counts(&mut self, name: Name, counts: &[(Name, u64)]) -> Result<(), M::Error> {
        self.0.serialize_entry(name.bare(), &Counts(counts))
    }
}

// === impl Text ===

impl Text<'_> {
    /// Each field brings a comma. The first one's gives its place to the brace.
    fn object(&mut self, fields: impl FnOnce(&mut Self) -> serde_json::Result<()>) -> serde_json::Result<()> {
        let start = self.0.len();
        fields(self)?;
        match self.0.get_mut(start) {
            Some(comma) => *comma = b'{',
            None => self.0.push(b'{'),
        }
        self.0.push(b'}');
        Ok(())
    }

    fn name(&mut self, name: Name) {
        self.0.extend_from_slice(name.0.as_bytes());
    }
}

impl Fields for Text<'_> {
    type Error = serde_json::Error;

    fn text(&mut self, name: Name, value: &str) -> serde_json::Result<()> {
        if !is_plain(value) {
            return self.any(name, value);
        }
        self.name(name);
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
        Ok(())
    }

    fn any<T: Serialize + ?Sized>(&mut self, name: Name, value: &T) -> serde_json::Result<()> {
        self.name(name);
        serde_json::to_writer(&mut *self.0, value)
    }

    fn counts(&mut self, name: Name, counts: &[(Name, u64)]) -> serde_json::Result<()> {
        self.name(name);
        self.object(|fields| counts.iter().try_for_each(|(name, count)| fields.any(*name, count)))
    }
}
