//! Streams through the public API, in virtual time: what the caller gets, what the provider got, what was recorded, and
//! what is still alive.

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
