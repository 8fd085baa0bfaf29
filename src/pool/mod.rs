//! The operator's keys: which one a request gets, and what an answer says about it.
//!
//! A [`KeyPool`] is a list of [`ApiKey`]s in order of preference. Every request begins at the first, passes by those that
//! cool down or are revoked, and on an answer that speaks against its key goes on to the next, each key once. Which
//! answers do is said by a [`VerdictTable`]:
//!
//! - A key that *cools down* (429) is passed by until its time is over. That time is never shortened.
//! - A *revoked* key (401, most 403) is passed by until [`restore`](KeyPool::restore) or until it is
//!   [replaced](KeyPool::replace) by a list without it and then by one with it. If every key is revoked, one request a
//!   minute, and the first a minute after the last revocation, tries them all; one that is accepted is restored. So an
//!   outage of the provider's own authentication ends without anybody's help.
//! - A request that is refused for what it asks (403 about a model, a region, the content) tries the next key and harms
//!   none.
//!
//! To find a key and to report on it takes no lock and no allocation. Every change of a key's state is logged once, with
//! the key's [hint](KeyHint); the key itself never prints.
//!
//! # Examples
//!
//! ```
//! use tower_llm_bridge::pool::{ApiKey, KeyPool, KeyState};
//!
//! let pool = KeyPool::from_secrets(["sk-preferred-0123456789", "sk-reserve-0123456789"])?;
//!
//! // Later, while requests run: one more key, last in order. The others keep their state.
//! pool.replace([
//!     ApiKey::new("sk-preferred-0123456789")?,
//!     ApiKey::new("sk-reserve-0123456789")?,
//!     ApiKey::new("sk-new-0123456789")?,
//! ])?;
//!
//! for key in pool.snapshot() {
//!     println!("{} {:?} {:?}", key.hint, key.state, key.counters);
//!     if key.state == KeyState::Revoked {
//!         pool.restore(&key.hint);
//!     }
//! }
//! # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
//! ```

mod error;
mod key;
mod retry_after;
mod set;
mod snapshot;
mod state;
mod verdict;
mod word;

pub use self::{
    error::KeyPoolError,
    key::ApiKey,
    snapshot::{KeyCounters, KeySnapshot, KeyState},
    state::KeyPool,
    verdict::{Verdict, VerdictTable},
};
pub use crate::types::KeyHint;

pub(crate) use self::{
    set::Walk,
    state::{Exhausted, Lease},
    verdict::{Judgement, resolve},
};
