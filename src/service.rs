//! The service: decides which requests the bridge handles, and releases the slot that `poll_ready` reserved.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tower::Service;

use crate::body::{RequestBody, ResponseBody};
use crate::bridge::{self, Config};
use crate::future::ResponseFuture;
use crate::upstream::{Handle, HttpService};

/// An HTTP service with the bridge around it; made by [`BridgeLayer`](crate::BridgeLayer).
///
/// It answers every intercepted request with a response: an `Err` can only come from the inner service, for a request
/// that was left alone.
///
/// `S` is a `Service<Request<RequestBody<B>>, Response = Response<C>>` that is `Clone + Send + 'static`, with `Bytes` as
/// the data of both bodies and errors that are `Display`. If the compiler only says that `oneshot` does not exist, ask it
/// by `fn is_service<S: tower::Service<http::Request<Body>>>(_: &S) {}`, which names the missing bound.
///
/// An inner service with the error `tower::BoxError` can make an `async` block that awaits the bridge fail to compile,
/// with `higher-ranked lifetime error`. Box the bridge and not the service below it, or give that service a named error
/// type.
///
/// # Examples
///
/// See the [crate's documentation](crate).
#[derive(Clone)]
pub struct Bridge<S> {
    inner: S,
    config: Arc<Config>,
}

// === impl Bridge ===

impl<S> Bridge<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// The inner service.
    ///
    /// ```
    /// use tower::Layer;
    /// assert_eq!(*tower_llm_bridge::BridgeLayer::new().layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service alone.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqBody> Service<Request<ReqBody>> for Bridge<S>
where
    S: HttpService<RequestBody<ReqBody>, Error: fmt::Display, Future: Send> + Clone + Send + 'static,
    S::ResBody: Body<Data = Bytes, Error: fmt::Display> + Send,
    ReqBody: Body<Data = Bytes, Error: fmt::Display> + Send + 'static,
{
    type Response = Response<ResponseBody<S::ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let Some(route) = bridge::route(&self.config, &request) else {
            return ResponseFuture::passthrough(self.inner.call(request.map(RequestBody::passthrough)));
        };
        // The pipeline waits for the caller's upload and for a place in the recorder before it sends anything. If it
        // kept the slot that `poll_ready` reserved, another request might need that very slot to finish. So the readied
        // handle is dropped, and `ready()` is called right before each send
        // (https://docs.rs/tower-service/latest/tower_service/trait.Service.html#be-careful-when-cloning-inner-services).
        let fresh = self.inner.clone();
        drop(mem::replace(&mut self.inner, fresh));
        let upstream = Handle::new(self.inner.clone());
        ResponseFuture::bridged(bridge::run(Arc::clone(&self.config), route, upstream, request))
    }
}

impl<S: fmt::Debug> fmt::Debug for Bridge<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("inner", &self.inner)
            .field("config", &self.config)
            .finish()
    }
}
