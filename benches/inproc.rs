//! Measures the bridge alone, without sockets: time and allocations, `cargo bench --bench inproc --all-features`.
//!
//! The provider is a closure that answers at once, so one poll is one request. Records are received between the
//! samples. Allocations are counted per iteration; where one iteration is a whole stream, the difference between two
//! lengths is the cost of the additional chunks.

// The internals under measurement, included as source: the crate does not export them.
#[path = "../src/json/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "only some of it is measured; its tests have a harness elsewhere"
)]
mod json;
#[cfg(test)]
#[path = "../tests/support/logs.rs"]
#[allow(dead_code, reason = "the tests of `pool` use it, and cargo compiles them here, too")]
mod logs;
#[path = "../src/metrics/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "what is measured reports to it"
)]
mod metrics;
#[path = "../src/pool/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "only some of it is measured, from here; its tests have a harness elsewhere"
)]
mod pool;
#[path = "../src/redact.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "only some of it is measured, from here; its tests have a harness elsewhere"
)]
mod redact;
#[path = "../src/rope.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of `json` use it")]
mod rope;
mod support;
#[path = "../src/types.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "only some of it is measured, from here; its tests have a harness elsewhere"
)]
mod types;
#[path = "../src/vast.rs"]
#[allow(
    dead_code,
    reason = "`rope` uses only some of it; its tests have a harness elsewhere"
)]
mod vast;

use std::convert::Infallible;
use std::future::Ready;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{Empty, Full};
use hyper::body::{Body, Frame};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::record::{Events, Recorder};
use tower_llm_bridge::{BridgeLayer, RequestBody};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const KIB: usize = 1024;

fn main() {
    // Needed for the timers of a request that has to wait.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let _entered = runtime.as_ref().map(tokio::runtime::Runtime::enter);
    divan::main();
}

// === Requests ===

#[divan::bench]
fn pass_through(bencher: Bencher<'_, '_>) {
    let provider = service_fn(|_: Request<RequestBody<Empty<Bytes>>>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let mut service = layer(0).0.layer(provider);
    let uri = http::Uri::from_static("/v1/audio/transcriptions");
    bencher
        .with_inputs(|| {
            let mut request = Request::new(Empty::new());
            request.uri_mut().clone_from(&uri);
            request
        })
        .bench_local_values(|request| at_once(service.call(black_box(request))));
}

#[divan::bench(args = [1, 64, 512])]
fn blocking(bencher: Bencher<'_, '_>, kib: usize) {
    blocking_with(bencher, kib, 0);
}

#[divan::bench(args = [1, 64, 512])]
fn blocking_with_40_tools(bencher: Bencher<'_, '_>, kib: usize) {
    blocking_with(bencher, kib, 40);
}

/// `blocking` with a recorder of metrics.
#[divan::bench(args = [1, 64])]
fn blocking_measured(bencher: Bencher<'_, '_>, kib: usize) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (handle, _installed) = (recorder.handle(), ::metrics::set_default_local_recorder(&recorder));
    blocking_with(bencher, kib, 0);
    assert_eq!(cfg!(feature = "metrics"), !handle.render().is_empty());
}

fn blocking_with(bencher: Bencher<'_, '_>, kib: usize, tools: usize) {
    let (layer, mut events) = layer(tools);
    let mut service = layer.layer(service_fn(whole));
    let body = support::request(kib * KIB, false);
    bencher
        .with_inputs(|| {
            while events.try_recv().is_some() {}
            post(body.clone())
        })
        .bench_local_values(|request| at_once(service.call(black_box(request))));
}

/// A stream to its last byte; the row of 1100 chunks minus that of 100 is the cost of 1000 chunks.
#[divan::bench(args = [100, 1100])]
fn stream(bencher: Bencher<'_, '_>, chunks: usize) {
    let (layer, mut events) = layer(0);
    let chunks: Arc<[Bytes]> = support::events(chunks).into();
    let frames = Arc::clone(&chunks);
    let mut service = layer.layer(service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        streamed(&frames)
    }));
    let body = support::request(KIB, true);
    bencher
        .counter(ItemsCount::new(chunks.len()))
        .with_inputs(|| {
            while events.try_recv().is_some() {}
            post(body.clone())
        })
        .bench_local_values(|request| {
            let Ok(response) = at_once(service.call(black_box(request)));
            let mut body = pin!(response.into_body());
            let mut length = 0;
            while let Some(Ok(frame)) = at_once(std::future::poll_fn(|cx| body.as_mut().poll_frame(cx))) {
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            length
        });
}

fn layer(tools: usize) -> (BridgeLayer, Events) {
    let (recorder, events) = Recorder::channel(1 << 20);
    let keys = ["sk-first-0123456789abcdef", "sk-second-0123456789abcdef"];
    let layer = BridgeLayer::new().tools(support::tools(tools)).recorder(recorder);
    match KeyPool::from_secrets(keys) {
        Ok(pool) => (layer.pool(pool), events),
        Err(error) => panic!("{error}"),
    }
}

fn post(body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("/v1/chat/completions");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("OpenAI/Python 1.109.1"));
    request
}

fn whole<B>(_: Request<B>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    let mut response = Response::new(Full::new(support::reply()));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    std::future::ready(Ok(response))
}

/// A body of one frame per event.
struct Frames {
    events: Arc<[Bytes]>,
    next: usize,
}

fn streamed(events: &Arc<[Bytes]>) -> Ready<Result<Response<Frames>, Infallible>> {
    let mut response = Response::new(Frames {
        events: Arc::clone(events),
        next: 0,
    });
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    std::future::ready(Ok(response))
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = self.events.get(self.next).cloned();
        self.next += 1;
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}

/// Polls until the future is ready. Only yields make it pend: nothing here waits for another task.
fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut polls =
        std::iter::repeat_n((), 1_000).map(|()| future.as_mut().poll(&mut Context::from_waker(Waker::noop())));
    match polls.find(Poll::is_ready) {
        Some(Poll::Ready(output)) => output,
        _ => panic!("there is nothing to wait for"),
    }
}

// === Parts ===

/// Divan divides by the number of threads that run at once; with more threads than cores it also measures the
/// scheduler. The lease is dropped outside of the measured time. With few leases per sample, which divan may choose by
/// itself, a sample mostly measures how a thread wakes up.
#[divan::bench(args = [1, 16, 1000], threads = [1, 2, 4, 16], sample_size = 1000)]
fn key_lease_and_report(bencher: Bencher<'_, '_>, keys: usize) {
    let pool = key_pool(keys, false);
    bench_leases(bencher, &pool, pool::Caller::default());
}

/// The same with keys of equal rank, chosen by conversation.
#[divan::bench(args = [2, 16, 1000], sample_size = 1000)]
fn key_lease_among_equals(bencher: Bencher<'_, '_>, keys: usize) {
    let pool = key_pool(keys, true);
    bench_leases(bencher, &pool, pool::Caller::new(Some("alice"), Some("session")));
}

/// The same while the model rests in the first key's domain.
#[divan::bench(args = [2, 16, 1000], sample_size = 1000)]
fn key_lease_with_a_rest(bencher: Bencher<'_, '_>, keys: usize) {
    let pool = key_pool(keys, false);
    let (mut walk, now) = (pool::Walk::default(), Instant::now());
    if let Some(mut lease) = pool.lease(&mut walk, MODEL, now) {
        let rest = pool::Report::CoolDown(Duration::from_secs(3_600));
        pool.report(&mut walk, &mut lease, MODEL, rest, now);
    }
    bench_leases(bencher, &pool, pool::Caller::default());
}

const MODEL: pool::Purpose<'_> = pool::Purpose::Model("gpt-4o");

fn key_pool(keys: usize, equal: bool) -> pool::KeyPool {
    let key = |number| {
        let key = pool::ApiKey::new(format!("sk-{number:020}")).unwrap_or_else(|error| panic!("{error}"));
        if equal { key.rank(0) } else { key }
    };
    pool::KeyPool::new((0..keys).map(key)).unwrap_or_else(|error| panic!("{error}"))
}

fn bench_leases(bencher: Bencher<'_, '_>, pool: &pool::KeyPool, caller: pool::Caller) {
    let now = Instant::now();
    bencher.bench(|| {
        let mut walk = pool::Walk::new(caller);
        let mut lease = pool.lease(&mut walk, MODEL, black_box(now));
        if let Some(lease) = &mut lease {
            pool.report(&mut walk, lease, MODEL, pool::Report::Served, now);
        }
        lease
    });
}

#[divan::bench(args = [1, 64, 512])]
fn json_scan(bencher: Bencher<'_, '_>, kib: usize) {
    let body = support::request(kib * KIB, false);
    let mut scanner = json::Scanner::new();
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| scanner.scan(black_box(&body)).is_ok());
}

/// `serde_json` on the same body without building a tree, to compare.
#[divan::bench(args = [1, 64, 512])]
fn json_scan_serde_ignored(bencher: Bencher<'_, '_>, kib: usize) {
    let body = support::request(kib * KIB, false);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| serde_json::from_slice::<serde::de::IgnoredAny>(black_box(&body)).is_ok());
}
