//! Gives the targets in `/fuzz` access to internal functions; compiled only under `cfg(fuzzing)`, which cargo-fuzz
//! sets.

use std::ops::Range;

use bytes::Bytes;

use crate::dialect::sse::{Decoder, Event};
use crate::json::{Scanner, walk};

/// A top-level member: its name, the ranges of its value and of its value's last element.
pub type Member = (String, Range<usize>, Option<Range<usize>>);

/// An event: its bytes, its payload, and whether it is the late LF of the event before it.
pub type Piece = (Vec<u8>, Option<Vec<u8>>, bool);

/// Scans a document that comes in chunks. `Err` is the error's text.
#[allow(clippy::missing_errors_doc, reason = "said above")]
pub fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Member>, String> {
    let mut scanner = Scanner::new();
    chunks
        .into_iter()
        .try_for_each(|chunk| scanner.feed(chunk))
        .and_then(|()| scanner.finish())
        .map_err(|error| error.to_string())?;
    let members = scanner.members().iter();
    Ok(members
        .map(|member| (scanner.name(member).to_owned(), member.value(), member.last_item()))
        .collect())
}

/// The members of a possible object, as far as they can be read.
pub fn walk(text: &[u8]) -> Vec<(Option<String>, Range<usize>)> {
    walk::members(text)
        .map(|(name, value)| (name.to_str().map(Into::into), value))
        .collect()
}

/// The elements of a possible array, as far as they can be read.
pub fn items(text: &[u8]) -> Vec<Range<usize>> {
    walk::items(text).collect()
}

/// Decodes a stream that comes in frames. The second value is the unterminated rest; `None` if an event is too long.
pub fn decode<'a>(frames: impl IntoIterator<Item = &'a [u8]>, max_event: usize) -> Option<(Vec<Piece>, Option<Piece>)> {
    let piece = |event: Event<'_>| {
        (
            event.raw().to_vec(),
            event.has_data().then(|| event.data().to_vec()),
            event.is_tail(),
        )
    };
    let mut decoder = Decoder::new(max_event);
    let mut pieces = Vec::new();
    for frame in frames {
        decoder.push(Bytes::copy_from_slice(frame));
        while let Some(event) = decoder.next().ok()? {
            pieces.push(piece(event));
        }
    }
    let rest = decoder.finish().map(piece);
    Some((pieces, rest))
}
