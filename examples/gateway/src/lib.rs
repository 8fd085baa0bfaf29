//! A gateway for AI clients, to run as it is or to lift into production. This library has its parts, `main.rs` wires them
//! together.
//!
//! ```text
//! caller ─► workers ─► server ─► routes ─► Bridge ─► upstream ─► provider
//!                                             └─► recorder ─► JSON lines
//! ```
#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "the parts of one program, public for its binary and its benchmark alone"
)]

pub mod args;
pub mod demo;
pub mod late;
pub mod mcp;
pub mod recorder;
pub mod routes;
pub mod server;
pub mod signals;
pub mod upstream;
pub mod workers;
