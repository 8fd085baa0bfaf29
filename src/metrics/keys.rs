//! Reports calls by key, changes of a key's state, and how many keys are in each state.

use std::fmt;

use metrics::{Key, SharedString};

use super::{
    OTHER, count, key,
    levels::{Names, set},
};
use crate::{
    metrics::names::{self, label},
    types::KeyHint,
};

/// The outcome of most attempts.
const ACCEPTED: &str = "accepted";

/// The labels of one key.
pub(crate) struct KeyMeter {
    hint: SharedString,
    accepted: Key,
}

// === impl KeyMeter ===

impl KeyMeter {
    pub(crate) fn new(hint: &KeyHint) -> Self {
        static HINTS: Names = Names::new();
        let hint = if HINTS.has_or_takes(hint.as_str()) {
            SharedString::from_shared(hint.as_str().into())
        } else {
            SharedString::const_str(OTHER)
        };
        Self {
            accepted: attempts(&hint, ACCEPTED),
            hint,
        }
    }

    /// Counts a call of the provider, by its outcome for the key.
    pub(crate) fn attempt(&self, outcome: &'static str) {
        if outcome == ACCEPTED {
            count(&self.accepted, 1);
        } else {
            count(&attempts(&self.hint, outcome), 1);
        }
    }

    /// Counts a change of state: of a model in the key's domain, of the whole domain, or of the key.
    pub(crate) fn transition(&self, scope: &'static str, state: &'static str) {
        let labels = [
            (label::HINT, self.hint.clone()),
            (label::SCOPE, SharedString::const_str(scope)),
            (label::STATE, SharedString::const_str(state)),
        ];
        count(&key(names::KEY_TRANSITIONS, labels), 1);
    }
}

impl fmt::Debug for KeyMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMeter").finish_non_exhaustive()
    }
}

fn attempts(hint: &SharedString, outcome: &'static str) -> Key {
    let outcome = (label::OUTCOME, SharedString::const_str(outcome));
    key(names::KEY_ATTEMPTS, [(label::HINT, hint.clone()), outcome])
}

/// Reports how many keys of a provider's pool are in each state.
pub(crate) fn keys<const N: usize>(provider: &str, states: [(&'static str, u32); N]) {
    for (state, keys) in states {
        let labels = [
            (label::PROVIDER, provider.to_owned().into()),
            (label::STATE, SharedString::const_str(state)),
        ];
        set(&key(names::KEYS, labels), keys.into());
    }
}
