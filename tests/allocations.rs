//! Guards against regressions without timing noise: counts the allocations of requests, not their time.
//!
//! The provider is a closure that answers at once, so a request is one poll on one thread, whose allocations are
//! counted. Counts repeat exactly; a bound other than 0 is little above the count that was measured when it was set.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails the test that called it")]

#[path = "../benches/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::{Body, Frame};
use tower::{Layer, Service, service_fn};
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::record::{Events, Recorder};
use tower_llm_bridge::{BridgeLayer, RequestBody};

const KIB: usize = 1024;

/// A body that comes in these frames.
#[derive(Clone)]
struct Frames {
    frames: Arc<[Bytes]>,
    next: usize,
}

// === impl Frames ===

impl Frames {
    fn new(frames: Vec<Bytes>) -> Self {
        Self {
            frames: frames.into(),
            next: 0,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.frames.get(self.next).cloned();
        self.next += 1;
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }
}

/// Polls a few times: a large body yields now and then, and there is nothing to wait for.
fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..64 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
    panic!("there is nothing to wait for")
}

fn drain<B: Body<Data = Bytes>>(body: B) -> Vec<Bytes> {
    let mut frames = Vec::with_capacity(8);
    let mut body = pin!(body);
    while let Some(frame) = at_once(poll_fn(|cx| body.as_mut().poll_frame(cx))) {
        frames.extend(frame.ok().and_then(|frame| frame.into_data().ok()));
    }
    frames
}

fn layer(tools: usize) -> (BridgeLayer, Events) {
    let (recorder, events) = Recorder::channel(64);
    let pool = KeyPool::from_secrets(["sk-first-0123456789abcdef", "sk-second-0123456789abcdef"]).unwrap();
    let layer = BridgeLayer::new().pool(pool).recorder(recorder);
    (layer.tools(support::tools(tools)), events)
}

fn post<B>(body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/v1/chat/completions");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

fn answer<B>(kind: &'static str, body: B) -> Ready<Result<Response<B>, Infallible>> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    ready(Ok(response))
}

/// The allocations of the second of two requests: the first fills caches. Building the request is not counted; the
/// provider's answer is.
async fn blocking(kib: usize, tools: usize) -> AllocationInfo {
    let (layer, _events) = layer(tools);
    let mut service = layer.layer(service_fn(|_: Request<RequestBody<Full<Bytes>>>| {
        answer("application/json", Full::new(support::reply()))
    }));
    let requests = [(); 2].map(|()| post(Full::new(support::request(kib * KIB, false))));
    let mut last = AllocationInfo::default();
    for request in requests {
        // The runtime empties its list of tasks that yielded, whose memory the first request took.
        tokio::task::yield_now().await;
        let mut response = None;
        last = measure(|| response = Some(at_once(service.call(request))));
        let Ok(response) = response.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!drain(response.into_body()).is_empty());
    }
    last
}

/// The allocations of a stream of these events, from its request to its end.
fn stream(events: Vec<Bytes>) -> AllocationInfo {
    let (layer, _events) = layer(0);
    let chunks = events.len() - 2;
    let events = Frames::new(events);
    let mut service = layer.layer(service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        answer("text/event-stream", events.clone())
    }));
    let request = post(Full::new(support::request(KIB, true)));
    let mut relayed = 0;
    let allocations = measure(|| {
        let Ok(response) = at_once(service.call(request));
        assert_eq!(response.status(), 200);
        let mut body = pin!(response.into_body());
        while let Some(frame) = at_once(poll_fn(|cx| body.as_mut().poll_frame(cx))) {
            let data = frame.unwrap().into_data().unwrap();
            relayed += data.windows(7).filter(|part| part == b"\"delta\"").count();
        }
    });
    assert_eq!(relayed, chunks);
    allocations
}

/// A call of the caller's own tool in so many pieces, from a provider that reports usage with each.
fn call_in_pieces(count: usize) -> Vec<Bytes> {
    let events = support::events(count);
    let piece = |event: &Bytes| {
        let text = std::str::from_utf8(event).unwrap().replace(
            r#"{"content":" word"#,
            r#"{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"edit","arguments":"sixteen bytes of "}}],"x":""#,
        );
        Bytes::from(text.replace(
            r#""usage":null"#,
            r#""usage":{"prompt_tokens":7,"completion_tokens":1}"#,
        ))
    };
    events.iter().map(piece).collect()
}

#[tokio::test]
async fn a_request_that_is_left_alone_allocates_nothing() {
    let mut service = layer(40).0.layer(service_fn(|request: Request<RequestBody<Frames>>| {
        ready(Ok::<_, Infallible>(Response::new(request.into_body())))
    }));
    let mut request = post(Frames::new(vec![Bytes::from_static(b"x"); 3]));
    *request.uri_mut() = Uri::from_static("/v1/audio/transcriptions");
    let mut frames = 0;
    let allocations = measure(|| {
        let Ok(response) = at_once(service.call(request));
        let mut body = pin!(response.into_body());
        while at_once(poll_fn(|cx| body.as_mut().poll_frame(cx))).is_some() {
            frames += 1;
        }
    });
    assert_eq!(frames, 3);
    assert_eq!(allocations.count_total, 0);
}

#[tokio::test]
async fn a_body_that_needs_no_edit_is_forwarded_in_its_own_memory() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let forwarded = Arc::clone(&seen);
    let (layer, _events) = layer(0);
    let mut service = layer.layer(service_fn(move |request: Request<RequestBody<Frames>>| {
        *forwarded.lock().unwrap() = drain(request.into_body());
        answer("application/json", Full::new(support::reply()))
    }));
    let mut rest = support::request(64 * KIB, false);
    let frames = vec![rest.split_to(10_000), rest.split_to(1), rest.split_to(30_000), rest];
    let request = post(Frames::new(frames.clone()));
    at_once(service.call(request)).unwrap();
    let places = |frames: &[Bytes]| -> Vec<(*const u8, usize)> {
        frames.iter().map(|frame| (frame.as_ptr(), frame.len())).collect()
    };
    assert_eq!(places(&seen.lock().unwrap()), places(&frames));
}

#[tokio::test]
async fn an_edited_body_shares_the_callers_memory_where_it_is_not_edited() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let forwarded = Arc::clone(&seen);
    let (layer, _events) = layer(40);
    let mut service = layer.layer(service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        *forwarded.lock().unwrap() = drain(request.into_body());
        answer("application/json", Full::new(support::reply()))
    }));
    let body = support::request(512 * KIB, false);
    at_once(service.call(post(Full::new(body.clone())))).unwrap();
    let shared: usize = seen
        .lock()
        .unwrap()
        .iter()
        .filter(|frame| body.as_ptr_range().contains(&frame.as_ptr()))
        .map(Bytes::len)
        .sum();
    assert_eq!(shared, body.len());
}

#[tokio::test]
async fn allocations_do_not_grow_with_the_body() {
    let (small, large) = (blocking(64, 0).await, blocking(512, 0).await);
    assert!(large.count_total <= small.count_total, "{small:?} {large:?}");
    assert!(large.bytes_total <= small.bytes_total + 512, "{small:?} {large:?}");
}

#[tokio::test]
async fn a_request_without_tools_allocates_this_often() {
    let allocations = blocking(64, 0).await;
    assert!(allocations.count_total <= 60, "{allocations:?}");
    assert!(allocations.bytes_total <= 13 * KIB as u64 + 512, "{allocations:?}");
}

#[tokio::test]
async fn definitions_of_tools_are_encoded_once_and_not_per_request() {
    let (one, hundred) = (blocking(64, 1).await, blocking(64, 100).await);
    assert_eq!(one.count_total, hundred.count_total);
    assert_eq!(one.bytes_total, hundred.bytes_total);
}

#[tokio::test]
async fn a_relayed_chunk_allocates_nothing() {
    // One-time set-up must not be counted as a chunk's.
    let _ = stream(support::events(1));
    let (short, long) = (stream(support::events(100)), stream(support::events(1100)));
    let thousand = long.count_total.saturating_sub(short.count_total);
    assert!(thousand <= 8, "1000 chunks more allocate {thousand} times");
}

#[tokio::test]
async fn a_call_that_comes_in_pieces_is_not_copied_with_each() {
    let _ = stream(call_in_pieces(1));
    let (short, long) = (stream(call_in_pieces(250)), stream(call_in_pieces(1000)));
    assert!(long.bytes_total < 5 * short.bytes_total, "{short:?} {long:?}");
}
