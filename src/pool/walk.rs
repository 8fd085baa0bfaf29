//! One round's way through the pool: which keys it has tried, and what they said.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    choice::{Caller, Order},
    key::{Entry, KeyId},
};

/// The keys that one round has tried. It allocates nothing until a key has failed.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(super) caller: Caller,
    order: Option<Order>,
    /// The key tried last.
    last: Option<KeyId>,
    earlier: Vec<KeyId>,
    /// The keys that refused for an unknown reason.
    pub(super) suspects: Vec<Arc<Entry>>,
    /// Present if it may try revoked keys.
    pub(super) probe: Option<Probe>,
}

/// The turn to try a pool whose keys are all revoked. It is given back if the provider has not judged every leased key:
/// a request that is refused for its content, or cancelled, does not keep others from trying.
#[derive(Debug)]
pub(super) struct Probe {
    next_probe: Arc<AtomicU64>,
    /// When the next turn is due if this one is kept.
    after: u64,
    /// Leased keys that the provider has not called dead.
    pub(super) undecided: usize,
}

// === impl Walk ===

impl Walk {
    pub(crate) fn new(caller: Caller) -> Self {
        Self {
            caller,
            ..Self::default()
        }
    }

    #[inline]
    pub(super) fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// Its order of keys of equal rank: the same in the whole walk.
    #[inline]
    pub(super) fn order(&mut self, turn: impl FnOnce() -> u64) -> Order {
        let caller = self.caller;
        *self.order.get_or_insert_with(|| caller.order(turn))
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

// === impl Probe ===

impl Probe {
    /// Takes the turn if it is due. `after` is when the next one will be.
    pub(super) fn take(next_probe: &Arc<AtomicU64>, now: u64, after: u64) -> Option<Self> {
        let due = next_probe.load(Ordering::Acquire);
        let is_mine = now >= due
            && next_probe
                .compare_exchange(due, after, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        is_mine.then(|| Self {
            next_probe: Arc::clone(next_probe),
            after,
            undecided: 0,
        })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.undecided > 0 {
            // Fails if a key was revoked meanwhile: then the next turn is a minute after that.
            let _ = self
                .next_probe
                .compare_exchange(self.after, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}
