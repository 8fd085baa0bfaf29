//! The operator's keys: leases one to each request, and learns from answers which keys and models to avoid.
//!
//! A [`KeyPool`] is a list of [`ApiKey`]s. Limits belong to a *domain* and a model, and not to a key: keys of one
//! organisation, project or workspace draw on the same buckets. So an answer rests only what it is about:
//!
//! ```text
//!  one domain, two keys                           two domains
//!
//!  organisation "research"                        "research"                "sales"
//!  ┌──────────────────────────────────┐           ┌──────────────────┐      ┌──────────────────┐
//!  │ gpt-4o: rests 20 s  ◄── 429      │           │ gpt-4o: rests    │      │ gpt-4o: free     │
//!  │ gpt-4o-mini: free                │           │                  │      │                  │
//!  │        ▲               ▲         │           │        ▲         │      │        ▲         │
//!  │  ┌─────┴─────┐   ┌─────┴─────┐   │           │  ┌─────┴─────┐   │      │  ┌─────┴─────┐   │
//!  │  │ sk-a…     │   │ sk-b…     │   │           │  │ sk-a…     │   │      │  │ sk-c…     │   │
//!  │  │ revoked   │   │ usable    │   │           │  │ usable    │   │      │  │ usable    │   │
//!  │  └───────────┘   └───────────┘   │           │  └───────────┘   │      │  └───────────┘   │
//!  └──────────────────────────────────┘           └──────────────────┘      └──────────────────┘
//!  gpt-4o: nobody, for 20 s                       gpt-4o: sk-c…
//!  gpt-4o-mini: sk-b…                             gpt-4o-mini: sk-a…
//! ```
//!
//! | what rests | after | until |
//! |---|---|---|
//! | a model in a domain | 429 | the time that the answer asks for, 1 h at most |
//! | a domain, all models | an answer about money | 1 h |
//! | a key | an answer that proves it dead | it is [restored](KeyPool::restore), or leaves the list and comes back |
//!
//! A [`VerdictTable`] says which answers do which. A deadline is never shortened. If every key is revoked, one request
//! a minute tries them all, the first one a minute after the last revocation, so the pool recovers from an outage of
//! the provider's authentication without an operator.
//!
//! **What several keys of one organisation help against**: a key that is revoked, expired or deleted, and keys restricted
//! to different models or projects with limits of their own. **What they do not help against**: rate limits and an
//! exhausted budget, which are the organisation's, so the second key gets the same 429. Keys of different organisations
//! help against those too, but prompt caches, files, stored responses and thinking signatures belong to one organisation:
//! a conversation that moves to another key may lose its cache, or be refused.
//!
//! **No caller takes a key from the others.** What a caller chooses (headers, path, model, content, size) can be
//! refused without any effect on keys. A refusal that no rule knows harms a key only if another key served the same
//! request, for two different [actors](crate::Actor), and even then the key still serves requests that no other key
//! does.
//!
//! # Domains
//!
//! A domain is [declared](ApiKey::domain), else learnt from the provider's answers (`openai-organization` with
//! `openai-project`, `anthropic-organization-id` with `anthropic-workspace-id`), else the key's own. Of one domain at
//! most 256 resting models are remembered, since model names come from callers.
//!
//! # Order
//!
//! Keys are tried in the order of their [ranks](ApiKey::rank), each once per round. Among keys of equal rank a
//! conversation always begins with the same one, which keeps the provider's prompt cache, and conversations spread over
//! all of them. A key whose domain says "0 left" for the model is tried after all others until its reset.
//!
//! # Cost
//!
//! While nothing rests in a key's domain, leasing it and reporting on it take no lock and no allocation. Every change of
//! state is logged once, with the key's [hint](KeyHint); the key itself never prints.
//!
//! # Examples
//!
//! ```
//! use tower_llm_bridge::pool::{ApiKey, KeyPool, KeyState};
//!
//! let pool = KeyPool::new([
//!     ApiKey::new("sk-preferred-0123456789")?.domain("research"),
//!     ApiKey::new("sk-reserve-0123456789")?.domain("sales"),
//! ])?;
//!
//! // Later, while requests run: one more key, last in order. The others keep their state.
//! pool.replace([
//!     ApiKey::new("sk-preferred-0123456789")?.domain("research"),
//!     ApiKey::new("sk-reserve-0123456789")?.domain("sales"),
//!     ApiKey::new("sk-new-0123456789")?,
//! ])?;
//! assert_eq!(pool.snapshot().len(), 3);
//!
//! for key in pool.snapshot() {
//!     println!("{} {:?} {:?}", key.hint, key.state, key.counters);
//!     if key.state == KeyState::Revoked {
//!         pool.restore(&key.hint);
//!     }
//! }
//! # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
//! ```

mod choice;
mod domain;
mod error;
mod headroom;
mod key;
mod purpose;
mod report;
mod retry_after;
mod set;
mod snapshot;
mod state;
mod suspicion;
mod verdict;
mod walk;
mod word;

pub use self::{
    error::{KeyPoolError, KeyPoolErrorKind},
    key::ApiKey,
    snapshot::{KeyCounters, KeySnapshot, KeyState, ModelRest},
    state::KeyPool,
    verdict::{Verdict, VerdictTable, When},
};
pub use crate::types::{CredentialHeader, KeyHint, KeyHintError};

pub(crate) use self::{
    choice::Caller,
    key::SentKey,
    purpose::Purpose,
    state::{Exhausted, Lease},
    verdict::{Refused, Report},
    walk::Walk,
};
