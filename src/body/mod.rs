//! The request and response bodies of the bridge, and the bounded reading of other bodies.

pub(crate) mod budget;
pub(crate) mod collect;
pub(crate) mod readers;
mod request;
mod response;

pub use request::RequestBody;
pub use response::ResponseBody;
pub(crate) use response::Sink;
