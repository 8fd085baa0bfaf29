//! Blame by comparison: a refusal that no rule understands harms a key only if another key served the same request, for
//! two different actors. So no single caller can disable a key, whatever it sends.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Within how many milliseconds a second actor must confirm the suspicion.
const CONFIRMED_WITHIN: u64 = 10 * 60 * 1_000;
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);

/// The suspicions against one key.
#[derive(Default)]
pub(super) struct Suspicion {
    /// Whether there is anything to forget. Successes read this first, and take the lock only then.
    is_noted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who suspected the key last, and in which millisecond.
    by: Option<(u64, u64)>,
    /// How often the key has rested since its last success.
    rests: u32,
}

impl Suspicion {
    /// Notes that another key served the request of `actor` which this key refused, at the millisecond `now`. Returns
    /// how long the key rests, if a request of a different actor showed the same before.
    pub(super) fn suspect(&self, actor: u64, now: u64) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_noted.store(true, Ordering::Release);
        let confirmed = state
            .by
            .is_some_and(|(before, at)| before != actor && now.saturating_sub(at) <= CONFIRMED_WITHIN);
        if !confirmed {
            state.by = Some((actor, now));
            return None;
        }
        state.by = None;
        let rest = FIRST_REST.saturating_mul(1_u32.checked_shl(state.rests).unwrap_or(u32::MAX));
        // More would change nothing.
        state.rests = (state.rests + 1).min(16);
        Some(rest.min(LONGEST_REST))
    }

    #[inline]
    pub(super) fn is_noted(&self) -> bool {
        self.is_noted.load(Ordering::Acquire)
    }

    /// Forgets everything: the key has served a request.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::default();
        self.is_noted.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(rest: Option<Duration>) -> Option<u64> {
        rest.map(|rest| rest.as_secs())
    }

    #[test]
    fn one_actor_alone_harms_no_key() {
        let suspicion = Suspicion::default();
        for now in 0..100 {
            assert_eq!(suspicion.suspect(1, now * 1_000), None);
        }
        assert_eq!(seconds(suspicion.suspect(2, 100_000)), Some(60));
    }

    #[test]
    fn two_actors_must_agree_within_ten_minutes() {
        let suspicion = Suspicion::default();
        assert_eq!(suspicion.suspect(1, 0), None);
        assert_eq!(suspicion.suspect(2, CONFIRMED_WITHIN + 1), None);
        assert_eq!(seconds(suspicion.suspect(1, 2 * CONFIRMED_WITHIN + 1)), Some(60));
    }

    #[test]
    fn rests_double_up_to_an_hour_until_a_success() {
        let suspicion = Suspicion::default();
        for expected in [60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
            assert_eq!(suspicion.suspect(1, 0), None);
            assert_eq!(seconds(suspicion.suspect(2, 0)), Some(expected));
        }
        for _ in 0..100 {
            suspicion.suspect(1, 0);
            assert!(suspicion.suspect(2, 0).is_some_and(|rest| rest == LONGEST_REST));
        }
        assert!(suspicion.is_noted());
        suspicion.forget();
        assert!(!suspicion.is_noted());
        assert_eq!(suspicion.suspect(1, 0), None);
        assert_eq!(seconds(suspicion.suspect(2, 0)), Some(60));
    }
}
