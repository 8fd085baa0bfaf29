//! Collects one streamed round: puts its tool calls together from their pieces, and the message to replay.

use std::borrow::Cow;
use std::collections::HashMap;

use super::merge::Merged;
use super::reply::{TOO_MANY_CALLS, given_id, text};
use crate::dialect::offer::Offer;
use crate::dialect::turn::{Call, CallKind, Completion, Fault, MAX_CALLS, Owner, Turn};
use crate::dialect::usage::Usage;
use crate::excerpt;
use crate::json::{Member, quote, walk};

#[cfg(test)]
mod tests;

/// One round of a stream.
#[derive(Default)]
pub(super) struct Fold {
    msg_id: Option<String>,
    model: Option<String>,
    service_tier: Option<String>,
    /// The last report; some providers send one with every chunk.
    pub(super) usage: Option<Usage>,
    pub(super) has_chunks: bool,
    pub(super) has_role: bool,
    pub(super) has_finished: bool,
    /// Whether the turn is ours: decided by the first call.
    is_ours: Option<bool>,
    calls: Vec<PartialCall>,
    by_index: HashMap<u64, usize>,
    by_id: HashMap<String, usize>,
    /// The number of calls that are hidden from the caller.
    hidden_calls: u64,
    /// The deltas' members, without the calls.
    message: Merged,
    /// The memory of calls and members beyond the bytes that they came with.
    overhead: usize,
}

/// A call that comes in pieces.
struct PartialCall {
    index: u64,
    id: String,
    name: String,
    /// `None` until the name has come; the pieces are held back until then.
    owner: Option<Owner>,
    /// The pieces that wait for the name, with commas between.
    held: Vec<u8>,
    /// The index that the caller sees, which has no gaps where calls are hidden.
    shown_index: u64,
    /// The members of all pieces but `index`.
    parts: Merged,
}

/// One piece of a call.
#[derive(Default)]
struct Piece<'a> {
    index: Option<u64>,
    id: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    /// The arguments' literal.
    arguments: &'a [u8],
}

/// How many bytes of a call may wait for its name, which every provider sends first. A call without one is the
/// caller's.
const MAX_UNNAMED: usize = 64 << 10;

/// The members of a chunk that are read once for the whole answer.
pub(super) const DESCRIPTION: [&str; 3] = ["id", "model", "service_tier"];

// === impl Fold ===

impl Fold {
    pub(super) fn msg_id(&self) -> &str {
        self.msg_id.as_deref().unwrap_or_default()
    }

    pub(super) fn is_ours(&self) -> bool {
        self.is_ours == Some(true)
    }

    /// Keeps the answer's description, each part as it is first given. Returns whether any part is new.
    pub(super) fn describe<'a>(&mut self, data: &[u8], string: impl Fn(&'static str) -> Option<&'a Member>) -> bool {
        self.has_chunks = true;
        let mut is_new = false;
        let places = [&mut self.msg_id, &mut self.model, &mut self.service_tier];
        for (place, name) in places.into_iter().zip(DESCRIPTION) {
            if place.as_ref().is_none_or(String::is_empty)
                && let Some(member) = string(name)
            {
                *place = walk::unescape(&data[member.value()]).map(|text| excerpt::name(text.into_owned()));
                is_new = true;
            }
        }
        is_new
    }

    /// Adds a delta's member to the message to replay.
    pub(super) fn push_member(&mut self, name: walk::RawName<'_>, value: &[u8]) {
        self.overhead += self.message.push(name, value);
    }

    /// The memory added since the last call of this function, beyond the bytes of the deltas.
    pub(super) fn take_overhead(&mut self) -> usize {
        std::mem::take(&mut self.overhead)
    }

    /// Folds a `tool_calls` array. `None` if the caller may see it as it is; else the elements that it may see.
    pub(super) fn push_calls(&mut self, list: &[u8], offer: &Offer) -> Result<Option<Vec<u8>>, Fault> {
        let (mut visible, mut is_whole) = (Vec::new(), true);
        for item in walk::items(list) {
            let item = &list[item];
            let place = self.push_piece(item, offer)?;
            if let Some(before) = self.calls.len().checked_sub(2) {
                is_whole &= !self.release(before, &mut visible);
            }
            if self.calls[place].owner.is_none() {
                push_item(&mut self.calls[place].held, item);
                is_whole = false;
                if self.calls[place].held.len() > MAX_UNNAMED {
                    self.settle(place, Owner::Caller);
                    self.release(place, &mut visible);
                }
                continue;
            }
            is_whole &= !self.release(place, &mut visible);
            let is_callers_turn = self.is_ours == Some(false);
            let call = &mut self.calls[place];
            match call.owner {
                Some(Owner::Caller) if is_callers_turn => {
                    let shown = call.renumbered(item);
                    is_whole &= matches!(shown, Cow::Borrowed(_));
                    push_item(&mut visible, &shown);
                }
                _ => is_whole = false,
            }
        }
        Ok((!is_whole).then_some(visible))
    }

    /// Ends the turn. Returns the elements of `tool_calls` that the caller still has to get. A call without a name is
    /// the caller's, and so is a turn that was cut off: a call of ours in it may be incomplete.
    pub(super) fn finish(&mut self, is_cut_off: bool) -> Vec<u8> {
        let mut owed = Vec::new();
        if let Some(last) = self.calls.len().checked_sub(1) {
            if self.calls[last].owner.is_none() {
                self.settle(last, Owner::Caller);
            }
            self.release(last, &mut owed);
        }
        if is_cut_off && self.is_ours.replace(false) == Some(true) {
            let is_callers = |call: &&PartialCall| matches!(call.owner, Some(Owner::Caller));
            for call in self.calls.iter().filter(is_callers) {
                push_item(&mut owed, &call.shown_whole());
            }
        }
        owed
    }

    /// Decides the owner of a call, and of the turn if the call is its first.
    fn settle(&mut self, place: usize, owner: Owner) {
        let is_callers = matches!(owner, Owner::Caller);
        let call = &mut self.calls[place];
        call.shown_index = call.index.saturating_sub(self.hidden_calls);
        call.owner = Some(owner);
        self.hidden_calls += u64::from(!is_callers);
        self.is_ours.get_or_insert(!is_callers);
    }

    /// Shows the pieces that waited for a call's name, or drops them if the caller does not see the call. Returns
    /// whether there were any.
    fn release(&mut self, place: usize, visible: &mut Vec<u8>) -> bool {
        let is_callers_turn = self.is_ours == Some(false);
        let call = &mut self.calls[place];
        if call.held.is_empty() || call.owner.is_none() {
            return false;
        }
        let held = [b"[", &std::mem::take(&mut call.held)[..], b"]"].concat();
        if is_callers_turn && matches!(call.owner, Some(Owner::Caller)) {
            for piece in walk::items(&held) {
                push_item(visible, &call.renumbered(&held[piece]));
            }
        }
        true
    }

    /// Adds a piece to its call, and decides the call's owner once its name is known. Returns the call's position.
    fn push_piece(&mut self, item: &[u8], offer: &Offer) -> Result<usize, Fault> {
        let piece = Piece::read(item);
        let place = match self.known(&piece) {
            Some(place) => place,
            None => self.begin_call(&piece)?,
        };
        let call = &mut self.calls[place];
        if call.id.is_empty()
            && let Some(id) = piece.id.filter(|id| !id.is_empty())
        {
            self.by_id.insert(id.to_string(), place);
            call.id = id.into_owned();
        }
        if call.name.is_empty()
            && let Some(name) = piece.name
        {
            call.name = name.into_owned();
        }
        for (name, value) in walk::members(item).filter(|(name, _)| *name != "index") {
            self.overhead += call.parts.push(name, &item[value]);
        }
        // Without tools of ours every call is the caller's, even one whose name never comes.
        if call.owner.is_none() && (!call.name.is_empty() || offer.is_empty()) {
            let owner = offer.owner(&call.name);
            self.settle(place, owner);
        }
        Ok(place)
    }

    /// The call that a piece belongs to, if that has begun. Some providers give every call the index 0, and others give
    /// every piece another id: a piece with a name begins a call if its id is new, or if there are no ids and both the
    /// call before and the piece have whole arguments.
    fn known(&self, piece: &Piece<'_>) -> Option<usize> {
        let begins = |call: &PartialCall| {
            if call.name.is_empty() || piece.name.as_ref().is_none_or(|name| name.is_empty()) {
                return false;
            }
            match piece.id.as_deref().unwrap_or_default() {
                "" => call.id.is_empty() && call.has_whole_arguments() && piece.has_whole_arguments(),
                id => id != call.id,
            }
        };
        match (piece.index, piece.id.as_deref()) {
            (Some(index), _) => {
                let place = *self.by_index.get(&index)?;
                Some(place).filter(|place| !begins(&self.calls[*place]))
            }
            (None, Some(id)) if !id.is_empty() => self.by_id.get(id).copied(),
            (None, _) => self
                .calls
                .len()
                .checked_sub(1)
                .filter(|place| !begins(&self.calls[*place])),
        }
    }

    fn begin_call(&mut self, piece: &Piece<'_>) -> Result<usize, Fault> {
        let place = self.calls.len();
        if place == MAX_CALLS {
            return Err(TOO_MANY_CALLS);
        }
        // Once another call begins, the one before gets no name any more.
        if let Some(last) = place.checked_sub(1).filter(|last| self.calls[*last].owner.is_none()) {
            self.settle(last, Owner::Caller);
        }
        let index = piece.index.unwrap_or(place as u64);
        self.by_index.insert(index, place);
        self.calls.push(PartialCall {
            index,
            id: String::new(),
            name: String::new(),
            owner: None,
            held: Vec::new(),
            shown_index: 0,
            parts: Merged::default(),
        });
        Ok(place)
    }

    pub(super) fn completion(&self) -> Completion {
        Completion {
            id: self.msg_id().to_owned(),
            model: self.model.clone().unwrap_or_default(),
            service_tier: self.service_tier.clone(),
            usage: self.usage.clone(),
        }
    }

    /// The turn. If another round follows, a call without an id gets one of ours.
    pub(super) fn turn(&mut self) -> Turn {
        if self.is_ours() {
            for call in self.calls.iter_mut().filter(|call| call.id.is_empty()) {
                call.id = given_id();
            }
        }
        Turn {
            completion: self.completion(),
            calls: self.calls.iter().map(PartialCall::call).collect(),
            is_ours: self.is_ours(),
            thoughts: Vec::new(),
        }
    }

    /// The model's message, with all of its calls.
    pub(super) fn replay(&self) -> Vec<u8> {
        let mut message = Vec::from(*b"{");
        if !self.message.has("role") {
            message.extend_from_slice(br#""role":"assistant","#);
        }
        if !self.message.has("content") {
            message.extend_from_slice(br#""content":null,"#);
        }
        let start = message.len();
        self.message.write_members(&mut message);
        if message.len() > start {
            message.push(b',');
        }
        message.extend_from_slice(br#""tool_calls":["#);
        for (place, call) in self.calls.iter().enumerate() {
            if place > 0 {
                message.push(b',');
            }
            call.write(&mut message);
        }
        message.extend_from_slice(b"]}");
        message
    }
}

// === impl PartialCall ===

impl PartialCall {
    fn function(&self) -> Option<&Merged> {
        self.parts.object("function").or_else(|| self.parts.object("custom"))
    }

    /// The arguments' literal so far.
    fn arguments(&self) -> &[u8] {
        let Some(function) = self.function() else { return b"" };
        function
            .get("arguments")
            .or_else(|| function.get("input"))
            .unwrap_or_default()
    }

    fn has_whole_arguments(&self) -> bool {
        self.arguments().ends_with(b"}\"")
    }

    fn call(&self) -> Call {
        let is_custom = !self.parts.has("function") && self.parts.has("custom");
        let object = |function: &Merged| {
            let object = function.object("arguments").or_else(|| function.object("input"))?;
            let mut text = Vec::from(*b"{");
            object.write_members(&mut text);
            text.push(b'}');
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        Call {
            id: self.id.clone(),
            name: self.name.clone(),
            arguments: self
                .function()
                .and_then(object)
                .unwrap_or_else(|| text(self.arguments())),
            owner: self.owner.clone().unwrap_or_default(),
            kind: if is_custom {
                CallKind::Custom
            } else {
                CallKind::Function
            },
        }
    }

    /// Writes the call as an element of a message's `tool_calls`.
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        // An empty id is not among the parts: the one that we gave replaces it.
        let came = self.parts.get("id").is_some_and(|id| text(id) == self.id);
        if !came {
            out.extend_from_slice(format!(r#""id":{},"#, quote(&self.id)).as_bytes());
        }
        if !self.parts.has("type") {
            out.extend_from_slice(br#""type":"function","#);
        }
        self.parts.write_members_but(if came { None } else { Some("id") }, out);
        out.push(b'}');
    }

    /// All pieces as one, with the index that the caller sees.
    fn shown_whole(&self) -> Vec<u8> {
        let mut piece = format!(r#"{{"index":{}"#, self.shown_index).into_bytes();
        let start = piece.len();
        self.parts.write_members(&mut piece);
        if piece.len() > start {
            piece.insert(start, b',');
        }
        piece.push(b'}');
        piece
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

// === impl Piece ===

impl<'a> Piece<'a> {
    fn read(item: &'a [u8]) -> Self {
        let mut piece = Self::default();
        for (name, value) in walk::members(item) {
            let value = &item[value];
            match &*name.to_bytes() {
                b"index" => piece.index = std::str::from_utf8(value).ok().and_then(|index| index.parse().ok()),
                b"id" => piece.id = walk::unescape(value),
                b"function" | b"custom" => {
                    for (name, part) in walk::members(value) {
                        match &*name.to_bytes() {
                            b"name" => piece.name = walk::unescape(&value[part]),
                            b"arguments" | b"input" => piece.arguments = &value[part],
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        piece
    }

    fn has_whole_arguments(&self) -> bool {
        self.arguments.starts_with(b"\"{") && self.arguments.ends_with(b"}\"")
    }
}

/// Appends an element, or several with commas between, to a list without brackets.
pub(super) fn push_item(list: &mut Vec<u8>, item: &[u8]) {
    if !list.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(item);
}
