//! A streamed chat completion: relays each event with its own bytes except for the `id`, and collects what the next
//! round and the records need. Hides everything that belongs to an injected call, or that would show that there was
//! more than one round.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::error::{error_event, in_band};
use super::fold::{DESCRIPTION, Fold, push_item};
use super::reply::is_cut_off;
use super::template::{Addition, OnlyText, Template};
use super::usage;
use crate::dialect::offer::Offer;
use crate::dialect::sse::Event;
use crate::dialect::turn::{Completion, ErrorWords, Fault, Progress, Turn};
use crate::dialect::usage::{MAX_USAGE, Usage, UsageSum};
use crate::dialect::writer::{EventWriter, on_one_line};
use crate::dialect::{Relay, RelaySetup};
use crate::json::{Kind, Member, Scanner, walk};
use crate::rope::Rope;

#[cfg(test)]
mod tests;

/// Relays one conversation's rounds to one caller.
pub(super) struct ChatRelay {
    /// The conversation's id as a JSON string.
    id: Bytes,
    wants_usage: bool,
    /// Whether the caller is told the sum of all rounds' usage.
    sums_usage: bool,
    offer: Offer,
    setup: RelaySetup,
    /// Whether the caller was sent a role.
    role_shown: bool,
    /// Whether it was sent one before this round: then this round's roles are hidden.
    hides_role: bool,
    /// The usage of the rounds before this one.
    earlier: UsageSum,
    scanner: Scanner,
    template: Template,
    /// The only member of the current chunk's delta, if that is a text which changes nothing else.
    only_text: Option<OnlyText>,
    fold: Fold,
    writer: EventWriter,
    usage_changed: bool,
    /// Bytes of this round that were kept for the next one or for records.
    held: usize,
}

/// The end of the turn, as its finish reason tells it.
#[derive(Clone, Copy)]
struct Finish {
    is_cut_off: bool,
}

/// A choice's delta, and its place in the chunk.
struct Delta<'a> {
    /// An empty object if the choice has none.
    text: &'a [u8],
    place: Range<usize>,
    is_missing: bool,
}

/// How much of a delta the caller may see.
enum Shown {
    Whole,
    /// Some of it, or all of it although the turn's end will be hidden.
    Part,
    Nothing,
}

// === impl ChatRelay ===

impl ChatRelay {
    pub(super) fn new(setup: RelaySetup, wants_usage: bool, sums_usage: bool, offer: Offer) -> Self {
        Self {
            id: Bytes::from(format!("\"{}\"", setup.id)),
            wants_usage,
            sums_usage,
            offer,
            setup,
            role_shown: false,
            hides_role: false,
            earlier: UsageSum::default(),
            scanner: Scanner::lenient(),
            template: Template::default(),
            only_text: None,
            fold: Fold::default(),
            writer: EventWriter::default(),
            usage_changed: false,
            held: 0,
        }
    }

    fn done(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        if !self.fold.has_chunks {
            return Err(Fault::Shape("the provider's stream is empty"));
        }
        if self.fold.is_ours() {
            self.writer.hide();
        } else {
            self.writer.show(event, out);
            if event.raw().ends_with(b"\r") && event.raw().contains(&b'\n') {
                // No input is read after this event, so an LF that may come with another frame is written here.
                out.extend_from_slice(b"\n");
            }
        }
        Ok(Progress::Done)
    }

    /// Adds one chunk to the fold and plans its edits. Returns whether the caller may see it.
    fn chunk(&mut self, data: &[u8]) -> Result<bool, Fault> {
        if let Some(addition) = self.template.read(data) {
            self.add(data, addition)?;
            return Ok(true);
        }
        self.template.forget();
        let is_visible = self.parsed(data)?;
        let id = self.scanner.get("id").map(Member::value);
        // Only the edit of the id is the same for every chunk.
        if let Some(text) = self.only_text.take()
            && is_visible
            && self.writer.edits() == usize::from(id.is_some())
        {
            let described = DESCRIPTION.map(|name| self.scanner.get(name));
            let may_differ = |member: &&Member| member.kind() == Kind::String && !described.contains(&Some(*member));
            let others = self.scanner.members().iter().filter(may_differ).map(Member::value);
            self.template.learn(data, &text, others, id);
        }
        Ok(is_visible)
    }

    /// Does for a chunk like the template what [`Self::parsed`] did for the template.
    fn add(&mut self, data: &[u8], Addition { text, id }: Addition) -> Result<(), Fault> {
        if !self.offer.is_empty() {
            let text = &data[text];
            self.hold(text)?;
            self.fold.push_member(self.template.name(), text);
            self.hold_more()?;
        }
        if let Some(id) = id {
            self.writer.edit(id, self.id.clone());
        }
        Ok(())
    }

    /// [`Self::chunk`] for a chunk that has to be parsed.
    fn parsed(&mut self, data: &[u8]) -> Result<bool, Fault> {
        self.only_text = None;
        if self.scanner.scan(data).is_err() {
            return Err(Fault::Shape(
                "the provider's stream has an event that is not a JSON object",
            ));
        }
        if self
            .scanner
            .get("error")
            .is_some_and(|member| member.kind() != Kind::Null)
        {
            return Err(Fault::Refused(in_band(Bytes::copy_from_slice(data))));
        }
        let is_new = self.fold.describe(data, |name| {
            self.scanner.get(name).filter(|member| member.kind() == Kind::String)
        });
        // The model's name came after its usage: the usage is reported again, with the name.
        self.usage_changed |= is_new && self.fold.usage.is_some();
        if let Some(id) = self.scanner.get("id") {
            self.writer.edit(id.value(), self.id.clone());
        }
        let usage = self
            .scanner
            .get("usage")
            .filter(|member| member.kind() == Kind::Object && member.value().len() <= MAX_USAGE)
            .copied();
        let choices = self
            .scanner
            .get("choices")
            .filter(|member| member.kind() == Kind::Array)
            .copied();
        let visible = match choices {
            Some(member) if !member.is_empty_container() => {
                let tells_usage = usage.is_some() && self.wants_usage;
                self.choices(data, &member, tells_usage)?
            }
            _ if usage.is_some() => self.wants_usage && !self.fold.is_ours(),
            _ => !self.fold.is_ours(),
        };
        if let Some(member) = usage {
            let text = &data[member.value()];
            if self.sums_usage
                && let Some(sum) = self.earlier.with(text)
            {
                self.writer.edit(member.value(), sum);
            }
            self.fold.usage = Some(Usage::new(Bytes::copy_from_slice(text), usage::read));
            self.usage_changed = true;
            self.only_text = None;
        }
        Ok(visible)
    }

    /// Adds the first choice to the fold. A request for several choices gets no tools of ours, and records take the
    /// first one's calls.
    fn choices(&mut self, data: &[u8], member: &Member, tells_usage: bool) -> Result<bool, Fault> {
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
                // Some providers have an empty one in every chunk.
                finish_reason = Some(value).filter(|value| !matches!(&data[value.clone()], b"null" | b"\"\""));
            } else if name == "index" && &data[value] != b"0" {
                return Ok(true);
            }
        }
        let finish = finish_reason.clone().map(|reason| Finish {
            is_cut_off: is_cut_off(&data[reason]),
        });
        self.fold.has_finished |= finish.is_some();
        let delta = Delta::find(data, delta, start + 1);
        let shown = self.delta(&delta, finish, tells_usage)?;
        if finish.is_some() {
            self.only_text = None;
        }
        let ours = self.fold.is_ours();
        if let Some(range) = finish_reason {
            if !ours {
                return Ok(true);
            }
            self.writer.edit(range, "null");
        }
        Ok(match shown {
            Shown::Whole => !ours,
            Shown::Part => true,
            Shown::Nothing => false,
        })
    }

    /// Adds a delta to the fold, and removes the parts that the caller may not see. A delta that finishes the caller's
    /// turn, or comes with the usage of one, is shown even when nothing is left of it.
    fn delta(&mut self, delta: &Delta<'_>, finish: Option<Finish>, tells_usage: bool) -> Result<Shown, Fault> {
        let (mut is_edited, mut shows, mut has_role) = (false, false, false);
        let (mut list, mut calls) = (None, None);
        let hides_role = self.hides_role;
        let reads_calls = self.setup.recorded || !self.offer.is_empty();
        let (mut only_text, mut members) = (None, 0);
        for (entry, name, value) in walk::entries(delta.text) {
            let text = &delta.text[value.clone()];
            if text != b"null" {
                members += 1;
                let start = delta.place.start;
                only_text = (text.starts_with(b"\"") && text != b"\"\"" && name != "role").then(|| OnlyText {
                    name: start + entry.start..start + entry.start + name.literal_len(),
                    value: start + value.start..start + value.end,
                });
            }
            if name == "role" {
                is_edited |= hides_role;
                has_role |= !hides_role;
            } else if name == "tool_calls" && reads_calls && text.starts_with(b"[") {
                self.hold(text)?;
                list = Some(text);
                calls = self.fold.push_calls(text, &self.offer)?;
                self.hold_more()?;
                is_edited |= calls.is_some();
                shows |= calls.as_ref().is_none_or(|visible| !visible.is_empty());
            } else {
                if !self.offer.is_empty() {
                    self.hold(text)?;
                    self.fold.push_member(name, text);
                    self.hold_more()?;
                }
                shows |= text != b"null" && text != b"\"\"";
            }
        }
        self.only_text = only_text.filter(|_| members == 1);
        if self.offer.is_empty() {
            return Ok(Shown::Whole);
        }
        let owed = finish.map(|finish| self.fold.finish(finish.is_cut_off));
        if let Some(owed) = owed.filter(|owed| !owed.is_empty()) {
            let mut visible = calls.take().unwrap_or_else(|| items_of(list));
            push_item(&mut visible, &owed);
            calls = Some(visible);
            (is_edited, shows) = (true, true);
        }
        let ours = self.fold.is_ours();
        let ends = (finish.is_some() || tells_usage) && !ours;
        // If the role was in a hidden chunk, the next visible chunk must carry it.
        let owes_role = (shows || ends) && !has_role && !self.role_shown && self.fold.has_role;
        if has_role {
            self.fold.has_role = true;
        }
        if (is_edited || ours) && !shows && !ends {
            return Ok(Shown::Nothing);
        }
        self.role_shown |= has_role || owes_role;
        if !is_edited && !owes_role {
            return Ok(if ours { Shown::Part } else { Shown::Whole });
        }
        let mut text = Vec::from(if owes_role {
            &b"{\"role\":\"assistant\""[..]
        } else {
            b"{"
        });
        for (entry, name, _) in walk::entries(delta.text) {
            if (hides_role && name == "role") || (calls.is_some() && name == "tool_calls") {
                continue;
            }
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(&delta.text[entry]);
        }
        if let Some(visible) = calls.filter(|visible| !visible.is_empty()) {
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(&[b"\"tool_calls\":[", &visible[..], b"]"].concat());
        }
        text.push(b'}');
        on_one_line(&mut text);
        self.writer.edit(delta.place.clone(), delta.replaced_by(text));
        Ok(Shown::Part)
    }

    /// Counts bytes that the fold is about to keep: backpressure does not bound hidden ones.
    fn hold(&mut self, text: &[u8]) -> Result<(), Fault> {
        self.count(text.len())
    }

    /// Counts the fold's further memory: a member of one byte takes over a hundred.
    fn hold_more(&mut self) -> Result<(), Fault> {
        let overhead = self.fold.take_overhead();
        self.count(overhead)
    }

    fn count(&mut self, bytes: usize) -> Result<(), Fault> {
        self.held = self.held.saturating_add(bytes);
        if self.held > self.setup.max_held {
            return Err(Fault::Shape("the provider's streamed turn is over the limit"));
        }
        Ok(())
    }
}

/// The elements of a list, with the commas between.
fn items_of(list: Option<&[u8]>) -> Vec<u8> {
    match list {
        Some([b'[', items @ .., b']']) => items.trim_ascii().to_vec(),
        _ => Vec::new(),
    }
}

// === impl Delta ===

impl<'a> Delta<'a> {
    /// The delta that was found in a choice, of which the members begin at `start`.
    fn find(data: &'a [u8], found: Option<Range<usize>>, start: usize) -> Self {
        let is_missing = found.is_none();
        let place = found.unwrap_or(start..start);
        let text = &data[place.clone()];
        Self {
            text: if text.starts_with(b"{") { text } else { b"{}" },
            place,
            is_missing,
        }
    }

    /// The text for the delta's place.
    fn replaced_by(&self, delta: Vec<u8>) -> Vec<u8> {
        if self.is_missing {
            [b"\"delta\":", &delta[..], b","].concat()
        } else {
            delta
        }
    }
}

impl Relay for ChatRelay {
    fn begin_round(&mut self, begun: bool) {
        self.fold = Fold::default();
        self.template.forget();
        self.hides_role = self.role_shown;
        self.held = 0;
        self.writer.begin_round(begun);
    }

    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        if event.is_tail() {
            self.writer.tail(event, out);
            return Ok(Progress::Aside);
        }
        self.writer.clear();
        if !event.has_data() {
            self.writer.show(event, out);
            return Ok(Progress::Aside);
        }
        let data = event.data();
        if data.trim_ascii() == b"[DONE]" {
            return self.done(event, out);
        }
        if self.chunk(data)? {
            self.writer.show(event, out);
            Ok(Progress::Shown)
        } else {
            self.writer.hide();
            Ok(Progress::Held)
        }
    }

    /// Some providers leave out `[DONE]`: a model that gave its finish reason has finished.
    fn end(&mut self, out: &mut BytesMut) -> bool {
        if self.fold.has_finished && !self.fold.is_ours() {
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
        self.fold.has_finished
    }

    fn keep_alive(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(b": keep-alive\n\n");
    }

    fn fail(&mut self, error: ErrorWords<'_>, out: &mut BytesMut) {
        out.extend_from_slice(&error_event(error));
    }

    fn msg_id(&self) -> &str {
        self.fold.msg_id()
    }

    fn take_usage_changed(&mut self) -> bool {
        std::mem::take(&mut self.usage_changed)
    }

    fn completion(&self) -> Completion {
        self.fold.completion()
    }

    fn turn(&mut self) -> Turn {
        self.fold.turn()
    }

    fn replay(&mut self) -> Rope {
        if let Some(usage) = &self.fold.usage {
            self.earlier.add(&usage.text);
        }
        self.fold.replay().into()
    }

    fn held(&self) -> usize {
        self.held
    }
}
