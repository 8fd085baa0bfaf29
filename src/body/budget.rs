//! Counts the bytes that all requests of one bridge hold, so that many small limits cannot add up to the whole memory,
//! and divides them, so that neither one caller nor a few large bodies starve the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest small request, in bytes; less if the budget is small.
const SMALL: usize = 64 << 10;

/// The bytes that may be held at once, by all requests together.
///
/// - The last eighth is for small requests: a few large ones do not turn them away.
/// - Once half is taken, the large requests of one actor get no more than an eighth together.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    max: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    used: AtomicUsize,
    /// The bytes of large requests, by actor. Only actors that hold any.
    large: Mutex<HashMap<Arc<str>, usize>>,
}

/// The bytes that one request holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    actor: Option<Arc<str>>,
    bytes: usize,
    /// Whether the bytes are in the actor's account.
    is_large: bool,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            shared: Arc::default(),
        }
    }

    /// A request of `actor` that holds nothing yet.
    pub(crate) fn hold(&self, actor: Option<&str>) -> Held {
        Held {
            budget: self.clone(),
            actor: actor.map(Arc::from),
            bytes: 0,
            is_large: false,
        }
    }

    /// Whether so much is held that requests may be refused.
    pub(crate) fn is_scarce(&self) -> bool {
        self.shared.used.load(Ordering::Relaxed) >= self.max / 2
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    fn small(&self) -> usize {
        SMALL.min(self.max / 64)
    }

    fn eighth(&self) -> usize {
        self.max / 8
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        // Nothing under the lock panics half-way.
        self.shared.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds `bytes` to the common count if the sum stays within `max`.
    fn take(&self, bytes: usize, max: usize) -> bool {
        let used = &self.shared.used;
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= max)
        })
        .is_ok()
    }
}

// === impl Held ===

impl Held {
    /// Takes `bytes` more if the budget has them. A request that gets none keeps what it holds, and so do the others.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let sum = self.bytes.saturating_add(bytes);
        let taken = if sum <= self.budget.small() {
            self.budget.take(bytes, self.budget.max)
        } else {
            self.take_large(bytes)
        };
        if taken {
            self.bytes = sum;
        }
        taken
    }

    /// Takes `bytes` for a request under way: neither its actor's share nor the reserve for small requests bounds it.
    pub(crate) fn take_more(&mut self, bytes: usize) -> bool {
        let taken = self.budget.take(bytes, self.budget.max);
        if taken {
            self.bytes += bytes;
            if let Some(actor) = self.actor.as_ref().filter(|_| self.is_large)
                && let Some(own) = self.budget.accounts().get_mut(actor)
            {
                *own += bytes;
            }
        }
        taken
    }

    fn take_large(&mut self, bytes: usize) -> bool {
        let budget = &self.budget;
        let for_large = budget.max - budget.eighth();
        let Some(actor) = &self.actor else {
            return budget.take(bytes, for_large);
        };
        let mut accounts = budget.accounts();
        let own = accounts.get(actor).copied().unwrap_or(0);
        let more = if self.is_large { bytes } else { self.bytes + bytes };
        let has_share = own.saturating_add(more) <= budget.eighth();
        let taken = (has_share || !budget.is_scarce()) && budget.take(bytes, for_large);
        if taken {
            accounts.insert(Arc::clone(actor), own + more);
            self.is_large = true;
        }
        taken
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.shared.used.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(actor) = self.actor.as_ref().filter(|_| self.is_large) {
            let mut accounts = self.budget.accounts();
            if let Some(own) = accounts.get_mut(actor) {
                *own -= self.bytes.min(*own);
                if *own == 0 {
                    accounts.remove(actor);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn large_requests_leave_an_eighth_to_the_small_ones() {
        let budget = Budget::new(64 << 20);
        let mut large: Vec<_> = (0..7).map(|_| budget.hold(None)).collect();
        assert!(large.iter_mut().all(|held| held.take(8 << 20)));
        assert!(!budget.hold(None).take(65 << 10));
        let mut small: Vec<_> = (0..128).map(|_| budget.hold(None)).collect();
        assert!(small.iter_mut().all(|held| held.take(64 << 10)));
        assert!(!budget.hold(None).take(1), "no byte is left");
        assert!(!small[0].take(1));
        drop(small);
        assert!(budget.hold(None).take(64 << 10));
    }

    #[test]
    fn one_actor_gets_an_eighth_once_half_is_taken() {
        let budget = Budget::new(64 << 20);
        let mut greedy: Vec<_> = (0..8).map(|_| budget.hold(Some("greedy"))).collect();
        let taken = greedy
            .iter_mut()
            .filter_map(|held| held.take(8 << 20).then_some(()))
            .count();
        assert_eq!(taken, 4, "half");
        let mut others: Vec<_> = ["a", "b", "c"].map(|actor| budget.hold(Some(actor))).into();
        assert!(others.iter_mut().all(|held| held.take(8 << 20)));
        assert!(!others[0].take(1), "its eighth");
        assert!(
            budget.hold(Some("greedy")).take(64 << 10),
            "a small one is no matter of shares"
        );
        greedy.truncate(0);
        assert!(others[0].take(1), "less than half is taken");
        drop(others);
        assert!(budget.accounts().is_empty());
    }

    #[test]
    fn a_request_under_way_may_use_the_reserve() {
        let budget = Budget::new(64 << 20);
        let mut own = budget.hold(Some("a"));
        assert!(own.take(8 << 20));
        let mut others: Vec<_> = (0..6).map(|_| budget.hold(None)).collect();
        assert!(others.iter_mut().all(|held| held.take(8 << 20)));
        assert!(!own.take(1), "a share and the reserve");
        assert!(own.take_more(8 << 20) && !own.take_more(1));
        assert_eq!(budget.accounts()["a"], 16 << 20);
        drop((own, others));
        assert_eq!(budget.used(), 0);
        assert!(budget.accounts().is_empty());
    }

    proptest! {
        /// For any interleaving of requests: the sum never exceeds the budget, no request loses bytes, only the rules
        /// refuse a request, and at the end all bytes are given back.
        #[test]
        fn what_is_held_never_exceeds_the_budget(
            steps in prop::collection::vec((0_usize..8, 0_usize..300, 0_u8..8), 0..120),
        ) {
            const MAX: usize = 1024;
            let budget = Budget::new(MAX);
            let actor = |who: usize| [None, Some("a"), Some("b"), Some("c")][who % 4];
            let mut held: Vec<_> = (0..8).map(|who| (budget.hold(actor(who)), 0_usize)).collect();
            for (who, bytes, leaves) in steps {
                if leaves == 0 {
                    held[who] = (budget.hold(actor(who)), 0);
                    continue;
                }
                let sum: usize = held.iter().map(|(_, bytes)| bytes).sum();
                let own = held[who].1;
                let taken = held[who].0.take(bytes);
                // The same rules, computed from scratch.
                let is_small = own + bytes <= MAX / 64;
                let of_actor: usize = held
                    .iter()
                    .enumerate()
                    .filter(|(other, (_, bytes))| actor(*other) == actor(who) && (*other == who || *bytes > MAX / 64))
                    .map(|(_, (_, bytes))| bytes)
                    .sum();
                let fits = match actor(who) {
                    _ if is_small => sum + bytes <= MAX,
                    None => sum + bytes <= MAX - MAX / 8,
                    Some(_) => sum + bytes <= MAX - MAX / 8 && (sum < MAX / 2 || of_actor + bytes <= MAX / 8),
                };
                prop_assert_eq!(taken, fits, "{} of {} in {}", bytes, own, sum);
                held[who].1 += if taken { bytes } else { 0 };
                let sum: usize = held.iter().map(|(_, bytes)| bytes).sum();
                prop_assert!(sum <= MAX);
                prop_assert_eq!(budget.used(), sum);
                prop_assert!(held.iter().all(|(held, bytes)| held.bytes == *bytes), "nobody loses");
            }
            drop(held);
            prop_assert_eq!(budget.used(), 0);
            prop_assert!(budget.accounts().is_empty());
        }
    }
}
