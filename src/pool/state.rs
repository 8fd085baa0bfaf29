//! The pool: leases keys to requests. No I/O; leases get the time as an argument, and take no lock while nothing rests.

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
    ApiKey, KeyPoolError, KeySnapshot, KeyState, ModelRest, Purpose, Walk,
    choice::Order,
    key::{Attempt, Entry, SentKey},
    set::KeySet,
    walk::Probe,
    word::{Clock, KeyFate, Stamp},
};
use crate::types::{CredentialHeader, KeyHint};

/// The time between probes, in which one request tries the keys of a pool whose keys are all revoked; also from the
/// last revocation to the first probe.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Provider keys in order of preference. Clones share their state; see the [module docs](crate::pool).
#[derive(Clone)]
pub struct KeyPool {
    pub(super) inner: Arc<Inner>,
    sent_as: CredentialHeader,
}

pub(super) struct Inner {
    pub(super) keys: ArcSwap<KeySet>,
    pub(super) clock: Clock,
    /// From which millisecond a pool whose keys are all revoked may be probed.
    pub(super) next_probe: Arc<AtomicU64>,
    /// Counts requests without a conversation, so that they take turns.
    turns: AtomicU64,
    /// Held while a new set is made from the current one.
    pub(super) publishing: Mutex<()>,
}

/// A key for one attempt. Dropped without a report, it counts as unanswered.
pub(crate) struct Lease {
    pub(super) entry: Arc<Entry>,
    /// The key's state when it was leased. If it was revoked, the lease is a probe.
    pub(super) stamp: Stamp,
    /// Of the key's domain, when it was leased.
    pub(super) generation: u64,
    pub(super) answered: bool,
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
        let keys = KeySet::new(keys.into_iter().collect(), None, 0)?;
        Ok(Self {
            inner: Arc::new(Inner {
                keys: ArcSwap::from_pointee(keys),
                clock: Clock::new(Instant::now()),
                next_probe: Arc::default(),
                turns: AtomicU64::new(0),
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

    /// Replaces the keys while requests run. A key that stays keeps its state, its domain and its counters, and still
    /// gets the reports of requests under way. A request that uses a removed key may finish with it.
    ///
    /// # Errors
    ///
    /// As [`KeyPool::new`]; then the pool is unchanged.
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
        let now = self.inner.clock.millis(Instant::now());
        let next = KeySet::new(keys, Some(&self.inner.keys.load()), now)?;
        self.inner.keys.store(Arc::new(next));
        Ok(())
    }

    /// Makes the keys with this hint usable again for every model, whether revoked, suspected or resting, and ends the
    /// rests of their domains. Returns how many of them were not usable.
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
        self.restore_if(|entry| entry.key.hint == *hint)
    }

    /// Makes every key usable again for every model. Returns how many were not usable.
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

    /// Sets the gauge `llm_bridge.keys` of `provider` to the number of keys in each state; to be called before each
    /// collection of metrics, since most states end by themselves.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::pool::KeyPool;
    ///
    /// let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"])?;
    /// pool.publish_metrics("openai");
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn publish_metrics(&self, provider: &str) {
        let keys = self.snapshot();
        let states = [
            ("usable", KeyState::Usable),
            ("cooling_down", KeyState::CoolingDown),
            ("suspected", KeyState::Suspected),
            ("revoked", KeyState::Revoked),
        ];
        let count = |state| keys.iter().filter(|key| key.state == state).count();
        let counts = states.map(|(name, state)| (name, u32::try_from(count(state)).unwrap_or(u32::MAX)));
        crate::metrics::keys(provider, counts);
    }

    /// The best key for `purpose` that `walk` has not tried. If there is none, [`exhausted`](Self::exhausted) says why.
    #[inline]
    pub(crate) fn lease(&self, walk: &mut Walk, purpose: Purpose<'_>, now: Instant) -> Option<Lease> {
        let keys = self.inner.keys.load();
        let order = walk.order(|| {
            if keys.has_equals() {
                self.inner.turns.fetch_add(1, Ordering::Relaxed)
            } else {
                0
            }
        });
        // Nearly every walk ends with its first key.
        if let Some(first) = keys.first(order)
            && walk.is_new()
        {
            let stamp = first.key.word.load();
            let serves = match purpose {
                Purpose::Model(_) => !first.domain.has_rests(),
                Purpose::Keyed | Purpose::Counting => first.key.rest_of(purpose) == 0,
            };
            if stamp.is_usable() && serves {
                return Some(Lease::new(first, stamp, walk));
            }
        }
        self.search(&keys, walk, order, purpose, now)
    }

    /// Leases the key of an earlier attempt again, if it is still in the pool.
    pub(crate) fn lease_again(&self, walk: &mut Walk, sent: &SentKey) -> Option<Lease> {
        let keys = self.inner.keys.load();
        let entry = keys.current(&sent.0)?;
        Some(Lease::new(entry, entry.key.word.load(), walk))
    }

    /// Whether keys of equal rank exist, so that a request's conversation makes a difference.
    pub(crate) fn has_equals(&self) -> bool {
        self.inner.keys.load().has_equals()
    }

    #[inline(never)]
    fn search(
        &self,
        keys: &KeySet,
        walk: &mut Walk,
        order: Order,
        purpose: Purpose<'_>,
        now: Instant,
    ) -> Option<Lease> {
        let found = keys.best(walk, order, purpose, self.inner.clock.millis(now));
        let (entry, stamp) = match found {
            Some(found) => found,
            None => self.probe(keys, walk, purpose, now)?,
        };
        Some(Lease::new(entry, stamp, walk))
    }

    /// The next key for a walk that may try revoked ones. A walk may if every key is revoked and a probe is due.
    #[cold]
    fn probe<'a>(
        &self,
        keys: &'a KeySet,
        walk: &mut Walk,
        purpose: Purpose<'_>,
        now: Instant,
    ) -> Option<(&'a Arc<Entry>, Stamp)> {
        let next = keys.first_revoked(walk)?;
        if walk.probe.is_none() {
            // A refusal of a keyed path proves nothing about a key, so such a request would waste the turn.
            if !matches!(purpose, Purpose::Model(_)) || !keys.all_revoked() {
                return None;
            }
            let clock = &self.inner.clock;
            let after = clock.deadline(now, PROBE_INTERVAL);
            walk.probe = Some(Probe::take(&self.inner.next_probe, clock.millis(now), after)?);
            tracing::info!("every key is revoked: one request tries them");
        }
        if let Some(probe) = &mut walk.probe {
            probe.undecided += 1;
        }
        Some(next)
    }

    /// The header that carries the key of `lease`. `usual` is the dialect's, for a key that does not name its own.
    #[inline]
    pub(crate) fn header(&self, lease: &Lease, usual: &CredentialHeader) -> (HeaderName, HeaderValue) {
        lease.entry.header(self.sent_as.or(usual))
    }

    /// Why a walk for `purpose` ended without a key.
    pub(crate) fn exhausted(&self, purpose: Purpose<'_>, now: Instant) -> Exhausted {
        let clock = &self.inner.clock;
        match self.inner.keys.load().first_back(purpose, clock.millis(now)) {
            Some(back) => {
                let left = clock.left(now, back);
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

    /// A function that tells whether a key occurs in a text.
    pub(crate) fn key_finder(&self) -> impl Fn(&[u8]) -> bool + use<> {
        let keys = self.inner.keys.load();
        move |text| keys.occur_in(text)
    }

    fn restore_if(&self, wanted: impl Fn(&Entry) -> bool) -> usize {
        let now = self.inner.clock.millis(Instant::now());
        let keys = self.inner.keys.load();
        let wanted: Vec<_> = keys.entries.iter().filter(|entry| wanted(entry)).collect();
        let restore = |entry: &&Arc<Entry>| {
            let (all_models, models) = entry.domain.inspect(now);
            // Outside of the condition below, since it has an effect.
            let restored = entry.key.restore_all(now);
            restored || all_models.is_some() || !models.is_empty()
        };
        let restored = wanted.iter().filter(|entry| restore(entry)).count();
        for entry in wanted {
            entry.domain.restore();
        }
        restored
    }

    fn inspect(&self, entry: &Entry, now: Instant) -> KeySnapshot {
        let clock = &self.inner.clock;
        let millis = clock.millis(now);
        let (all_models, models) = entry.domain.inspect(millis);
        let (state, until) = match (entry.key.word.load().fate(|| millis), all_models) {
            (KeyFate::Revoked, _) => (KeyState::Revoked, None),
            (_, Some(deadline)) => (KeyState::CoolingDown, Some(deadline)),
            (KeyFate::Cooling(deadline), None) => (KeyState::Suspected, Some(deadline)),
            (KeyFate::Usable | KeyFate::Rested, None) => (KeyState::Usable, None),
        };
        let rests = models.into_iter().filter_map(|rest| {
            Some(ModelRest {
                model: String::from(&*rest.model),
                last_resort: rest.cooling.is_none(),
                time_left: clock.left(now, rest.cooling.or(rest.last_resort)?),
            })
        });
        KeySnapshot {
            hint: entry.key.hint.clone(),
            domain: entry.domain.name.public(),
            state,
            time_left: until.map(|deadline| clock.left(now, deadline)),
            rests: rests.collect(),
            counters: entry.key.counters.read(),
        }
    }
}

/// Prints hints and states.
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
            generation: entry.domain.generation(),
            answered: false,
        }
    }

    /// The masked key.
    pub(crate) fn hint(&self) -> &KeyHint {
        &self.entry.key.hint
    }

    /// The key, to find and mask it in texts of the provider.
    pub(crate) fn sent_key(&self) -> SentKey {
        SentKey(Arc::clone(&self.entry))
    }

    /// Whether it leases the key that was `sent`.
    pub(crate) fn is_of(&self, sent: &SentKey) -> bool {
        // Not compared by entry: a key gets a new one when its domain is learnt.
        self.entry.key.id == sent.0.key.id
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if !self.answered {
            self.entry.key.count(Attempt::Unanswered);
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
