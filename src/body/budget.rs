//! Counts the bytes that all requests of one bridge hold, so that many small limits cannot add up to the whole memory,
//! and divides them, so that neither one caller nor a few large bodies starve the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest small request, in bytes; less if the budget is small.
const SMALL: usize = 64 << 10;

/// The bytes that may be held at once, by all requests together.
///
/// - The last eighth is for small requests: a few large ones do not turn them away.
/// - Once half is taken, the large requests of one actor get no more than an eighth together. Those without an actor count
///   as one actor's, once there are requests with one.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    max: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    used: AtomicUsize,
    /// Whether a request of an actor was seen: an application that names none has no shares to protect.
    has_actors: AtomicBool,
    /// The bytes of large requests, by actor. Only actors that hold any.
    large: Mutex<HashMap<Option<Arc<str>>, usize>>,
}

/// The bytes that one request holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    actor: Option<Arc<str>>,
    bytes: usize,
    /// Bytes taken from the budget: `bytes`, and a part taken ahead for the next ones.
    taken: usize,
    /// Whether `taken` is in the actor's account.
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
        let has_actors = &self.shared.has_actors;
        if actor.is_some() && !has_actors.load(Ordering::Relaxed) {
            has_actors.store(true, Ordering::Relaxed);
        }
        Held {
            budget: self.clone(),
            actor: actor.map(Arc::from),
            bytes: 0,
            taken: 0,
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

    fn accounts(&self) -> MutexGuard<'_, HashMap<Option<Arc<str>>, usize>> {
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
        let small = self.budget.small();
        let has_room = if sum <= self.taken {
            true
        } else if sum <= small {
            self.take_small(sum)
        } else {
            // Ahead of the need, so that the frames of a large body do not all ask for the lock.
            let ahead = sum.checked_next_multiple_of(small);
            ahead.is_some_and(|ahead| self.take_large(ahead)) || self.take_large(sum)
        };
        if has_room {
            self.bytes = sum;
        }
        has_room
    }

    /// Holds the bytes of an answer that is relayed unread, for the same actor: as many as a small request's.
    pub(crate) fn for_answer(&self) -> Option<Self> {
        let mut held = self.budget.hold(self.actor.as_deref());
        held.take(self.budget.small()).then_some(held)
    }

    /// Takes `bytes` for a request under way: neither its actor's share nor the reserve for small requests bounds it.
    pub(crate) fn take_more(&mut self, bytes: usize) -> bool {
        let sum = self.bytes.saturating_add(bytes);
        if sum > self.taken {
            if !self.budget.take(sum - self.taken, self.budget.max) {
                return false;
            }
            if self.is_large || sum > self.budget.small() {
                let counted = self.uncounted(sum);
                *self.budget.accounts().entry(self.actor.clone()).or_default() += counted;
                self.is_large = true;
            }
            self.taken = sum;
        }
        self.bytes = sum;
        true
    }

    /// How many bytes are held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back the bytes taken ahead.
    pub(crate) fn trim(&mut self) {
        self.give_back(self.taken - self.bytes);
        self.taken = self.bytes;
    }

    fn take_small(&mut self, sum: usize) -> bool {
        let taken = self.budget.take(sum - self.taken, self.budget.max);
        if taken {
            self.taken = sum;
        }
        taken
    }

    fn take_large(&mut self, sum: usize) -> bool {
        let budget = &self.budget;
        let for_large = budget.max - budget.eighth();
        let has_shares = self.actor.is_some() || budget.shared.has_actors.load(Ordering::Relaxed);
        let mut accounts = budget.accounts();
        let own = accounts.get(&self.actor).copied().unwrap_or(0);
        let own = own.saturating_add(self.uncounted(sum));
        let may_take = !has_shares || own <= budget.eighth() || !budget.is_scarce();
        let taken = may_take && budget.take(sum - self.taken, for_large);
        if taken {
            accounts.insert(self.actor.clone(), own);
            drop(accounts);
            self.is_large = true;
            self.taken = sum;
        }
        taken
    }

    /// The part of `sum` that is not in the actor's account.
    fn uncounted(&self, sum: usize) -> usize {
        if self.is_large { sum - self.taken } else { sum }
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.budget.shared.used.fetch_sub(bytes, Ordering::Relaxed);
        if self.is_large {
            let mut accounts = self.budget.accounts();
            if let Some(own) = accounts.get_mut(&self.actor) {
                *own -= bytes.min(*own);
                if *own == 0 {
                    accounts.remove(&self.actor);
                }
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.taken);
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
    fn those_without_an_actor_leave_the_actors_their_share() {
        let flood = |budget: &Budget| {
            let mut nobodies: Vec<_> = (0..8).map(|_| budget.hold(None)).collect();
            let taken = nobodies.iter_mut().filter_map(|held| held.take(8 << 20).then_some(()));
            (taken.count(), nobodies)
        };
        let budget = Budget::new(64 << 20);
        assert_eq!(flood(&budget).0, 7, "all but the reserve, while nobody has an actor");
        assert!(budget.accounts().is_empty());
        let mut own = budget.hold(Some("a"));
        let (taken, _nobodies) = flood(&budget);
        assert_eq!(taken, 4, "half");
        assert!(own.take(8 << 20));
    }

    #[test]
    fn what_is_taken_ahead_is_used_or_given_back() {
        let budget = Budget::new(64 << 20);
        let mut held = budget.hold(Some("a"));
        assert!(
            held.take(64 << 10) && budget.used() == 64 << 10,
            "a small one takes what it needs"
        );
        assert!(held.take(1) && budget.used() == 128 << 10);
        assert!(held.take((64 << 10) - 1) && budget.used() == 128 << 10);
        assert!(held.take(1) && held.take_more(1) && budget.used() == 192 << 10);
        held.trim();
        assert_eq!(
            (budget.used(), budget.accounts()[&held.actor]),
            ((128 << 10) + 2, (128 << 10) + 2)
        );
        // The last bytes need no step's room.
        let mut others: Vec<_> = (0..6).map(|_| budget.hold(None)).collect();
        assert!(others.iter_mut().all(|held| held.take_more(9 << 20)));
        let left = (56 << 20) - budget.used();
        assert!(!held.take(left + 1) && held.take(left));
    }

    #[test]
    fn what_a_request_under_way_takes_is_in_its_actor_s_account() {
        let budget = Budget::new(64 << 20);
        let mut own = budget.hold(Some("a"));
        assert!(own.take(1) && own.take_more(8 << 20));
        assert_eq!(budget.accounts()[&own.actor], (8 << 20) + 1);
        let mut others: Vec<_> = (0..3).map(|_| budget.hold(Some("b"))).collect();
        assert!(others.iter_mut().all(|held| held.take(8 << 20)));
        assert!(!budget.hold(Some("a")).take(65 << 10), "a share is gone");
        drop(own);
        assert!(!budget.accounts().contains_key(&Some(Arc::from("a"))));
    }

    #[test]
    fn a_request_under_way_may_use_the_reserve() {
        let budget = Budget::new(64 << 20);
        let mut own = budget.hold(Some("a"));
        assert!(own.take(8 << 20));
        let mut others: Vec<_> = ["b", "c", "d", "e", "f", "g"]
            .map(|actor| budget.hold(Some(actor)))
            .into();
        assert!(others.iter_mut().all(|held| held.take(8 << 20)));
        assert!(!own.take(1), "a share and the reserve");
        assert!(own.take_more(8 << 20) && !own.take_more(1));
        assert_eq!(budget.accounts()[&Some(Arc::from("a"))], 16 << 20);
        drop((own, others));
        assert_eq!(budget.used(), 0);
        assert!(budget.accounts().is_empty());
    }

    /// The same rules, computed from scratch.
    struct Model {
        actor: Option<&'static str>,
        bytes: usize,
        taken: usize,
    }

    const MAX: usize = 1024;

    impl Model {
        fn is_large(&self) -> bool {
            self.taken > MAX / 64
        }

        /// Whether request `who` may reach `sum` bytes.
        fn fits(all: &[Self], who: usize, sum: usize, has_actors: bool) -> bool {
            let own = &all[who];
            let used: usize = all.iter().map(|request| request.taken).sum();
            let after = used - own.taken + sum;
            if sum <= MAX / 64 {
                return after <= MAX;
            }
            let is_other =
                |(index, request): &(usize, &Self)| *index != who && request.actor == own.actor && request.is_large();
            let others: usize = all
                .iter()
                .enumerate()
                .filter(is_other)
                .map(|(_, request)| request.taken)
                .sum();
            let has_share = others + sum <= MAX / 8 || used < MAX / 2 || !has_actors;
            after <= MAX - MAX / 8 && has_share
        }
    }

    proptest! {
        /// For any interleaving of requests: the sum never exceeds the budget, no request loses bytes, only the rules
        /// refuse a request, and at the end all bytes are given back.
        #[test]
        fn what_is_held_never_exceeds_the_budget(
            steps in prop::collection::vec((0_usize..8, 0_usize..300, 0_u8..10), 0..120),
            has_actors: bool,
        ) {
            let budget = Budget::new(MAX);
            let actor = |who: usize| if has_actors { [None, Some("a"), Some("b"), Some("c")][who % 4] } else { None };
            let begin = |who: usize| (budget.hold(actor(who)), Model { actor: actor(who), bytes: 0, taken: 0 });
            let (mut held, mut models): (Vec<_>, Vec<_>) = (0..8).map(begin).unzip();
            for (who, bytes, step) in steps {
                let sum = models[who].bytes + bytes;
                match step {
                    0 => (held[who], models[who]) = begin(who),
                    1 => {
                        held[who].trim();
                        models[who].taken = models[who].bytes;
                    }
                    2 => {
                        let used: usize = models.iter().map(|request| request.taken).sum();
                        let fits = sum <= models[who].taken || used - models[who].taken + sum <= MAX;
                        prop_assert_eq!(held[who].take_more(bytes), fits);
                        if fits {
                            models[who].bytes = sum;
                            models[who].taken = sum.max(models[who].taken);
                        }
                    }
                    _ => {
                        let is_small = sum <= MAX / 64;
                        let ahead = if is_small { sum } else { sum.next_multiple_of(MAX / 64) };
                        let reached = if sum <= models[who].taken {
                            Some(models[who].taken)
                        } else {
                            [ahead, sum].into_iter().find(|sum| Model::fits(&models, who, *sum, has_actors))
                        };
                        prop_assert_eq!(held[who].take(bytes), reached.is_some(), "{} to {}", bytes, sum);
                        if let Some(reached) = reached {
                            (models[who].bytes, models[who].taken) = (sum, reached);
                        }
                    }
                }
                let used: usize = models.iter().map(|request| request.taken).sum();
                prop_assert!(used <= MAX);
                prop_assert_eq!(budget.used(), used);
                for (held, model) in held.iter().zip(&models) {
                    prop_assert_eq!((held.bytes, held.taken), (model.bytes, model.taken), "nobody loses");
                }
            }
            drop(held);
            prop_assert_eq!(budget.used(), 0);
            prop_assert!(budget.accounts().is_empty());
        }
    }
}
