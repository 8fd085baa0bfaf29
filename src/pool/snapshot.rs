//! What an operator sees of a pool.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::types::KeyHint;

/// Whether requests get a key.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::KeyState;
///
/// assert_eq!(serde_json::to_string(&KeyState::CoolingDown).unwrap(), r#""cooling_down""#);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyState {
    /// They do.
    Usable,
    /// Not until its time is over.
    CoolingDown,
    /// Not until it is restored.
    Revoked,
}

/// One key of a pool at one moment.
///
/// It serialises with `time_left_ms`, in whole milliseconds, for `time_left`.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::{KeyPool, KeyState};
///
/// let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"])?;
/// let key = &pool.snapshot()[0];
/// assert_eq!(key.hint.as_str(), "sk-0...ghij");
/// assert_eq!(key.state, KeyState::Usable);
/// assert_eq!(key.time_left, None);
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeySnapshot {
    /// The key, masked; two keys may look alike.
    pub hint: KeyHint,
    /// Whether requests get it.
    pub state: KeyState,
    /// How long it still cools down, if it does.
    #[serde(rename = "time_left_ms", serialize_with = "millis")]
    pub time_left: Option<Duration>,
    /// What became of the requests that got it.
    pub counters: KeyCounters,
}

/// How many provider calls were made with a key, and what came of them. A call counts when its outcome is known: one
/// that is under way is in none of the counters, and `attempts` is the sum of the others.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::KeyPool;
///
/// let pool = KeyPool::from_secrets(["sk-0123456789abcdefghij"])?;
/// assert_eq!(pool.snapshot()[0].counters.attempts, 0);
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyCounters {
    /// Calls that have come to an outcome.
    pub attempts: u64,
    /// Answers that went on to the caller.
    pub accepted: u64,
    /// Answers for which the key had to cool down.
    pub cooled_down: u64,
    /// Answers that called the key invalid.
    pub revoked: u64,
    /// Answers that refused the request and not the key.
    pub forbidden: u64,
    /// Calls that were cancelled, cut, or timed out before their answer said anything.
    pub unanswered: u64,
}

fn millis<S: Serializer>(left: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let millis = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    millis.serialize(serializer)
}
