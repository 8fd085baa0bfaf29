//! The keys of a pool, in order of preference, and the way to the first that is usable.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use memchr::memmem::Finder;
use tokio::time::Instant;

use super::{
    ApiKey, KeyPoolError,
    key::{Entry, KeyId},
    word::{Clock, NEVER, Stamp, Standing},
};

/// Fewer unusable keys than this are passed by faster than remembered.
// Tests reach it with a handful of keys.
const WORTH_SKIPPING: usize = if cfg!(test) { 2 } else { 16 };

const UNTIL_BITS: u32 = 44;
const MOST_SKIPPED: u64 = u64::MAX >> UNTIL_BITS;

/// The keys of a pool at one time. Within one set keys become usable by the passing of time alone: whatever restores a
/// key publishes a new set, with nothing to skip.
pub(super) struct KeySet {
    pub(super) entries: Box<[Entry]>,
    /// How many leading keys are known to be unusable (high 20 bits) until which millisecond (low 44 bits).
    skip: AtomicU64,
    /// How to find the keys in a text.
    groups: Arc<[Group]>,
    /// The length of the shortest key.
    shortest: usize,
}

/// The keys that begin with the same four bytes, as those of one provider do: a header value is searched once per
/// provider, not once per key.
struct Group {
    head: Finder<'static>,
    /// The length of the shortest key; most header values are shorter.
    shortest: usize,
    /// Positions.
    keys: Vec<usize>,
}

/// One upstream round's way through the pool: which keys have been tried.
///
/// It allocates nothing until a key has failed.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The key tried last.
    last: Option<KeyId>,
    earlier: Vec<KeyId>,
    /// It may try revoked keys.
    pub(super) probing: bool,
}

// === impl Walk ===

impl Walk {
    #[inline]
    pub(super) fn is_new(&self) -> bool {
        self.last.is_none()
    }

    #[cfg(test)]
    pub(super) fn has_allocated(&self) -> bool {
        self.earlier.capacity() > 0
    }

    #[inline]
    pub(super) fn has_tried(&self, key: KeyId) -> bool {
        self.last == Some(key) || self.earlier.contains(&key)
    }

    #[inline]
    pub(super) fn tries(&mut self, key: KeyId) {
        if let Some(last) = self.last.replace(key) {
            self.earlier.push(last);
        }
    }
}

// === impl KeySet ===

impl KeySet {
    /// Checks that `keys` can be a pool.
    pub(super) fn check(keys: &[ApiKey]) -> Result<(), KeyPoolError> {
        if keys.is_empty() {
            return Err(KeyPoolError::Empty);
        }
        let mut seen = HashSet::with_capacity(keys.len());
        match keys.iter().find(|key| !seen.insert(key.secret())) {
            Some(twice) => Err(KeyPoolError::Duplicate(twice.hint().clone())),
            None => Ok(()),
        }
    }

    pub(super) fn new(entries: Box<[Entry]>) -> Self {
        let groups = Group::all(&entries);
        Self {
            entries,
            skip: AtomicU64::new(0),
            shortest: groups.iter().map(|group| group.shortest).min().unwrap_or(0),
            groups,
        }
    }

    /// The same keys, with nothing known of them.
    pub(super) fn renewed(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            skip: AtomicU64::new(0),
            groups: Arc::clone(&self.groups),
            shortest: self.shortest,
        }
    }

    /// The first usable key that `walk` has not tried, and what its word says.
    #[inline]
    pub(super) fn first_usable(&self, walk: &Walk, clock: &Clock, now: Instant) -> Option<(&Entry, Stamp)> {
        let (start, mut until) = self.skipped(clock, now);
        let mut leading = true;
        for (position, entry) in self.entries.iter().enumerate().skip(start) {
            let stamp = entry.key.word.load();
            match stamp.standing(|| clock.millis(now)) {
                Standing::Usable => {}
                Standing::Rested => entry.key.wake(stamp),
                Standing::Cooling(deadline) => {
                    until = until.min(deadline);
                    continue;
                }
                Standing::Revoked => continue,
            }
            if leading {
                leading = false;
                self.skip(start, position, until);
            }
            if !walk.has_tried(entry.key.id) {
                return Some((entry, stamp));
            }
        }
        if leading {
            self.skip(start, self.entries.len(), until);
        }
        None
    }

    /// The first key, usable or revoked, that `walk` has not tried.
    pub(super) fn first_untried(&self, walk: &Walk, clock: &Clock, now: Instant) -> Option<(&Entry, Stamp)> {
        let untried = self.entries.iter().filter(|entry| !walk.has_tried(entry.key.id));
        let mut stamped = untried.map(|entry| (entry, entry.key.word.load()));
        stamped.find(|(_, stamp)| !matches!(stamp.standing(|| clock.millis(now)), Standing::Cooling(_)))
    }

    pub(super) fn all_revoked(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| entry.key.word.load().standing(|| 0) == Standing::Revoked)
    }

    /// How many leading keys need no look at `now`, and until when.
    #[inline]
    fn skipped(&self, clock: &Clock, now: Instant) -> (usize, u64) {
        let word = self.skip.load(Ordering::Relaxed);
        let until = word & NEVER;
        if word == 0 || until <= clock.millis(now) {
            return (0, NEVER);
        }
        // 20 bits fit.
        ((word >> UNTIL_BITS) as usize, until)
    }

    #[inline]
    fn skip(&self, known: usize, leading: usize, until: u64) {
        if leading >= known + WORTH_SKIPPING {
            let leading = (leading as u64).min(MOST_SKIPPED);
            self.skip.store(leading << UNTIL_BITS | until, Ordering::Relaxed);
        }
    }

    /// Whether a key occurs in `text`.
    pub(super) fn occurs_in(&self, text: &[u8]) -> bool {
        // Most texts are header values that are too short.
        self.shortest <= text.len() && self.occurrences(text).next().is_some()
    }

    /// `text` with every key replaced by its hint; `None` if none occurs in it.
    pub(super) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut found: Vec<_> = self.occurrences(text).collect();
        if found.is_empty() {
            return None;
        }
        // Of keys that begin alike, the longest names what was there.
        found.sort_unstable_by_key(|&(start, end, _)| (start, Reverse(end)));
        let mut redacted = Vec::with_capacity(text.len());
        let mut copied = 0;
        for (start, end, position) in found {
            // What overlaps an occurrence goes with it: the rest of a key is still much of a key.
            if start >= copied {
                redacted.extend_from_slice(&text[copied..start]);
                redacted.extend_from_slice(self.entries[position].key.hint.as_str().as_bytes());
            }
            copied = copied.max(end);
        }
        redacted.extend_from_slice(&text[copied..]);
        Some(redacted)
    }

    /// Where keys occur in `text`: start, end, and which.
    fn occurrences<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
        let groups = self.groups.iter().filter(|group| group.shortest <= text.len());
        groups.flat_map(move |group| {
            overlapping(&group.head, text).flat_map(move |start| {
                group.keys.iter().filter_map(move |&position| {
                    let secret = self.entries[position].key.secret.key();
                    text[start..]
                        .starts_with(secret)
                        .then_some((start, start + secret.len(), position))
                })
            })
        })
    }
}

// === impl Group ===

impl Group {
    fn all(entries: &[Entry]) -> Arc<[Self]> {
        const HEAD: usize = 4;
        let mut groups: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (position, entry) in entries.iter().enumerate() {
            let secret = entry.key.secret.key();
            groups
                .entry(secret.get(..HEAD).unwrap_or(secret))
                .or_default()
                .push(position);
        }
        let group = |(head, keys): (&[u8], Vec<usize>)| Self {
            head: Finder::new(head).into_owned(),
            shortest: keys
                .iter()
                .map(|&position| entries[position].key.secret.key().len())
                .min()
                .unwrap_or(0),
            keys,
        };
        groups.into_iter().map(group).collect()
    }
}

/// Every position at which `head` occurs, overlaps included: a key may begin within a false start of itself.
fn overlapping<'a>(head: &'a Finder<'_>, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + head.find(text.get(from..)?)?;
        from = at + 1;
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(secrets: &[&str]) -> KeySet {
        KeySet::new(
            secrets
                .iter()
                .map(|&secret| Entry::new(ApiKey::new(secret).unwrap()))
                .collect(),
        )
    }

    #[test]
    fn keys_in_a_text_are_replaced_by_their_hints() {
        let keys = set(&[
            "sk-0123456789abcdefghij",
            "sk-ABCDEFGHIJabcdefghij",
            "other-0123456789012",
            "other-01",
        ]);
        for (text, redacted) in [
            (
                "a sk-0123456789abcdefghij, sk-0123456789abcdefghij; other-0123456789012",
                Some("a sk-0...ghij, sk-0...ghij; ot...12"),
            ),
            ("sk-ABCDEFGHIJabcdefghij", Some("sk-A...ghij")),
            // The head of a key, then the key.
            ("sk-sk-sk-0123456789abcdefghij", Some("sk-sk-sk-0...ghij")),
            ("sk-0123456789abcdefghi", None),
            ("SK-0123456789ABCDEFGHIJ", None),
            ("", None),
            // No longer than the shortest of the keys that begin so.
            ("other-01", Some("o...1")),
        ] {
            let got = keys.redact(text.as_bytes());
            assert_eq!(got.as_deref(), redacted.map(str::as_bytes), "{text}");
            assert_eq!(keys.occurs_in(text.as_bytes()), redacted.is_some(), "{text}");
        }
    }

    #[test]
    fn a_key_that_overlaps_another_leaves_no_rest() {
        let keys = set(&["abcabX", "abX-0123456789012345", "abc"]);
        assert_eq!(keys.redact(b"<abcabX-0123456789012345>").unwrap(), b"<a...X>");
        let keys = set(&["x-abcabX-x", "abcabX"]);
        assert_eq!(keys.redact(b"<x-abcabX-x>").unwrap(), b"<x-...-x>");
        let keys = set(&["aaaab"]);
        assert_eq!(keys.redact(b"aaaaaab").unwrap(), b"aaa...b");
    }

    proptest! {
        /// Against the obvious search, on texts dense with parts of keys.
        #[test]
        fn no_occurrence_is_missed(
            secrets in proptest::collection::hash_set("[ab]{1,7}", 1..6),
            text in "[abc]{0,40}",
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let keys = set(&secrets);
            let mut expected: Vec<(usize, usize)> = Vec::new();
            for secret in &secrets {
                for start in 0..text.len() {
                    if text[start..].starts_with(secret) {
                        expected.push((start, start + secret.len()));
                    }
                }
            }
            expected.sort_unstable();
            let mut found: Vec<_> = keys.occurrences(text.as_bytes()).map(|(start, end, _)| (start, end)).collect();
            found.sort_unstable();
            prop_assert_eq!(&found, &expected);

            // What is kept of the text is what no key covers.
            let kept = |at: &usize| !expected.iter().any(|(start, end)| (start..end).contains(&at));
            let kept = (0..text.len()).filter(kept).filter(|&at| text.as_bytes()[at] == b'c').count();
            let redacted = keys.redact(text.as_bytes()).unwrap_or_else(|| text.clone().into_bytes());
            prop_assert_eq!(redacted.iter().filter(|&&byte| byte == b'c').count(), kept);
        }
    }
}
