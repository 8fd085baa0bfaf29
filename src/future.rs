//! The future that [`Bridge`](crate::Bridge) returns: the inner service's own for a request that is left alone, a boxed
//! one for a request that the bridge answers (one allocation is negligible next to a model's call).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project::pin_project;

use crate::body::ResponseBody;
use crate::bridge::Bridged;

/// The response future of [`Bridge`](crate::Bridge).
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use hyper::body::Bytes;
/// use tower::{Layer, Service, service_fn};
/// use tower_llm_bridge::{BridgeLayer, RequestBody};
///
/// let inner = service_fn(|_: Request<RequestBody<Empty<Bytes>>>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
/// });
/// let future = BridgeLayer::new().layer(inner).call(Request::get("/health").body(Empty::new()).unwrap());
/// assert_eq!(format!("{future:?}"), "ResponseFuture::Passthrough");
/// ```
#[pin_project]
pub struct ResponseFuture<F, B> {
    #[pin]
    kind: Kind<F, B>,
}

#[pin_project(project = KindProj)]
enum Kind<F, B> {
    Passthrough(#[pin] F),
    Bridged(Bridged<B>),
}

// === impl ResponseFuture ===

impl<F, B> ResponseFuture<F, B> {
    pub(crate) fn passthrough(future: F) -> Self {
        Self {
            kind: Kind::Passthrough(future),
        }
    }

    pub(crate) fn bridged(future: Bridged<B>) -> Self {
        Self {
            kind: Kind::Bridged(future),
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Passthrough(future) => {
                Poll::Ready(ready!(future.poll(cx)).map(|response| response.map(ResponseBody::passthrough)))
            }
            KindProj::Bridged(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Passthrough(_) => "ResponseFuture::Passthrough",
            Kind::Bridged(_) => "ResponseFuture::Bridged",
        })
    }
}
