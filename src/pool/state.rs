//! The pool: leases keys to requests and takes in their reports. No I/O, and no clock of its own; requests take no lock.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{
    ApiKey, KeyCounters, KeyPoolError, KeySnapshot, KeyState, Report,
    key::{Entry, Key, SentKey},
    set::{KeySet, Walk},
    word::{Clock, KeyFate, Stamp},
};
use crate::types::{CredentialHeader, KeyHint};

/// How long after the last revocation one request may try the keys of a pool that has no other, and how long after that
/// one the next.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Provider keys in order of preference. Clones share their state; see the [module docs](crate::pool).
#[derive(Clone)]
pub struct KeyPool {
    inner: Arc<Inner>,
    sent_as: CredentialHeader,
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
    entry: Arc<Entry>,
    /// The key's state when it was leased. If it was revoked, the lease is a probe.
    stamp: Stamp,
    answered: bool,
}

/// Why no key can be leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exhausted {
    /// A key comes back by itself.
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
    /// [`Empty`](super::KeyPoolErrorKind::Empty) or [`Duplicate`](super::KeyPoolErrorKind::Duplicate).
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
        let keys = KeySet::new(keys.into_iter().collect(), None)?;
        Ok(Self {
            inner: Arc::new(Inner {
                keys: ArcSwap::from_pointee(keys),
                clock: Clock::new(Instant::now()),
                next_probe: AtomicU64::new(0),
                publishing: Mutex::new(()),
            }),
            sent_as: CredentialHeader::default(),
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

    /// Sets the header that carries the keys which do not [name one](ApiKey::sent_as) themselves.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_llm_bridge::pool::{CredentialHeader, KeyPool};
    ///
    /// let azure = CredentialHeader::header(HeaderName::from_static("api-key"));
    /// let pool = KeyPool::from_secrets(["0123456789abcdef0123456789abcdef"])?.sent_as(azure);
    /// # let _ = pool;
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    #[must_use]
    pub fn sent_as(mut self, header: CredentialHeader) -> Self {
        self.sent_as = header;
        self
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
        let keys = keys.into_iter().collect();
        // It guards no data, so a panic under it left nothing half changed.
        let _publishing = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = KeySet::new(keys, Some(&self.inner.keys.load()))?;
        self.inner.keys.store(Arc::new(next));
        Ok(())
    }

    /// Makes the keys with this hint usable again, revoked or cooling. Returns how many were not usable.
    ///
    /// The hint is text, as an operator's endpoint gets it, or the [`KeyHint`] of a snapshot.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::KeyPool;
    ///
    /// let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"])?;
    /// assert_eq!(pool.restore("sk-0...ghij"), 0, "it was usable all along");
    /// assert_eq!(pool.restore(&pool.snapshot()[0].hint), 0);
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    pub fn restore(&self, hint: impl AsRef<str>) -> usize {
        let hint = hint.as_ref();
        self.restore_if(|key| key.hint == *hint)
    }

    /// Makes every key usable again, revoked or cooling. Returns how many were not usable.
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

    /// The first usable key that `walk` has not tried. If there is none, [`exhausted`](Self::exhausted) says why.
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

    /// The next key of a walk that may try revoked ones. A walk becomes one if every key is revoked and a probe is due.
    #[cold]
    fn probe<'a>(&self, keys: &'a KeySet, walk: &mut Walk, now: Instant) -> Option<(&'a Arc<Entry>, Stamp)> {
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

    /// The header that carries the key of `lease`. `usual` is the dialect's, for a key that does not name its own.
    #[inline]
    pub(crate) fn header(&self, lease: &Lease, usual: &CredentialHeader) -> (HeaderName, HeaderValue) {
        lease.entry.header(self.sent_as.or(usual))
    }

    /// Takes in what an attempt's answer says about its key.
    #[inline]
    pub(crate) fn report(&self, lease: &mut Lease, report: Report, now: Instant) {
        lease.answered = true;
        let key = lease.key();
        match report {
            Report::Relayed => {
                key.accepted.fetch_add(1, Ordering::Relaxed);
                if lease.stamp.is_revoked() {
                    key.restore(lease.stamp);
                }
            }
            Report::CoolDown(rest) => self.cool_down(lease, rest, now),
            Report::Revoked => self.revoke(lease, now),
            Report::NextKey => {
                key.forbidden.fetch_add(1, Ordering::Relaxed);
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
        let before = key.word.raise_to(lease.stamp.cooling(deadline));
        // Of several answers that come together, the first changes the state; the others only move its end.
        if before.is_some_and(|stamp| !matches!(stamp.fate(|| clock.millis(now)), KeyFate::Cooling(_))) {
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
        // Before the key: a request that sees the last key revoked must see when a probe is due.
        self.inner
            .next_probe
            .fetch_max(self.inner.clock.deadline(now, PROBE_INTERVAL), Ordering::AcqRel);
        if key.word.raise_to(revoked).is_some() {
            tracing::warn!(credential_hint = %key.hint, "key revoked");
        }
    }

    /// Why a walk ended without a key.
    pub(crate) fn exhausted(&self, now: Instant) -> Exhausted {
        let clock = &self.inner.clock;
        let left = |entry: &Arc<Entry>| match entry.key.word.load().fate(|| clock.millis(now)) {
            KeyFate::Usable | KeyFate::Rested => Some(Duration::ZERO),
            KeyFate::Cooling(deadline) => Some(clock.left(now, deadline)),
            KeyFate::Revoked => None,
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

    /// `text` with every key masked; `None` if none occurs.
    pub(crate) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.inner.keys.load().redact(text)
    }

    /// A test of texts: whether a key occurs in one.
    pub(crate) fn key_finder(&self) -> impl Fn(&[u8]) -> bool + use<> {
        let keys = self.inner.keys.load();
        move |text| keys.occur_in(text)
    }

    fn restore_if(&self, wanted: impl Fn(&Key) -> bool) -> usize {
        let now = self.inner.clock.millis(Instant::now());
        let mut restored = 0;
        for Entry { key, .. } in self.inner.keys.load().entries.iter().map(Arc::as_ref) {
            while wanted(key) {
                let stamp = key.word.load();
                if matches!(stamp.fate(|| now), KeyFate::Usable | KeyFate::Rested) {
                    break;
                }
                if key.restore(stamp) {
                    restored += 1;
                    break;
                }
            }
        }
        restored
    }

    fn inspect(&self, entry: &Entry, now: Instant) -> KeySnapshot {
        let (key, clock) = (&entry.key, &self.inner.clock);
        let (state, time_left) = match key.word.load().fate(|| clock.millis(now)) {
            KeyFate::Usable | KeyFate::Rested => (KeyState::Usable, None),
            KeyFate::Cooling(deadline) => (KeyState::CoolingDown, Some(clock.left(now, deadline))),
            KeyFate::Revoked => (KeyState::Revoked, None),
        };
        let accepted = key.accepted.load(Ordering::Relaxed);
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
    fn new(entry: &Arc<Entry>, stamp: Stamp, walk: &mut Walk) -> Self {
        walk.note_tried(entry.key.id);
        Self {
            entry: Arc::clone(entry),
            stamp,
            answered: false,
        }
    }

    /// The masked key.
    pub(crate) fn hint(&self) -> &KeyHint {
        &self.key().hint
    }

    /// The key, to find and mask it in texts of the provider.
    pub(crate) fn sent_key(&self) -> SentKey {
        SentKey(Arc::clone(&self.entry))
    }

    fn key(&self) -> &Key {
        &self.entry.key
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
