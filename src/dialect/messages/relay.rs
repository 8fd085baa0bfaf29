//! A streamed answer: relays each event with its own bytes except for a block's `index`, and collects what the next
//! round and the records need. Hides calls of ours, and everything that would show that there was more than one round.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::blocks::{Block, Kind, string};
use super::error::{error_event, in_band};
use super::fold::Fold;
use super::opening::Opening;
use super::usage::Total;
use crate::dialect::offer::Offer;
use crate::dialect::sse::{Event, has_blank_line};
use crate::dialect::turn::{Completion, ErrorWords, Fault, Progress, Turn};
use crate::dialect::usage::MAX_USAGE;
use crate::dialect::writer::EventWriter;
use crate::dialect::{Relay, RelaySetup};
use crate::json::{Kind as JsonKind, Scanner, walk};
use crate::rope::Rope;
use crate::types::ReportedUsage;

const STOP: &[u8] = b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// The memory of a block besides its text, in bytes.
const BLOCK_SIZE: usize = 256;

/// Relays one conversation's rounds to one caller.
pub(super) struct MessagesRelay {
    setup: RelaySetup,
    offer: Offer,
    reported_usage: Option<ReportedUsage>,
    scanner: Scanner,
    writer: EventWriter,
    opening: Opening,
    fold: Fold,
    /// The usage of the rounds before this one.
    total: Total,
    /// Whether there were earlier rounds, of which the caller saw only the visible blocks.
    is_later: bool,
    /// The index of the next block that the caller sees.
    next_index: u64,
    /// Whether the caller sees a call of this round.
    shows_call: bool,
    usage_changed: bool,
    /// Bytes of this round that were kept for the next one or for records.
    held: usize,
}

/// The kinds of events, by their `type`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Start,
    BlockStart,
    BlockDelta,
    BlockStop,
    Delta,
    Stop,
    Ping,
    Error,
    Unknown,
}

// === impl MessagesRelay ===

impl MessagesRelay {
    pub(super) fn new(setup: RelaySetup, reported_usage: Option<ReportedUsage>, offer: Offer) -> Self {
        Self {
            setup,
            offer,
            reported_usage,
            scanner: Scanner::lenient(),
            writer: EventWriter::default(),
            opening: Opening::default(),
            fold: Fold::default(),
            total: Total::default(),
            is_later: false,
            next_index: 0,
            shows_call: false,
            usage_changed: false,
            held: 0,
        }
    }

    fn show(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Progress {
        self.opening.release(out);
        self.opening.pass();
        self.writer.show(event, out);
        Progress::Shown
    }

    fn hide(&mut self) -> Progress {
        self.opening.pass();
        self.writer.hide();
        Progress::Held
    }

    /// A comment or a ping: written unless the answer is still held.
    fn aside(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Progress {
        if self.opening.is_out() {
            self.show(event, out);
        } else {
            self.hide();
            self.opening.hold_aside(event.raw());
        }
        Progress::Aside
    }

    /// A `message_start`. The caller gets one, the first of all rounds.
    fn start(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Progress {
        if let Some(message) = self.member("message", JsonKind::Object) {
            self.usage_changed |= self.fold.start(&event.data()[message]);
        }
        if self.opening.has_start() {
            return self.hide();
        }
        if self.opening.is_out() {
            self.opening.take_start(event.raw());
            return self.show(event, out);
        }
        self.hide();
        self.opening.take_start(event.raw());
        Progress::Held
    }

    fn block_start(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        let Some(range) = self.member("content_block", JsonKind::Object) else {
            self.fold.forgo_replay();
            return Ok(self.show(event, out));
        };
        let text = &event.data()[range];
        let block = Block::read(text);
        let owner = block.owner(&self.offer);
        if block.kind == Kind::ToolUse {
            let can_be_ours = self.fold.can_replay();
            self.fold.calls.count(&owner, can_be_ours)?;
        }
        let is_shown = block.is_shown(&owner, self.fold.calls, self.is_later);
        self.shows_call |= is_shown && block.kind == Kind::ToolUse;
        let index = self.index(event.data());
        let shown = is_shown.then(|| self.number(index));
        let kept = if self.keeps(block.kind, text.len() + BLOCK_SIZE)? {
            text
        } else {
            b""
        };
        if !self.offer.is_empty() || !kept.is_empty() {
            self.fold.push(index, block, owner, kept, shown)?;
        }
        Ok(self.block_event(index, shown, event, out))
    }

    /// A `content_block_delta`, or a `content_block_stop`, which has no `delta`.
    fn block_part(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        let index = self.index(event.data());
        let block = self.fold.block(index).map(|block| (block.kind(), block.shown));
        let Some((kind, shown)) = block else {
            if self.offer.is_empty() {
                return Ok(self.show(event, out));
            }
            // A part of an unknown block has no index that the caller could know.
            self.fold.forgo_replay();
            return Ok(self.hide());
        };
        if let Some(delta) = self.member("delta", JsonKind::Object)
            && self.keeps(kind, delta.len())?
        {
            self.fold.add(index, &event.data()[delta]);
        }
        Ok(self.block_event(index, shown, event, out))
    }

    /// Shows an event of a block under the index `shown`, or hides it.
    fn block_event(&mut self, index: u64, shown: Option<u64>, event: &Event<'_>, out: &mut BytesMut) -> Progress {
        let Some(shown) = shown else {
            return self.hide();
        };
        if let Some(member) = self.scanner.get("index").filter(|_| shown != index) {
            self.writer.edit(member.value(), shown.to_string());
        }
        self.show(event, out)
    }

    /// The index of a block that is shown: without a gap where blocks are hidden.
    fn number(&mut self, index: u64) -> u64 {
        if self.offer.is_empty() {
            return index;
        }
        self.next_index += 1;
        self.next_index - 1
    }

    /// The provider's index of an event's block.
    fn index(&self, data: &[u8]) -> u64 {
        let index = self.scanner.get("index").map(|member| &data[member.value()]);
        let index = index.and_then(|index| std::str::from_utf8(index).ok()?.parse().ok());
        // All events without a valid index belong to the same block.
        index.unwrap_or(u64::MAX)
    }

    /// Whether a part of a block of `size` bytes is kept, for the next round or for records.
    fn keeps(&mut self, kind: Kind, size: usize) -> Result<bool, Fault> {
        let may_replay = !self.offer.is_empty() && self.fold.may_be_ours();
        let is_recorded = self.setup.recorded && matches!(kind, Kind::ToolUse | Kind::Thinking);
        if !may_replay && !is_recorded {
            return Ok(false);
        }
        self.held = self.held.saturating_add(size);
        if self.held <= self.setup.max_held {
            return Ok(true);
        }
        if may_replay {
            return Err(Fault::Shape("the provider's streamed turn is over the limit"));
        }
        // Records alone must not break the caller's answer.
        Ok(false)
    }

    fn message_delta(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Progress {
        let data = event.data();
        let usage = self.member("usage", JsonKind::Object);
        if let Some(usage) = usage.clone() {
            self.fold.report(&data[usage]);
            self.usage_changed = true;
        }
        let reason = self.member("delta", JsonKind::Object).and_then(|delta| {
            let reason = walk::get(&data[delta.clone()], "stop_reason")?;
            Some(delta.start + reason.start..delta.start + reason.end)
        });
        let said = reason.clone().map(|reason| string(&data[reason])).unwrap_or_default();
        if !said.is_empty() {
            self.fold.stop(&said);
        }
        if self.fold.is_ours() {
            return self.hide();
        }
        self.give_back(out);
        if let Some(reason) = reason
            && said == "tool_use"
            && !self.fold.calls.is_empty()
            && !self.shows_call
        {
            // The caller saw no call, so it has none to answer.
            self.writer.edit(reason, "\"end_turn\"");
        }
        if !self.total.is_empty() {
            let last = self.fold.usage();
            let told = usage.clone().filter(|usage| usage.len() <= MAX_USAGE);
            let told = told.map_or(&b"{}"[..], |usage| &data[usage]);
            let report = self
                .total
                .clone()
                .report(last.as_deref(), Some(told), self.reported_usage);
            match (usage, report) {
                (Some(usage), Some(report)) => self.writer.edit(usage, report),
                (None, Some(report)) => {
                    let end = self.scanner.end();
                    self.writer.edit(end..end, format!(r#","usage":{report}"#));
                }
                (_, None) => {}
            }
        }
        self.show(event, out)
    }

    /// Shows the caller its own calls of a turn that began with one of ours, but is not replayed.
    fn give_back(&mut self, out: &mut BytesMut) {
        let mut events = Vec::new();
        for block in self.fold.withheld() {
            block.write_events(self.next_index, &mut events);
            block.shown = Some(self.next_index);
            self.next_index += 1;
            self.shows_call = true;
        }
        if !events.is_empty() {
            self.opening.release(out);
            out.extend_from_slice(&events);
        }
    }

    fn message_stop(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        if !self.fold.has_started {
            return Err(Fault::Shape("the provider's stream has no message_start"));
        }
        if self.fold.is_ours() {
            self.hide();
            self.opening.end_round();
        } else {
            self.show(event, out);
            if event.raw().ends_with(b"\r") && event.raw().contains(&b'\n') {
                // No input is read after this event, so an LF that may come with another frame is written here.
                out.extend_from_slice(b"\n");
            }
        }
        Ok(Progress::Done)
    }

    /// The range of a member of the current event, if it is of this kind.
    fn member(&self, name: &str, kind: JsonKind) -> Option<Range<usize>> {
        let member = self.scanner.get(name).filter(|member| member.kind() == kind)?;
        Some(member.value())
    }
}

impl Relay for MessagesRelay {
    fn begin_round(&mut self, begun: bool) {
        self.fold = Fold::default();
        self.held = 0;
        self.shows_call = false;
        self.writer.begin_round(begun);
        self.opening.begin_round(begun);
    }

    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        if event.is_tail() {
            self.opening.hold_tail(event.raw());
            self.writer.tail(event, out);
            return Ok(Progress::Aside);
        }
        self.writer.clear();
        let is_whole = has_blank_line(event.raw());
        let data = event.data();
        if data.trim_ascii().is_empty() {
            return Ok(if is_whole { self.aside(event, out) } else { self.hide() });
        }
        if self.scanner.scan(data).is_err() {
            return Err(Fault::Shape(
                "the provider's stream has an event that is not a JSON object",
            ));
        }
        let kind = Type::of(&self.scanner, data);
        match kind {
            Type::Error => return Err(Fault::Refused(in_band(Bytes::copy_from_slice(data)))),
            Type::Stop => return self.message_stop(event, out),
            // The unterminated last event of a stream that was cut: no client reads it.
            _ if !is_whole => return Ok(self.hide()),
            _ => {}
        }
        match kind {
            Type::Start => Ok(self.start(event, out)),
            Type::BlockStart => self.block_start(event, out),
            Type::BlockDelta | Type::BlockStop => self.block_part(event, out),
            Type::Delta => Ok(self.message_delta(event, out)),
            Type::Ping => Ok(self.aside(event, out)),
            Type::Unknown | Type::Error | Type::Stop => Ok(self.show(event, out)),
        }
    }

    /// A model that gave its reason to stop has finished.
    fn end(&mut self, out: &mut BytesMut) -> bool {
        if !self.fold.has_stopped() {
            return false;
        }
        if self.fold.is_ours() {
            self.opening.end_round();
        } else {
            self.opening.release(out);
            out.extend_from_slice(STOP);
        }
        true
    }

    fn keep_alive(&mut self, out: &mut BytesMut) {
        self.opening.keep_alive(out);
    }

    fn fail(&mut self, error: ErrorWords<'_>, out: &mut BytesMut) {
        out.extend_from_slice(&error_event(error, self.setup.id));
    }

    fn msg_id(&self) -> &str {
        &self.fold.id
    }

    fn take_usage_changed(&mut self) -> bool {
        std::mem::take(&mut self.usage_changed)
    }

    fn completion(&self) -> Completion {
        self.fold.completion()
    }

    fn turn(&mut self) -> Turn {
        Turn {
            completion: self.fold.completion(),
            calls: self.fold.turn_calls(),
            is_ours: self.fold.is_ours(),
            thoughts: self.fold.thoughts(),
        }
    }

    fn replay(&mut self) -> Rope {
        if let Some(usage) = self.fold.usage() {
            self.total.add(&usage);
        }
        self.is_later = true;
        self.fold.replay().into()
    }

    fn held(&self) -> usize {
        self.held
    }
}

// === impl Type ===

impl Type {
    fn of(scanner: &Scanner, data: &[u8]) -> Self {
        let kind = scanner
            .get("type")
            .and_then(|member| walk::unescape(&data[member.value()]));
        match kind.as_deref() {
            Some("message_start") => Self::Start,
            Some("content_block_start") => Self::BlockStart,
            Some("content_block_delta") => Self::BlockDelta,
            Some("content_block_stop") => Self::BlockStop,
            Some("message_delta") => Self::Delta,
            Some("message_stop") => Self::Stop,
            Some("ping") => Self::Ping,
            Some("error") => Self::Error,
            Some(_) => Self::Unknown,
            None => match scanner.get("error") {
                Some(member) if member.kind() != JsonKind::Null => Self::Error,
                _ => Self::Unknown,
            },
        }
    }
}
