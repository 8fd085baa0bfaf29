//! The pool: who may use which key now, and what became of it. No I/O; on the way of a request, no clock and no lock.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::time::Instant;

use super::{
    ApiKey, Judgement, KeyCounters, KeyPoolError, KeySnapshot, KeyState,
    key::{Entry, Key, Lane},
    set::{KeySet, Walk},
    word::{Clock, Stamp, Standing},
};
use crate::types::KeyHint;

/// How long after the last revocation one request may try the keys of a pool that has no other, and how long after that
/// one the next.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Provider keys in order of preference. Clones share their state; see the [module docs](crate::pool).
#[derive(Clone)]
pub struct KeyPool {
    inner: Arc<Inner>,
}

struct Inner {
    keys: ArcSwap<KeySet>,
    clock: Clock,
    /// From which millisecond a pool whose keys are all revoked may be probed.
    next_probe: AtomicU64,
    /// Held while a set is derived from the one before; requests never take it.
    publishing: Mutex<()>,
}

/// A key for one attempt. Dropped without a report, it counts as unanswered.
pub(crate) struct Lease {
    lane: Arc<Lane>,
    /// What the key's word said. If that it was revoked, the lease is a probe.
    stamp: Stamp,
    answered: bool,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exhausted {
    /// There will be one.
    CoolingDown {
        /// In whole seconds, rounded up, at least one.
        retry_after: Duration,
    },
    /// An operator must act.
    Revoked,
}

// === impl KeyPool ===

impl KeyPool {
    /// A pool of `keys`, in order of preference.
    ///
    /// # Errors
    ///
    /// [`Empty`](KeyPoolError::Empty) or [`Duplicate`](KeyPoolError::Duplicate).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::{ApiKey, KeyPool};
    ///
    /// let pool = KeyPool::new([ApiKey::new("sk-preferred-0123456789")?, ApiKey::new("sk-reserve-0123456789")?])?;
    /// # let _ = pool;
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Result<Self, KeyPoolError> {
        let keys: Vec<ApiKey> = keys.into_iter().collect();
        KeySet::check(&keys)?;
        let entries = keys.into_iter().map(Entry::new).collect();
        Ok(Self {
            inner: Arc::new(Inner {
                keys: ArcSwap::from_pointee(KeySet::new(entries)),
                clock: Clock::new(Instant::now()),
                next_probe: AtomicU64::new(0),
                publishing: Mutex::new(()),
            }),
        })
    }

    /// A pool of keys that are still plain text, in order of preference.
    ///
    /// # Errors
    ///
    /// As [`ApiKey::new`] and [`KeyPool::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::KeyPool;
    ///
    /// let pool = KeyPool::from_secrets("sk-preferred-0123456789,sk-reserve-0123456789".split(','))?;
    /// assert_eq!(pool.snapshot().len(), 2);
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    pub fn from_secrets<I>(secrets: I) -> Result<Self, KeyPoolError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let keys: Vec<ApiKey> = secrets.into_iter().map(ApiKey::new).collect::<Result<_, _>>()?;
        Self::new(keys)
    }

    /// Replaces the keys while requests run. A key that stays keeps its state and its counters, and is still reached by
    /// the requests that use it now; a request that uses one that goes may finish with it.
    ///
    /// # Errors
    ///
    /// As [`KeyPool::new`]; the pool is then as it was.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::{ApiKey, KeyPool};
    ///
    /// let pool = KeyPool::from_secrets(["sk-first-0123456789ab"])?;
    /// pool.replace([ApiKey::new("sk-second-0123456789ab")?, ApiKey::new("sk-first-0123456789ab")?])?;
    /// assert_eq!(pool.snapshot().len(), 2);
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    pub fn replace(&self, keys: impl IntoIterator<Item = ApiKey>) -> Result<(), KeyPoolError> {
        let keys: Vec<ApiKey> = keys.into_iter().collect();
        KeySet::check(&keys)?;
        self.publish(|current| {
            let staying: std::collections::HashMap<&[u8], &Entry> = current
                .entries
                .iter()
                .map(|entry| (entry.key.secret.key(), entry))
                .collect();
            let entry = |key: ApiKey| match staying.get(key.secret()) {
                Some(&entry) => entry.clone(),
                None => Entry::new(key),
            };
            KeySet::new(keys.into_iter().map(entry).collect())
        });
        Ok(())
    }

    /// Makes the keys that look like `hint` usable again, revoked or cooling. How many were not.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::KeyPool;
    ///
    /// let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"])?;
    /// let revoked = &pool.snapshot()[0].hint;
    /// assert_eq!(pool.restore(revoked), 0, "it was usable all along");
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    pub fn restore(&self, hint: &KeyHint) -> usize {
        self.restore_if(|key| key.hint == *hint)
    }

    /// Makes every key usable again, revoked or cooling. How many were not.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::KeyPool;
    ///
    /// let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"])?;
    /// assert_eq!(pool.restore_all(), 0);
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    pub fn restore_all(&self) -> usize {
        self.restore_if(|_| true)
    }

    /// Every key, in order of preference.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::{KeyPool, KeyState};
    ///
    /// let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"])?;
    /// assert!(pool.snapshot().iter().all(|key| key.state == KeyState::Usable));
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Vec<KeySnapshot> {
        let now = Instant::now();
        self.inner
            .keys
            .load()
            .entries
            .iter()
            .map(|entry| self.inspect(entry, now))
            .collect()
    }

    /// The first usable key that `walk` has not tried, or `None`, of which [`exhausted`](Self::exhausted) tells why.
    #[inline]
    pub(crate) fn lease(&self, walk: &mut Walk, now: Instant) -> Option<Lease> {
        let keys = self.inner.keys.load();
        // Nearly every walk ends where it begins.
        if let Some(first) = keys.entries.first()
            && walk.is_new()
        {
            let stamp = first.key.word.load();
            if stamp.is_usable() {
                return Some(Lease::new(first, stamp, walk));
            }
        }
        self.search(&keys, walk, now)
    }

    #[inline(never)]
    fn search(&self, keys: &KeySet, walk: &mut Walk, now: Instant) -> Option<Lease> {
        let found = if walk.probing {
            None
        } else {
            keys.first_usable(walk, &self.inner.clock, now)
        };
        let (entry, stamp) = match found {
            Some(found) => found,
            None => self.probe(keys, walk, now)?,
        };
        Some(Lease::new(entry, stamp, walk))
    }

    /// The next key of a walk that may try revoked ones, which it becomes if it is time to.
    #[cold]
    fn probe<'a>(&self, keys: &'a KeySet, walk: &mut Walk, now: Instant) -> Option<(&'a Entry, Stamp)> {
        let clock = &self.inner.clock;
        let next = keys.first_untried(walk, clock, now)?;
        if !walk.probing {
            // Only now is it known that the keys are revoked, so only now is it known when they may be probed.
            let due = keys
                .all_revoked()
                .then(|| self.inner.next_probe.load(Ordering::Acquire))?;
            let after = clock.deadline(now, PROBE_INTERVAL);
            if clock.millis(now) < due
                || self
                    .inner
                    .next_probe
                    .compare_exchange(due, after, Ordering::AcqRel, Ordering::Relaxed)
                    .is_err()
            {
                return None;
            }
            walk.probing = true;
            tracing::info!("every key is revoked: one request tries them");
        }
        Some(next)
    }

    /// Tells the pool what an attempt said of its key.
    #[inline]
    pub(crate) fn report(&self, lease: &mut Lease, judgement: Judgement, now: Instant) {
        lease.answered = true;
        match judgement {
            Judgement::Accepted => {
                lease.lane.accepted.fetch_add(1, Ordering::Relaxed);
                if lease.stamp.is_revoked() && lease.key().restore(lease.stamp) {
                    self.publish(KeySet::renewed);
                }
            }
            Judgement::CoolDown(rest) => self.cool_down(lease, rest, now),
            Judgement::Revoked => self.revoke(lease, now),
            Judgement::Forbidden => {
                lease.key().forbidden.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[cold]
    fn cool_down(&self, lease: &Lease, rest: Duration, now: Instant) {
        let (key, clock) = (lease.key(), &self.inner.clock);
        key.cooled_down.fetch_add(1, Ordering::Relaxed);
        let deadline = clock.deadline(now, rest);
        if deadline <= clock.millis(now) {
            return;
        }
        let before = key.word.worsen(lease.stamp.cooling(deadline));
        // Of several answers that come together, the first changes the state; the others only move its end.
        if before.is_some_and(|stamp| !matches!(stamp.standing(|| clock.millis(now)), Standing::Cooling(_))) {
            tracing::warn!(credential_hint = %key.hint, seconds = rest.as_secs_f64(), "key cools down");
        }
    }

    #[cold]
    fn revoke(&self, lease: &Lease, now: Instant) {
        let key = lease.key();
        key.revoked.fetch_add(1, Ordering::Relaxed);
        let revoked = lease.stamp.revoked();
        if key.word.load() >= revoked {
            return;
        }
        // Before the key: whoever sees the last key revoked must see when to probe.
        self.inner
            .next_probe
            .fetch_max(self.inner.clock.deadline(now, PROBE_INTERVAL), Ordering::AcqRel);
        if key.word.worsen(revoked).is_some() {
            tracing::warn!(credential_hint = %key.hint, "key revoked");
        }
    }

    /// Why a walk ended without a key.
    pub(crate) fn exhausted(&self, now: Instant) -> Exhausted {
        let clock = &self.inner.clock;
        let left = |entry: &Entry| match entry.key.word.load().standing(|| clock.millis(now)) {
            Standing::Usable | Standing::Rested => Some(Duration::ZERO),
            Standing::Cooling(deadline) => Some(clock.left(now, deadline)),
            Standing::Revoked => None,
        };
        match self.inner.keys.load().entries.iter().filter_map(left).min() {
            Some(left) => {
                let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                Exhausted::CoolingDown {
                    retry_after: Duration::from_secs(seconds.max(1)),
                }
            }
            None => Exhausted::Revoked,
        }
    }

    /// `text` with every occurrence of a key replaced by its hint; `None` if none occurs.
    pub(crate) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.inner.keys.load().redact(text)
    }

    /// Tells of one text after the other whether a key occurs in it.
    pub(crate) fn searcher(&self) -> impl Fn(&[u8]) -> bool + use<> {
        let keys = self.inner.keys.load();
        move |text| keys.occurs_in(text)
    }

    fn restore_if(&self, wanted: impl Fn(&Key) -> bool) -> usize {
        let now = self.inner.clock.millis(Instant::now());
        let mut restored = 0;
        self.publish(|current| {
            for Entry { key, .. } in current.entries.iter().filter(|entry| wanted(&entry.key)) {
                loop {
                    let stamp = key.word.load();
                    if matches!(stamp.standing(|| now), Standing::Usable | Standing::Rested) {
                        break;
                    }
                    if key.restore(stamp) {
                        restored += 1;
                        break;
                    }
                }
            }
            current.renewed()
        });
        restored
    }

    /// Puts in place what `next` makes of the keys.
    fn publish(&self, next: impl FnOnce(&KeySet) -> KeySet) {
        // It guards no data, so a panic under it left none half changed.
        let _publishing = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next(&self.inner.keys.load());
        self.inner.keys.store(Arc::new(next));
    }

    fn inspect(&self, entry: &Entry, now: Instant) -> KeySnapshot {
        let (key, clock) = (&entry.key, &self.inner.clock);
        let (state, time_left) = match key.word.load().standing(|| clock.millis(now)) {
            Standing::Usable | Standing::Rested => (KeyState::Usable, None),
            Standing::Cooling(deadline) => (KeyState::CoolingDown, Some(clock.left(now, deadline))),
            Standing::Revoked => (KeyState::Revoked, None),
        };
        let accepted = entry
            .lanes()
            .iter()
            .map(|lane| lane.accepted.load(Ordering::Relaxed))
            .sum();
        let cooled_down = key.cooled_down.load(Ordering::Relaxed);
        let revoked = key.revoked.load(Ordering::Relaxed);
        let forbidden = key.forbidden.load(Ordering::Relaxed);
        let unanswered = key.unanswered.load(Ordering::Relaxed);
        let attempts = accepted + cooled_down + revoked + forbidden + unanswered;
        let counters = KeyCounters {
            attempts,
            accepted,
            cooled_down,
            revoked,
            forbidden,
            unanswered,
        };
        KeySnapshot {
            hint: key.hint.clone(),
            state,
            time_left,
            counters,
        }
    }
}

/// Hints and states.
impl fmt::Debug for KeyPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.snapshot();
        f.write_str("KeyPool ")?;
        f.debug_list()
            .entries(keys.iter().map(|key| (&key.hint, key.state)))
            .finish()
    }
}

// === impl Lease ===

impl Lease {
    #[inline]
    fn new(entry: &Entry, stamp: Stamp, walk: &mut Walk) -> Self {
        walk.tries(entry.key.id);
        Self {
            lane: Arc::clone(entry.lane()),
            stamp,
            answered: false,
        }
    }

    /// The key, masked.
    pub(crate) fn hint(&self) -> &KeyHint {
        &self.lane.key.hint
    }

    /// `Bearer <key>`, marked sensitive. It shares its bytes with every other.
    #[inline]
    pub(crate) fn authorization(&self) -> HeaderValue {
        self.lane.authorization.clone()
    }

    fn key(&self) -> &Key {
        &self.lane.key
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if !self.answered {
            self.key().unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.hint()).finish()
    }
}

#[cfg(test)]
mod tests;
