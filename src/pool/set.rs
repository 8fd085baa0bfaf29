//! One list of keys: their order, their domains, and the search for the next one to try.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    ApiKey, KeyPoolError,
    choice::{Group, Order},
    domain::{Domain, DomainFate, DomainName},
    key::{Entry, Key},
    purpose::Purpose,
    walk::Walk,
    word::{KeyFate, Stamp},
};
use crate::redact::Secrets;

/// The keys of a pool. A change of the list, or of a key's domain, makes a new set.
pub(super) struct KeySet {
    /// In order of rank.
    pub(super) entries: Arc<[Arc<Entry>]>,
    /// Keys of equal rank, in order of rank.
    groups: Arc<[Group]>,
    secrets: Arc<Secrets<Arc<Key>>>,
}

/// Whether a key serves a purpose. Lesser is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Free,
    /// Its bucket is empty, as the provider's headers say.
    LastResort,
    /// It is suspected. It is tried before a request is refused, so that suspicion alone never costs anybody an answer.
    Suspected,
    /// Not before this millisecond.
    Resting(u64),
    Revoked,
}

// === impl KeySet ===

impl KeySet {
    /// A set of `keys`. A key that is in `current` too keeps its state, and its domain unless another is declared.
    pub(super) fn new(keys: Vec<ApiKey>, current: Option<&Self>, now: u64) -> Result<Self, KeyPoolError> {
        if keys.is_empty() {
            return Err(KeyPoolError::empty());
        }
        let mut seen = HashSet::with_capacity(keys.len());
        if let Some(twice) = keys.iter().find(|key| !seen.insert(key.bytes())) {
            return Err(KeyPoolError::duplicate(twice.hint().clone()));
        }
        let entries = current.map(|current| &*current.entries).unwrap_or_default();
        let staying: HashMap<&[u8], &Arc<Entry>> = entries.iter().map(|entry| (entry.key.bytes(), entry)).collect();
        let mut declared: HashMap<Arc<str>, Arc<Domain>> = HashMap::new();
        for entry in entries {
            if let DomainName::Declared(name) = &entry.domain.name {
                declared.insert(Arc::clone(name), Arc::clone(&entry.domain));
            }
        }
        let mut domain = |key: &ApiKey, staying: Option<&Arc<Entry>>| match &key.domain {
            Some(name) => {
                let shared = declared.entry(Arc::clone(name));
                let shared = shared.or_insert_with(|| Domain::new(DomainName::Declared(Arc::clone(name))));
                if let Some(entry) = staying.filter(|entry| matches!(entry.domain.name, DomainName::Own(_))) {
                    shared.absorb(&entry.domain, now);
                }
                Arc::clone(shared)
            }
            None => match staying.map(|entry| &entry.domain) {
                Some(domain) if !matches!(domain.name, DomainName::Declared(_)) => Arc::clone(domain),
                _ => Domain::new(DomainName::Own(key.hint().as_str().into())),
            },
        };
        let entry = |(position, key): (usize, ApiKey)| {
            let staying = staying.get(key.bytes()).copied();
            let domain = domain(&key, staying);
            Entry::new(key, position, domain, staying.map(|entry| &entry.key))
        };
        let mut entries: Vec<_> = keys.into_iter().enumerate().map(entry).collect();
        entries.sort_by_key(|entry| entry.rank);
        let mut groups = Vec::new();
        let mut start = 0;
        for group in entries.chunk_by(|one, other| one.rank == other.rank) {
            groups.push(Group::new(start..start + group.len()));
            start += group.len();
        }
        Ok(Self {
            secrets: Arc::new(Secrets::new(entries.iter().map(|entry| Arc::clone(&entry.key)))),
            entries: entries.into(),
            groups: groups.into(),
        })
    }

    /// The same keys, with `entry` in the domain `name`, and the new entry. If the old domain was the key's own, its
    /// rests move along.
    pub(super) fn with_domain(&self, entry: &Entry, name: DomainName, now: u64) -> Option<(Self, Arc<Entry>)> {
        let position = self.position(entry)?;
        let current = &self.entries[position];
        let mut domains = self.entries.iter().map(|entry| &entry.domain);
        let domain = domains.find(|domain| domain.name == name);
        let domain = domain.map_or_else(|| Domain::new(name), Arc::clone);
        if matches!(current.domain.name, DomainName::Own(_)) {
            domain.absorb(&current.domain, now);
        }
        let moved = current.with_domain(domain);
        let mut entries = self.entries.to_vec();
        entries[position] = Arc::clone(&moved);
        let next = Self {
            entries: entries.into(),
            groups: Arc::clone(&self.groups),
            secrets: Arc::clone(&self.secrets),
        };
        Some((next, moved))
    }

    /// The entry of the same key in this set.
    pub(super) fn current(&self, entry: &Entry) -> Option<&Arc<Entry>> {
        Some(&self.entries[self.position(entry)?])
    }

    fn position(&self, entry: &Entry) -> Option<usize> {
        self.entries.iter().position(|other| other.key.id == entry.key.id)
    }

    /// The first key of a walk in `order`, whether it is usable or not.
    #[inline]
    pub(super) fn first(&self, order: Order) -> Option<&Arc<Entry>> {
        let position = self
            .groups
            .first()?
            .first(order, |position| self.entries[position].seed);
        self.entries.get(position)
    }

    /// Whether keys of equal rank exist, so that an order makes a difference.
    #[inline]
    pub(super) fn has_equals(&self) -> bool {
        self.groups.len() < self.entries.len()
    }

    /// The best key for `purpose` that `walk` has not tried, and its state: the free ones in their order, then those
    /// with an empty bucket, then suspected ones.
    pub(super) fn best(
        &self,
        walk: &Walk,
        order: Order,
        purpose: Purpose<'_>,
        now: u64,
    ) -> Option<(&Arc<Entry>, Stamp)> {
        let mut best: Option<(Fate, &Arc<Entry>, Stamp)> = None;
        let mut domains = DomainFates::new(purpose, now);
        for group in &*self.groups {
            let mut best_of_group: Option<((Fate, u64), &Arc<Entry>, Stamp)> = None;
            for (position, entry) in self.entries[group.keys.clone()].iter().enumerate() {
                let stamp = entry.key.word.load();
                let fate = self.fate(entry, stamp, purpose, &mut domains, now);
                if fate > Fate::Suspected || walk.has_tried(entry.key.id) {
                    continue;
                }
                let later = u64::MAX - group.precedence(order, group.keys.start + position, entry.seed);
                if best_of_group.is_none_or(|(before, ..)| (fate, later) < before) {
                    best_of_group = Some(((fate, later), entry, stamp));
                }
            }
            if let Some(((fate, _), entry, stamp)) = best_of_group {
                if best.is_none_or(|(before, ..)| fate < before) {
                    best = Some((fate, entry, stamp));
                }
                if fate == Fate::Free {
                    break;
                }
            }
        }
        best.map(|(_, entry, stamp)| (entry, stamp))
    }

    /// The first revoked key that `walk` has not tried.
    pub(super) fn first_revoked(&self, walk: &Walk) -> Option<(&Arc<Entry>, Stamp)> {
        let untried = self.entries.iter().filter(|entry| !walk.has_tried(entry.key.id));
        let mut stamped = untried.map(|entry| (entry, entry.key.word.load()));
        stamped.find(|(_, stamp)| stamp.is_revoked())
    }

    pub(super) fn all_revoked(&self) -> bool {
        self.entries.iter().all(|entry| entry.key.word.load().is_revoked())
    }

    /// The millisecond at which the first key is back for `purpose`; `None` if all are revoked.
    pub(super) fn first_back(&self, purpose: Purpose<'_>, now: u64) -> Option<u64> {
        let mut domains = DomainFates::new(purpose, now);
        let mut first: Option<u64> = None;
        for entry in &*self.entries {
            let stamp = entry.key.word.load();
            let back = match self.fate(entry, stamp, purpose, &mut domains, now) {
                Fate::Free | Fate::LastResort | Fate::Suspected => now,
                Fate::Resting(deadline) => deadline,
                Fate::Revoked => continue,
            };
            first = Some(first.map_or(back, |first| first.min(back)));
        }
        first
    }

    /// Whether a key serves `purpose` at the millisecond `now`.
    fn fate<'a>(
        &self,
        entry: &'a Entry,
        stamp: Stamp,
        purpose: Purpose<'_>,
        domains: &mut DomainFates<'a, '_>,
        now: u64,
    ) -> Fate {
        let key = &entry.key;
        let is_suspected = match stamp.fate(|| now) {
            KeyFate::Revoked => return Fate::Revoked,
            KeyFate::Cooling(_) => true,
            KeyFate::Rested => {
                key.clear_expired(stamp);
                false
            }
            KeyFate::Usable => false,
        };
        let rest = match purpose {
            Purpose::Model(_) => match domains.fate(&entry.domain) {
                DomainFate::Free => Fate::Free,
                DomainFate::LastResort => Fate::LastResort,
                DomainFate::Resting(deadline) => Fate::Resting(deadline),
            },
            Purpose::Keyed | Purpose::Counting => match key.rest_of(purpose) {
                deadline if deadline > now => Fate::Resting(deadline),
                _ => Fate::Free,
            },
        };
        if is_suspected { rest.max(Fate::Suspected) } else { rest }
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

/// The fates of domains in one search. Keys of one domain are often neighbours, so the last fate is reused.
struct DomainFates<'a, 'p> {
    model: &'p str,
    now: u64,
    last: Option<(&'a Arc<Domain>, DomainFate)>,
}

// === impl DomainFates ===

impl<'a, 'p> DomainFates<'a, 'p> {
    fn new(purpose: Purpose<'p>, now: u64) -> Self {
        let model = match purpose {
            Purpose::Model(model) => model,
            Purpose::Keyed | Purpose::Counting => "",
        };
        Self { model, now, last: None }
    }

    #[inline]
    fn fate(&mut self, domain: &'a Arc<Domain>) -> DomainFate {
        match self.last {
            Some((last, fate)) if Arc::ptr_eq(last, domain) => fate,
            _ => {
                let fate = domain.fate(self.model, self.now);
                self.last = Some((domain, fate));
                fate
            }
        }
    }
}
