//! Streams through the public API, in virtual time: the caller's bytes, the provider's requests, the records, and the
//! work that is still running.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod case;
mod edits;
mod faults;
mod head;
mod leave;
mod parity;
mod replay;
mod setup;
mod wire;
