//! The keys of a pool, in order of preference, and the way to the first that is usable.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use memchr::memmem;
use tokio::time::Instant;

use super::{
    ApiKey, KeyPoolError,
    key::{Entry, KeyId},
    word::{Clock, NEVER, Stamp, Standing},
};

/// Fewer unusable keys than this are passed by faster than remembered.
const WORTH_SKIPPING: usize = 16;

const UNTIL_BITS: u32 = 44;
const MOST_SKIPPED: u64 = u64::MAX >> UNTIL_BITS;

/// The keys of a pool at one time. Within one set keys become usable by the passing of time alone: whatever restores a
/// key publishes a new set, with nothing to skip.
pub(super) struct KeySet {
    pub(super) entries: Box<[Entry]>,
    /// How many leading keys are known to be unusable (high 20 bits) until which millisecond (low 44 bits).
    skip: AtomicU64,
    /// Positions by secret, for [`redact`](Self::redact).
    sorted: Box<[Group]>,
}

/// The keys that begin with the same bytes, as those of one provider do.
#[derive(Clone)]
struct Group {
    /// How many bytes they share.
    prefix: usize,
    /// Their positions, of which there is at least one.
    keys: Box<[usize]>,
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
        let sorted = Group::all(&entries);
        Self {
            entries,
            skip: AtomicU64::new(0),
            sorted,
        }
    }

    /// The same keys, with nothing known of them.
    pub(super) fn renewed(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            skip: AtomicU64::new(0),
            sorted: self.sorted.clone(),
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
        self.occurrences(text).next().is_some()
    }

    /// `text` with every key replaced by its hint; `None` if none occurs in it.
    pub(super) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut found: Vec<_> = self.occurrences(text).collect();
        if found.is_empty() {
            return None;
        }
        found.sort_unstable();
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
        self.sorted.iter().flat_map(move |group| {
            let prefix = &self.entries[group.keys[0]].key.secret.key()[..group.prefix];
            overlapping(text, prefix).flat_map(move |start| {
                let here =
                    move |position: &&usize| text[start..].starts_with(self.entries[**position].key.secret.key());
                group
                    .keys
                    .iter()
                    .filter(here)
                    .map(move |&position| (start, start + self.entries[position].key.secret.key().len(), position))
            })
        })
    }
}

// === impl Group ===

impl Group {
    /// Keys whose first bytes are alike are looked for together: a header value is then searched once per provider,
    /// not once per key.
    fn all(entries: &[Entry]) -> Box<[Self]> {
        const ALIKE: usize = 4;
        let secret = |position: usize| entries[position].key.secret.key();
        let head = |position: usize| secret(position).get(..ALIKE).unwrap_or(secret(position));
        let mut positions: Vec<usize> = (0..entries.len()).collect();
        positions.sort_unstable_by_key(|&position| secret(position));
        let group = |keys: &[usize]| {
            let (first, last) = (secret(keys[0]), secret(keys[keys.len() - 1]));
            // Of a sorted list, the first and the last share what all share.
            let prefix = first.iter().zip(last).take_while(|(a, b)| a == b).count();
            Self {
                prefix,
                keys: keys.into(),
            }
        };
        positions.chunk_by(|&a, &b| head(a) == head(b)).map(group).collect()
    }
}

/// Every position at which `needle` occurs, overlaps included: a key may begin within a false start of itself.
fn overlapping<'a>(text: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + memmem::find(text.get(from..)?, needle)?;
        from = at + 1;
        Some(at)
    })
}
