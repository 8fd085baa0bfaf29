//! A tower layer between AI clients and model providers: key failover, injected tools, usage records.

mod body;
mod bridge;
mod dialect;
mod error;
mod future;
mod identity;
mod json;
mod layer;
pub mod pool;
pub mod record;
mod rope;
mod service;
pub mod tools;
mod types;
mod upstream;

pub use body::{RequestBody, ResponseBody};
pub use bridge::InvalidPattern;
pub use error::{BridgeError, BridgeErrorKind};
pub use future::ResponseFuture;
pub use identity::{Actor, Credential, Intercepted, UpstreamAttempt};
pub use layer::BridgeLayer;
pub use service::Bridge;
pub use types::Dialect;
