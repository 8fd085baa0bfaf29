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

/// How much of an answer is handed over at once. A server asks for more whenever it has sent one piece, so a reader that
/// takes as much within its patience is not ended.
const PIECE: usize = 16 << 10;

/// Makes the last event of a stream whose place was taken back, so that it does not look like a clean end.
pub(crate) type Cut = fn(Dialect) -> Bytes;

/// The driver's end of a one-slot channel to the body that polls it.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Option<Bytes>>>);

/// The body's end of a [`Sink`].
pub(crate) struct Outlet(Sink);

/// If the driver is dropped while it sends a long event, ends that event where its reader stopped.
struct CutShort<'a> {
    sink: &'a Sink,
    /// How many bytes have not been handed over yet.
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
        sink.send_pieces(segment, |_| ()).await;
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
        if bytes.len() > PIECE {
            let mut end = CutShort {
                sink: self,
                left: bytes.len(),
            };
            return self.send_pieces(bytes, |piece| end.left -= piece).await;
        }
        if !bytes.is_empty() {
            self.hand_over(bytes).await;
        }
    }

    /// Hands bytes over piece by piece; tells `begin` the size of each before.
    async fn send_pieces(&self, bytes: Bytes, mut begin: impl FnMut(usize)) {
        let bytes = Vast::new(bytes, Bytes::len);
        for piece in bytes.chunks(PIECE) {
            begin(piece.len());
            // A copy: a slice in a writer's buffer would keep all of it in memory.
            self.hand_over(Bytes::copy_from_slice(piece)).await;
        }
    }

    /// It registers no waker: only the reader's own poll can make room, and that poll polls the driver next.
    async fn hand_over(&self, bytes: Bytes) {
        *self.place() = Some(bytes);
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

// === impl CutShort ===

impl Drop for CutShort<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            *self.sink.place() = Some(Bytes::from_static(b"\n\n"));
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

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};

    use super::{Arc, Body, Bytes, ResponseBody, Sink};
    use crate::body::budget::Budget;
    use crate::rope::Rope;

    #[tokio::test]
    async fn a_driver_never_runs_ahead_of_the_reader() {
        let sink = Sink::default();
        let (outlet, made) = (sink.outlet(), Arc::new(std::sync::atomic::AtomicU32::new(0)));
        let count = Arc::clone(&made);
        let driver = Box::pin(async move {
            for _ in 0..3 {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                sink.send(Bytes::from_static(b"x")).await;
            }
        });
        let readers = super::Readers::default();
        let mut body =
            ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, |_| Bytes::new(), super::Dialect::Messages);
        for expected in 1..=3 {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
            assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), expected);
        }
        assert!(body.frame().await.is_none());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_answer_is_held_until_it_is_read_or_needed_by_others() {
        let (readers, budget) = (super::Readers::default(), Budget::new(1 << 20));
        let answer = || {
            let mut held = budget.hold(None);
            assert!(held.take(300 << 10));
            let mut rope = Rope::from(vec![1; 100 << 10]);
            rope.append(vec![2; 200 << 10].into());
            ResponseBody::<Empty<Bytes>>::paced(rope, held, &readers, super::Dialect::Messages)
        };
        let rest = |budget: &Budget| budget.hold(None).take(896 << 10);

        let body = answer();
        assert_eq!(body.size_hint().exact(), Some(300 << 10));
        assert!(!rest(&budget));
        let whole = body.collect().await.unwrap().to_bytes();
        assert_eq!((whole.len(), whole[0], whole[whole.len() - 1]), (300 << 10, 1, 2));
        assert!(rest(&budget), "given back once it is read");

        let mut body = answer();
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap().len(),
            16 << 10
        );
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        assert_eq!(readers.end_stalled(std::time::Duration::from_secs(60)), 1);
        assert!(rest(&budget), "given back because it is needed");
        // The connection notices that bytes are missing.
        assert_eq!(body.size_hint().exact(), Some(284 << 10));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_a_piece_of_a_long_event_keeps_its_place() {
        let (sink, readers) = (Sink::default(), super::Readers::default());
        let outlet = sink.outlet();
        let event: Bytes = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = event.clone();
        let driver = Box::pin(async move { sink.send(sent).await });
        let cut = |_| Bytes::new();
        let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, super::Dialect::Messages);
        let patience = std::time::Duration::from_secs(60);
        let (mut taken, mut pieces) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            taken.extend_from_slice(&frame.unwrap().into_data().unwrap());
            pieces += 1;
            tokio::time::advance(patience - std::time::Duration::from_secs(1)).await;
            assert_eq!(readers.end_stalled(patience), 0);
        }
        assert_eq!((pieces, taken == event), (3, true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_whose_reader_stopped_ends_there_and_keeps_no_memory() {
        let (sink, readers) = (Sink::default(), super::Readers::default());
        let outlet = sink.outlet();
        let event = Bytes::from(vec![b'x'; 100 << 10]);
        let sent = event.clone();
        let driver = Box::pin(async move { sink.send(sent).await });
        let cut = |_| Bytes::from_static(b"cut");
        let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, super::Dialect::Messages);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), super::PIECE);
        drop(first);
        let patience = std::time::Duration::from_secs(60);
        tokio::time::advance(patience).await;
        assert_eq!(readers.end_stalled(patience), 1);
        assert!(event.is_unique(), "its memory is free");
        assert_eq!(body.collect().await.unwrap().to_bytes(), "\n\ncut");
    }

    #[tokio::test]
    async fn a_piece_in_a_writer_s_buffer_keeps_nothing_else() {
        let answer = Bytes::from(vec![1; 100 << 10]);
        let (readers, budget) = (super::Readers::default(), Budget::new(1 << 20));
        let whole = answer.clone().into();
        let mut body =
            ResponseBody::<Empty<Bytes>>::paced(whole, budget.hold(None), &readers, super::Dialect::Messages);
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            buffer.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(buffer.iter().map(Bytes::len).sum::<usize>(), 100 << 10);
        assert!(answer.is_unique());
    }

    /// Bytes that tell on which thread they are freed.
    struct Told(Vec<u8>, std::sync::mpsc::Sender<std::thread::ThreadId>);

    impl AsRef<[u8]> for Told {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.1.send(std::thread::current().id());
        }
    }

    #[tokio::test]
    async fn a_vast_answer_is_freed_on_another_thread_whether_it_was_read_or_not() {
        let here = std::thread::current().id();
        let (readers, budget) = (super::Readers::default(), Budget::new(1 << 30));
        for (size, is_read) in [(2 << 20, true), (2 << 20, false), (200 << 10, true), (200 << 10, false)] {
            let (tell, told) = std::sync::mpsc::channel();
            let answer = Rope::from(Bytes::from_owner(Told(vec![1; size], tell)));
            let held = budget.hold(None);
            let mut body = ResponseBody::<Empty<Bytes>>::paced(answer, held, &readers, super::Dialect::Messages);
            while let Some(frame) = body.frame().await {
                drop(frame);
                if !is_read {
                    break;
                }
            }
            drop(body);
            let freed_here = tokio::task::spawn_blocking(move || told.recv().unwrap() == here)
                .await
                .unwrap();
            assert_eq!(freed_here, size < 1 << 20, "{size} {is_read}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stopped_loses_its_place_when_it_is_needed() {
        let readers = super::Readers::default();
        let (sink, alive) = (Sink::default(), Arc::new(()));
        let (outlet, held) = (sink.outlet(), Arc::clone(&alive));
        let driver = Box::pin(async move {
            let _held = held;
            loop {
                sink.send(Bytes::from_static(b"x")).await;
            }
        });
        let cut = |_| Bytes::from_static(b"cut");
        let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, super::Dialect::Messages);
        let patience = std::time::Duration::from_secs(60);
        for _ in 0..3 {
            tokio::time::advance(patience / 2).await;
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
            assert_eq!(readers.end_stalled(patience), 0, "it reads");
        }
        tokio::time::advance(patience).await;
        assert_eq!(readers.end_stalled(patience), 1);
        assert_eq!(Arc::strong_count(&alive), 1, "all of its conversation is gone");
        assert_eq!(readers.end_stalled(patience), 0);
        assert!(!Body::is_end_stream(&body));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "cut");
        assert!(body.frame().await.is_none());
    }
}
