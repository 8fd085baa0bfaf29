//! Rules for every request, and headers of every answer, whatever the route.
//!
//! - one `Host`; an upload that never stalls for long, is not too large, and does not unpack to many times its size;
//! - `Content-Encoding` by one name; `X-Accel-Buffering: no` on streams, so that nginx relays events as they come.
//!
//! An upload that breaks a rule fails in the layer that reads it, with an answer that does not know the reason. So the
//! reason is kept here, and that answer is replaced.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Version,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST},
};
use hyper::body::{Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower::{BoxError, Layer, Service};
use tower_llm_bridge::Dialect;

use super::refusal::{self, dialect_of};

/// Bytes of a request body as they come over the wire.
pub(super) const MAX_BODY: u64 = 64 * 1024 * 1024;
/// How long an upload may send nothing.
const STALL: Duration = Duration::from_secs(30);
/// How long an upload may take in all, and…
const UPLOAD: Duration = Duration::from_secs(600);
/// …the bytes for which it gets a second more. A drop every 29 s would hold its memory for weeks.
const BYTES_PER_SECOND: u64 = 1024;
/// How many bytes one byte of an upload may unpack to…
const RATIO: u64 = 100;
/// …from this size on. A smaller upload can do no harm, and short repetitive texts are dense.
const RATIO_FROM: u64 = 64 * 1024;
/// The memory of a decoder at its start, and the most that its window adds later.
const DECODER: usize = 256 * 1024;
const WINDOW: u64 = 16 * 1024 * 1024;
/// The memory that all decoders may take together: they live as long as their uploads.
const DECODERS: usize = 256 * 1024 * 1024;
/// The memory that they take now, in all workers.
static DECODING: AtomicUsize = AtomicUsize::new(0);

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Checks requests and completes answers.
#[derive(Clone, Copy)]
pub(super) struct EdgeLayer {
    decoding: &'static AtomicUsize,
}

#[derive(Clone)]
pub(super) struct Edge<S> {
    inner: S,
    decoding: &'static AtomicUsize,
}

/// Why a request is refused here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Host,
    TooLarge,
    Stalled,
    TooDense,
    Overloaded,
}

/// The state of one upload, shared by both wrappers of its body and by its answer.
pub(super) struct Upload {
    received: AtomicU64,
    fault: OnceLock<Fault>,
    /// The memory that all decoders take now.
    decoding: &'static AtomicUsize,
}

/// A body as it comes over the wire.
#[pin_project]
struct Received<B> {
    #[pin]
    inner: B,
    upload: Arc<Upload>,
    began: Instant,
    /// Runs while the next frame is waited for.
    stall: Option<Pin<Box<Sleep>>>,
}

/// The same body, decompressed.
#[pin_project]
struct Decoded<B> {
    #[pin]
    inner: B,
    upload: Arc<Upload>,
    length: u64,
    decoder: DecoderMemory,
}

/// The memory of one decoder; given back when it is dropped.
struct DecoderMemory {
    all: &'static AtomicUsize,
    own: usize,
}

#[pin_project(project = Projected)]
pub(super) enum ResponseFuture<F> {
    Refused(Dialect, Fault),
    Asked {
        #[pin]
        inner: F,
        dialect: Dialect,
        upload: Arc<Upload>,
    },
}

// === impl EdgeLayer ===

impl EdgeLayer {
    pub(super) fn new() -> Self {
        Self { decoding: &DECODING }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            decoding: self.decoding,
        }
    }
}

// === impl Edge ===

impl<S, B> Service<Request<B>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response>,
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let dialect = dialect_of(request.uri().path(), request.headers());
        if let Err(fault) = check(&request) {
            return ResponseFuture::Refused(dialect, fault);
        }
        let upload = Arc::new(Upload {
            received: AtomicU64::new(0),
            fault: OnceLock::new(),
            decoding: self.decoding,
        });
        if name_encoding(request.headers_mut()) {
            request.extensions_mut().insert(Arc::clone(&upload));
        }
        let request = request.map(|inner| {
            Body::new(Received {
                inner,
                upload: Arc::clone(&upload),
                began: Instant::now(),
                stall: None,
            })
        });
        ResponseFuture::Asked {
            inner: self.inner.call(request),
            dialect,
            upload,
        }
    }
}

fn check<B>(request: &Request<B>) -> Result<(), Fault> {
    let headers = request.headers();
    // RFC 9112 §3.2. A request that two servers read differently can pass as another one.
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(Fault::Host);
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > MAX_BODY) {
        return Err(Fault::TooLarge);
    }
    Ok(())
}

/// Gives a content coding its one name (RFC 9110 §8.4.1): letter case does not count, `x-gzip` is `gzip`, and
/// `identity` is none. Returns whether there is a coding.
fn name_encoding(headers: &mut HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_ENCODING) else {
        return false;
    };
    let name = value.as_bytes().trim_ascii().to_ascii_lowercase();
    let name = if name == b"x-gzip" { b"gzip".to_vec() } else { name };
    if name == b"identity" && headers.get_all(CONTENT_ENCODING).iter().count() == 1 {
        headers.remove(CONTENT_ENCODING);
        return false;
    }
    if name != value.as_bytes()
        && let Ok(name) = HeaderValue::from_bytes(&name)
        && let Some(value) = headers.get_mut(CONTENT_ENCODING)
    {
        *value = name;
    }
    true
}

/// Bounds what the body of a request unpacks to; to be called below the layer that decompresses.
pub(super) fn bound_decoded<B>(mut request: Request<B>) -> Request<Body>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let upload = request.extensions_mut().remove::<Arc<Upload>>();
    request.map(|inner| match upload {
        Some(upload) => Body::new(Decoded {
            inner,
            decoder: DecoderMemory::new(upload.decoding),
            upload,
            length: 0,
        }),
        None => Body::new(inner),
    })
}

// === impl Upload ===

impl Upload {
    /// Keeps the first fault, and makes it the body's error.
    fn fail<T>(&self, fault: Fault) -> Poll<Option<Result<T, BoxError>>> {
        let _ = self.fault.set(fault);
        Poll::Ready(Some(Err(fault.into())))
    }
}

// === impl DecoderMemory ===

impl DecoderMemory {
    fn new(all: &'static AtomicUsize) -> Self {
        Self { all, own: 0 }
    }

    /// Grows with what was decoded. Returns whether there is room.
    fn grow(&mut self, length: u64) -> bool {
        let wanted = DECODER + usize::try_from(length.min(WINDOW)).unwrap_or(usize::MAX);
        let more = wanted.saturating_sub(self.own);
        let fits = |taken: usize| taken.checked_add(more).filter(|sum| *sum <= DECODERS);
        let grown = more == 0
            || self
                .all
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                .is_ok();
        if grown {
            self.own += more;
        }
        grown
    }
}

impl Drop for DecoderMemory {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// How long the next bytes of an upload are waited for.
fn patience(began: Instant, received: u64) -> Duration {
    let whole = UPLOAD + Duration::from_secs(received / BYTES_PER_SECOND);
    let left = whole.saturating_sub(Instant::now().saturating_duration_since(began));
    left.min(STALL)
}

// === impl Received ===

impl<B> hyper::body::Body for Received<B>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let Poll::Ready(frame) = this.inner.poll_frame(cx) else {
            let received = this.upload.received.load(Ordering::Relaxed);
            let stall = this
                .stall
                .get_or_insert_with(|| Box::pin(sleep(patience(*this.began, received))));
            ready!(stall.as_mut().poll(cx));
            return this.upload.fail(Fault::Stalled);
        };
        *this.stall = None;
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        if this.upload.received.fetch_add(length, Ordering::Relaxed) + length > MAX_BODY {
            return this.upload.fail(Fault::TooLarge);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl Decoded ===

impl<B> hyper::body::Body for Decoded<B>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if !this.decoder.grow(*this.length) {
            return this.upload.fail(Fault::Overloaded);
        }
        let frame = match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        *this.length += frame.data_ref().map_or(0, |data| data.len() as u64);
        let received = this.upload.received.load(Ordering::Relaxed);
        if *this.length > RATIO_FROM && *this.length > received.saturating_mul(RATIO) {
            return this.upload.fail(Fault::TooDense);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

// === impl ResponseFuture ===

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (inner, dialect, upload) = match self.project() {
            Projected::Refused(dialect, fault) => return Poll::Ready(Ok(refusal::of_upload(*dialect, *fault))),
            Projected::Asked { inner, dialect, upload } => (inner, *dialect, upload),
        };
        let mut response = ready!(inner.poll(cx))?;
        if let Some(fault) = upload.fault.get() {
            return Poll::Ready(Ok(refusal::of_upload(dialect, *fault)));
        }
        let headers = response.headers_mut();
        let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if content_type.starts_with(b"text/event-stream") {
            headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        }
        Poll::Ready(Ok(response))
    }
}

// === impl Fault ===

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("A request needs exactly one Host header"),
            Self::TooLarge => write!(f, "The request body is larger than {MAX_BODY} bytes"),
            Self::Stalled => write!(
                f,
                "The request body brought nothing for {} s, or too little",
                STALL.as_secs()
            ),
            Self::Overloaded => f.write_str("Too many compressed request bodies are read at present"),
            Self::TooDense => write!(f, "The request body unpacks to more than {RATIO} times its size"),
        }
    }
}

impl Error for Fault {}

#[cfg(test)]
mod tests;
