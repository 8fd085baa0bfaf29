//! The stream as the caller sees it over all rounds: one numbering of its events and items, one id, one life cycle.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::dialect::sse::{Event, missing_end};
use crate::dialect::usage::count;
use crate::json::{Kind, Scanner};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// After this many comments in a row, a keep-alive is also a real event: Codex gives up after 300 s without one, and
/// ignores comments.
const COMMENTS_PER_EVENT: u32 = 6;

/// A number in an event, and its place.
#[derive(Clone, Debug)]
pub(super) struct Number {
    place: Range<usize>,
    pub(super) value: u64,
}

/// The parts of an event that may be rewritten.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    sequence: Option<Number>,
    pub(super) index: Option<Number>,
    /// The place of the response object, and the text that replaces it.
    object: Option<(Range<usize>, Bytes)>,
}

/// An event that waits for a decision on whether the caller sees it.
#[derive(Debug)]
pub(super) struct HeldEvent {
    raw: Vec<u8>,
    frame: Frame,
}

/// Writes the caller's events.
#[derive(Debug, Default)]
pub(super) struct Caller {
    /// Whether events and items are renumbered, because some may be hidden.
    pub(super) is_renumbered: bool,
    /// Whether anything was sent, even a comment.
    pub(super) has_bytes: bool,
    /// Whether an event went out; the first is the provider's `response.created`.
    pub(super) is_open: bool,
    /// The response's id; empty until it is known.
    pub(super) id: String,
    /// The response object of the last event of its life cycle, as the caller has it.
    pub(super) object: Option<Bytes>,
    next_sequence: u64,
    next_index: u64,
    /// How many events of our own were written.
    inserted: u64,
    /// How many keep-alives in a row were written.
    quiet: u32,
}

// === impl Frame ===

impl Frame {
    /// Finds the numbers of the event that `scanner` has read.
    pub(super) fn read(data: &[u8], scanner: &Scanner) -> Self {
        let number = |name| {
            let member = scanner.get(name).filter(|member| member.kind() == Kind::Number)?;
            let place = member.value();
            let value = count(&data[place.clone()]);
            Some(Number { place, value })
        };
        Self {
            sequence: number("sequence_number"),
            index: number("output_index"),
            object: None,
        }
    }

    /// The provider's number of the item.
    pub(super) fn number(&self) -> Option<u64> {
        self.index.as_ref().map(|index| index.value)
    }

    /// Plans to write another response object. Its line breaks, which JSON allows between tokens only, would end the
    /// `data` line.
    pub(super) fn replace_object(&mut self, place: Range<usize>, text: Bytes) {
        let text = if memchr::memchr2(b'\n', b'\r', &text).is_some() {
            let mut text = Vec::from(text);
            crate::dialect::writer::on_one_line(&mut text);
            text.into()
        } else {
            text
        };
        self.object = Some((place, text));
    }

    /// The same with its places in the event's bytes instead of in its payload.
    fn of_raw(mut self, event: &Event<'_>) -> Self {
        // An end is mapped by the byte before it: the byte after it may be on another line.
        let raw = |place: &mut Range<usize>| {
            *place = event.raw_offset(place.start)..event.raw_offset(place.end.saturating_sub(1)) + 1;
        };
        let numbers = [&mut self.sequence, &mut self.index].into_iter().flatten();
        numbers.for_each(|number| raw(&mut number.place));
        if let Some((place, _)) = &mut self.object {
            raw(place);
        }
        self
    }

    pub(super) fn hold(self, event: &Event<'_>) -> HeldEvent {
        HeldEvent {
            raw: event.raw().to_vec(),
            frame: self.of_raw(event),
        }
    }
}

// === impl HeldEvent ===

impl HeldEvent {
    /// An event of a whole item, of which the provider sent none. Its numbers are written when it is shown.
    pub(super) fn of_item(kind: &str, item: &[u8]) -> Self {
        let mut raw = format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":").into_bytes();
        let number = |raw: &mut Vec<u8>, after: &[u8]| {
            let place = raw.len()..raw.len() + 1;
            raw.push(b'0');
            raw.extend_from_slice(after);
            Some(Number { place, value: 0 })
        };
        let sequence = number(&mut raw, b",\"output_index\":");
        let index = number(&mut raw, b",\"item\":");
        let start = raw.len();
        raw.extend_from_slice(item);
        crate::dialect::writer::on_one_line(&mut raw[start..]);
        raw.extend_from_slice(b"}\n\n");
        let frame = Frame {
            sequence,
            index,
            object: None,
        };
        Self { raw, frame }
    }

    /// Adds the missing part of its blank line: no input is read after it.
    pub(super) fn complete(&mut self) {
        self.raw.extend_from_slice(missing_end(&self.raw));
        if self.raw.ends_with(b"\r") && self.raw.contains(&b'\n') {
            // Its LF may come with another frame.
            self.raw.push(b'\n');
        }
    }

    /// Adds the late LF of its last line end.
    pub(super) fn push_tail(&mut self, tail: &Event<'_>) {
        self.raw.extend_from_slice(tail.raw());
    }

    /// How many bytes it keeps.
    pub(super) fn len(&self) -> usize {
        self.raw.len() + self.frame.object.as_ref().map_or(0, |(_, text)| text.len())
    }
}

// === impl Caller ===

impl Caller {
    /// `is_renumbered`: events and items get new numbers, because some may be hidden.
    pub(super) fn new(is_renumbered: bool) -> Self {
        Self {
            is_renumbered,
            ..Self::default()
        }
    }

    /// The number of the next item.
    pub(super) fn take_index(&mut self) -> u64 {
        self.next_index += 1;
        self.next_index - 1
    }

    /// Writes an event; `index` replaces the provider's number of its item.
    pub(super) fn show(&mut self, event: &Event<'_>, frame: Frame, index: Option<u64>, out: &mut BytesMut) {
        self.write(event.raw(), &frame.of_raw(event), index, out);
    }

    /// Writes an event that was held.
    pub(super) fn show_held(&mut self, held: &HeldEvent, index: Option<u64>, out: &mut BytesMut) {
        self.write(&held.raw, &held.frame, index, out);
    }

    /// Writes an event of our own: `members` follow its type and number.
    pub(super) fn say(&mut self, kind: &str, members: &[u8], out: &mut BytesMut) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.inserted += 1;
        let head = format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{sequence},");
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(members);
        out.extend_from_slice(b"}\n\n");
        self.has_bytes = true;
    }

    /// Writes a comment. Returns whether an event is due as well.
    pub(super) fn comment(&mut self, out: &mut BytesMut) -> bool {
        out.extend_from_slice(b": keep-alive\n\n");
        self.has_bytes = true;
        self.quiet += 1;
        self.quiet.is_multiple_of(COMMENTS_PER_EVENT)
    }

    /// Writes the provider's own comment.
    pub(super) fn pass(&mut self, event: &Event<'_>, out: &mut BytesMut) {
        let raw = event.raw();
        let skipped = if self.has_bytes && raw.starts_with(BOM) {
            BOM.len()
        } else {
            0
        };
        self.has_bytes = true;
        out.extend_from_slice(&raw[skipped..]);
    }

    fn write(&mut self, raw: &[u8], frame: &Frame, index: Option<u64>, out: &mut BytesMut) {
        // Only the caller's very first bytes may be a byte order mark.
        let mut written = if self.has_bytes && raw.starts_with(BOM) {
            BOM.len()
        } else {
            0
        };
        self.has_bytes = true;
        self.quiet = 0;
        let sequence = self.sequence(frame.sequence.as_ref());
        let number = |number: &Option<Number>, new: Option<u64>| {
            let number = number.as_ref().filter(|number| Some(number.value) != new)?;
            Some((number.place.clone(), Bytes::from(new?.to_string())))
        };
        let mut edits = [
            number(&frame.sequence, Some(sequence)),
            number(&frame.index, index),
            frame.object.clone(),
        ];
        edits.sort_unstable_by_key(|edit| edit.as_ref().map(|(place, _)| place.start));
        for (place, text) in edits.into_iter().flatten() {
            out.extend_from_slice(&raw[written..place.start]);
            out.extend_from_slice(&text);
            written = place.end;
        }
        out.extend_from_slice(&raw[written..]);
    }

    /// The caller's number of the next event; `given` is the provider's.
    fn sequence(&mut self, given: Option<&Number>) -> u64 {
        let sequence = match given {
            Some(number) if !self.is_renumbered => number.value.saturating_add(self.inserted),
            _ => self.next_sequence,
        };
        self.next_sequence = sequence.saturating_add(1);
        sequence
    }
}
