//! What the bridge knows of the model APIs' wire formats. It sees bytes and does no IO.

pub(crate) mod sse;
