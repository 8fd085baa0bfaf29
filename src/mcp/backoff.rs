//! How long to wait before the next attempt to connect.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Doubles from attempt to attempt, up to a bound, each time with a random part of up to one half: the gateways of a
/// company must not all come back in the same instant.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

// === impl Backoff ===

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    pub(super) fn next(&mut self) -> Duration {
        // Seeded anew by each `RandomState`; a crate for random numbers would do no better here.
        self.next_with(RandomState::new().build_hasher().finish())
    }

    fn next_with(&mut self, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.attempts = self.attempts.saturating_add(1);
        let longest = FIRST.saturating_mul(factor).min(LONGEST);
        let half = longest / 2;
        // Both terms are far below 2^64 milliseconds.
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        half + Duration::from_millis(random % spread.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_grow_within_their_bounds(random in any::<[u64; 40]>()) {
            let mut backoff = Backoff::default();
            let mut longest = FIRST;
            for random in random {
                let pause = backoff.next_with(random);
                prop_assert!(pause >= longest / 2 && pause <= longest, "{pause:?} of {longest:?}");
                longest = (longest * 2).min(LONGEST);
            }
            backoff.reset();
            prop_assert!(backoff.next_with(random[0]) <= FIRST);
        }
    }

    #[test]
    fn pauses_are_spread() {
        let pauses: Vec<_> = (0..64).map(|_| Backoff { attempts: 20 }.next()).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
