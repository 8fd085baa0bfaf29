//! The callers' side: the mounted routes, the caller's identity, and refusals in the provider's shape.

mod app;
mod edge;
mod identity;
mod refusal;

pub use app::{Connected, Mount, app};
