//! Holds the beginning of the caller's stream until a part of the answer is shown: until then another key can replace a
//! failed attempt, and an error can still be an HTTP status.

use bytes::BytesMut;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How many keep-alives, 10 s apart, a `message_start` is held for.
const HELD_TICKS: u32 = 6;

/// How many bytes of pings and comments are held besides.
const MAX_ASIDES: usize = 4 << 10;

const PING: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";
const COMMENT: &[u8] = b": keep-alive\n\n";

/// The one `message_start` that the caller gets, with the pings and comments around it.
#[derive(Debug, Default)]
pub(super) struct Opening {
    held: Vec<u8>,
    has_start: bool,
    /// How many bytes of `held` are of rounds that ended, and whether the start is among them.
    kept: usize,
    keeps_start: bool,
    is_out: bool,
    /// Whether anything went to the caller, and the last event was held.
    begun: bool,
    is_last_held: bool,
    ticks: u32,
}

// === impl Opening ===

impl Opening {
    /// Forgets all that a failed attempt left.
    pub(super) fn begin_round(&mut self, begun: bool) {
        self.held.truncate(self.kept);
        self.has_start = self.keeps_start;
        self.begun |= begun;
        self.is_last_held = false;
        self.ticks = 0;
    }

    /// Keeps the held bytes: the round that sent them has ended, and was hidden.
    pub(super) fn end_round(&mut self) {
        self.kept = self.held.len();
        self.keeps_start = self.has_start;
    }

    pub(super) fn is_out(&self) -> bool {
        self.is_out
    }

    /// Whether the caller's `message_start` is held or sent, so that no other one may follow.
    pub(super) fn has_start(&self) -> bool {
        self.has_start
    }

    /// Takes the caller's `message_start`, to hold it unless a part of the answer was sent already.
    pub(super) fn take_start(&mut self, raw: &[u8]) {
        self.has_start = true;
        self.is_last_held = !self.is_out;
        if self.is_out {
            self.keeps_start = true;
        } else {
            self.hold(raw);
        }
    }

    /// Holds a ping or a comment; beyond the limit they are dropped.
    pub(super) fn hold_aside(&mut self, raw: &[u8]) {
        self.is_last_held = self.held.len() + raw.len() <= MAX_ASIDES;
        if self.is_last_held {
            self.hold(raw);
        }
    }

    fn hold(&mut self, raw: &[u8]) {
        // Only the first bytes of a stream may be a byte order mark.
        let raw = match raw.strip_prefix(BOM) {
            Some(rest) if self.begun || !self.held.is_empty() => rest,
            _ => raw,
        };
        self.held.extend_from_slice(raw);
    }

    /// Holds the late line end of a held event.
    pub(super) fn hold_tail(&mut self, raw: &[u8]) {
        if std::mem::take(&mut self.is_last_held) {
            self.held.extend_from_slice(raw);
        }
    }

    /// Notes that the current event is not held.
    pub(super) fn pass(&mut self) {
        self.is_last_held = false;
    }

    /// Writes the held bytes, before the first part of the answer that is shown.
    pub(super) fn release(&mut self, out: &mut BytesMut) {
        if self.is_out {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let held = match held.strip_prefix(BOM) {
            Some(rest) if self.begun => rest,
            _ => &held,
        };
        out.extend_from_slice(held);
        self.is_out = true;
        self.begun |= !held.is_empty();
        self.is_last_held = false;
        // From now on no other attempt's start can be sent.
        (self.kept, self.keeps_start) = (0, self.has_start);
    }

    /// Writes a keep-alive: a ping where the answer has begun, else a comment, after which any attempt can still begin
    /// the answer.
    pub(super) fn keep_alive(&mut self, out: &mut BytesMut) {
        self.ticks += u32::from(self.has_start);
        // The first round is over, so no later attempt can change the answer's start.
        if self.keeps_start || self.ticks >= HELD_TICKS {
            self.release(out);
        }
        self.begun = true;
        out.extend_from_slice(if self.is_out { PING } else { COMMENT });
    }
}
