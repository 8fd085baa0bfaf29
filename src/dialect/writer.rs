//! Writes the events of a stream to the caller with their own bytes, except for planned edits; hidden events leave
//! nothing.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::sse::Event;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Writes one event after the other.
#[derive(Debug, Default)]
pub(crate) struct EventWriter {
    /// The edits of the current event, as ranges of its payload; kept to reuse the allocation.
    edits: Vec<(Range<usize>, Bytes)>,
    is_last_hidden: bool,
    /// Whether anything went to the caller.
    begun: bool,
}

// === impl EventWriter ===

impl EventWriter {
    /// Begins a round's stream. Only the very first bytes of the caller's stream may be a byte order mark.
    pub(crate) fn begin_round(&mut self, begun: bool) {
        self.edits.clear();
        self.is_last_hidden = false;
        self.begun = begun;
    }

    /// Forgets the edits of the event before.
    pub(crate) fn clear(&mut self) {
        self.edits.clear();
    }

    /// Plans to write `text` in the place of a range of the event's payload.
    pub(crate) fn edit(&mut self, range: Range<usize>, text: impl Into<Bytes>) {
        self.edits.push((range, text.into()));
    }

    /// How many edits are planned.
    pub(crate) fn edits(&self) -> usize {
        self.edits.len()
    }

    /// Drops the current event.
    pub(crate) fn hide(&mut self) {
        self.is_last_hidden = true;
    }

    /// Forwards the late LF of the event before, if that event was forwarded.
    pub(crate) fn tail(&self, event: &Event<'_>, out: &mut BytesMut) {
        if !self.is_last_hidden {
            out.extend_from_slice(event.raw());
        }
    }

    /// Writes an event with its edits.
    pub(crate) fn show(&mut self, event: &Event<'_>, out: &mut BytesMut) {
        self.is_last_hidden = false;
        let raw = event.raw();
        let mut written = if self.begun && raw.starts_with(BOM) {
            BOM.len()
        } else {
            0
        };
        self.begun = true;
        self.edits.sort_by_key(|(range, _)| range.start);
        for (range, text) in &self.edits {
            out.extend_from_slice(&raw[written..event.raw_offset(range.start)]);
            out.extend_from_slice(text);
            // An end is mapped by the byte before it: the byte after it may be on another line.
            written = match range.end.checked_sub(1).filter(|_| !range.is_empty()) {
                Some(last) => event.raw_offset(last) + 1,
                None => event.raw_offset(range.start),
            };
        }
        out.extend_from_slice(&raw[written..]);
    }
}

/// Replaces the line breaks between a text's tokens: they cannot be written inside one `data` line, and JSON allows
/// them nowhere else.
pub(crate) fn on_one_line(text: &mut [u8]) {
    for byte in text.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
}
