//! The two bodies that cross the bridge's borders, and the bounded reading of others.

pub(crate) mod budget;
pub(crate) mod collect;
pub(crate) mod readers;
mod request;
mod response;

pub use request::RequestBody;
pub use response::ResponseBody;
pub(crate) use response::Sink;
