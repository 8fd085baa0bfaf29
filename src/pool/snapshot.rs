//! The public view of a pool, for operators' pages and metrics: plain data without secrets.

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
    /// They do. Single models may still rest.
    Usable,
    /// Not before its domain's cool-down is over.
    CoolingDown,
    /// Only when no other key serves them, until the suspicion ends: other keys served what this one refused.
    Suspected,
    /// Not before it is restored.
    Revoked,
}

/// One key of a pool at one moment.
///
/// It serialises with `time_left_ms`, in whole milliseconds, for `time_left`.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::{ApiKey, KeyPool, KeyState};
///
/// let pool = KeyPool::new([ApiKey::new("sk-0123456789abcdefghij")?.domain("research")])?;
/// let key = &pool.snapshot()[0];
/// assert_eq!(key.hint, "sk-0...ghij");
/// assert_eq!(key.domain.as_deref(), Some("research"));
/// assert_eq!(key.state, KeyState::Usable);
/// assert_eq!(key.time_left, None);
/// assert!(key.rests.is_empty());
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeySnapshot {
    /// The key, masked; two keys may look alike.
    pub hint: KeyHint,
    /// The domain that was declared, or learnt from the provider's answers; `None` while it is unknown.
    pub domain: Option<String>,
    /// Whether requests get it.
    pub state: KeyState,
    /// How long it stays in that state, if that ends by itself.
    #[serde(rename = "time_left_ms", serialize_with = "millis")]
    pub time_left: Option<Duration>,
    /// The models of its domain that rest, in the order of their names.
    pub rests: Vec<ModelRest>,
    /// The outcomes of its attempts.
    pub counters: KeyCounters,
}

/// A model that rests in a key's domain. Keys of one domain show the same.
///
/// It serialises with `time_left_ms`, in whole milliseconds, for `time_left`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ModelRest {
    /// The model, as callers name it.
    pub model: String,
    /// Whether requests still get the key if no other key serves them: the provider said that the limit is used up, but
    /// has refused nothing yet.
    pub last_resort: bool,
    /// Until the rest is over.
    #[serde(rename = "time_left_ms", serialize_with = "whole_millis")]
    pub time_left: Duration,
}

/// How many provider calls were made with a key, and their outcomes. A call counts when its outcome is known: one that
/// is under way is in none of the counters, and `attempts` is the sum of the others.
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
    /// Calls with a known outcome.
    pub attempts: u64,
    /// Answers that went on to the caller.
    pub accepted: u64,
    /// Answers for which the key had to cool down.
    pub cooled_down: u64,
    /// Answers that called the key invalid.
    pub revoked: u64,
    /// Answers that refused the request and not the key, so that the next key was tried.
    pub next_key: u64,
    /// Answers that refused for a reason that no rule knows.
    pub suspected: u64,
    /// Calls that were cancelled, cut, or timed out before their answer said anything.
    pub unanswered: u64,
}

fn millis<S: Serializer>(left: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match left {
        Some(left) => whole_millis(left, serializer),
        None => serializer.serialize_none(),
    }
}

fn whole_millis<S: Serializer>(left: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}
