//! A whole chat completion: what the rounds need of it, and the two edits that the caller sees.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::usage::{Usage, UsageSum};
use super::{Call, Completion, InBandError, Turn};
use crate::json::{Kind, Member, Scanner, walk};
use crate::rope::{Edits, Rope};

/// A reply that has been read.
#[derive(Debug)]
pub(crate) struct ChatReply {
    body: Bytes,
    id: Option<Range<usize>>,
    /// Where the usage is, whatever it is.
    usage: Option<Range<usize>>,
    reported: Option<Usage>,
    /// The offset of the closing brace: where a member that is missing goes.
    end: usize,
    /// The first choice's message.
    message: Bytes,
    /// How many calls are in it.
    calls: usize,
}

/// Why an answer is not a chat completion.
#[derive(Debug)]
pub(crate) enum Malformed {
    /// It is an error, sent as a success.
    Error(InBandError),
    /// It is something else; the words are for logs.
    Shape(&'static str),
}

/// Where a message is, and its list of calls. If a name comes twice the last one counts, as for most parsers.
struct Message {
    range: Range<usize>,
    calls: Option<Range<usize>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default, alias = "custom")]
    function: Function<'a>,
}

/// A function with its `arguments`, or a custom tool with its `input`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Function<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, alias = "input")]
    arguments: Cow<'a, str>,
}

// === impl ChatReply ===

impl ChatReply {
    /// The reply, and what it says.
    pub(crate) fn read(body: Rope) -> Result<(Self, Turn), Malformed> {
        // In one piece, so that all that is read or kept of it is a slice.
        let body = body.into_bytes();
        let mut scanner = Scanner::new();
        if scanner.scan(&body).is_err() {
            return Err(Malformed::Shape("the reply is not one JSON object"));
        }
        let Some(choices) = scanner.get("choices").filter(|member| member.kind() == Kind::Array) else {
            return Err(
                match scanner.get("error").filter(|member| member.kind() != Kind::Null) {
                    Some(_) => Malformed::Error(InBandError { body }),
                    None => Malformed::Shape("the reply has no choices"),
                },
            );
        };
        let choices = body.slice(choices.value());
        let (message, calls) = match walk::first_item(&choices) {
            Some(first) => {
                let message =
                    find_message(&choices, first).ok_or(Malformed::Shape("the reply's first choice has no message"))?;
                let calls = message.calls.map(|list| read_calls(&choices[list])).transpose()?;
                (choices.slice(message.range), calls.unwrap_or_default())
            }
            // Such as a prompt that a filter refused: nothing to run, and the caller's to judge.
            None => (Bytes::new(), Vec::new()),
        };
        let text = |name| {
            let member = scanner.get(name).filter(|member| member.kind() == Kind::String)?;
            walk::unescape(&body[member.value()]).map(Cow::into_owned)
        };
        let usage = scanner.get("usage");
        let completion = Completion {
            id: text("id").unwrap_or_default(),
            model: text("model").unwrap_or_default(),
            service_tier: text("service_tier"),
            usage: usage
                .filter(|member| member.kind() == Kind::Object)
                .map(|member| Usage::new(body.slice(member.value()))),
        };
        let turn = Turn {
            completion,
            calls,
            callers_turn: false,
        };
        let reply = Self {
            id: scanner.get("id").map(Member::value),
            usage: usage.map(Member::value),
            reported: turn.completion.usage.clone(),
            end: scanner.end(),
            message,
            calls: turn.calls.len(),
            body,
        };
        Ok((reply, turn))
    }

    /// The reply's usage.
    pub(crate) fn reported(&self) -> Option<&Usage> {
        self.reported.as_ref()
    }

    /// The model's message for the next round, with only the calls that `keep` keeps: each that is replayed must have
    /// its result, or the provider refuses the request.
    pub(crate) fn replay(&self, keep: impl Fn(usize) -> bool) -> Rope {
        if (0..self.calls).all(&keep) {
            return self.message.clone().into();
        }
        let Some(list) = walk::get(&self.message, "tool_calls") else {
            return self.message.clone().into();
        };
        let calls = self.message.slice(list.clone());
        let mut kept = Vec::from(*b"[");
        for (_, item) in walk::items(&calls).enumerate().filter(|(index, _)| keep(*index)) {
            if kept.len() > 1 {
                kept.push(b',');
            }
            kept.extend_from_slice(&calls[item]);
        }
        kept.push(b']');
        let mut edits = Edits::default();
        edits.replace(list, kept);
        edits.apply(&self.message.clone().into())
    }

    /// The caller's answer: the provider's own bytes, but for the `id` and, after several rounds, the `usage`.
    pub(crate) fn seal(self, id: Uuid, earlier: &UsageSum) -> Rope {
        let mut edits = Edits::default();
        match self.id {
            Some(range) => edits.replace(range, quoted(id)),
            None => edits.insert(self.end, [br#","id":"#, &*quoted(id)].concat()),
        }
        let sum = self
            .reported
            .as_ref()
            .map_or_else(|| earlier.text(), |last| earlier.with(last));
        match (self.usage, sum) {
            (Some(range), Some(sum)) => edits.replace(range, sum.into_bytes()),
            (None, Some(sum)) => edits.insert(self.end, format!(r#","usage":{sum}"#).into_bytes()),
            (_, None) => {}
        }
        edits.apply(&self.body.into())
    }
}

/// An id as a JSON string.
fn quoted(id: Uuid) -> Vec<u8> {
    let mut text = vec![b'"'; Hyphenated::LENGTH + 2];
    id.hyphenated().encode_lower(&mut text[1..]);
    text
}

/// The message of the choice that begins at `first`, in one pass.
fn find_message(choices: &[u8], first: usize) -> Option<Message> {
    let mut choice = walk::members_at(choices, first);
    let mut found = None;
    while let Some(name) = choice.next_name() {
        let start = choice.at();
        if name != "message" {
            choice.pass_value();
        } else if choices.get(start) != Some(&b'{') {
            choice.pass_value();
            found = None;
        } else {
            let (mut members, mut calls) = (walk::members_at(choices, start), None);
            for (name, value) in &mut members {
                if name == "tool_calls" {
                    calls = Some(value);
                }
            }
            let range = start..members.at();
            choice.resume(range.end);
            found = Some(Message { range, calls });
        }
    }
    found
}

fn read_calls(list: &[u8]) -> Result<Vec<Call>, Malformed> {
    let calls: Option<Vec<ToolCall<'_>>> =
        serde_json::from_slice(list).map_err(|_| Malformed::Shape("the reply's tool calls are not the API's"))?;
    let calls = calls.unwrap_or_default().into_iter().map(|call| {
        let Function { name, arguments } = call.function;
        Call {
            id: call.id.into_owned(),
            name: name.into_owned(),
            arguments: arguments.into_owned(),
        }
    });
    Ok(calls.collect())
}
