//! A scripted body for tests: comes in pieces, waits, breaks, never ends; and gates to wait at.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A scripted body. It tells as little as possible of its length and end, unless it is [`full`](Self::full).
#[derive(Default)]
pub(crate) struct MockBody {
    steps: VecDeque<Step>,
    size: SizeHint,
    tells_end: bool,
    tokens: Vec<Token>,
    pulled: Pulled,
}

/// The bytes read so far of all bodies that share it. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulled(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

/// How a text is cut into frames. Between two frames the body is pending once, as a socket is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    Whole,
    EveryByte,
    /// In two, if the text is longer than this.
    At(usize),
    /// Into frames of `length` bytes, after a first one of `first` bytes.
    Frames {
        length: usize,
        first: usize,
    },
}

enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Error(MockError),
    /// Pending once, and woken at once.
    Pending,
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The same frame for ever; if it `pauses`, pending between two.
    Endless {
        frame: Bytes,
        pauses: bool,
    },
}

/// The error of bodies and services that fail on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MockError(pub(crate) &'static str);

/// One piece of a body's content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    Error(String),
}

/// A point at which tasks wait until it is opened, for good.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// Closed when the gate opens.
    shut: Arc<Semaphore>,
    arrivals: Arc<Semaphore>,
}

/// Counts the owners of its tokens that are still alive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alive(Arc<AtomicUsize>);

/// Counted by its [`Alive`] until it is dropped.
#[derive(Debug)]
pub(crate) struct Token(Arc<AtomicUsize>);

/// `bytes` as two frames, cut at every place in turn.
pub(crate) fn halves(bytes: impl Into<Bytes>) -> impl Iterator<Item = MockBody> {
    let bytes = bytes.into();
    (0..=bytes.len()).map(move |cut| MockBody::new().data(bytes.slice(..cut)).data(bytes.slice(cut..)))
}

/// Reads a body to its end, or to its error.
pub(crate) async fn pieces<B>(body: B) -> Vec<Piece>
where
    B: Body<Data = Bytes, Error: fmt::Display>,
{
    let mut body = std::pin::pin!(body);
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        pieces.push(match frame.map(Frame::into_data) {
            Ok(Ok(data)) => Piece::Data(data),
            Ok(Err(frame)) => Piece::Trailers(frame.into_trailers().unwrap_or_default()),
            Err(error) => Piece::Error(error.to_string()),
        });
    }
    pieces
}

// === impl MockBody ===

impl MockBody {
    /// A body without frames; add some.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One frame, of known length.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        let body = if bytes.is_empty() {
            Self::new()
        } else {
            Self::new().data(bytes)
        };
        Self {
            size: SizeHint::with_exact(length),
            tells_end: true,
            ..body
        }
    }

    /// One frame for each byte.
    pub(crate) fn bytewise(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        (0..bytes.len()).fold(Self::new(), |body, at| body.data(bytes.slice(at..=at)))
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    pub(crate) fn data(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Data(bytes.into()))
    }

    pub(crate) fn trailers(self, trailers: HeaderMap) -> Self {
        self.step(Step::Trailers(trailers))
    }

    /// `bytes` in frames.
    pub(crate) fn cut(self, bytes: impl Into<Bytes>, cut: Cut) -> Self {
        let bytes = bytes.into();
        let (length, first) = match cut {
            Cut::Whole => (1, bytes.len()),
            Cut::EveryByte => (1, 1),
            Cut::At(place) => (bytes.len().max(1), place),
            Cut::Frames { length, first } => (length, first),
        };
        let (mut body, mut from) = (self, 0);
        for place in (first..bytes.len()).step_by(length) {
            body = body.data(bytes.slice(from..place)).pending();
            from = place;
        }
        body.data(bytes.slice(from..))
    }

    /// Breaks here, with an address in the error that callers must not see.
    pub(crate) fn reset(self) -> Self {
        self.error("connection reset by 10.1.2.3")
    }

    /// Breaks here.
    pub(crate) fn error(self, words: &'static str) -> Self {
        self.step(Step::Error(MockError(words)))
    }

    /// Is pending here once.
    pub(crate) fn pending(self) -> Self {
        self.step(Step::Pending)
    }

    /// Waits here until `gate` is open.
    pub(crate) fn gate(self, gate: &Gate) -> Self {
        let gate = gate.clone();
        self.step(Step::Wait(Box::pin(async move { gate.wait().await })))
    }

    /// Waits here for ever.
    pub(crate) fn never(self) -> Self {
        self.step(Step::Wait(Box::pin(std::future::pending())))
    }

    /// Waits here, in virtual time.
    pub(crate) fn sleep(self, time: Duration) -> Self {
        // The time begins when this step is reached.
        self.step(Step::Wait(Box::pin(async move { tokio::time::sleep(time).await })))
    }

    /// Repeats this frame for ever, and yields in between.
    pub(crate) fn endless(self, frame: impl Into<Bytes>) -> Self {
        let frame = frame.into();
        self.step(Step::Endless { frame, pauses: true })
    }

    /// Repeats this frame for ever, and is always ready with the next.
    pub(crate) fn flood(self, frame: impl Into<Bytes>) -> Self {
        let frame = frame.into();
        self.step(Step::Endless { frame, pauses: false })
    }

    /// Reports through `is_end_stream` that the last frame was the last.
    pub(crate) fn tells_end(mut self) -> Self {
        self.tells_end = true;
        self
    }

    /// Claims this length, true or not.
    pub(crate) fn claims(mut self, size: SizeHint) -> Self {
        self.size = size;
        self
    }

    /// Adds the data that is read of it to `pulled`.
    pub(crate) fn counted(mut self, pulled: &Pulled) -> Self {
        self.pulled = pulled.clone();
        self
    }

    /// Lets `alive` know when it is dropped.
    pub(crate) fn watched(mut self, alive: &Alive) -> Self {
        self.tokens.push(alive.token());
        self
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = MockError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MockError>>> {
        loop {
            if let Some(Step::Wait(waiting)) = self.steps.front_mut() {
                ready!(waiting.as_mut().poll(cx));
                self.steps.pop_front();
                continue;
            }
            return match self.steps.pop_front() {
                None => Poll::Ready(None),
                Some(Step::Data(bytes)) => {
                    self.pulled.add(&bytes);
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Some(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Some(Step::Error(error)) => {
                    self.steps.clear();
                    Poll::Ready(Some(Err(error)))
                }
                Some(Step::Pending) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(Step::Endless { frame, pauses }) => {
                    self.pulled.add(&frame);
                    if pauses {
                        self.steps.push_back(Step::Pending);
                    }
                    let again = frame.clone();
                    self.steps.push_back(Step::Endless { frame: again, pauses });
                    Poll::Ready(Some(Ok(Frame::data(frame))))
                }
                Some(Step::Wait(_)) => continue,
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

impl From<&'static str> for MockBody {
    fn from(text: &'static str) -> Self {
        Self::full(text)
    }
}

impl From<String> for MockBody {
    fn from(text: String) -> Self {
        Self::full(text)
    }
}

impl From<Bytes> for MockBody {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl fmt::Debug for MockBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MockBody({} steps)", self.steps.len())
    }
}

// === impl Pulled ===

impl Pulled {
    fn add(&self, frame: &Bytes) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(frame.len(), Ordering::Relaxed);
    }

    pub(crate) fn frames(&self) -> usize {
        self.0.frames.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

// === impl Cut ===

impl Cut {
    /// Whole, byte by byte, and in two at every `step`th place of the longest of `texts`.
    pub(crate) fn all(texts: &[String], step: usize) -> impl Iterator<Item = Self> {
        let longest = texts.iter().map(String::len).max().unwrap_or_default();
        let places = (1..longest).step_by(step).map(Self::At);
        [Self::Whole, Self::EveryByte].into_iter().chain(places)
    }

    /// Byte by byte, and in frames of `length` bytes at every offset, so that each byte begins one of them in some run.
    pub(crate) fn every_place(length: usize) -> impl Iterator<Item = Self> {
        let frames = (1..=length).map(move |first| Self::Frames { length, first });
        [Self::EveryByte].into_iter().chain(frames)
    }
}

// === impl MockError ===

impl fmt::Display for MockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for MockError {}

impl From<Infallible> for MockError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

// === impl Piece ===

impl Piece {
    /// All data of `pieces`, joined.
    pub(crate) fn join(pieces: &[Self]) -> Bytes {
        let mut joined = BytesMut::new();
        for piece in pieces {
            if let Self::Data(data) = piece {
                joined.extend_from_slice(data);
            }
        }
        joined.freeze()
    }
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            shut: Arc::new(Semaphore::new(0)),
            arrivals: Arc::new(Semaphore::new(0)),
        }
    }

    /// Lets all waiting tasks through, and all later ones.
    pub(crate) fn open(&self) {
        self.shut.close();
    }

    /// Waits until one more task has come to the gate; an hour at most, in virtual time.
    pub(crate) async fn reached(&self) {
        let arrival = timeout(Duration::from_secs(3600), self.arrivals.acquire()).await;
        let arrival = arrival.expect("nobody comes to the gate");
        arrival.expect("arrivals are never closed").forget();
    }

    pub(crate) async fn wait(&self) {
        self.arrivals.add_permits(1);
        // It has no permits, so this ends only when it is closed.
        drop(self.shut.acquire().await);
    }
}

// === impl Alive ===

impl Alive {
    pub(crate) fn token(&self) -> Token {
        self.0.fetch_add(1, Ordering::Relaxed);
        Token(Arc::clone(&self.0))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Token ===

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
