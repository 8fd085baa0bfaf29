//! A tower layer between AI clients and model providers: key failover, injected tools, usage records.

pub mod record;
pub mod tools;
pub mod pool;
mod dialect;
mod json;
mod rope;
mod types;

pub use types::Dialect;
