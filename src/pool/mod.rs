//! The operator's keys: leases one to each request, and learns from answers which keys to leave alone.
//!
//! A [`KeyPool`] is a list of [`ApiKey`]s in order of preference. Every request begins at the first, skips keys that
//! cool down or are revoked, and on an answer that speaks against its key goes on to the next, each key once. A
//! [`VerdictTable`] says which answers do:
//!
//! - A key that *cools down* (429) is skipped until its time is over. That time is never shortened.
//! - A *revoked* key (401, most 403) is skipped until [`restore`](KeyPool::restore), or until a list
//!   [without it](KeyPool::replace) is followed by one with it. If every key is revoked, one request a minute tries
//!   them all, the first one a minute after the last revocation; a key that is accepted is restored. So an outage of
//!   the provider's own authentication ends without an operator.
//! - A request that is refused for its content (403 about a model, a region, the words) tries the next key and harms
//!   none.
//!
//! Leasing a key and reporting on it take no lock and no allocation. Every change of a key's state is logged once, with
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
    error::{KeyPoolError, KeyPoolErrorKind},
    key::ApiKey,
    snapshot::{KeyCounters, KeySnapshot, KeyState},
    state::KeyPool,
    verdict::{Verdict, VerdictTable, When},
};
pub use crate::types::{CredentialHeader, KeyHint, KeyHintError};

pub(crate) use self::{
    key::SentKey,
    set::Walk,
    state::{Exhausted, Lease},
    verdict::{Refused, Report},
};
