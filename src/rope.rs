//! A body kept in the segments in which it arrived, with edits that share all unchanged bytes. The `bytes` crate has no
//! edit by offset.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::vast;

/// Edited or written bytes up to this length become one segment: copying them costs less than one more frame in each layer.
const SMALL: usize = 4 << 10;

/// Bytes in segments, none of them empty. Cloning and slicing copy no bytes.
#[derive(Clone, Default)]
pub(crate) struct Rope {
    segments: VecDeque<Bytes>,
    len: usize,
}

/// A rope that is written piece by piece. Small pieces become one segment, large ones are not copied.
#[derive(Default)]
pub(crate) struct RopeWriter {
    rope: Rope,
    small: String,
}

/// Edits of one rope. Each is given in offsets of the unedited bytes, so an edit needs no knowledge of the others.
///
/// Edits must not overlap. They may touch: an insertion comes before an edit that starts at its offset, and after one that
/// ends there; insertions at one offset stay in the order in which they were made.
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
    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.len += segment.len();
            self.segments.push_back(segment);
        }
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        if self.is_empty() {
            *self = other;
        } else {
            self.len += std::mem::take(&mut other.len);
            self.segments.append(&mut other.segments);
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Bytes> {
        let segment = self.segments.pop_front()?;
        self.len -= segment.len();
        Some(segment)
    }

    /// A part of the rope.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the rope.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "range {range:?} of a rope of {} bytes",
            self.len
        );
        let mut part = Self::default();
        let mut start = 0;
        for segment in &self.segments {
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

    /// A part of the rope as one segment: shared if it lies within one, else copied.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the rope.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Bytes {
        self.slice(range).into_bytes()
    }

    /// The whole rope as one segment, copied unless it is one.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        if self.segments.len() > 1 {
            let mut whole = Vec::with_capacity(self.len);
            self.segments
                .iter()
                .for_each(|segment| whole.extend_from_slice(segment));
            return whole.into();
        }
        self.pop_front().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Bytes> {
        self.segments.iter()
    }

    /// Splits off the first `count` bytes, or all if there are fewer.
    fn split_to(&mut self, count: usize) -> Self {
        let mut front = Self::default();
        while front.len < count {
            let Some(mut segment) = self.pop_front() else { break };
            let missing = count - front.len;
            if segment.len() > missing {
                front.push(segment.split_to(missing));
                self.len += segment.len();
                self.segments.push_front(segment);
            } else {
                front.push(segment);
            }
        }
        front
    }
}

/// Prints only the length: bodies hold private text.
impl fmt::Debug for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rope({} bytes)", self.len)
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        let mut rope = Self::default();
        rope.push(bytes);
        rope
    }
}

impl From<Vec<u8>> for Rope {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Rope {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Rope {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

/// However small its segments are, a vast rope takes milliseconds.
impl Drop for Rope {
    fn drop(&mut self) {
        vast::drop_elsewhere(self.len, std::mem::take(&mut self.segments));
    }
}

// === impl RopeWriter ===

impl RopeWriter {
    pub(crate) fn push_str(&mut self, text: &str) {
        self.small.push_str(text);
    }

    pub(crate) fn push(&mut self, text: String) {
        if text.len() <= SMALL {
            return self.small.push_str(&text);
        }
        self.end_segment();
        self.rope.append(text.into());
    }

    pub(crate) fn finish(mut self) -> Rope {
        self.end_segment();
        self.rope
    }

    fn end_segment(&mut self) {
        self.rope.append(std::mem::take(&mut self.small).into());
    }
}

// === impl Edits ===

impl Edits {
    /// Replaces a range of the unedited bytes.
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
        let with = with.into();
        self.edits.insert(place, Edit { range, with });
    }

    /// Inserts before the byte that is at `at` in the unedited bytes.
    pub(crate) fn insert(&mut self, at: usize, text: impl Into<Rope>) {
        self.replace(at..at, text);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The edited bytes; the offsets of the edits are offsets in `source`.
    pub(crate) fn apply(&self, source: &Rope) -> Rope {
        let inserted: usize = self.edits.iter().map(|edit| edit.with.len()).sum();
        if source.len() + inserted <= SMALL {
            self.copied(source, inserted).into()
        } else {
            self.shared(source)
        }
    }

    /// The edited bytes in segments that share those of `source`.
    fn shared(&self, source: &Rope) -> Rope {
        let (mut rest, mut edited) = (source.clone(), Rope::default());
        for Edit { range, with } in &self.edits {
            debug_assert!(range.end <= source.len(), "edit {range:?} of {} bytes", source.len());
            let at = source.len() - rest.len();
            edited.append(rest.split_to(range.start.saturating_sub(at)));
            edited.append(with.clone());
            rest.split_to(range.len());
        }
        edited.append(rest);
        edited
    }

    /// The edited bytes as one segment.
    fn copied(&self, source: &Rope, inserted: usize) -> Vec<u8> {
        let text = source.bytes(0..source.len());
        let (mut edited, mut at) = (Vec::with_capacity(text.len() + inserted), 0);
        for Edit { range, with } in &self.edits {
            debug_assert!(range.end <= text.len(), "edit {range:?} of {} bytes", text.len());
            edited.extend_from_slice(text.get(at..range.start).unwrap_or_default());
            with.segments
                .iter()
                .for_each(|segment| edited.extend_from_slice(segment));
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

    #[test]
    fn small_pieces_become_one_segment_and_large_ones_are_not_copied() {
        let large = "x".repeat(SMALL + 1);
        let place = large.as_ptr();
        let mut writer = RopeWriter::default();
        writer.push_str("a");
        writer.push("b".repeat(SMALL));
        writer.push(large);
        writer.push_str("c");
        writer.push("d".to_owned());
        let rope = writer.finish();
        let segments: Vec<_> = rope.segments().collect();
        assert_eq!(
            segments.iter().map(|segment| segment.len()).collect::<Vec<_>>(),
            [SMALL + 1, SMALL + 1, 2]
        );
        assert_eq!((segments[1].as_ptr(), &segments[2][..]), (place, &b"cd"[..]));
        assert!(RopeWriter::default().finish().is_empty());
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
    fn edits_share_the_bytes_they_do_not_change() {
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
    fn small_edited_bytes_are_one_segment() {
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
            // Insertions at one offset keep their order, so only a stable sort may change the order of edits.
            if swap {
                made.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
            }
            for (range, with) in &made {
                edits.replace(range.clone(), rope(with));
            }
            for source in [rope(&source), Rope::from(text)] {
                prop_assert_eq!(flat(&edits.apply(&source)), &model[..]);
                prop_assert_eq!(flat(&edits.shared(&source)), &model[..]);
            }
        }
    }
}
