//! Iterates over the members and items of text that a [`Scanner`](super::Scanner) has accepted, so it does not check
//! the grammar again. In other text its results mean nothing, but it always ends and never panics.
//!
//! All ranges are relative to the slice that was given. The slice may have white space around its value.

use std::borrow::Cow;
use std::ops::Range;

use super::string;

/// A member's name as it is written, without its quotes. Comparisons unescape it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawName<'a> {
    text: &'a [u8],
    is_escaped: bool,
}

/// The members of an object, see [`members`].
#[derive(Clone, Debug)]
pub(crate) struct MemberIter<'a>(Elements<'a>);

/// The elements of an array, see [`items`].
#[derive(Clone, Debug)]
pub(crate) struct Items<'a>(Elements<'a>);

/// The comma-separated parts of a container.
#[derive(Clone, Debug)]
struct Elements<'a> {
    text: &'a [u8],
    /// Where the next part begins; after the last part, where the container's closing bracket is.
    at: usize,
}

/// The members of the object in `text`; none if the value is not an object.
pub(crate) fn members(text: &[u8]) -> MemberIter<'_> {
    members_at(text, 0)
}

/// The members of the object that begins at `start`; none if there is no object.
pub(crate) fn members_at(text: &[u8], start: usize) -> MemberIter<'_> {
    MemberIter(Elements::new(text, start, b'{'))
}

/// Where the first item of the array in `text` begins.
pub(crate) fn first_item(text: &[u8]) -> Option<usize> {
    let at = Elements::new(text, 0, b'[').at;
    text.get(at).filter(|byte| **byte != b']').map(|_| at)
}

/// The members of an object: for each, the range from its name to the end of its value, its name, and its value.
pub(crate) fn entries(text: &[u8]) -> impl Iterator<Item = (Range<usize>, RawName<'_>, Range<usize>)> {
    let mut members = members(text);
    std::iter::from_fn(move || members.next_entry())
}

/// The items of the array in `text`; none if the value is not an array.
pub(crate) fn items(text: &[u8]) -> Items<'_> {
    Items(Elements::new(text, 0, b'['))
}

/// The value of an object's member. If the name occurs more than once, the last value counts, as in most parsers.
pub(crate) fn get(object: &[u8], name: &str) -> Option<Range<usize>> {
    members(object)
        .filter(|(found, _)| *found == name)
        .last()
        .map(|(_, value)| value)
}

/// The text of a string literal, quotes included. `None` if it is not a string literal.
pub(crate) fn unescape(literal: &[u8]) -> Option<Cow<'_, str>> {
    string::unescape(literal)
}

// === impl RawName ===

impl<'a> RawName<'a> {
    /// A name from the text between its quotes.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let is_escaped = memchr::memchr(b'\\', text).is_some();
        Self { text, is_escaped }
    }

    /// The length of the name as it is written, with its quotes.
    pub(crate) fn literal_len(self) -> usize {
        self.text.len() + 2
    }

    /// The name unescaped, for a `match`; empty if it has a malformed escape.
    #[inline]
    pub(crate) fn to_bytes(self) -> Cow<'a, [u8]> {
        if !self.is_escaped {
            return Cow::Borrowed(self.text);
        }
        Cow::Owned(string::unescape_text(self.text).unwrap_or_default().into_bytes())
    }

    /// The name unescaped. `None` if it is not UTF-8 or has a malformed escape.
    pub(crate) fn to_str(self) -> Option<Cow<'a, str>> {
        if !self.is_escaped {
            return std::str::from_utf8(self.text).ok().map(Cow::Borrowed);
        }
        string::unescape_text(self.text).map(Cow::Owned)
    }
}

impl PartialEq<str> for RawName<'_> {
    #[inline]
    fn eq(&self, other: &str) -> bool {
        if self.is_escaped {
            return self.to_str().is_some_and(|name| name == other);
        }
        self.text == other.as_bytes()
    }
}

impl PartialEq<&str> for RawName<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

// === impl MemberIter ===

impl<'a> MemberIter<'a> {
    /// The next member's name. Call [`Self::pass_value`] or [`Self::resume`] before the next name.
    pub(crate) fn next_name(&mut self) -> Option<RawName<'a>> {
        self.begin().map(|(_, name)| name)
    }

    /// Where the current value begins; after the last member, where the object ends.
    pub(crate) fn at(&self) -> usize {
        self.0.at
    }

    /// Skips the current value, and returns its range.
    pub(crate) fn pass_value(&mut self) -> Range<usize> {
        let value = self.0.at..skip_value(self.0.text, self.0.at);
        self.0.pass(value.end);
        value
    }

    /// Goes on after the current value, which the caller has read up to `end`.
    pub(crate) fn resume(&mut self, end: usize) {
        self.0.pass(end);
    }

    /// Moves to the next member's value. Returns where its name begins, and the name.
    fn begin(&mut self) -> Option<(usize, RawName<'a>)> {
        let Elements { text, at } = self.0;
        if text.get(at) != Some(&b'"') {
            self.0.at = text.len().min(at + usize::from(text.get(at) == Some(&b'}')));
            return None;
        }
        let inner = &text[at + 1..];
        let plain = string::plain_len(inner);
        let is_escaped = inner.get(plain) != Some(&b'"');
        let end = if is_escaped {
            string::skip(text, at)
        } else {
            at + plain + 2
        };
        let colon = skip_space(text, end);
        if text.get(colon) != Some(&b':') {
            self.0.at = text.len();
            return None;
        }
        self.0.at = skip_space(text, colon + 1);
        let text = text.get(at + 1..end.saturating_sub(1)).unwrap_or_default();
        Some((at, RawName { text, is_escaped }))
    }

    /// The next member, as [`entries`] has it.
    pub(crate) fn next_entry(&mut self) -> Option<(Range<usize>, RawName<'a>, Range<usize>)> {
        let (start, name) = self.begin()?;
        let value = self.pass_value();
        Some((start..value.end, name, value))
    }
}

impl<'a> Iterator for MemberIter<'a> {
    type Item = (RawName<'a>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().map(|(_, name, value)| (name, value))
    }
}

// === impl Items ===

impl Iterator for Items<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let Elements { text, at } = self.0;
        let item = at..skip_value(text, at);
        if item.is_empty() {
            self.0.at = text.len();
            return None;
        }
        self.0.pass(item.end);
        Some(item)
    }
}

// === impl Elements ===

impl<'a> Elements<'a> {
    /// The parts of the container at `start`; none if `open` is not its first byte.
    fn new(text: &'a [u8], start: usize, open: u8) -> Self {
        let start = skip_space(text, start);
        let at = if text.get(start) == Some(&open) {
            skip_space(text, start + 1)
        } else {
            text.len()
        };
        Self { text, at }
    }

    /// Moves on to the part after the one that ends at `end`, or to the container's closing bracket.
    fn pass(&mut self, end: usize) {
        let next = skip_space(self.text, end);
        self.at = match self.text.get(next) {
            Some(b',') => skip_space(self.text, next + 1),
            Some(b'}' | b']') => next,
            _ => self.text.len(),
        };
    }
}

/// Where the white space that begins at `at` ends.
fn skip_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(at) {
        at += 1;
    }
    at.min(text.len())
}

/// Where the value at `at` ends; `at` itself if there is none.
fn skip_value(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = string::skip(text, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' if depth > 0 => {
                at += 1;
                continue;
            }
            b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => return at,
            _ => at = skip_scalar(text, at),
        }
        if depth == 0 {
            return at;
        }
    }
    at.min(text.len())
}

/// Where the number or word at `at` ends.
fn skip_scalar(text: &[u8], at: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, 0..=b' ' | b',' | b'}' | b']');
    let len = text[at..].iter().position(ends).unwrap_or(text.len() - at);
    // At least one, so that the walk goes on in malformed text.
    at + len.max(1)
}
