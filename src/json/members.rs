//! The top-level members of a document: their names, and where their values are.

use std::collections::HashSet;
use std::ops::Range;

use super::string;

/// How many top-level members a document may have.
pub(super) const MAX_MEMBERS: usize = 1_000;
/// How many bytes the names of all top-level members may have together: they are kept in addition to the document.
pub(super) const MAX_NAMES: usize = 256 << 10;
/// Up to this many members, comparing all names is faster than hashing them.
const FEW: usize = 16;
/// Room for the names that a request or a reply usually has, in bytes.
const FEW_NAME_BYTES: usize = 256;
/// How much room for names is kept for the next document, in bytes.
const KEEP_NAME_BYTES: usize = 16 * 1024;

/// One top-level member of a document. All offsets are offsets in the document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// In [`Members::names`], not in the document.
    name: Span,
    value: Span,
    /// The range of the last array item; meaningless for other kinds.
    last_item: Span,
    kind: Kind,
    is_empty: bool,
}

/// The type of a JSON value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// A range that is `Copy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

#[derive(Default)]
pub(super) struct Members {
    members: Vec<Member>,
    /// All names, unescaped, one after the other.
    names: Vec<u8>,
    /// The member whose name or value is being read.
    current: Member,
    /// Where the object's closing brace is.
    end: usize,
}

// === impl Member ===

impl Member {
    /// The range of the value.
    pub(crate) fn value(&self) -> Range<usize> {
        self.value.start..self.value.end
    }

    /// The range of the last item, if the value is an array that has one.
    pub(crate) fn last_item(&self) -> Option<Range<usize>> {
        (self.kind == Kind::Array && !self.is_empty).then_some(self.last_item.start..self.last_item.end)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the value is an empty array or object: the first element that is inserted needs no comma.
    pub(crate) fn is_empty_container(&self) -> bool {
        self.is_empty
    }
}

// === impl Kind ===

impl Kind {
    /// The kind of the value that begins with this byte.
    fn of(first: u8) -> Self {
        match first {
            b'n' => Self::Null,
            b't' | b'f' => Self::Bool,
            b'"' => Self::String,
            b'[' => Self::Array,
            b'{' => Self::Object,
            _ => Self::Number,
        }
    }
}

// === impl Members ===

impl Members {
    pub(super) fn clear(&mut self) {
        self.members.clear();
        self.names.clear();
        self.names.shrink_to(KEEP_NAME_BYTES);
        self.end = 0;
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.members.capacity() + self.names.capacity()
    }

    pub(super) fn as_slice(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn name(&self, member: &Member) -> &[u8] {
        self.names.get(member.name.start..member.name.end).unwrap_or_default()
    }

    pub(super) fn object_end(&self) -> usize {
        self.end
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Member> {
        self.members.iter().rev().find(|member| self.name(member) == name)
    }

    /// The first member whose name an earlier member has.
    pub(super) fn find_duplicate(&self) -> Option<&Member> {
        if self.members.len() <= FEW {
            let is_again = |&(count, member): &(usize, &Member)| {
                let name = self.name(member);
                self.members[..count].iter().any(|earlier| self.name(earlier) == name)
            };
            return self.members.iter().enumerate().find(is_again).map(|(_, member)| member);
        }
        // Hashed with a random seed: nobody can choose names that collide.
        let mut names = HashSet::with_capacity(self.members.len());
        self.members.iter().find(|member| !names.insert(self.name(member)))
    }

    // The scanner's findings, in the order of the document.

    /// A name begins. Returns whether there is room for one more member.
    #[must_use]
    pub(super) fn begin_name(&mut self) -> bool {
        if self.names.capacity() == 0 {
            self.members.reserve(FEW);
            self.names.reserve(FEW_NAME_BYTES);
        }
        self.current = Member::default();
        self.current.name.start = self.names.len();
        self.members.len() < MAX_MEMBERS
    }

    /// A part of the name, as it is written. Returns whether there was room for it.
    #[must_use]
    pub(super) fn push_name(&mut self, part: &[u8]) -> bool {
        let has_room = part.len() <= MAX_NAMES - self.names.len();
        if has_room {
            self.names.extend_from_slice(part);
        }
        has_room
    }

    pub(super) fn end_name(&mut self) {
        let start = self.current.name.start;
        let written = &self.names[start..];
        if written.contains(&b'\\') {
            let name = string::unescape_text(written).unwrap_or_default();
            self.names.truncate(start);
            self.names.extend_from_slice(name.as_bytes());
        }
        self.current.name.end = self.names.len();
    }

    pub(super) fn begin_value(&mut self, offset: usize, first_byte: u8) {
        self.current.value.start = offset;
        self.current.kind = Kind::of(first_byte);
    }

    /// An item of the value begins, if it is an array; also called for the values of an object.
    pub(super) fn begin_item(&mut self, offset: usize) {
        self.current.last_item.start = offset;
    }

    pub(super) fn end_item(&mut self, offset: usize) {
        self.current.last_item.end = offset;
    }

    pub(super) fn end_value(&mut self, offset: usize, is_empty: bool) {
        self.current.value.end = offset;
        self.current.is_empty = is_empty;
        self.members.push(self.current);
    }

    pub(super) fn end_object(&mut self, offset: usize) {
        self.end = offset;
    }
}
