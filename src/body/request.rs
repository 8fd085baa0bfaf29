//! The request body that the inner service gets: the caller's own, or one that the bridge has read and perhaps edited.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::rope::Rope;

/// The body of a request below the bridge.
///
/// A request that is left alone keeps its body `B`, unread. One that the bridge has read has an exact
/// [`size_hint`](Body::size_hint) and may come in several frames. It is `Unpin` exactly when `B` is.
///
/// # Examples
///
/// ```
/// use http_body_util::Empty;
/// use hyper::body::{Body, Bytes};
/// use tower_llm_bridge::RequestBody;
///
/// let body = RequestBody::passthrough(Empty::<Bytes>::new());
/// assert!(body.is_end_stream());
/// ```
#[pin_project]
pub struct RequestBody<B> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProj)]
enum Kind<B> {
    Passthrough(#[pin] B),
    Full(Rope),
}

// === impl RequestBody ===

impl<B> RequestBody<B> {
    /// Wraps a body that is handed on as it is.
    pub fn passthrough(body: B) -> Self {
        Self {
            kind: Kind::Passthrough(body),
        }
    }

    pub(crate) fn full(body: Rope) -> Self {
        Self { kind: Kind::Full(body) }
    }

    /// A copy for sending again, sharing the bytes; `None` for a body that is handed on unread.
    ///
    /// An inner [`tower::retry::Policy`] needs it in its `clone_request`. Under axum's `Router::layer` the service below
    /// gets axum's own body again, and not this one.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        match &self.kind {
            Kind::Passthrough(_) => None,
            Kind::Full(rope) => Some(Self::full(rope.clone())),
        }
    }
}

/// An empty body, for layers that make one, such as those that follow redirects.
impl<B> Default for RequestBody<B> {
    fn default() -> Self {
        Self::full(Rope::default())
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Passthrough(body) => body.poll_frame(cx),
            KindProj::Full(rope) => Poll::Ready(rope.pop_front().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passthrough(body) => body.is_end_stream(),
            Kind::Full(rope) => rope.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passthrough(body) => body.size_hint(),
            Kind::Full(rope) => SizeHint::with_exact(rope.len() as u64),
        }
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Passthrough(_) => "RequestBody::Passthrough",
            Kind::Full(_) => "RequestBody::Full",
        })
    }
}
