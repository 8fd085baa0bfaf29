//! A tower layer between AI clients and model providers: key failover, injected tools, usage records.

mod types;

pub use types::Dialect;
