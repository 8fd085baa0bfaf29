//! The operator's listener: health, readiness, metrics and the page, separate from the callers' listener and on its own
//! thread, so that neither delays the other.
//!
//! The checks of a request, from the outside in:
//!
//! 1. `headers`: no answer can be framed or cached, or run a script that is not the page's;
//! 2. `site`: the request is meant for this listener, and was not caused by another site's page;
//! 3. `access`: it has the token, if the listener has one. Health and readiness need none;
//! 4. `routes`: the answer.

mod access;
pub(crate) mod headers;
mod listener;
mod login;
mod metrics;
mod readiness;
mod routes;
mod sessions;
pub(crate) mod site;

pub use self::{
    access::Access,
    listener::{Admin, Settings},
    metrics::Metrics,
    readiness::{NotReady, Provider, Readiness},
    routes::Parts,
};
