//! The operator's listener: health, readiness, metrics and the page, apart from the callers' listener and on a thread of
//! its own, so that neither keeps the other waiting.
//!
//! What a request goes through, from the outside in:
//!
//! 1. `headers`: every answer is framed by nobody, cached nowhere, and runs no script but the page's own;
//! 2. `site`: the request is meant for this listener, and no other site's page makes a browser send it;
//! 3. `access`: it has the token, unless the listener has none. Health and readiness need none;
//! 4. `routes`: what is served.

mod access;
pub(crate) mod headers;
mod listener;
mod login;
mod metrics;
mod readiness;
mod routes;
pub(crate) mod site;

pub use self::{
    access::Access,
    listener::{Admin, Settings},
    readiness::{NotReady, Provider, Readiness},
    routes::Parts,
};
