//! The response body that the caller gets: the inner service's own, a whole reply, or a conversation still going on.
//!
//! The last kind *owns* the rest of the conversation: the caller's polls drive it, so that nothing runs ahead of a slow
//! reader, and dropping the body drops the provider's call with it. No task is spawned.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::budget::Held;
use super::readers::{Driver, Readers, Stream};
use crate::rope::Rope;
use crate::types::Dialect;
use crate::vast::Vast;

#[cfg(test)]
mod tests;

/// The body of a response above the bridge.
///
/// # Examples
///
/// ```
/// use http_body_util::Empty;
/// use hyper::body::{Body, Bytes};
/// use tower_llm_bridge::ResponseBody;
///
/// let body = ResponseBody::passthrough(Empty::<Bytes>::new());
/// assert_eq!(body.size_hint().exact(), Some(0));
/// ```
#[pin_project]
pub struct ResponseBody<B> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProj)]
enum Kind<B> {
    Passthrough(#[pin] B),
    Full(Rope),
    /// The provider's own, ended if its reader stops reading.
    Watched {
        stream: Arc<Stream<Watched<B>>>,
        /// Whether its length was announced.
        has_length: bool,
    },
    Driven {
        stream: Arc<Stream<Driver>>,
        outlet: Outlet,
        cut: Cut,
        dialect: Dialect,
        /// How much of an answer of known length is left.
        left: Option<usize>,
    },
}

/// A provider's body, and its part of the byte budget until its end.
struct Watched<B> {
    body: Pin<Box<B>>,
    _held: Held,
}

/// A whole answer longer than this is handed over in pieces, so that it can be ended when its reader stops reading.
const PACED: usize = 64 << 10;

/// How much of an answer is handed over at once. A server asks for more once it has sent what it buffered, so a reader that
/// takes as much within its patience is not ended.
const PIECE: usize = 16 << 10;

/// Makes the last event of a stream whose place was taken back, so that it does not look like a clean end.
pub(crate) type Cut = fn(Dialect) -> Bytes;

/// The driver's end of a one-slot channel to the body that polls it.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Option<Bytes>>>);

/// The body's end of a [`Sink`].
pub(crate) struct Outlet(Sink);

/// A long event on its way. If it is dropped half-way, a blank line ends the event, so that the error event after it stands
/// alone.
struct Unfinished<'a> {
    sink: &'a Sink,
    /// How many bytes were not placed for the reader yet.
    left: usize,
}

// === impl ResponseBody ===

impl<B> ResponseBody<B> {
    /// Wraps a body that is handed on as it is.
    pub fn passthrough(body: B) -> Self {
        Self {
            kind: Kind::Passthrough(body),
        }
    }

    pub(crate) fn full(body: Rope) -> Self {
        Self { kind: Kind::Full(body) }
    }

    /// Wraps a body that is handed on as it is until its reader stops reading.
    pub(crate) fn watched(body: B, held: Held, readers: &Readers) -> Self
    where
        B: Body + Send + 'static,
    {
        if body.is_end_stream() {
            return Self::passthrough(body);
        }
        let has_length = body.size_hint().exact().is_some();
        let body = Watched {
            body: Box::pin(body),
            _held: held,
        };
        Self {
            kind: Kind::Watched {
                stream: readers.add(body),
                has_length,
            },
        }
    }

    pub(crate) fn driven(driver: Driver, outlet: Outlet, readers: &Readers, cut: Cut, dialect: Dialect) -> Self {
        Self {
            kind: Kind::Driven {
                stream: readers.add(driver),
                outlet,
                cut,
                dialect,
                left: None,
            },
        }
    }

    /// A whole answer, whose bytes are `held` until its reader has taken them.
    pub(crate) fn paced(body: Rope, held: Held, readers: &Readers, dialect: Dialect) -> Self {
        if body.len() <= PACED {
            return Self::full(body);
        }
        let (sink, length) = (Sink::default(), body.len());
        let outlet = sink.outlet();
        let driver = Box::pin(hand_over(body, held, sink));
        Self {
            kind: Kind::Driven {
                stream: readers.add(driver),
                outlet,
                // No last event: the announced length shows that the end is missing.
                cut: |_| Bytes::new(),
                dialect,
                left: Some(length),
            },
        }
    }
}

/// Hands a whole answer over, piece by piece.
async fn hand_over(mut body: Rope, held: Held, sink: Sink) {
    while let Some(segment) = body.pop_front() {
        let mut left = segment.len();
        sink.send_pieces(segment, &mut left).await;
    }
    drop(held);
}

/// An empty body, for layers above that answer themselves, such as tower-http's timeout.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::full(Rope::default())
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Passthrough(body) => body.poll_frame(cx),
            KindProj::Full(rope) => Poll::Ready(rope.pop_front().map(|bytes| Ok(Frame::data(bytes)))),
            KindProj::Watched { stream, has_length } => {
                let mut state = stream.ask();
                let Some(source) = &mut state.source else {
                    // The connection notices that announced bytes are missing. Without a length an end would look like
                    // the answer's own, and there is no error to give: the reader has to give up.
                    let is_whole = *has_length || !state.is_cut;
                    return if is_whole { Poll::Ready(None) } else { Poll::Pending };
                };
                match source.body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                    Poll::Ready(last) => {
                        state.source = None;
                        Poll::Ready(last)
                    }
                    Poll::Pending => {
                        state.note_wait();
                        Poll::Pending
                    }
                }
            }
            KindProj::Driven {
                stream,
                outlet,
                cut,
                dialect,
                left,
            } => {
                let mut state = stream.ask();
                let mut frame = |bytes: Bytes| {
                    *left = left.map(|left| left.saturating_sub(bytes.len()));
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                };
                if let Some(bytes) = outlet.take() {
                    return frame(bytes);
                }
                let Some(running) = &mut state.source else {
                    let is_cut = std::mem::take(&mut state.is_cut);
                    let last = is_cut.then(|| cut(*dialect)).filter(|last| !last.is_empty());
                    return last.map_or(Poll::Ready(None), frame);
                };
                let ended = running.as_mut().poll(cx).is_ready();
                if ended {
                    // Releases the provider's connection now, not when the caller drops the body.
                    state.source = None;
                }
                match outlet.take() {
                    Some(bytes) => frame(bytes),
                    None if ended => Poll::Ready(None),
                    None => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passthrough(body) => body.is_end_stream(),
            Kind::Full(rope) => rope.is_empty(),
            Kind::Watched { stream, .. } => {
                let state = stream.state();
                let is_end = |source: &Watched<B>| source.body.is_end_stream();
                state.source.as_ref().map_or(!state.is_cut, is_end)
            }
            Kind::Driven { left: Some(0), .. } => true,
            Kind::Driven { stream, outlet, .. } => stream.has_ended() && outlet.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passthrough(body) => body.size_hint(),
            Kind::Full(rope) => SizeHint::with_exact(rope.len() as u64),
            Kind::Watched { stream, .. } => {
                let state = stream.state();
                state
                    .source
                    .as_ref()
                    .map(|source| source.body.size_hint())
                    .unwrap_or_default()
            }
            Kind::Driven { left: Some(left), .. } => SizeHint::with_exact(*left as u64),
            Kind::Driven { .. } => SizeHint::default(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Passthrough(_) => "ResponseBody::Passthrough",
            Kind::Full(_) => "ResponseBody::Full",
            Kind::Watched { .. } => "ResponseBody::Watched",
            Kind::Driven { .. } => "ResponseBody::Driven",
        })
    }
}

// === impl Sink ===

impl Sink {
    pub(crate) fn outlet(&self) -> Outlet {
        Outlet(self.clone())
    }

    /// Hands bytes of a stream over and waits until the reader has taken them.
    pub(crate) async fn send(&self, bytes: Bytes) {
        // A call that was dropped may have left a piece.
        self.taken().await;
        if bytes.len() > PIECE {
            let mut event = Unfinished {
                sink: self,
                left: bytes.len(),
            };
            self.send_pieces(bytes, &mut event.left).await;
        } else if !bytes.is_empty() {
            self.send_piece(bytes).await;
        }
    }

    /// Hands bytes over piece by piece; subtracts each from `left` when it is placed.
    async fn send_pieces(&self, bytes: Bytes, left: &mut usize) {
        let bytes = Vast(bytes);
        for piece in bytes.chunks(PIECE) {
            *left -= piece.len();
            // A copy: a slice in a writer's buffer would keep all of it in memory.
            self.send_piece(Bytes::copy_from_slice(piece)).await;
        }
    }

    async fn send_piece(&self, piece: Bytes) {
        *self.place() = Some(piece);
        self.taken().await;
    }

    /// Waits until the place is empty, without a waker: only the reader's own poll can empty it, and that poll polls the
    /// driver next.
    async fn taken(&self) {
        poll_fn(|_| {
            if self.place().is_none() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn place(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Unfinished ===

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            let mut place = self.sink.place();
            let piece = place.take().unwrap_or_default();
            *place = Some([&piece[..], b"\n\n"].concat().into());
        }
    }
}

// === impl Outlet ===

impl Outlet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.place().is_none()
    }

    fn take(&self) -> Option<Bytes> {
        self.0.place().take()
    }
}
