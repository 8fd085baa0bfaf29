//! Finding one's way inside text that a [`Scanner`](super::Scanner) has accepted. It skips loosely for that reason; on
//! other text it finds nonsense or nothing, but it always ends and never panics.
//!
//! All ranges are relative to the slice that was given. A value may have white space around it.

use std::borrow::Cow;
use std::ops::Range;

use super::string;

/// A member's name as it is written, without its quotes. Compares with what it says, escaped or not.
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
    /// Where the next part begins, or what comes after the last one.
    at: usize,
}

/// The members of the object that `text` is; none if it is no object.
pub(crate) fn members(text: &[u8]) -> MemberIter<'_> {
    members_at(text, 0)
}

/// The members of the object that begins at `start`; none if there is no object.
pub(crate) fn members_at(text: &[u8], start: usize) -> MemberIter<'_> {
    MemberIter(Elements::new(text, start, b'{'))
}

/// Where the first element begins of the array that `text` is.
pub(crate) fn first_item(text: &[u8]) -> Option<usize> {
    let at = Elements::new(text, 0, b'[').at;
    text.get(at).filter(|byte| **byte != b']').map(|_| at)
}

/// The members of an object with the range of each from its name to the end of its value: what to copy to keep it.
pub(crate) fn entries(text: &[u8]) -> impl Iterator<Item = (Range<usize>, RawName<'_>, Range<usize>)> {
    let mut members = members(text);
    std::iter::from_fn(move || members.next_entry())
}

/// The elements of the array that `text` is; none if it is no array.
pub(crate) fn items(text: &[u8]) -> Items<'_> {
    Items(Elements::new(text, 0, b'['))
}

/// The value of an object's member; of the last one, as most parsers do, if the name occurs more than once.
pub(crate) fn get(object: &[u8], name: &str) -> Option<Range<usize>> {
    members(object)
        .filter(|(found, _)| *found == name)
        .last()
        .map(|(_, value)| value)
}

/// Where a string ends whose text begins at `start`. `None` if it does not end, is not UTF-8, or has something else than
/// plain characters and escapes of two characters; unlike the rest here this may be asked of text that is not checked.
pub(crate) fn simple_text_end(text: &[u8], start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    let (inner, end) = rest.split_at(string::text_len(rest));
    let is_text = || inner.is_ascii() || simdutf8::basic::from_utf8(inner).is_ok();
    (end.first() == Some(&b'"') && is_text()).then_some(start + inner.len())
}

/// What a string literal, quotes included, says. `None` if it is not one.
pub(crate) fn unescape(literal: &[u8]) -> Option<Cow<'_, str>> {
    string::unescape(literal)
}

// === impl RawName ===

impl<'a> RawName<'a> {
    /// A name as it stands between its quotes.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            is_escaped: text.contains(&b'\\'),
        }
    }

    /// How many bytes it has as it is written.
    pub(crate) fn len(self) -> usize {
        self.text.len()
    }

    /// What the name says, for a `match`; nothing if that is no text.
    #[inline]
    pub(crate) fn to_bytes(self) -> Cow<'a, [u8]> {
        if !self.is_escaped {
            return Cow::Borrowed(self.text);
        }
        Cow::Owned(self.to_str().unwrap_or_default().into_owned().into_bytes())
    }

    /// What the name says.
    pub(crate) fn to_str(self) -> Option<Cow<'a, str>> {
        if !self.is_escaped {
            return std::str::from_utf8(self.text).ok().map(Cow::Borrowed);
        }
        let literal = [b"\"", self.text, b"\""].concat();
        string::unescape(&literal).map(|name| Cow::Owned(name.into_owned()))
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
    /// The next member's name. Its value is not looked at, so [`Self::pass_value`] or [`Self::resume`] comes next.
    pub(crate) fn next_name(&mut self) -> Option<RawName<'a>> {
        self.begin().map(|(_, name)| name)
    }

    /// Where the value begins whose name came last, and where the object ends when there was none.
    pub(crate) fn at(&self) -> usize {
        self.0.at
    }

    /// Passes over the value whose name came last.
    pub(crate) fn pass_value(&mut self) -> Range<usize> {
        let value = self.0.at..skip_value(self.0.text, self.0.at);
        self.0.pass(value.end);
        value
    }

    /// Goes on behind the value whose name came last, as it ends at `end`.
    pub(crate) fn resume(&mut self, end: usize) {
        self.0.pass(end);
    }

    /// Where the name begins, and the name; then comes the value.
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

    /// The next member: from its name to the end of its value, its name, its value.
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
    /// Those of the container that begins at `start`, or none at the end of the text.
    fn new(text: &'a [u8], start: usize, open: u8) -> Self {
        let start = skip_space(text, start);
        let at = if text.get(start) == Some(&open) {
            skip_space(text, start + 1)
        } else {
            text.len()
        };
        Self { text, at }
    }

    /// Moves on to what follows the part that ends at `end`: another, or the container's end.
    fn pass(&mut self, end: usize) {
        let next = skip_space(self.text, end);
        self.at = match self.text.get(next) {
            Some(b',') => skip_space(self.text, next + 1),
            Some(b'}' | b']') => next,
            _ => self.text.len(),
        };
    }
}

/// Where the white space at `at` ends.
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
    // Never stand still.
    at + len.max(1)
}
