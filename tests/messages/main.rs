//! Anthropic's Messages through the bridge: keys and headers, errors, streams against the clock, and counts. The bytes
//! of conversations are tested by the golden files, and beside the dialect's code.
#![allow(clippy::unwrap_used, reason = "a panic fails a test")]

#[path = "../support/mod.rs"]
mod support;

mod counts;
mod errors;
mod headers;
mod streams;
mod words;
