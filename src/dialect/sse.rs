//! Splits a stream into server-sent events without losing a byte, so that relayed bytes are the provider's.
//!
//! Framing is that of [WHATWG HTML, §9.2]. The input may be cut into frames anywhere. A relay can forward, drop or edit
//! the [`Event`]s one by one: their concatenated bytes are the input.
//!
//! [WHATWG HTML, §9.2]: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use memchr::memchr2;

#[cfg(test)]
mod tests;

const BOM: &[u8] = b"\xEF\xBB\xBF";
/// The most memory that the buffers keep for the next event.
const KEEP: usize = 64 * 1024;
/// The size of the pieces in which a long line is held.
const PIECE: usize = 256 * 1024;

/// Cuts a stream into events. In the long run it allocates nothing, and it copies only events that do not lie within one
/// frame: each byte once, in lines longer than [`PIECE`] twice.
///
/// An event is returned as soon as its blank line has come. If a frame ends between the CR and the LF of that line's
/// end, the LF comes later, as a separate event that [`Event::is_tail`].
pub(crate) struct Decoder {
    max_event: usize,
    /// The last frame; `..at` has been consumed.
    frame: Bytes,
    at: usize,
    /// The bytes of the current event that came in earlier frames.
    held: Vec<u8>,
    /// The rest of an unfinished line longer than [`PIECE`], until it ends. In one buffer, each growth would copy mebibytes at
    /// once.
    pieces: Vec<Vec<u8>>,
    block: Block,
    /// Reused by events whose data has several lines.
    joined: Vec<u8>,
    /// The last byte was a CR, and an LF after it belongs to the same line end.
    after_cr: bool,
    /// No line has ended yet, so the first may begin with a byte order mark.
    at_start: bool,
    /// The current event was returned, so the next call begins a new one.
    is_out: bool,
    failed: bool,
}

/// One event as it was sent, from its first field or comment to its blank line.
///
/// A block without data is an event here too, so that its bytes are kept: for example a lone comment.
#[derive(Clone, Copy)]
pub(crate) struct Event<'a> {
    raw: &'a [u8],
    data: &'a [u8],
    block: &'a Block,
    is_tail: bool,
}

/// The error for an event over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    max_event: usize,
}

/// The lines of an event. Offsets are those of the event's bytes.
#[derive(Debug, Default)]
struct Block {
    /// Where the unfinished line begins.
    line: usize,
    /// The values of the `data` fields.
    data: Vec<Range<usize>>,
}

/// A complete event, by where it is.
enum Piece {
    Frame(Range<usize>),
    Held,
    Tail(usize),
}

/// Whether an event ends as the standard demands.
pub(crate) fn has_blank_line(raw: &[u8]) -> bool {
    let rest = match raw {
        [rest @ .., b'\r', b'\n'] | [rest @ .., b'\n' | b'\r'] => rest,
        _ => return false,
    };
    matches!(rest, [] | [.., b'\n' | b'\r'])
}

/// The missing bytes of an event's end. After CR the second line end is CR, since CR LF would be one line end.
pub(crate) fn missing_end(raw: &[u8]) -> &'static [u8] {
    match raw.last() {
        _ if has_blank_line(raw) => b"",
        Some(b'\n') => b"\n",
        Some(b'\r') => b"\r",
        _ => b"\n\n",
    }
}

// === impl Decoder ===

impl Decoder {
    /// Events of more than `max_event` bytes are an error. The LF of a blank line that ends with CR LF does not count.
    pub(crate) fn new(max_event: usize) -> Self {
        Self {
            max_event,
            frame: Bytes::new(),
            at: 0,
            held: Vec::new(),
            pieces: Vec::new(),
            block: Block::default(),
            joined: Vec::new(),
            after_cr: false,
            at_start: true,
            is_out: false,
            failed: false,
        }
    }

    /// Takes the next bytes of the stream. Call it when [`Self::next`] has nothing left, else it has to copy.
    pub(crate) fn push(&mut self, frame: Bytes) {
        if self.failed {
            return;
        }
        let rest = &self.frame[self.at..];
        self.frame = if rest.is_empty() {
            frame
        } else {
            [rest, &frame].concat().into()
        };
        self.at = 0;
    }

    /// How many bytes are held of an event that is not complete yet.
    pub(crate) fn held(&self) -> usize {
        self.held.len() + self.pieces.iter().map(Vec::len).sum::<usize>()
    }

    /// How many bytes the next call of [`Self::next`] may process: all that are received and not consumed, or 0 if no
    /// line ends among the new ones.
    pub(crate) fn pending(&self) -> usize {
        let rest = &self.frame[self.at..];
        match memchr2(b'\n', b'\r', rest) {
            Some(_) => self.held() + rest.len(),
            None => 0,
        }
    }

    /// The next event that is complete; `None` if more input is needed.
    ///
    /// # Errors
    ///
    /// An event is too long. The rest of the stream cannot be read, so every further call returns the same error.
    pub(crate) fn next(&mut self) -> Result<Option<Event<'_>>, TooLong> {
        let piece = self.advance().inspect_err(|_| self.give_up())?;
        Ok(piece.map(|piece| self.event(&piece)))
    }

    /// The unterminated rest at the end of the input, once [`Self::next`] has returned `None`. It lacks its blank line,
    /// so by the standard it is not an event. A last line without a line end counts as a line.
    pub(crate) fn finish(&mut self) -> Option<Event<'_>> {
        debug_assert_eq!(self.at, self.frame.len(), "there are events left");
        self.begin();
        self.join(0);
        if self.held.is_empty() {
            return None;
        }
        let line = self.block.line..self.held.len();
        let line = without_bom(&mut self.at_start, &self.held, line);
        self.block.read(line.start, &self.held[line]);
        self.is_out = true;
        Some(self.event(&Piece::Held))
    }

    fn advance(&mut self) -> Result<Option<Piece>, TooLong> {
        let too_long = Err(TooLong {
            max_event: self.max_event,
        });
        if self.failed {
            return too_long;
        }
        self.begin();
        if !self.pieces.is_empty()
            && let Some(len) = line_len(&self.frame[self.at..])
        {
            self.join(len + 1);
        }
        let Self {
            frame, at, held, block, ..
        } = self;
        if self.after_cr && *at < frame.len() {
            self.after_cr = false;
            if frame[*at] == b'\n' {
                *at += 1;
                if held.is_empty() {
                    return Ok(Some(Piece::Tail(*at - 1)));
                }
                held.push(b'\n');
                block.line += 1;
            }
        }
        // Either the whole event is in `frame[start..]`, or all of it up to `at` is held.
        let start = *at;
        let is_held = !held.is_empty() || !self.pieces.is_empty();
        while let Some(len) = line_len(&frame[*at..]) {
            let end = *at + len;
            let after = end + 1;
            let is_cr = frame[end] == b'\r';
            let is_crlf = is_cr && frame.get(after) == Some(&b'\n');
            if is_held {
                held.extend_from_slice(&frame[*at..after]);
            }
            let event = if is_held { &held[..] } else { &frame[start..after] };
            if event.len() > self.max_event {
                return too_long;
            }
            let line = without_bom(&mut self.at_start, event, block.line..event.len() - 1);
            let is_blank = line.is_empty();
            block.read(line.start, &event[line]);

            self.after_cr = is_cr && after == frame.len();
            *at = after + usize::from(is_crlf);
            if is_held && is_crlf {
                held.push(b'\n');
            }
            block.line = if is_held { held.len() } else { *at - start };
            if is_blank {
                self.is_out = true;
                return Ok(Some(if is_held { Piece::Held } else { Piece::Frame(start..*at) }));
            }
        }
        let unheld = &frame[if is_held { *at } else { start }..];
        let unheld = frame.slice_ref(unheld);
        if self.held() + unheld.len() > self.max_event {
            return too_long;
        }
        self.hold(&unheld);
        self.frame = Bytes::new();
        self.at = 0;
        Ok(None)
    }

    /// Keeps the beginning of an event.
    fn hold(&mut self, mut bytes: &[u8]) {
        if self.pieces.is_empty() && self.held.len() + bytes.len() - self.block.line <= PIECE {
            return self.held.extend_from_slice(bytes);
        }
        while !bytes.is_empty() {
            let last = self.pieces.pop_if(|last| last.len() < PIECE);
            let mut piece = last.unwrap_or_else(|| Vec::with_capacity(PIECE));
            let (fits, rest) = bytes.split_at(bytes.len().min(PIECE - piece.len()));
            piece.extend_from_slice(fits);
            self.pieces.push(piece);
            bytes = rest;
        }
    }

    /// Appends the pieces to `held`, with room for `more` bytes.
    fn join(&mut self, more: usize) {
        if !self.pieces.is_empty() {
            self.held.reserve(self.held() - self.held.len() + more);
            for piece in self.pieces.drain(..) {
                self.held.extend_from_slice(&piece);
            }
        }
    }

    /// Clears the event that the last call returned.
    fn begin(&mut self) {
        if self.is_out {
            self.is_out = false;
            self.held.clear();
            self.held.shrink_to(KEEP);
            self.joined.clear();
            self.joined.shrink_to(KEEP);
            self.block.clear();
        }
    }

    #[cold]
    fn give_up(&mut self) {
        *self = Self {
            failed: true,
            ..Self::new(self.max_event)
        };
    }

    fn event(&mut self, piece: &Piece) -> Event<'_> {
        let Self {
            frame,
            held,
            joined,
            block,
            ..
        } = self;
        let (raw, is_tail) = match *piece {
            Piece::Frame(ref range) => (&frame[range.clone()], false),
            Piece::Tail(at) => (&frame[at..=at], true),
            Piece::Held => (&held[..], false),
        };
        let data = match &block.data[..] {
            [] => &[],
            [only] => &raw[only.clone()],
            [first, others @ ..] => {
                joined.extend_from_slice(&raw[first.clone()]);
                for line in others {
                    joined.push(b'\n');
                    joined.extend_from_slice(&raw[line.clone()]);
                }
                &joined[..]
            }
        };
        Event {
            raw,
            data,
            block,
            is_tail,
        }
    }
}

/// Prints only sizes: streams hold private text.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("max_event", &self.max_event)
            .field("unread", &(self.frame.len() - self.at))
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

// === impl Event ===

impl<'a> Event<'a> {
    /// The event's exact bytes.
    pub(crate) fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether there is a `data` field, even an empty one. An event without it is not dispatched.
    pub(crate) fn has_data(&self) -> bool {
        !self.block.data.is_empty()
    }

    /// The payload: the values of all `data` fields, joined by LF.
    pub(crate) fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The LF of a CR LF that was split across frames: forward it if the event before it was forwarded.
    pub(crate) fn is_tail(&self) -> bool {
        self.is_tail
    }

    /// The offset in [`Self::raw`] of a byte of the payload, or of its end.
    ///
    /// A range of the payload maps by its two ends. If it spans several `data` lines, the raw range includes the line
    /// ends and field names between them.
    pub(crate) fn raw_offset(&self, mut offset: usize) -> usize {
        let mut end = self.raw.len();
        for line in &self.block.data {
            if offset <= line.len() {
                return line.start + offset;
            }
            offset -= line.len() + 1;
            end = line.end;
        }
        end
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("raw_len", &self.raw.len())
            .field("data_len", &self.data.len())
            .field("is_tail", &self.is_tail)
            .finish_non_exhaustive()
    }
}

// === impl TooLong ===

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a server-sent event has more than {} bytes", self.max_event)
    }
}

impl std::error::Error for TooLong {}

// === impl Block ===

impl Block {
    fn clear(&mut self) {
        self.line = 0;
        self.data.clear();
        self.data.shrink_to(KEEP / size_of::<Range<usize>>());
    }

    /// Takes a line, without its line end, that begins at `start`.
    fn read(&mut self, start: usize, line: &[u8]) {
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return,
        };
        let end = start + line.len();
        self.data.push(end - value.len()..end);
    }
}

/// The length of the line at the front of `text`. `None` if the line does not end there.
fn line_len(text: &[u8]) -> Option<usize> {
    memchr2(b'\n', b'\r', text)
}

/// A line of an event, without the byte order mark with which the stream may begin.
fn without_bom(at_start: &mut bool, event: &[u8], line: Range<usize>) -> Range<usize> {
    let has_bom = std::mem::take(at_start) && event[line.clone()].starts_with(BOM);
    line.start + if has_bom { BOM.len() } else { 0 }..line.end
}
