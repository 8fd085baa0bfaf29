//! A body as the segments in which it arrived, and byte-exact edits of it: what is not edited is shared, never copied.

use std::collections::{VecDeque, vec_deque};
use std::fmt;
use std::ops::Range;
use std::slice;

use bytes::Bytes;

/// Edited text of one piece stays one up to here: to copy it costs less than what every layer does for every frame.
const SMALL: usize = 4 << 10;

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
        self.slice(range).into_bytes()
    }

    /// The whole rope in one piece, copied together unless it is one.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
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

    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The edited bytes; `source` is what the offsets were taken from.
    pub(crate) fn apply(&self, source: &Rope) -> Rope {
        if let Rope::One(text) = source {
            let inserted: usize = self.edits.iter().map(|edit| edit.with.len()).sum();
            if text.len() + inserted <= SMALL {
                return self.copied(text, inserted).into();
            }
        }
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

    /// The same in one piece.
    fn copied(&self, text: &[u8], inserted: usize) -> Vec<u8> {
        let (mut edited, mut at) = (Vec::with_capacity(text.len() + inserted), 0);
        for Edit { range, with } in &self.edits {
            debug_assert!(range.end <= text.len(), "edit {range:?} of {} bytes", text.len());
            edited.extend_from_slice(text.get(at..range.start).unwrap_or_default());
            with.segments().for_each(|segment| edited.extend_from_slice(segment));
            at = at.max(range.end);
        }
        edited.extend_from_slice(text.get(at..).unwrap_or_default());
        edited
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rope(parts: &[Vec<u8>]) -> Rope {
        let mut rope = Rope::default();
        parts.iter().for_each(|part| rope.push(Bytes::copy_from_slice(part)));
        rope
    }

    fn flat(rope: &Rope) -> Vec<u8> {
        let flat: Vec<_> = rope.segments().flatten().copied().collect();
        assert_eq!(flat.len(), rope.len());
        assert!(rope.segments().all(|segment| !segment.is_empty()));
        flat
    }

    fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..6)
    }

    #[test]
    fn edits_may_touch_and_insertions_keep_their_order() {
        let mut edits = Edits::default();
        assert!(edits.is_empty());
        edits.insert(2, "1");
        edits.replace(2..4, "CD");
        edits.insert(2, "2");
        edits.insert(4, "3");
        edits.replace(4..5, "");
        edits.replace(0..2, "AB");
        edits.insert(2, "x");
        edits.insert(6, "!");
        assert_eq!(flat(&edits.apply(&Rope::from("abcdef"))), b"AB12xCD3f!");
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "edit 3..5 overlaps another")]
    fn overlapping_edits_are_a_mistake() {
        let mut edits = Edits::default();
        edits.replace(2..4, "");
        edits.replace(3..5, "");
    }

    #[test]
    fn what_is_not_edited_is_shared() {
        let source = Rope::from(vec![7; 2 * SMALL]);
        let mut edits = Edits::default();
        edits.replace(10..20, "new");
        let edited = edits.apply(&source);
        let starts: Vec<_> = edited.segments().map(|segment| segment.as_ptr()).collect();
        let base = source.bytes(0..2 * SMALL);
        assert_eq!([starts[0], starts[2]], [base.as_ptr(), base[20..].as_ptr()]);
        assert_eq!(source.bytes(5..9).as_ptr(), base[5..].as_ptr());
        assert_eq!(
            source.slice(5..9).segments().next().unwrap().as_ptr(),
            base[5..].as_ptr()
        );
    }

    #[test]
    fn what_is_small_is_one_piece_once_it_is_edited() {
        let mut edits = Edits::default();
        edits.replace(1..2, "new");
        for (length, pieces) in [(100, 1), (SMALL - 3, 1), (SMALL - 2, 3)] {
            let edited = edits.apply(&Rope::from(vec![7; length]));
            assert_eq!((edited.len(), edited.segments().count()), (length + 2, pieces));
        }
    }

    #[test]
    fn only_the_length_prints() {
        assert_eq!(format!("{:?}", Rope::from("secret")), "Rope(6 bytes)");
        let mut edits = Edits::default();
        edits.insert(0, "secret");
        assert!(!format!("{edits:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn is_the_concatenation(left in parts(), right in parts(), range in any::<[prop::sample::Index; 2]>()) {
            let model = [left.concat(), right.concat()].concat();
            let mut both = rope(&left);
            both.append(rope(&right));
            prop_assert_eq!(flat(&both), &model[..]);
            prop_assert_eq!(both.is_empty(), model.is_empty());

            let [start, end] = range.map(|index| index.index(model.len() + 1));
            let range = start.min(end)..start.max(end);
            prop_assert_eq!(flat(&both.slice(range.clone())), &model[range.clone()]);
            prop_assert_eq!(both.bytes(range.clone()), &model[range]);

            let mut popped = Vec::new();
            while let Some(segment) = both.pop_front() {
                prop_assert!(!segment.is_empty());
                popped.extend_from_slice(&segment);
                prop_assert_eq!(flat(&both), &model[popped.len()..]);
            }
            prop_assert_eq!(popped, model);
        }

        #[test]
        fn edits_do_what_they_say(
            source in parts(),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), parts(), 0_u8..4), 0..8),
            swap in any::<bool>(),
        ) {
            let text = source.concat();
            let mut cuts: Vec<_> = cuts.into_iter().map(|(at, with, how)| (at.index(text.len() + 1), with, how)).collect();
            cuts.sort_by_key(|cut| cut.0);
            // Each cut edits up to the next.
            let ends: Vec<_> = cuts.iter().skip(1).map(|cut| cut.0).chain([text.len()]).collect();
            let mut model = text[..cuts.first().map_or(text.len(), |cut| cut.0)].to_vec();
            let mut made = Vec::new();
            for ((at, with, how), end) in cuts.into_iter().zip(ends) {
                match how {
                    0 => model.extend_from_slice(&text[at..end]),
                    1 => {
                        model.extend(with.concat());
                        model.extend_from_slice(&text[at..end]);
                        made.push((at..at, with));
                    }
                    2 if at < end => made.push((at..end, Vec::new())),
                    _ if at < end => {
                        model.extend(with.concat());
                        made.push((at..end, with));
                    }
                    _ => {}
                }
            }
            let mut edits = Edits::default();
            // Insertions at one place keep their order, so only a stable change of order is fair.
            if swap {
                made.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
            }
            for (range, with) in &made {
                edits.replace(range.clone(), rope(with));
            }
            prop_assert_eq!(flat(&edits.apply(&rope(&source))), &model[..]);
            prop_assert_eq!(flat(&edits.apply(&Rope::from(text))), model);
        }
    }
}
