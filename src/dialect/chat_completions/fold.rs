//! What one streamed round amounts to: its tool calls put together from their pieces, and the message to replay.
//!
//! Text is gathered as it is written, escapes included: pieces of a JSON string make the whole string's text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::Usage;
use super::{Call, Completion, Turn};
use crate::dialect::offer::Offer;
use crate::dialect::quote;
use crate::json::{Member, walk};

#[cfg(test)]
mod tests;

/// One round of a stream.
#[derive(Default)]
pub(super) struct Fold {
    msg_id: Option<String>,
    model: Option<String>,
    service_tier: Option<String>,
    /// The last that was reported: some providers report with every chunk.
    pub(super) usage: Option<Usage>,
    chunks: bool,
    role: bool,
    owner: Option<Owner>,
    calls: Vec<Piecemeal>,
    /// How many of them are the caller's.
    callers: u64,
    /// The delta's other members, for the message to replay.
    texts: Vec<(String, Vec<u8>)>,
}

/// Whose a turn, or a call in it, is: decided by the name of the first call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Caller,
    Ours,
}

/// A call that comes in pieces.
struct Piecemeal {
    index: u64,
    id: String,
    name: String,
    arguments: Vec<u8>,
    /// Unknown until the name is in; its pieces are held back till then.
    owner: Option<Owner>,
    held: Vec<u8>,
    /// The index that the caller sees, which has no gaps where calls are hidden.
    shown_index: u64,
}

#[derive(Deserialize)]
struct ToolDelta<'a> {
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "custom")]
    function: Option<FunctionDelta<'a>>,
}

#[derive(Deserialize)]
struct FunctionDelta<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "input")]
    arguments: Option<&'a RawValue>,
}

/// The members of a chunk that are read once for the whole answer.
pub(super) const DESCRIPTION: [&str; 3] = ["id", "model", "service_tier"];

// === impl Fold ===

impl Fold {
    pub(super) fn has_chunks(&self) -> bool {
        self.chunks
    }

    pub(super) fn has_role(&self) -> bool {
        self.role
    }

    pub(super) fn msg_id(&self) -> &str {
        self.msg_id.as_deref().unwrap_or_default()
    }

    pub(super) fn note_role(&mut self) {
        self.role = true;
    }

    pub(super) fn is_ours(&self) -> bool {
        self.owner == Some(Owner::Ours)
    }

    /// Notes what chunks say of the whole answer, each the first time that it is said; whether anything is new.
    pub(super) fn describe<'a>(&mut self, data: &[u8], string: impl Fn(&'static str) -> Option<&'a Member>) -> bool {
        self.chunks = true;
        let mut is_new = false;
        let places = [&mut self.msg_id, &mut self.model, &mut self.service_tier];
        for (place, name) in places.into_iter().zip(DESCRIPTION) {
            if place.as_ref().is_none_or(String::is_empty)
                && let Some(member) = string(name)
            {
                *place = walk::unescape(&data[member.value()]).map(Cow::into_owned);
                is_new = true;
            }
        }
        is_new
    }

    /// Gathers a delta's member for the message to replay.
    pub(super) fn text(&mut self, name: walk::RawName<'_>, value: &[u8]) {
        let (open, close) = match value {
            [open @ (b'"' | b'['), inner @ .., close] if !inner.is_empty() => (*open, *close),
            _ => return,
        };
        let inner = &value[1..value.len() - 1];
        match self.texts.iter_mut().find(|(known, _)| name == known.as_str()) {
            Some((_, text)) if text.first() == Some(&open) => {
                text.pop();
                if open == b'[' {
                    text.push(b',');
                }
                text.extend_from_slice(inner);
                text.push(close);
            }
            // A member that changes its type half-way is nobody's format.
            Some(_) => {}
            None => self
                .texts
                .extend(name.to_str().map(|name| (name.into_owned(), value.to_vec()))),
        }
    }

    /// Folds a `tool_calls` array. `None` if the caller may see it as it is; else the elements that it may see.
    pub(super) fn tool_calls(&mut self, list: &[u8], offer: &Offer) -> Result<Option<Vec<u8>>, &'static str> {
        let (mut visible, mut whole) = (Vec::new(), true);
        for item in walk::items(list) {
            let text = &list[item];
            let delta: ToolDelta<'_> = serde_json::from_slice(text)
                .map_err(|_| "the provider's stream has a tool call that is not the API's")?;
            let call = self.piece(&delta, offer);
            let call = &mut self.calls[call];
            match call.owner {
                None => {
                    push_item(&mut call.held, text);
                    whole = false;
                }
                Some(Owner::Caller) if self.owner == Some(Owner::Caller) => {
                    if !call.held.is_empty() {
                        whole = false;
                        let held = std::mem::take(&mut call.held);
                        // Pieces that were held together are shown together.
                        for piece in walk::items(&[b"[", &held[..], b"]"].concat()) {
                            push_item(&mut visible, &call.renumbered(&held[piece.start - 1..piece.end - 1]));
                        }
                    }
                    let shown = call.renumbered(text);
                    whole &= matches!(shown, Cow::Borrowed(_));
                    push_item(&mut visible, &shown);
                }
                Some(_) => {
                    call.held = Vec::new();
                    whole = false;
                }
            }
        }
        Ok((!whole).then_some(visible))
    }

    /// Adds a piece to its call, and decides whose that is as soon as its name is known; the call's place.
    fn piece(&mut self, delta: &ToolDelta<'_>, offer: &Offer) -> usize {
        // Some providers give every call the index 0, and others every piece an id of its own: a call begins where there
        // is a new id and a name.
        let name = delta.function.as_ref().and_then(|function| function.name.as_deref());
        let begins = |call: &Piecemeal| {
            name.is_some_and(|name| !name.is_empty() && !call.name.is_empty())
                && delta.id.as_deref().is_some_and(|id| !id.is_empty() && id != call.id)
        };
        let known = match (delta.index, &delta.id) {
            (Some(index), _) => {
                let place = self.calls.iter().rposition(|call| call.index == index);
                place.filter(|place| !begins(&self.calls[*place]))
            }
            (None, Some(id)) if !id.is_empty() => self.calls.iter().position(|call| call.id == **id),
            (None, _) => self.calls.len().checked_sub(1),
        };
        let place = known.unwrap_or_else(|| {
            self.calls.push(Piecemeal {
                index: delta.index.unwrap_or(self.calls.len() as u64),
                id: String::new(),
                name: String::new(),
                arguments: Vec::new(),
                owner: None,
                held: Vec::new(),
                shown_index: 0,
            });
            self.calls.len() - 1
        });
        let call = &mut self.calls[place];
        if let Some(id) = delta.id.as_ref().filter(|_| call.id.is_empty()) {
            call.id = id.to_string();
        }
        if let Some(function) = &delta.function {
            if let Some(name) = function.name.as_ref().filter(|_| call.name.is_empty()) {
                call.name = name.to_string();
            }
            if let Some(arguments) = function.arguments {
                call.argue(arguments.get());
            }
        }
        // Without tools of ours every call is the caller's, even one whose name never comes.
        if call.owner.is_none() && (!call.name.is_empty() || offer.is_empty()) {
            call.shown_index = if offer.is_empty() { call.index } else { self.callers };
            let owner = if offer.is_callers(&call.name) {
                self.callers += 1;
                Owner::Caller
            } else {
                Owner::Ours
            };
            call.owner = Some(owner);
            self.owner.get_or_insert(owner);
        }
        place
    }

    /// What the answer said of itself so far.
    pub(super) fn completion(&self) -> Completion {
        Completion {
            id: self.msg_id().to_owned(),
            model: self.model.clone().unwrap_or_default(),
            service_tier: self.service_tier.clone(),
            usage: self.usage.clone(),
        }
    }

    pub(super) fn turn(&self) -> Turn {
        let calls = self.calls.iter().map(|call| Call {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments().into_owned(),
        });
        Turn {
            completion: self.completion(),
            calls: calls.collect(),
            callers_turn: self.owner == Some(Owner::Caller),
        }
    }

    /// The model's message, with only the calls that `keep` keeps.
    pub(super) fn replay(&self, keep: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut message = Vec::from(*br#"{"role":"assistant""#);
        if !self.texts.iter().any(|(name, _)| name == "content") {
            message.extend_from_slice(br#","content":null"#);
        }
        for (name, text) in &self.texts {
            message.extend_from_slice(format!(",{}:", quote(name)).as_bytes());
            message.extend_from_slice(text);
        }
        message.extend_from_slice(br#","tool_calls":["#);
        let kept = self
            .calls
            .iter()
            .enumerate()
            .filter(|(index, _)| keep(*index))
            .map(|(_, call)| call);
        for (place, call) in kept.enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let (id, name) = (quote(&call.id), quote(&call.name));
            let head = format!(r#"{comma}{{"id":{id},"type":"function","function":{{"name":{name},"arguments":""#);
            message.extend_from_slice(head.as_bytes());
            message.extend_from_slice(&call.arguments);
            message.extend_from_slice(br#""}}"#);
        }
        message.extend_from_slice(b"]}");
        message
    }
}

// === impl Piecemeal ===

impl Piecemeal {
    fn argue(&mut self, text: &str) {
        match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(inner) => self.arguments.extend_from_slice(inner.as_bytes()),
            None if text == "null" => {}
            // An object in place of its text, as some providers send.
            None => {
                let quoted = quote(text);
                self.arguments
                    .extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
            }
        }
    }

    fn arguments(&self) -> Cow<'static, str> {
        let literal = [b"\"", &self.arguments[..], b"\""].concat();
        walk::unescape(&literal).map_or_else(
            || Cow::Owned(String::from_utf8_lossy(&self.arguments).into_owned()),
            |text| Cow::Owned(text.into_owned()),
        )
    }

    /// A piece with the index that the caller sees.
    fn renumbered<'a>(&self, item: &'a [u8]) -> Cow<'a, [u8]> {
        match walk::get(item, "index").filter(|_| self.shown_index != self.index) {
            None => Cow::Borrowed(item),
            Some(range) => {
                let index = self.shown_index.to_string();
                Cow::Owned([&item[..range.start], index.as_bytes(), &item[range.end..]].concat())
            }
        }
    }
}

fn push_item(list: &mut Vec<u8>, item: &[u8]) {
    if !list.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(item);
}
