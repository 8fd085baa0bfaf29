//! Enforces tower's contract: a service is called only on a handle that was polled ready, once for each time.
//!
//! A clone is never ready, even if the original is. Many services work without this, so a middleware that breaks the
//! contract works in its own tests and fails under a concurrency limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tower::Service;

use super::body::{Alive, Token};

/// Passes calls to `S`, and panics at a call without readiness.
#[derive(Debug)]
pub(crate) struct Probe<S> {
    inner: S,
    /// Held while this handle is ready.
    place: Option<Token>,
    reserved: Alive,
    calls: Arc<AtomicUsize>,
}

// === impl Probe ===

impl<S> Probe<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            place: None,
            reserved: Alive::default(),
            calls: Arc::default(),
        }
    }

    /// Calls so far, on all clones.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many clones are ready and not called yet.
    pub(crate) fn reserved(&self) -> usize {
        self.reserved.count()
    }
}

impl<S: Clone> Clone for Probe<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            place: None,
            reserved: self.reserved.clone(),
            calls: Arc::clone(&self.calls),
        }
    }
}

impl<S, Request> Service<Request> for Probe<S>
where
    S: Service<Request>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.inner.poll_ready(cx))?;
        if self.place.is_none() {
            self.place = Some(self.reserved.token());
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> S::Future {
        assert!(
            self.place.take().is_some(),
            "called on a handle that was not polled ready"
        );
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.call(request)
    }
}
