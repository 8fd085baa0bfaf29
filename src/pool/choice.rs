//! Chooses which of several equally ranked keys a request tries first.
//!
//! By rendezvous hashing ([Thaler and Ravishankar, 1998](https://doi.org/10.1109/90.663936)) of its conversation: a
//! conversation keeps its key and so its prompt cache, load spreads over the keys, and a key that comes or goes moves
//! only its own conversations. Requests without a conversation take turns.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

/// The number of slots into which conversations are hashed. Conversations of one slot have the same order of keys.
const SLOTS: u64 = 4096;

/// Up to this many keys, comparing all of them is as fast as remembering the best one.
const FEW: usize = 16;

/// The sender of a request, as the choice of a key depends on it. Only hashes, so that nothing about a caller is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Caller {
    pub(super) actor: Option<u64>,
    conversation: Option<u64>,
}

/// A request's own order of equally ranked keys.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Conversation(u64),
    Turn(u64),
}

/// Neighbouring keys of equal rank.
pub(super) struct Group {
    pub(super) keys: Range<usize>,
    /// Per slot, the first key's offset in `keys` plus 1; 0 while it is unknown. Empty for few keys.
    best: Box<[AtomicU32]>,
}

// === impl Caller ===

impl Caller {
    /// `conversation` is the client's session, else its prompt cache key.
    pub(crate) fn new(actor: Option<&str>, conversation: Option<&str>) -> Self {
        // Two instances of a gateway choose alike: this hasher has no random state.
        let hash = |parts: (Option<&str>, Option<&str>)| {
            let mut hasher = DefaultHasher::new();
            parts.hash(&mut hasher);
            hasher.finish()
        };
        Self {
            actor: actor.map(|actor| hash((Some(actor), None))),
            conversation: actor.or(conversation).map(|_| hash((actor, conversation))),
        }
    }

    /// The order for its requests; without a conversation, `turn` decides.
    #[inline]
    pub(super) fn order(&self, turn: impl FnOnce() -> u64) -> Order {
        match self.conversation {
            Some(hash) => Order::Conversation(hash % SLOTS),
            None => Order::Turn(turn()),
        }
    }
}

// === impl Group ===

impl Group {
    pub(super) fn new(keys: Range<usize>) -> Self {
        let slots = if keys.len() > FEW { SLOTS } else { 0 };
        Self {
            keys,
            best: (0..slots).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// The position of the key that comes first in `order`. `seed` is that of the key at a position.
    #[inline]
    pub(super) fn first(&self, order: Order, seed: impl Fn(usize) -> u64) -> usize {
        if self.keys.len() < 2 {
            return self.keys.start;
        }
        let slot = match order {
            Order::Turn(turn) => return self.keys.start + offset(turn, self.keys.len()),
            Order::Conversation(slot) => slot,
        };
        let search = || {
            let best = self.keys.clone().max_by_key(|&position| score(slot, seed(position)));
            best.unwrap_or(self.keys.start)
        };
        let Some(known) = usize::try_from(slot).ok().and_then(|slot| self.best.get(slot)) else {
            return search();
        };
        match known.load(Ordering::Relaxed) {
            0 => {
                let best = search();
                if let Ok(offset) = u32::try_from(best - self.keys.start + 1) {
                    known.store(offset, Ordering::Relaxed);
                }
                best
            }
            offset => self.keys.start + offset as usize - 1,
        }
    }

    /// How early the key at `position` comes in `order`: greater is earlier.
    #[inline]
    pub(super) fn precedence(&self, order: Order, position: usize, seed: u64) -> u64 {
        match order {
            Order::Conversation(slot) => score(slot, seed),
            Order::Turn(turn) => {
                let length = self.keys.len();
                let place = position - self.keys.start + length - offset(turn, length);
                u64::MAX - (place % length) as u64
            }
        }
    }
}

/// The seed of a key, a hash of its secret: a new position or other settings move no conversation.
pub(super) fn seed(secret: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(secret);
    hasher.finish()
}

#[inline]
fn offset(turn: u64, length: usize) -> usize {
    // Smaller than a length, so it fits.
    (turn % length as u64) as usize
}

/// The finalizer of [SplitMix64](https://doi.org/10.1145/2660193.2660195).
#[inline]
fn score(slot: u64, seed: u64) -> u64 {
    let mut hash = seed ^ (slot + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(keys: usize) -> Vec<u64> {
        (0..keys).map(|key| seed(format!("sk-{key}").as_bytes())).collect()
    }

    #[test]
    fn load_spreads_over_all_keys() {
        for keys in [2, 3, 10, FEW, FEW + 1, 100] {
            let firsts = firsts_of(keys);
            let share = SLOTS as usize / keys;
            for seed in seeds(keys) {
                let count = firsts.iter().filter(|first| **first == seed).count();
                assert!(
                    (share / 3..share * 2 + 20).contains(&count),
                    "{count} of {share} with {keys} keys"
                );
            }
        }
    }

    fn firsts_of(keys: usize) -> Vec<u64> {
        let seeds = seeds(keys);
        let group = Group::new(0..keys);
        let first = |slot| seeds[group.first(Order::Conversation(slot), |position| seeds[position])];
        (0..SLOTS).map(first).collect()
    }

    #[test]
    fn the_remembered_first_key_is_the_best() {
        let seeds = seeds(100);
        let group = Group::new(0..100);
        for slot in 0..SLOTS {
            let order = Order::Conversation(slot);
            let best = (0..100).max_by_key(|&position| group.precedence(order, position, seeds[position]));
            for _ in 0..2 {
                assert_eq!(Some(group.first(order, |position| seeds[position])), best);
            }
        }
    }

    #[test]
    fn a_key_that_goes_moves_only_its_own_conversations() {
        let (with, without) = (firsts_of(10), firsts_of(9));
        let gone = seeds(10)[9];
        for (before, after) in with.into_iter().zip(without) {
            assert!(before == after || before == gone);
        }
    }

    #[test]
    fn turns_go_round() {
        let group = Group::new(5..8);
        let order = |turn| {
            let order = Order::Turn(turn);
            let mut positions: Vec<usize> = (5..8).collect();
            positions.sort_by_key(|&position| std::cmp::Reverse(group.precedence(order, position, 0)));
            assert_eq!(group.first(order, |_| 0), positions[0]);
            positions
        };
        assert_eq!(order(0), [5, 6, 7]);
        assert_eq!(order(1), [6, 7, 5]);
        assert_eq!(order(5), [7, 5, 6]);
    }

    #[test]
    fn a_conversation_is_mixed_with_its_actor() {
        let conversation = |actor, conversation| Caller::new(actor, conversation).conversation;
        assert_eq!(conversation(None, None), None);
        assert!(Caller::new(None, Some("s")).actor.is_none());
        let all = [
            conversation(Some("a"), None),
            conversation(None, Some("a")),
            conversation(Some("a"), Some("s")),
            conversation(Some("b"), Some("s")),
            conversation(None, Some("s")),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(one.is_some() && !all[place + 1..].contains(one));
        }
        assert_eq!(conversation(Some("a"), Some("s")), conversation(Some("a"), Some("s")));
    }
}
