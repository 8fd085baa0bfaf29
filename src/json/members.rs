//! What a scanner remembers of a document: where its top-level members are, and that no name occurs twice.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::scan::ScanErrorKind;

/// Up to here looking at all names is faster than hashing one.
const FEW: usize = 16;
/// What is kept for the next document.
const KEEP: usize = 1024;
const KEEP_NAME_BYTES: usize = 16 * 1024;
/// Room for the members that a request or a reply usually has.
const FEW_NAME_BYTES: usize = 256;

/// Where one top-level member of a document is. All offsets are those of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    // 32 bits suffice (the scanner takes no more) and halve what a hostile body of millions of members costs.
    name: (u32, u32),
    value: (u32, u32),
    /// Of an array; noise in an object, whose values pass in the same way.
    last_item: (u32, u32),
    kind: Kind,
    is_empty: bool,
}

/// What a JSON value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

#[derive(Default)]
pub(super) struct Members {
    members: Vec<Member>,
    /// All names, unescaped, one after the other.
    names: Vec<u8>,
    /// One bit for each length that a name has, see [`length_bit`]: most names that are looked for are not there.
    lengths: u64,
    /// The member at hand.
    open: Open,
    index: Index,
    end: usize,
}

#[derive(Clone, Copy, Default)]
struct Open {
    entry: usize,
    name: usize,
    value: usize,
    first_byte: u8,
    last_item: (usize, usize),
}

/// Members by the hash of their names. The hash is seeded at random, so nobody can aim for collisions.
#[derive(Default)]
struct Index {
    seed: RandomState,
    /// Open addressing over a power of two of slots, at most half of them taken.
    slots: Vec<Slot>,
    taken: usize,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// Counted from one; zero for a free slot.
    member: u32,
}

// === impl Member ===

impl Member {
    /// The text of the value.
    pub(crate) fn value(&self) -> Range<usize> {
        range(self.value)
    }

    /// In bytes, unescaped.
    fn name_len(&self) -> usize {
        (self.name.1 - self.name.0) as usize
    }

    /// The last element, if the value is an array that has one.
    pub(crate) fn last_item(&self) -> Option<Range<usize>> {
        (self.kind == Kind::Array && !self.is_empty).then(|| range(self.last_item))
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the value is an array or an object with nothing in it. What is put into it brings no comma.
    pub(crate) fn is_empty_container(&self) -> bool {
        self.is_empty
    }
}

// === impl Kind ===

impl Kind {
    /// The kind of the value that begins with this byte. What cannot begin a value counts as a number.
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
        self.members.shrink_to(KEEP);
        self.names.clear();
        self.names.shrink_to(KEEP_NAME_BYTES);
        self.lengths = 0;
        self.index.clear();
        self.end = 0;
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.members.capacity() + self.names.capacity() + self.index.slots.capacity()
    }

    pub(super) fn as_slice(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn name(&self, member: &Member) -> &[u8] {
        self.names.get(range(member.name)).unwrap_or_default()
    }

    /// The name that was begun last.
    pub(super) fn open_name(&self) -> &[u8] {
        &self.names[self.open.name..]
    }

    pub(super) fn open_entry(&self) -> usize {
        self.open.entry
    }

    pub(super) fn object_end(&self) -> usize {
        self.end
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Member> {
        if self.lengths & length_bit(name.len()) == 0 {
            return None;
        }
        if self.members.len() <= FEW {
            let is_it = |member: &&Member| member.name_len() == name.len() && self.name(member) == name;
            return self.members.iter().find(is_it);
        }
        let hash = self.index.hash(name);
        self.index
            .candidates(hash)
            .filter_map(|number| self.members.get(number))
            .find(|member| self.name(member) == name)
    }

    // What the machine passes, in the order in which it does.

    pub(super) fn begin(&mut self, offset: usize) {
        if self.members.capacity() == 0 {
            self.members.reserve(FEW);
            self.names.reserve(FEW_NAME_BYTES);
        }
        self.open = Open {
            entry: offset,
            name: self.names.len(),
            ..Open::default()
        };
    }

    pub(super) fn push_name(&mut self, part: &[u8]) {
        self.names.extend_from_slice(part);
    }

    pub(super) fn end_name(&mut self) -> Result<(), ScanErrorKind> {
        if self.find(self.open_name()).is_some() {
            return Err(ScanErrorKind::Duplicate);
        }
        let count = self.members.len();
        if count == FEW {
            for number in 0..count {
                let hash = self.index.hash(self.name(&self.members[number]));
                self.index.insert(hash, number);
            }
        }
        if count >= FEW {
            let hash = self.index.hash(self.open_name());
            self.index.insert(hash, count);
        }
        Ok(())
    }

    pub(super) fn value_starts(&mut self, offset: usize, first_byte: u8) {
        self.open.value = offset;
        self.open.first_byte = first_byte;
    }

    pub(super) fn item_starts(&mut self, offset: usize) {
        self.open.last_item.0 = offset;
    }

    pub(super) fn item_ends(&mut self, offset: usize) {
        self.open.last_item.1 = offset;
    }

    pub(super) fn value_ends(&mut self, offset: usize, is_empty: bool) {
        let open = self.open;
        self.lengths |= length_bit(self.open_name().len());
        self.members.push(Member {
            name: short(open.name..self.names.len()),
            value: short(open.value..offset),
            last_item: short(open.last_item.0..open.last_item.1),
            kind: Kind::of(open.first_byte),
            is_empty,
        });
    }

    pub(super) fn end(&mut self, offset: usize) {
        self.end = offset;
    }
}

// === impl Index ===

impl Index {
    fn clear(&mut self) {
        self.slots.clear();
        self.slots.shrink_to(2 * KEEP);
        self.taken = 0;
    }

    fn hash(&self, name: &[u8]) -> u32 {
        self.seed.hash_one(name) as u32
    }

    /// The members, by number, whose names may have this hash.
    fn candidates(&self, hash: u32) -> impl Iterator<Item = usize> {
        self.probe(hash)
            .map(|place| self.slots[place])
            .take_while(|slot| slot.member > 0)
            .filter(move |slot| slot.hash == hash)
            .map(|slot| slot.member as usize - 1)
    }

    fn insert(&mut self, hash: u32, number: usize) {
        if 2 * (self.taken + 1) > self.slots.len() {
            let slots = vec![Slot::default(); (2 * self.slots.len()).max(4 * FEW)];
            let old = std::mem::replace(&mut self.slots, slots);
            old.into_iter()
                .filter(|slot| slot.member > 0)
                .for_each(|slot| self.put(slot));
        }
        self.put(Slot {
            hash,
            member: short(number..number).0 + 1,
        });
        self.taken += 1;
    }

    fn put(&mut self, slot: Slot) {
        if let Some(place) = self.probe(slot.hash).find(|&place| self.slots[place].member == 0) {
            self.slots[place] = slot;
        }
    }

    /// All slots, beginning with the one where this hash belongs.
    fn probe(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let count = self.slots.len();
        (0..count).map(move |step| (hash as usize).wrapping_add(step) & (count - 1))
    }
}

/// The bit of names that are this long, and of some others.
fn length_bit(length: usize) -> u64 {
    1 << (length % 64)
}

fn range((start, end): (u32, u32)) -> Range<usize> {
    start as usize..end as usize
}

/// Lossless: the scanner refuses documents whose offsets need more.
fn short(range: Range<usize>) -> (u32, u32) {
    (range.start as u32, range.end as u32)
}
