//! OpenAI's Responses through the bridge: keys and headers, ids, errors, and streams against the clock. The bytes of
//! conversations are tested by the golden files, and beside the dialect's code.
#![allow(clippy::unwrap_used, reason = "a panic fails a test")]

#[path = "../support/mod.rs"]
mod support;

mod ids;
mod rules;
mod streams;
mod words;
