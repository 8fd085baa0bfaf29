//! Hides the user's service and body types from the pipeline behind one trait, [`Upstream`].

use std::fmt::Display;
use std::future::Future;
use std::marker::PhantomData;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tower::{Service, ServiceExt};

use crate::body::RequestBody;
use crate::rope::Rope;

/// An HTTP service whose response body is an associated type.
///
/// Sealed, and implemented for every such service. Projecting the body through this alias, instead of a free type
/// parameter with a `'static` bound, keeps code compiling that spawns a future with boxed errors.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an HTTP service for the bridge",
    label = "not a `Service<Request<{ReqBody}>, Response = Response<_>>`",
    note = "the bridge wraps a `tower::Service<http::Request<tower_llm_bridge::RequestBody<_>>>` whose response is an \
            `http::Response` and which is `Clone + Send + 'static`"
)]
pub trait HttpService<ReqBody>:
    Service<Request<ReqBody>, Response = Response<Self::ResBody>> + sealed::Sealed<ReqBody>
{
    /// The body of the service's responses.
    type ResBody;
}

mod sealed {
    /// Only this crate may name it.
    pub trait Sealed<ReqBody> {}
}

impl<S, ReqBody, ResBody> sealed::Sealed<ReqBody> for S where S: Service<Request<ReqBody>, Response = Response<ResBody>> {}

impl<S, ReqBody, ResBody> HttpService<ReqBody> for S
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type ResBody = ResBody;
}

/// One handle on the inner service: called many times, one call after the other.
pub(crate) trait Upstream: Send {
    type Body: Body<Data = Bytes, Error: Display> + Send;

    /// Waits for readiness right before every call: a handle is never called unready, and never holds a reserved slot
    /// while it waits for something else.
    fn send(&mut self, request: Request<Rope>) -> impl Future<Output = Result<Response<Self::Body>, SendError>> + Send;
}

/// The inner service's error as text: for logs, never for the caller.
#[derive(Debug)]
pub(crate) struct SendError(pub(crate) String);

/// The user's service as an [`Upstream`].
pub(crate) struct Handle<S, ReqBody> {
    service: S,
    body: PhantomData<fn(ReqBody)>,
}

// === impl Handle ===

impl<S, ReqBody> Handle<S, ReqBody> {
    /// `service` must be a fresh clone: readiness belongs to the handle that was polled.
    pub(crate) fn new(service: S) -> Self {
        Self {
            service,
            body: PhantomData,
        }
    }
}

impl<S, ReqBody> Upstream for Handle<S, ReqBody>
where
    S: HttpService<RequestBody<ReqBody>, Error: Display, Future: Send> + Send,
    S::ResBody: Body<Data = Bytes, Error: Display> + Send,
{
    type Body = S::ResBody;

    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` holds the request twice, as its argument and as a variable"
    )]
    fn send(&mut self, request: Request<Rope>) -> impl Future<Output = Result<Response<Self::Body>, SendError>> + Send {
        async move {
            let service = self
                .service
                .ready()
                .await
                .map_err(|error| SendError(error.to_string()))?;
            service
                .call(request.map(RequestBody::full))
                .await
                .map_err(|error| SendError(error.to_string()))
        }
    }
}
