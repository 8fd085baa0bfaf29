//! A streamed chat completion: each event is relayed with its own bytes but for the `id`, and folded as far as a next
//! round and the records need it. What belongs to an injected call is hidden, and so is what would tell the caller that
//! there was more than one round.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::fold::{DESCRIPTION, Fold};
use super::template::{Addition, Template};
use super::usage::{Usage, UsageSum};
use super::{Completion, InBandError, Turn};
use crate::dialect::offer::Offer;
use crate::dialect::sse::Event;
use crate::json::{Kind, Member, Scanner, walk};
use crate::rope::Rope;

#[cfg(test)]
mod tests;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Relays one conversation's rounds to one caller.
pub(crate) struct ChatRelay {
    /// The conversation's id as a JSON string.
    id: Bytes,
    wants_usage: bool,
    offer: Offer,
    /// Whether the caller has had its one role delta.
    role_shown: bool,
    /// The usage of the rounds before this one.
    earlier: UsageSum,
    scanner: Scanner,
    fold: Fold,
    template: Template,
    /// Whether anybody wants to know of the caller's own tool calls.
    recorded: bool,
    /// The edits of the event at hand, as ranges of its payload; kept for their memory.
    edits: Vec<(Range<usize>, Text)>,
    last_hidden: bool,
    usage_reported: bool,
    /// Bytes of this round that were kept for the next one or for records, and how many may be.
    held: usize,
    max_held: usize,
    /// Whether anything went to the caller, and whether a chunk did.
    begun: bool,
    shown: bool,
}

/// How much of a delta the caller may see.
enum Shown {
    Whole,
    /// Some of it, or all of it although the turn's end will be hidden.
    Part,
    Nothing,
}

/// What stands in the place of a part of an event.
enum Text {
    Id,
    Null,
    Made(Vec<u8>),
}

/// What an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A comment or a field without data.
    Aside,
    /// A chunk of the answer; the caller sees it or not.
    Chunk,
    /// `[DONE]`.
    Done,
}

/// Why a stream is not an answer.
#[derive(Debug)]
pub(crate) enum StreamFault {
    /// The provider sent an error as an event.
    Error(InBandError),
    /// It sent something else; the words are for logs and callers.
    Shape(&'static str),
}

// === impl ChatRelay ===

impl ChatRelay {
    /// `recorded` is whether the caller's own tool calls have to be known as well; `max_held` is in bytes.
    pub(crate) fn new(id: Uuid, wants_usage: bool, offer: Offer, recorded: bool, max_held: usize) -> Self {
        Self {
            id: Bytes::from(format!("\"{id}\"")),
            wants_usage,
            offer,
            role_shown: false,
            earlier: UsageSum::default(),
            scanner: Scanner::of_pieces(),
            fold: Fold::default(),
            template: Template::default(),
            recorded,
            edits: Vec::new(),
            last_hidden: false,
            usage_reported: false,
            held: 0,
            max_held,
            begun: false,
            shown: false,
        }
    }

    /// Begins a round; what an attempt folded before it failed is forgotten. `begun` is whether anything went to the
    /// caller: what a failed attempt wrote went nowhere, a comment beside a hidden call did.
    pub(crate) fn begin_round(&mut self, begun: bool) {
        self.fold = Fold::default();
        self.template.forget();
        self.held = 0;
        self.last_hidden = false;
        self.begun = begun;
    }

    /// Takes one event in, and appends to `out` what of it the caller may see.
    pub(crate) fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, StreamFault> {
        if event.is_tail() {
            if !self.last_hidden {
                out.extend_from_slice(event.raw());
            }
            return Ok(Progress::Aside);
        }
        // Those of a hidden event were never written.
        self.edits.clear();
        if !event.has_data() {
            self.show(event, true, out);
            return Ok(Progress::Aside);
        }
        let data = event.data();
        if data.trim_ascii() == b"[DONE]" {
            if !self.fold.has_chunks() {
                return Err(StreamFault::Shape("the provider's stream is empty"));
            }
            let visible = !self.fold.is_ours();
            self.show(event, visible, out);
            if visible && event.raw().ends_with(b"\r") && event.raw().contains(&b'\n') {
                // Nothing is read after it, so its LF, which may come with another frame, is not waited for.
                out.extend_from_slice(b"\n");
            }
            return Ok(Progress::Done);
        }
        let visible = self.like_the_last(data)? || self.chunk(data)?;
        self.shown |= visible;
        self.show(event, visible, out);
        Ok(Progress::Chunk)
    }

    /// Writes an event with its edits.
    fn show(&mut self, event: &Event<'_>, visible: bool, out: &mut BytesMut) {
        self.last_hidden = !visible;
        if !visible {
            return;
        }
        let raw = event.raw();
        // A stream may begin with a byte order mark, but only the first round's stream begins the caller's.
        let mut written = if self.begun && raw.starts_with(BOM) {
            BOM.len()
        } else {
            0
        };
        self.begun = true;
        for (range, text) in &self.edits {
            out.extend_from_slice(&raw[written..event.raw_offset(range.start)]);
            out.extend_from_slice(match text {
                Text::Id => &self.id,
                Text::Null => b"null",
                Text::Made(text) => text,
            });
            // An end is found by the byte before it: what follows it may be on another line.
            written = event.raw_offset(range.end - 1) + 1;
        }
        out.extend_from_slice(&raw[written..]);
    }

    /// Folds a chunk that only goes on with the text of the one before it, without parsing it; whether it is one. All
    /// of it is the caller's.
    fn like_the_last(&mut self, data: &[u8]) -> Result<bool, StreamFault> {
        let Some(Addition { text, id }) = self.template.read(data) else {
            return Ok(false);
        };
        if !self.offer.is_empty() {
            self.hold(text)?;
            self.fold.text(self.template.name(), text);
        }
        self.edits.extend(id.map(|id| (id, Text::Id)));
        Ok(true)
    }

    /// Folds one chunk and plans its edits; whether the caller may see it.
    fn chunk(&mut self, data: &[u8]) -> Result<bool, StreamFault> {
        if self.scanner.scan(data).is_err() {
            return Err(StreamFault::Shape(
                "the provider's stream has an event that is not a JSON object",
            ));
        }
        if self
            .scanner
            .get("error")
            .is_some_and(|member| member.kind() != Kind::Null)
        {
            return Err(StreamFault::Error(InBandError {
                body: Bytes::copy_from_slice(data),
            }));
        }
        let is_new = self.fold.describe(data, |name| {
            self.scanner.get(name).filter(|member| member.kind() == Kind::String)
        });
        // Usage that is reported already is of the model that is named only now.
        self.usage_reported |= is_new && self.fold.usage.is_some();
        if let Some(id) = self.scanner.get("id") {
            self.edits.push((id.value(), Text::Id));
        }
        let usage = self
            .scanner
            .get("usage")
            .filter(|member| member.kind() == Kind::Object)
            .copied();
        let choices = self
            .scanner
            .get("choices")
            .filter(|member| member.kind() == Kind::Array)
            .copied();
        let visible = match choices {
            Some(member) if !member.is_empty_container() => self.choices(data, &member)?,
            _ if usage.is_some() => self.wants_usage && !self.fold.is_ours(),
            _ => !self.fold.is_ours(),
        };
        if let Some(member) = usage {
            let usage = Usage::new(Bytes::copy_from_slice(&data[member.value()]));
            if let Some(sum) = self.earlier.with(&usage) {
                self.edits.push((member.value(), Text::Made(sum.into_bytes())));
            }
            self.fold.usage = Some(usage);
            self.usage_reported = true;
        }
        self.edits.sort_unstable_by_key(|(range, _)| range.start);
        let is_plain = visible && usage.is_none() && self.edits.iter().all(|(_, text)| matches!(text, Text::Id));
        // While a role is owed, the next chunk is not like this one.
        if is_plain && !self.fold.is_ours() && (self.role_shown || !self.fold.has_role()) {
            self.template.learn(data, &self.scanner, &DESCRIPTION);
        } else {
            self.template.forget();
        }
        Ok(visible)
    }

    /// Looks at the first choice; of a request with several none is ours, and only the first one's calls are recorded.
    fn choices(&mut self, data: &[u8], member: &Member) -> Result<bool, StreamFault> {
        if self.offer.is_empty() && !self.recorded {
            return Ok(true);
        }
        let Some(item) = walk::items(&data[member.value()]).next() else {
            return Ok(true);
        };
        let start = member.value().start + item.start;
        let choice = &data[start..member.value().start + item.end];
        let (mut delta, mut finish_reason) = (None, None);
        for (name, value) in walk::members(choice) {
            let value = start + value.start..start + value.end;
            if name == "delta" {
                delta = Some(value);
            } else if name == "finish_reason" {
                finish_reason = Some(value).filter(|value| &data[value.clone()] != b"null");
            } else if name == "index" && &data[value] != b"0" {
                return Ok(true);
            }
        }
        let shown = match delta.filter(|delta| data[delta.start] == b'{') {
            Some(delta) => self.delta(data, delta, finish_reason.is_some())?,
            None => Shown::Whole,
        };
        let ours = self.fold.is_ours();
        if let Some(range) = finish_reason {
            if !ours {
                return Ok(true);
            }
            self.edits.push((range, Text::Null));
        }
        Ok(match shown {
            Shown::Whole => !ours,
            Shown::Part => true,
            Shown::Nothing => false,
        })
    }

    /// Folds a delta, and takes out of it what the caller may not see. One that `finishes` the caller's turn is shown
    /// even when nothing is left of it.
    fn delta(&mut self, data: &[u8], range: Range<usize>, finishes: bool) -> Result<Shown, StreamFault> {
        let delta = &data[range.clone()];
        let (mut removed, mut shows, mut has_role, mut calls) = (false, false, false, None);
        let hides_role = self.role_shown;
        for (name, value) in walk::members(delta) {
            let text = &delta[value];
            if name == "role" {
                removed |= hides_role;
                has_role |= !hides_role;
            } else if name == "tool_calls" && text.starts_with(b"[") {
                self.hold(text)?;
                calls = self.fold.tool_calls(text, &self.offer).map_err(StreamFault::Shape)?;
                removed |= calls.is_some();
                shows |= calls.as_ref().is_none_or(|visible| !visible.is_empty());
            } else {
                if !self.offer.is_empty() {
                    self.hold(text)?;
                    self.fold.text(name, text);
                }
                shows |= text != b"null" && text != b"\"\"";
            }
        }
        if self.offer.is_empty() {
            return Ok(Shown::Whole);
        }
        // A role that was hidden with the call that it came with is still owed.
        let owed = shows && !has_role && !self.role_shown && self.fold.has_role();
        if has_role {
            self.fold.note_role();
        }
        let ours = self.fold.is_ours();
        let ends = finishes && !ours;
        if (removed || ours) && !shows && !ends {
            return Ok(Shown::Nothing);
        }
        self.role_shown |= has_role || owed;
        if !removed && !owed {
            return Ok(if ours { Shown::Part } else { Shown::Whole });
        }
        let mut text = Vec::from(if owed { &b"{\"role\":\"assistant\""[..] } else { b"{" });
        for (entry, name, _) in walk::entries(delta) {
            let visible = calls.as_deref().filter(|_| name == "tool_calls");
            if (hides_role && name == "role") || visible.is_some_and(<[u8]>::is_empty) {
                continue;
            }
            if text.len() > 1 {
                text.push(b',');
            }
            match visible {
                Some(visible) => text.extend_from_slice(&[b"\"tool_calls\":[", visible, b"]"].concat()),
                None => text.extend_from_slice(&delta[entry]),
            }
        }
        text.push(b'}');
        // Between the lines of an event's data there is an LF, which cannot be written in one line. In JSON it is white space.
        text.iter_mut()
            .filter(|byte| **byte == b'\n')
            .for_each(|byte| *byte = b' ');
        self.edits.push((range, Text::Made(text)));
        Ok(Shown::Part)
    }

    /// Counts what the fold is about to keep: what the caller does not see, no slow reader holds back.
    fn hold(&mut self, text: &[u8]) -> Result<(), StreamFault> {
        self.held = self.held.saturating_add(text.len());
        if self.held > self.max_held {
            return Err(StreamFault::Shape("the provider's streamed turn is over the limit"));
        }
        Ok(())
    }

    /// The provider's id of the round's completion.
    pub(crate) fn msg_id(&self) -> &str {
        self.fold.msg_id()
    }

    /// Whether the caller sees anything of the answer yet.
    pub(crate) fn has_shown(&self) -> bool {
        self.shown
    }

    /// Whether usage was reported, or more of what it belongs to, since this was last asked.
    pub(crate) fn takes_usage(&mut self) -> bool {
        std::mem::take(&mut self.usage_reported)
    }

    /// What the round's answer said of itself so far.
    pub(crate) fn completion(&self) -> Completion {
        self.fold.completion()
    }

    /// What the round said so far.
    pub(crate) fn turn(&self) -> Turn {
        self.fold.turn()
    }

    /// Ends a round that is followed by another: the model's message with only the calls that `keep` keeps.
    pub(crate) fn replay(&mut self, keep: impl Fn(usize) -> bool) -> Rope {
        if let Some(usage) = &self.fold.usage {
            self.earlier.add(usage);
        }
        self.fold.replay(keep).into()
    }
}
