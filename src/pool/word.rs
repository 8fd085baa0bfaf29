//! A key's state in one machine word, so that each change of it is one atomic instruction.
//!
//! The high 20 bits are a generation, the low 44 the key's fate: 0 is usable, all ones is revoked, any other value is
//! the millisecond since the pool's epoch at which a cool-down ends. Worse is numerically greater, so `fetch_max` alone
//! implements "a deadline is never shortened" and "revoked wins". Restoring a key begins its next generation: a report
//! from a lease of an earlier generation is then smaller, and has no effect.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

const FATE_BITS: u32 = 44;
const FATE: u64 = (1 << FATE_BITS) - 1;
const LAST_GENERATION: u64 = u64::MAX >> FATE_BITS;

/// A deadline that never comes, in milliseconds since the pool's epoch.
pub(super) const NEVER: u64 = FATE;

/// Turns instants into milliseconds since the pool was made; 44 bits of them last for 557 years.
#[derive(Debug)]
pub(super) struct Clock {
    epoch: Instant,
}

/// The atomic word of a key.
#[derive(Debug, Default)]
pub(super) struct Word(AtomicU64);

/// A value that the word had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

/// A key's fate at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFate {
    Usable,
    /// Usable as well: its cool-down is over, and nobody has logged it yet.
    Rested,
    /// Until this millisecond.
    Cooling(u64),
    Revoked,
}

// === impl Clock ===

impl Clock {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch }
    }

    /// The whole milliseconds that have passed at `now`.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.epoch);
        (passed.as_secs().saturating_mul(1_000))
            .saturating_add(u64::from(passed.subsec_millis()))
            .min(NEVER - 1)
    }

    /// The first millisecond at which `rest` from `now` is over: rounded up, so that no key is back early.
    pub(super) fn deadline(&self, now: Instant, rest: Duration) -> u64 {
        let passed = now.saturating_duration_since(self.epoch).saturating_add(rest);
        let up = u64::from(!passed.subsec_nanos().is_multiple_of(1_000_000));
        let whole = passed
            .as_secs()
            .saturating_mul(1_000)
            .saturating_add(u64::from(passed.subsec_millis()));
        whole.saturating_add(up).min(NEVER - 1)
    }

    /// The time from `now` to `deadline`. Both are rounded up alike, so that a rest of whole seconds is not reported as
    /// a second more.
    pub(super) fn left(&self, now: Instant, deadline: u64) -> Duration {
        Duration::from_millis(deadline.saturating_sub(self.deadline(now, Duration::ZERO)))
    }
}

// === impl Stamp ===

impl Stamp {
    fn new(generation: u64, fate: u64) -> Self {
        Self(generation << FATE_BITS | fate)
    }

    fn generation(self) -> u64 {
        self.0 >> FATE_BITS
    }

    #[inline]
    pub(super) fn is_usable(self) -> bool {
        self.0 & FATE == 0
    }

    pub(super) fn is_revoked(self) -> bool {
        self.0 & FATE == NEVER
    }

    /// The fate at the millisecond `now`, which is called only if it matters.
    #[inline]
    pub(super) fn fate(self, now: impl FnOnce() -> u64) -> KeyFate {
        match self.0 & FATE {
            0 => KeyFate::Usable,
            NEVER => KeyFate::Revoked,
            deadline if deadline > now() => KeyFate::Cooling(deadline),
            _ => KeyFate::Rested,
        }
    }

    /// Its generation's stamp with a cool-down.
    pub(super) fn cooling(self, deadline: u64) -> Self {
        Self::new(self.generation(), deadline.min(NEVER - 1))
    }

    /// Its generation's stamp when revoked.
    pub(super) fn revoked(self) -> Self {
        Self::new(self.generation(), NEVER)
    }

    fn usable(self) -> Self {
        Self::new(self.generation(), 0)
    }

    /// Saturates: after 2^20 restores a stale report may count, which beats wrapping and ignoring all.
    fn restored(self) -> Self {
        Self::new((self.generation() + 1).min(LAST_GENERATION), 0)
    }
}

// === impl Word ===

// Acquire and release order a key's state after the pool's next probe, which a revocation writes first.
impl Word {
    #[inline]
    pub(super) fn load(&self) -> Stamp {
        Stamp(self.0.load(Ordering::Acquire))
    }

    /// Raises it to `stamp`, unless it is worse or of a later generation already. Returns the value before a change.
    pub(super) fn raise_to(&self, stamp: Stamp) -> Option<Stamp> {
        let before = Stamp(self.0.fetch_max(stamp.0, Ordering::AcqRel));
        (before < stamp).then_some(before)
    }

    /// Notes that the cool-down of `rested` is over. Returns whether this call did.
    pub(super) fn clear_expired(&self, rested: Stamp) -> bool {
        self.swap(rested, rested.usable())
    }

    /// Begins the next generation if it still is `from`. Returns whether this call did.
    pub(super) fn restore(&self, from: Stamp) -> bool {
        self.swap(from, from.restored())
    }

    fn swap(&self, from: Stamp, to: Stamp) -> bool {
        self.0
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_back_early_and_whole_seconds_stay_whole() {
        let epoch = Instant::now();
        let clock = Clock::new(epoch);
        for micros in [0, 1, 499, 500, 999, 1_000, 1_001] {
            let now = epoch + Duration::from_micros(micros);
            for rest in [1_u64, 1_000, 60_000].map(Duration::from_millis) {
                let deadline = clock.deadline(now, rest);
                assert_eq!(clock.left(now, deadline), rest, "{micros}");
                let end = now + rest;
                assert!(clock.millis(end - Duration::from_nanos(1)) < deadline, "{micros}");
                assert!(clock.millis(end + Duration::from_millis(1)) >= deadline, "{micros}");
            }
        }
    }

    #[test]
    fn no_time_overflows_into_the_generation() {
        let clock = Clock::new(Instant::now());
        let word = Word::default();
        let deadline = clock.deadline(Instant::now(), Duration::MAX);
        word.raise_to(word.load().cooling(deadline));
        assert_eq!(word.load().fate(|| 0), KeyFate::Cooling(NEVER - 1));
        assert_eq!(word.load().generation(), 0);
    }

    #[test]
    fn worse_wins_within_a_generation_and_the_later_generation_over_all() {
        let word = Word::default();
        let first = word.load();
        assert_eq!(word.raise_to(first.cooling(5)), Some(first));
        assert_eq!(word.raise_to(first.cooling(4)), None);
        assert_eq!(word.raise_to(first.cooling(5)), None);
        assert!(word.raise_to(first.revoked()).is_some());
        assert_eq!(word.raise_to(first.cooling(NEVER - 1)), None);
        assert!(!word.clear_expired(first.cooling(5)));

        assert!(word.restore(word.load()));
        assert!(word.load().is_usable());
        assert_eq!(word.raise_to(first.revoked()), None);
        assert!(word.raise_to(word.load().cooling(1)).is_some());
    }

    #[test]
    fn the_last_generation_is_the_last() {
        let word = Word(AtomicU64::new(u64::MAX));
        assert!(word.restore(word.load()));
        assert_eq!(word.load(), Stamp::new(LAST_GENERATION, 0));
    }
}
