//! Counts the bytes of all request bodies that one bridge holds, so that many small limits cannot add up to the whole
//! memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that may be held at once, by all requests together.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    max: usize,
    used: Arc<AtomicUsize>,
}

/// The bytes that one request holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    bytes: usize,
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            used: Arc::default(),
        }
    }

    /// A request that holds nothing yet.
    pub(crate) fn hold(&self) -> Held {
        Held {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

// === impl Held ===

impl Held {
    /// Takes `bytes` more, if the budget has them. Whoever holds keeps; whoever asks for more is refused.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let Budget { max, used } = &self.budget;
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| sum <= max)
        });
        if taken.is_ok() {
            self.bytes += bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Budget;

    proptest! {
        /// For any interleaving of requests the sum never exceeds the budget, and the end gives all of it back.
        #[test]
        fn what_is_held_never_exceeds_the_budget(steps in prop::collection::vec((0_usize..6, 0_usize..70, any::<bool>()), 0..60)) {
            let budget = Budget::new(100);
            let mut held: Vec<_> = (0..6).map(|_| (budget.hold(), 0)).collect();
            for (who, bytes, leaves) in steps {
                if leaves {
                    held[who] = (budget.hold(), 0);
                }
                let sum: usize = held.iter().map(|(_, bytes)| bytes).sum();
                let taken = held[who].0.take(bytes);
                prop_assert_eq!(taken, sum + bytes <= 100);
                held[who].1 += if taken { bytes } else { 0 };
            }
            drop(held);
            prop_assert!(budget.hold().take(100));
            prop_assert!(!budget.hold().take(101));
        }
    }
}
