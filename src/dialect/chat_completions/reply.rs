//! A whole chat completion: the parts that the rounds need, and the few edits that the caller sees.
//!
//! It is read as leniently as the official SDKs read it: a reply that is only relayed is not validated.

use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::error::in_band;
use super::usage;
use crate::dialect::offer::Offer;
use crate::dialect::turn::{Call, CallKind, Completion, Earlier, Fault, MAX_CALLS, Turn};
use crate::dialect::usage::{MAX_USAGE, Usage, UsageSum};
use crate::dialect::{Reply, without};
use crate::excerpt;
use crate::json::{Kind, Member, Scanner, quote, walk};
use crate::rope::{Edits, Rope};
use crate::types::ReportedUsage;

pub(super) const TOO_MANY_CALLS: Fault = Fault::Shape("the answer has more tool calls than one turn may have");

/// The members of a message that hold the model's text.
const WORDS: [&str; 3] = ["content", "reasoning_content", "reasoning"];

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A reply that has been read.
#[derive(Debug)]
pub(super) struct ChatReply {
    body: Bytes,
    id: Option<Range<usize>>,
    /// The range of `usage`, whatever its type.
    usage: Option<Range<usize>>,
    reported: Option<Usage>,
    /// The offset of the closing brace: where a member that is missing goes.
    end: usize,
    /// Where the first choice's message is.
    message: Range<usize>,
    /// Where the list of its calls is, if one of them is not the caller's.
    list: Option<Range<usize>>,
    /// For each call, whether it is the caller's.
    callers: Vec<bool>,
    /// For each call, the id that we gave it if it had none.
    given: Vec<Option<String>>,
}

/// Where a choice's message and its list of calls are. If a name comes twice the last one counts, as for most parsers.
#[derive(Default)]
struct Choice {
    message: Range<usize>,
    calls: Option<Range<usize>>,
    is_cut_off: bool,
}

// === impl ChatReply ===

impl ChatReply {
    /// The reply, and the turn in it.
    pub(super) fn read(body: Rope, offer: &Offer) -> Result<(Self, Turn), Fault> {
        // One contiguous buffer, so that all parts that are read or kept are slices of it.
        let whole = body.into_bytes();
        // A byte order mark is not JSON, but every SDK skips it.
        let start = if whole.starts_with(BOM) { BOM.len() } else { 0 };
        let body = whole.slice(start..);
        let mut scanner = Scanner::lenient();
        if scanner.scan(&body).is_err() {
            return Err(Fault::Shape("the reply is not one JSON object"));
        }
        let Some(choices) = scanner.get("choices").filter(|member| member.kind() == Kind::Array) else {
            return Err(
                match scanner.get("error").filter(|member| member.kind() != Kind::Null) {
                    Some(_) => Fault::Refused(in_band(body)),
                    None => Fault::Shape("the reply has no choices"),
                },
            );
        };
        let offset = choices.value().start;
        let choices = body.slice(choices.value());
        let choice = walk::first_item(&choices)
            .map(|first| Choice::read(&choices, first))
            .unwrap_or_default();
        let calls = match &choice.calls {
            Some(list) => read_calls(&choices[list.clone()], offer)?,
            None => Vec::new(),
        };
        let text = |name| {
            let member = scanner.get(name).filter(|member| member.kind() == Kind::String)?;
            walk::unescape(&body[member.value()]).map(|text| excerpt::name(text.into_owned()))
        };
        let usage = scanner.get("usage");
        let completion = Completion {
            id: text("id").unwrap_or_default(),
            model: text("model").unwrap_or_default(),
            service_tier: text("service_tier"),
            usage: usage
                .filter(|member| member.kind() == Kind::Object && member.value().len() <= MAX_USAGE)
                .map(|member| Usage::new(body.slice(member.value()), usage::read)),
        };
        let mut turn = Turn {
            completion,
            // A call of ours may be incomplete where the model was cut off.
            is_ours: Turn::begins_with_ours(&calls) && !choice.is_cut_off,
            calls,
            thoughts: Vec::new(),
        };
        let give_id = |call: &mut Call| {
            let given = call.id.is_empty().then(given_id)?;
            call.id.clone_from(&given);
            Some(given)
        };
        let given = if turn.is_ours {
            turn.calls.iter_mut().map(give_id).collect()
        } else {
            Vec::new()
        };
        let shift = |range: Range<usize>| offset + range.start..offset + range.end;
        let callers: Vec<bool> = turn.calls.iter().map(Call::is_callers).collect();
        let reply = Self {
            id: scanner.get("id").map(Member::value),
            usage: usage.map(Member::value),
            reported: turn.completion.usage.clone(),
            end: scanner.end(),
            message: shift(choice.message),
            list: choice.calls.filter(|_| callers.contains(&false)).map(shift),
            callers,
            given,
            body,
        };
        Ok((reply, turn))
    }

    /// Edits the message for the caller: it gets the text of all rounds, as a stream shows it, and no call of ours.
    fn edit_message(&self, earlier: &Earlier, edits: &mut Edits) {
        let range = self.message.clone();
        let message = &self.body[range.clone()];
        let Some(list) = self.list.clone() else {
            return add_words(message, range.start, earlier, edits);
        };
        if !self.callers.contains(&true) {
            // The API refuses an empty list in a request.
            let message = without(message, "tool_calls");
            let mut words = Edits::default();
            add_words(&message, 0, earlier, &mut words);
            return edits.replace(range, words.apply(&message.into()));
        }
        add_words(message, range.start, earlier, edits);
        let text = &self.body[list.clone()];
        let mut kept = Vec::from(*b"[");
        for (item, is_callers) in walk::items(text).zip(&self.callers) {
            if *is_callers {
                if kept.len() > 1 {
                    kept.push(b',');
                }
                kept.extend_from_slice(&text[item]);
            }
        }
        kept.push(b']');
        edits.replace(list, kept);
    }
}

impl Reply for ChatReply {
    fn replay(self: Box<Self>, earlier: &mut Earlier) -> Rope {
        earlier.usages.extend(self.reported.clone());
        let message = self.body.slice(self.message.clone());
        earlier.shown.push(message.clone());
        let Some(list) = self.list.filter(|_| self.given.iter().any(Option::is_some)) else {
            return message.into();
        };
        // A call without an id gets one of ours, to which its result can refer.
        let mut edits = Edits::default();
        let start = list.start - self.message.start;
        for (item, given) in walk::items(&self.body[list.clone()]).zip(&self.given) {
            let Some(id) = given.as_deref().map(quote) else {
                continue;
            };
            let call = &self.body[list.start + item.start..list.start + item.end];
            let at = start + item.start;
            match walk::get(call, "id") {
                Some(range) => edits.replace(at + range.start..at + range.end, id.into_bytes()),
                None => edits.insert(at + 1, format!(r#""id":{id},"#).into_bytes()),
            }
        }
        edits.apply(&message.into())
    }

    fn seal(self: Box<Self>, id: Uuid, earlier: &Earlier) -> Rope {
        let mut edits = Edits::default();
        match self.id.clone() {
            Some(range) => edits.replace(range, quoted(id)),
            None => edits.insert(self.end, [br#","id":"#, &*quoted(id)].concat()),
        }
        self.edit_message(earlier, &mut edits);
        if earlier.reported_usage != Some(ReportedUsage::LastRound) && !earlier.usages.is_empty() {
            let mut sum = UsageSum::default();
            for usage in earlier.usages.iter().chain(&self.reported) {
                sum.add(&usage.text);
            }
            match (self.usage.clone(), sum.text()) {
                (Some(range), Some(sum)) => edits.replace(range, sum.into_bytes()),
                (None, Some(sum)) => edits.insert(self.end, format!(r#","usage":{sum}"#).into_bytes()),
                (_, None) => {}
            }
        }
        edits.apply(&self.body.into())
    }
}

/// Puts the text of earlier rounds before that of `message`, which begins at `offset`.
fn add_words(message: &[u8], offset: usize, earlier: &Earlier, edits: &mut Edits) {
    for name in WORDS {
        let words = |message: &[u8]| match walk::get(message, name).map(|range| &message[range]) {
            Some([b'"', words @ .., b'"']) => words.to_vec(),
            _ => Vec::new(),
        };
        let mut all: Vec<u8> = earlier.shown.iter().flat_map(|message| words(message)).collect();
        if all.is_empty() || message.is_empty() {
            continue;
        }
        all.extend(words(message));
        let all = [b"\"", &all[..], b"\""].concat();
        match walk::get(message, name) {
            Some(range) if matches!(message[range.start], b'"' | b'n') => {
                edits.replace(offset + range.start..offset + range.end, all);
            }
            // Text cannot be put before a list of parts.
            Some(_) => {}
            None => {
                let comma = if walk::members(message).next().is_some() {
                    ","
                } else {
                    ""
                };
                let mut member = format!("{comma}\"{name}\":").into_bytes();
                member.extend(all);
                edits.insert(offset + message.len() - 1, member);
            }
        }
    }
}

/// An id as a JSON string.
fn quoted(id: Uuid) -> Vec<u8> {
    let mut text = vec![b'"'; Hyphenated::LENGTH + 2];
    id.hyphenated().encode_lower(&mut text[1..]);
    text
}

// === impl Choice ===

impl Choice {
    /// The choice that begins at `first`, in one pass.
    fn read(choices: &[u8], first: usize) -> Self {
        let mut members = walk::members_at(choices, first);
        let mut choice = Self::default();
        while let Some(name) = members.next_name() {
            let start = members.at();
            if name == "finish_reason" {
                choice.is_cut_off = is_cut_off(&choices[members.pass_value()]);
            } else if name != "message" {
                members.pass_value();
            } else if choices.get(start) != Some(&b'{') {
                members.pass_value();
                (choice.message, choice.calls) = Default::default();
            } else {
                let (mut message, mut calls) = (walk::members_at(choices, start), None);
                for (name, value) in &mut message {
                    if name == "tool_calls" {
                        calls = Some(value);
                    }
                }
                (choice.message, choice.calls) = (start..message.at(), calls);
                members.resume(choice.message.end);
            }
        }
        choice
    }
}

/// Whether a turn with this finish reason, a JSON string, may have been cut off within a call. Besides the API's own
/// reasons these are Mistral's `model_length`, DeepSeek's `insufficient_system_resource`, OpenRouter's `error`, and
/// Anthropic's and Cohere's `max_tokens`, which compatible hosts pass on.
pub(super) fn is_cut_off(finish_reason: &[u8]) -> bool {
    matches!(
        walk::unescape(finish_reason).as_deref(),
        Some("length" | "content_filter" | "model_length" | "insufficient_system_resource" | "error" | "max_tokens")
    )
}

fn read_calls(list: &[u8], offer: &Offer) -> Result<Vec<Call>, Fault> {
    let mut calls = Vec::new();
    for item in walk::items(list) {
        if calls.len() == MAX_CALLS {
            return Err(TOO_MANY_CALLS);
        }
        calls.push(read_call(&list[item], offer));
    }
    Ok(calls)
}

/// A function with its `arguments`, or a custom tool with its `input`; any part of it may be missing or `null`.
fn read_call(item: &[u8], offer: &Offer) -> Call {
    let part = |object: &[u8], name: &str| walk::get(object, name).map(|range| text(&object[range]));
    let (function, kind) = match (walk::get(item, "function"), walk::get(item, "custom")) {
        (Some(function), _) => (&item[function], CallKind::Function),
        (None, Some(custom)) => (&item[custom], CallKind::Custom),
        (None, None) => (&b"{}"[..], CallKind::Function),
    };
    let name = part(function, "name").unwrap_or_default();
    Call {
        id: part(item, "id").unwrap_or_default(),
        owner: offer.owner(&name),
        arguments: part(function, "arguments")
            .or_else(|| part(function, "input"))
            .unwrap_or_default(),
        name,
        kind,
    }
}

/// An id for a call that the provider gave none: its result has to refer to something.
pub(super) fn given_id() -> String {
    format!("call_{}", Uuid::now_v7().simple())
}

/// A value as text: the content of a string, nothing for `null`, else the JSON itself. A string that ends in half a
/// character keeps its escapes.
pub(super) fn text(value: &[u8]) -> String {
    match (walk::unescape(value), value) {
        (Some(text), _) => text.into_owned(),
        (None, b"null") => String::new(),
        (None, [b'"', inner @ .., b'"']) => String::from_utf8_lossy(inner).into_owned(),
        (None, other) => String::from_utf8_lossy(other).into_owned(),
    }
}
