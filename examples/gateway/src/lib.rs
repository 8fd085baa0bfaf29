//! A gateway for AI clients, to run as it is or as a start for your own. This library has its parts; `program`
//! connects them.
//!
//! ```text
//! caller ─► workers ─► server ─► routes ─► Bridge ─► upstream ─► provider
//!                                             └─► recorder ─► JSON lines
//! operator ─► admin ─► page
//! ```
#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "the parts of one program, public for its binary and its benchmark alone"
)]

pub mod admin;
pub mod args;
pub mod deferred_writes;
pub mod demo;
pub mod descriptors;
pub mod first_bytes;
pub mod mcp;
pub mod page;
pub mod process;
pub mod program;
pub mod recorder;
pub mod routes;
pub mod server;
pub mod signals;
pub mod upstream;
pub mod workers;
