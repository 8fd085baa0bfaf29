//! What callers see: the mounted routes, who the caller is, and every refusal in the provider's shape.

mod app;
mod edge;
mod identity;
mod refusal;

pub use app::{Connected, Mount, app};
