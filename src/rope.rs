//! A body as the segments in which it arrived, and byte-exact edits of it: what is not edited is shared, never copied.

use std::collections::{VecDeque, vec_deque};
use std::fmt;
use std::ops::Range;
use std::slice;

use bytes::Bytes;

/// Bytes in several segments, none of them empty but for the one of an empty rope. One segment costs no allocation.
#[derive(Clone)]
pub(crate) enum Rope {
    One(Bytes),
    Many { segments: VecDeque<Bytes>, len: usize },
}

/// The segments of a rope, in order.
#[derive(Debug)]
pub(crate) enum Segments<'a> {
    One(slice::Iter<'a, Bytes>),
    Many(vec_deque::Iter<'a, Bytes>),
}

/// Edits of one rope, each given in offsets of the unedited bytes, so that none has to know of the others.
///
/// Edits must not overlap. They may touch: an insertion comes before what starts, and after what ends at its offset;
/// insertions at one offset stay in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edits {
    /// Sorted by start, then by end.
    edits: Vec<Edit>,
}

#[derive(Clone, Debug)]
struct Edit {
    range: Range<usize>,
    with: Rope,
}

// === impl Rope ===

impl Rope {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(segment) => segment.len(),
            Self::Many { len, .. } => *len,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&mut self, segment: Bytes) {
        if segment.is_empty() {
            return;
        }
        match self {
            Self::One(only) if only.is_empty() => *only = segment,
            Self::One(only) => {
                let len = only.len() + segment.len();
                let segments = VecDeque::from([std::mem::take(only), segment]);
                *self = Self::Many { segments, len };
            }
            Self::Many { segments, len } => {
                *len += segment.len();
                segments.push_back(segment);
            }
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        match other {
            Self::One(segment) => self.push(segment),
            Self::Many { segments, .. } => segments.into_iter().for_each(|segment| self.push(segment)),
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Bytes> {
        let segment = match self {
            Self::One(only) => std::mem::take(only),
            Self::Many { segments, len } => {
                let segment = segments.pop_front()?;
                *len -= segment.len();
                segment
            }
        };
        (!segment.is_empty()).then_some(segment)
    }

    /// A part of the rope, shared with it.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the rope.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        self.check(&range);
        let mut part = Self::default();
        let mut start = 0;
        for segment in self.segments() {
            let end = start + segment.len();
            if range.end <= start {
                break;
            }
            if range.start < end {
                part.push(segment.slice(range.start.saturating_sub(start)..range.end.min(end) - start));
            }
            start = end;
        }
        part
    }

    /// A part of the rope in one piece: shared if it lies within one segment, else copied together.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the rope.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Bytes {
        match self.slice(range) {
            Self::One(segment) => segment,
            Self::Many { segments, len } => {
                let mut whole = Vec::with_capacity(len);
                segments.iter().for_each(|segment| whole.extend_from_slice(segment));
                whole.into()
            }
        }
    }

    pub(crate) fn segments(&self) -> Segments<'_> {
        match self {
            Self::One(segment) if segment.is_empty() => Segments::One([].iter()),
            Self::One(segment) => Segments::One(slice::from_ref(segment).iter()),
            Self::Many { segments, .. } => Segments::Many(segments.iter()),
        }
    }

    /// Moves the first `count` bytes to the end of `target`.
    fn move_front(&mut self, mut count: usize, target: &mut Self) {
        while count > 0 {
            let Some(mut segment) = self.pop_front() else { return };
            if segment.len() > count {
                target.push(segment.split_to(count));
                self.push_front(segment);
                return;
            }
            count -= segment.len();
            target.push(segment);
        }
    }

    fn skip_front(&mut self, mut count: usize) {
        while count > 0 {
            let Some(segment) = self.pop_front() else { return };
            if segment.len() > count {
                self.push_front(segment.slice(count..));
                return;
            }
            count -= segment.len();
        }
    }

    /// Gives back what [`Self::pop_front`] took.
    fn push_front(&mut self, segment: Bytes) {
        match self {
            Self::One(only) => *only = segment,
            Self::Many { segments, len } => {
                *len += segment.len();
                segments.push_front(segment);
            }
        }
    }

    fn check(&self, range: &Range<usize>) {
        let len = self.len();
        assert!(
            range.start <= range.end && range.end <= len,
            "range {range:?} of a rope of {len} bytes"
        );
    }
}

impl Default for Rope {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

/// Bodies hold what people write: only the length prints.
impl fmt::Debug for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rope({} bytes)", self.len())
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        Self::One(bytes)
    }
}

impl From<Vec<u8>> for Rope {
    fn from(bytes: Vec<u8>) -> Self {
        Self::One(bytes.into())
    }
}

impl From<String> for Rope {
    fn from(text: String) -> Self {
        Self::One(text.into())
    }
}

impl From<&'static str> for Rope {
    fn from(text: &'static str) -> Self {
        Self::One(Bytes::from_static(text.as_bytes()))
    }
}

// === impl Segments ===

impl<'a> Iterator for Segments<'a> {
    type Item = &'a Bytes;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(segment) => segment.next(),
            Self::Many(segments) => segments.next(),
        }
    }
}

// === impl Edits ===

impl Edits {
    pub(crate) fn replace(&mut self, range: Range<usize>, with: impl Into<Rope>) {
        debug_assert!(range.start <= range.end, "range {range:?}");
        let place = self
            .edits
            .partition_point(|edit| (edit.range.start, edit.range.end) <= (range.start, range.end));
        debug_assert!(
            place
                .checked_sub(1)
                .is_none_or(|before| self.edits[before].range.end <= range.start)
                && self.edits.get(place).is_none_or(|after| range.end <= after.range.start),
            "edit {range:?} overlaps another"
        );
        self.edits.insert(
            place,
            Edit {
                range,
                with: with.into(),
            },
        );
    }

    pub(crate) fn insert(&mut self, at: usize, text: impl Into<Rope>) {
        self.replace(at..at, text);
    }

    pub(crate) fn delete(&mut self, range: Range<usize>) {
        self.replace(range, Rope::default());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The edited bytes; `source` is what the offsets were taken from.
    pub(crate) fn apply(&self, source: &Rope) -> Rope {
        let mut rest = source.clone();
        let mut edited = Rope::default();
        let mut at = 0;
        for Edit { range, with } in &self.edits {
            debug_assert!(range.end <= source.len(), "edit {range:?} of {} bytes", source.len());
            rest.move_front(range.start.saturating_sub(at), &mut edited);
            rest.skip_front(range.end.saturating_sub(range.start.max(at)));
            edited.append(with.clone());
            at = at.max(range.end);
        }
        edited.append(rest);
        edited
    }
}
