//! The tools of MCP servers, from the servers' pages to the model's answers: real servers of the SDK, in this process.
#![cfg(feature = "mcp")]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod calls;
mod child;
#[cfg(feature = "mcp-http")]
mod http;
mod limits;
mod lists;
mod outages;
mod support;
