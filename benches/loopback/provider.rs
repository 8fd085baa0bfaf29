//! A scripted provider: a request's headers determine the answer. It reads the whole request first.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::time::{Interval, interval};

use crate::words::Api;
use crate::{Failure, roles, support};

/// Asks for a stream. Only a name with this prefix passes together with a key of the pool. The value is the pause
/// between chunks in µs.
pub(crate) const STREAM: HeaderName = HeaderName::from_static("x-stainless-script-stream");
/// Asks to hold the answer back until [`HELD`] requests have been read.
pub(crate) const HOLD: HeaderName = HeaderName::from_static("x-stainless-script-hold");
/// How many bytes the provider has read of this request.
pub(crate) const RECEIVED: HeaderName = HeaderName::from_static("x-script-received");
/// How many requests it has refused so far.
pub(crate) const REFUSED: HeaderName = HeaderName::from_static("x-script-refused");

pub(crate) const HELD: usize = 64;
pub(crate) const CHUNKS: usize = 100;

pub(crate) const LIMITED_KEY: &str = "sk-limited-0123456789abcdef";
pub(crate) const WORKING_KEY: &str = "sk-working-0123456789abcdef";

struct Script {
    reply: Bytes,
    events: [(Api, Arc<[Bytes]>); 3],
    limited: String,
    refused: AtomicU64,
    held: Barrier,
}

enum Answer {
    Whole(Option<Bytes>),
    Stream {
        events: Arc<[Bytes]>,
        next: usize,
        pace: Option<Interval>,
        /// Whether the event before was flushed.
        flushed: bool,
    },
}

pub(crate) async fn serve() -> Result<(), Failure> {
    let script = Arc::new(Script {
        reply: support::reply(),
        events: [Api::Chat, Api::Messages, Api::Responses].map(|api| (api, api.events(CHUNKS).into())),
        limited: format!("Bearer {LIMITED_KEY}"),
        refused: AtomicU64::new(0),
        held: Barrier::new(HELD),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    roles::announce(&listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let script = Arc::clone(&script);
        let service = service_fn(move |request| answer(Arc::clone(&script), request));
        // A broken connection shows at the load's end of it.
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(script: Arc<Script>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let mut received = 0;
    while let Some(Ok(frame)) = body.frame().await {
        received += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
    if parts.headers.contains_key(HOLD) {
        script.held.wait().await;
    }
    let refuses = parts
        .headers
        .get(AUTHORIZATION)
        .is_some_and(|value| value.as_bytes() == script.limited.as_bytes());
    let mut response = if refuses {
        script.refused.fetch_add(1, Ordering::Relaxed);
        let body =
            r#"{"error":{"message":"Rate limit reached","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
        let mut response = Response::new(Answer::Whole(Some(Bytes::from_static(body.as_bytes()))));
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        response
            .headers_mut()
            .insert("retry-after-ms", HeaderValue::from_static("1000"));
        response
    } else if let Some(pause) = parts.headers.get(STREAM) {
        let micros = pause.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut response = Response::new(Answer::Stream {
            events: script.events_of(parts.uri.path()),
            next: 0,
            pace: (micros > 0).then(|| interval(Duration::from_micros(micros))),
            flushed: false,
        });
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    } else {
        Response::new(Answer::Whole(Some(script.reply.clone())))
    };
    let headers = response.headers_mut();
    if !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert("x-request-id", HeaderValue::from_static("req_9d1e3f0b6a7c4d2e"));
    headers.insert("openai-processing-ms", HeaderValue::from_static("612"));
    headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    headers.insert(RECEIVED, HeaderValue::from(received));
    headers.insert(REFUSED, HeaderValue::from(script.refused.load(Ordering::Relaxed)));
    Ok(response)
}

// === impl Script ===

impl Script {
    fn events_of(&self, path: &str) -> Arc<[Bytes]> {
        let found = self.events.iter().find(|(api, _)| *api == Api::of(path));
        found.map_or_else(|| Vec::new().into(), |(_, events)| Arc::clone(events))
    }
}

// === impl Answer ===

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream {
                events,
                next,
                pace,
                flushed,
            } => {
                match pace {
                    Some(pace) => {
                        ready!(pace.poll_tick(cx));
                    }
                    // hyper flushes when a body is pending.
                    None if !std::mem::replace(flushed, true) => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    None => *flushed = false,
                }
                let event = events.get(*next).cloned();
                *next += 1;
                Poll::Ready(event.map(|event| Ok(Frame::data(event))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream { .. } => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}
