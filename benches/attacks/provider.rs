//! A provider by script: the name of the model is what it answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::{Failure, roles};

pub(crate) const WORKING_KEY: &str = "sk-working-0123456789abcdef";
const KEY: &str = "Bearer sk-working-0123456789abcdef";
/// How many requests came that must not.
pub(crate) const HARM: HeaderName = HeaderName::from_static("x-harm");

/// Bytes of an answer, the same piece again and again.
struct Pieces {
    piece: Bytes,
    left: usize,
}

pub(crate) async fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    roles::announce(&listener)?;
    let harm = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let harm = Arc::clone(&harm);
        let service = service_fn(move |request| answer(Arc::clone(&harm), request));
        // Attackers break many.
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(harm: Arc<AtomicU64>, request: Request<Incoming>) -> Result<Response<Pieces>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let (mut start, mut length) = (Vec::new(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.data_ref().map_or(&b""[..], |data| data);
        length += data.len();
        if start.len() < 256 {
            start.extend_from_slice(data);
        }
    }
    // What has no key of the pool acts on nobody's account.
    let has_key = parts.headers.get(AUTHORIZATION).is_some_and(|value| value == KEY);
    let is_path_harmful = has_key && (parts.uri.path().contains("..") || parts.uri.path().contains("files"));
    let is_harmful = is_path_harmful
        || [
            "x-http-method-override",
            "x-original-url",
            "x-real-ip",
            "idempotency-key",
        ]
        .iter()
        .any(|name| parts.headers.contains_key(*name))
        || (length > 0 && parts.method == Method::GET);
    harm.fetch_add(u64::from(is_harmful), Ordering::Relaxed);
    let start = String::from_utf8_lossy(&start);
    let model = start
        .split(r#""model":""#)
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or("small");
    let has_results = start.contains("tool_call_id") || length > 1_500;
    let mut response = match model {
        "slow" => {
            sleep(Duration::from_secs(20)).await;
            whole(said("late"))
        }
        "large" => whole(said(&"x".repeat(8 << 20))),
        "endless" => stream(
            &delta(&format!(r#"{{"content":"{}"}}"#, "x".repeat(32 << 10))),
            usize::MAX,
        ),
        "vast-event" => stream(&delta(&format!(r#"{{"content":"{}"}}"#, "x".repeat(24 << 20))), 1),
        "dense-event" => stream(&delta(&format!(r#"{{"x":[{}0]}}"#, "[],".repeat(4 << 20))), 1),
        "dust" => stream(&delta(r#"{"content":""}"#), 200_000),
        "line-without-end" => stream(
            "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            usize::MAX,
        ),
        "dense-reply" => whole(format!(r#"{{"x":[{}0],"choices":[]}}"#, "[],".repeat(8 << 20))),
        "long-names" => {
            let name = "n".repeat(4 << 20);
            whole(format!(
                r#"{{"id":"{name}","model":"{name}","choices":[{{"message":{{"content":"hi"}}}}]}}"#
            ))
        }
        "vast-error" => {
            let mut response = whole(format!(r#"{{"error":{{"message":"{}"}}}}"#, "[],".repeat(10 << 20)));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
        "calls" => whole(calls("mine", "{}", 100_000)),
        "calls-event" => {
            let calls: Vec<_> = (0..100_000).map(|n| call(n, "mine", "{}")).collect();
            stream(&delta(&format!(r#"{{"tool_calls":[{}]}}"#, calls.join(","))), 1)
        }
        "our-calls" if !has_results => whole(calls("bmcp_calm_quick", "{}", 1_000)),
        "slow-calls" if !has_results => whole(calls("bmcp_calm_slow", "{}", 16)),
        "quick-call" if !has_results => whole(calls("bmcp_calm_quick", "{}", 1)),
        "vast-results" if !has_results => whole(calls("bmcp_calm_vast", "{}", 4)),
        "nested-call" if !has_results => whole(calls("bmcp_deep_nested", r#"{\"n\":\"x\"}"#, 1)),
        "listed-call" if !has_results => {
            let numbers = vec!["4999"; 100_000].join(",");
            whole(calls("bmcp_deep_listed", &format!(r#"{{\"n\":[{numbers}]}}"#), 1))
        }
        _ => whole(said("hi")),
    };
    response
        .headers_mut()
        .insert(HARM, HeaderValue::from(harm.load(Ordering::Relaxed)));
    Ok(response)
}

fn said(text: &str) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}}}"#
    )
}

fn call(n: usize, name: &str, arguments: &str) -> String {
    format!(
        r#"{{"index":{n},"id":"call_{n}","type":"function","function":{{"name":"{name}","arguments":"{arguments}"}}}}"#
    )
}

/// An answer that is nothing but calls.
fn calls(name: &str, arguments: &str, count: usize) -> String {
    let calls: Vec<_> = (0..count).map(|n| call(n, name, arguments)).collect();
    format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":null,"tool_calls":[{}]}},"finish_reason":"tool_calls"}}]}}"#,
        calls.join(",")
    )
}

fn delta(delta: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n"
    )
}

fn whole(body: String) -> Response<Pieces> {
    respond("application/json", body, 1)
}

fn stream(event: &str, count: usize) -> Response<Pieces> {
    respond("text/event-stream", event.to_owned(), count)
}

fn respond(kind: &'static str, piece: String, left: usize) -> Response<Pieces> {
    let mut response = Response::new(Pieces {
        piece: piece.into(),
        left,
    });
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

// === impl Pieces ===

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
    }
}
