//! One list of keys, in order of preference, and a request's way through it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    ApiKey, KeyPoolError,
    key::{Entry, Key, KeyId},
    word::{Clock, KeyFate, Stamp},
};
use crate::redact::{Secret, Secrets};

/// The keys of a pool until the next [`replace`](super::KeyPool::replace).
pub(super) struct KeySet {
    /// In order of rank.
    pub(super) entries: Box<[Arc<Entry>]>,
    secrets: Secrets<Arc<Key>>,
}

/// One round's way through the pool: the keys that it has tried.
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
    pub(super) fn note_tried(&mut self, key: KeyId) {
        if let Some(last) = self.last.replace(key) {
            self.earlier.push(last);
        }
    }
}

// === impl KeySet ===

impl KeySet {
    /// A set of `keys`. A key that is in `current` too keeps its state.
    pub(super) fn new(keys: Vec<ApiKey>, current: Option<&Self>) -> Result<Self, KeyPoolError> {
        if keys.is_empty() {
            return Err(KeyPoolError::empty());
        }
        let mut seen = HashSet::with_capacity(keys.len());
        if let Some(twice) = keys.iter().find(|key| !seen.insert(key.secret())) {
            return Err(KeyPoolError::duplicate(twice.hint().clone()));
        }
        let entries = current.map(|current| &*current.entries).unwrap_or_default();
        let staying: HashMap<&[u8], &Arc<Key>> = entries.iter().map(|entry| (entry.key.secret(), &entry.key)).collect();
        let entry = |(position, key): (usize, ApiKey)| {
            let staying = staying.get(key.secret()).copied();
            Entry::new(key, position, staying)
        };
        let mut entries: Box<[_]> = keys.into_iter().enumerate().map(entry).collect();
        entries.sort_by_key(|entry| entry.rank);
        Ok(Self {
            secrets: Secrets::new(entries.iter().map(|entry| Arc::clone(&entry.key))),
            entries,
        })
    }

    /// The first usable key that `walk` has not tried, and its state.
    #[inline]
    pub(super) fn first_usable(&self, walk: &Walk, clock: &Clock, now: Instant) -> Option<(&Arc<Entry>, Stamp)> {
        self.entries.iter().find_map(|entry| {
            let stamp = entry.key.word.load();
            match stamp.fate(|| clock.millis(now)) {
                KeyFate::Usable => {}
                KeyFate::Rested => entry.key.clear_expired(stamp),
                KeyFate::Cooling(_) | KeyFate::Revoked => return None,
            }
            (!walk.has_tried(entry.key.id)).then_some((entry, stamp))
        })
    }

    /// The first key, usable or revoked, that `walk` has not tried.
    pub(super) fn first_untried(&self, walk: &Walk, clock: &Clock, now: Instant) -> Option<(&Arc<Entry>, Stamp)> {
        let untried = self.entries.iter().filter(|entry| !walk.has_tried(entry.key.id));
        let mut stamped = untried.map(|entry| (entry, entry.key.word.load()));
        stamped.find(|(_, stamp)| !matches!(stamp.fate(|| clock.millis(now)), KeyFate::Cooling(_)))
    }

    pub(super) fn all_revoked(&self) -> bool {
        self.entries.iter().all(|entry| entry.key.word.load().is_revoked())
    }

    /// Whether a key occurs in `text`.
    pub(super) fn occur_in(&self, text: &[u8]) -> bool {
        self.secrets.occur_in(text)
    }

    /// `text` with every key masked; `None` if none occurs in it.
    pub(super) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.secrets.redact(text)
    }
}
