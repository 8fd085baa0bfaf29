//! A provider by script: the name of the model is what it answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::net::TcpListener;

use crate::{Failure, roles};

pub(crate) const WORKING_KEY: &str = "sk-working-0123456789abcdef";
const KEY: &str = "Bearer sk-working-0123456789abcdef";
/// Where a conversation holds the result of a call.
const RESULT: &[u8] = br#""role":"tool""#;
/// What the bystander is answered.
const MESSAGE: &str = r#"{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}"#;
/// How many requests came that must not.
pub(crate) const HARM: HeaderName = HeaderName::from_static("x-harm");

/// Bytes of an answer, the same piece again and again.
struct Pieces {
    piece: Bytes,
    left: usize,
}

/// What a model answers.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    piece: Bytes,
    pieces: usize,
}

/// The answers, made once: this provider shares the cores with what is measured.
struct Script {
    answers: HashMap<&'static str, Answer>,
    /// How many requests came that must not.
    harm: AtomicU64,
}

pub(crate) async fn serve() -> Result<(), Failure> {
    let script = Arc::new(Script::new());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    roles::announce(&listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let script = Arc::clone(&script);
        let service = service_fn(move |request| answer(Arc::clone(&script), request));
        // Attackers break many.
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(script: Arc<Script>, request: Request<Incoming>) -> Result<Response<Pieces>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let (mut start, mut end, mut length, mut has_results) = (Vec::new(), Vec::new(), 0, false);
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.data_ref().map_or(&b""[..], |data| data);
        length += data.len();
        start.extend_from_slice(&data[..data.len().min(256_usize.saturating_sub(start.len()))]);
        // The text may be split between two frames.
        end.extend_from_slice(data);
        has_results |= memmem::find(&end, RESULT).is_some();
        end.drain(..end.len().saturating_sub(RESULT.len()));
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
    script.harm.fetch_add(u64::from(is_harmful), Ordering::Relaxed);
    let start = String::from_utf8_lossy(&start);
    let model = start
        .split(r#""model":""#)
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or("small");
    let mut response = script.response(match parts.uri.path() {
        path if path.ends_with("/messages") => "message",
        _ if has_results => "small",
        _ => model,
    });
    response
        .headers_mut()
        .insert(HARM, HeaderValue::from(script.harm.load(Ordering::Relaxed)));
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

fn whole(body: String) -> Answer {
    Answer {
        status: StatusCode::OK,
        content_type: "application/json",
        piece: body.into(),
        pieces: 1,
    }
}

fn stream(event: String, pieces: usize) -> Answer {
    Answer {
        status: StatusCode::OK,
        content_type: "text/event-stream",
        piece: event.into(),
        pieces,
    }
}

// === impl Script ===

impl Script {
    fn new() -> Self {
        let name = "n".repeat(4 << 20);
        let calls_in_event: Vec<_> = (0..100_000).map(|n| call(n, "mine", "{}")).collect();
        let numbers = vec!["4999"; 100_000].join(",");
        let answers = [
            ("small", whole(said("hi"))),
            ("message", whole(MESSAGE.to_owned())),
            ("large", whole(said(&"x".repeat(8 << 20)))),
            (
                "endless",
                stream(
                    delta(&format!(r#"{{"content":"{}"}}"#, "x".repeat(32 << 10))),
                    usize::MAX,
                ),
            ),
            (
                "vast-event",
                stream(delta(&format!(r#"{{"content":"{}"}}"#, "x".repeat(24 << 20))), 1),
            ),
            (
                "dense-event",
                stream(delta(&format!(r#"{{"x":[{}0]}}"#, "[],".repeat(4 << 20))), 1),
            ),
            (
                "calls-event",
                stream(delta(&format!(r#"{{"tool_calls":[{}]}}"#, calls_in_event.join(","))), 1),
            ),
            ("dust", stream(delta(r#"{"content":""}"#), 200_000)),
            (
                "line-without-end",
                stream(
                    "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx".to_owned(),
                    usize::MAX,
                ),
            ),
            (
                "dense-reply",
                whole(format!(r#"{{"x":[{}0],"choices":[]}}"#, "[],".repeat(8 << 20))),
            ),
            (
                "long-names",
                whole(format!(
                    r#"{{"id":"{name}","model":"{name}","choices":[{{"message":{{"content":"hi"}}}}]}}"#
                )),
            ),
            (
                "vast-error",
                Answer {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    ..whole(format!(r#"{{"error":{{"message":"{}"}}}}"#, "[],".repeat(10 << 20)))
                },
            ),
            ("calls", whole(calls("mine", "{}", 100_000))),
            ("our-calls", whole(calls("bmcp_calm_quick", "{}", 1_000))),
            ("slow-calls", whole(calls("bmcp_calm_slow", "{}", 16))),
            ("quick-call", whole(calls("bmcp_calm_quick", "{}", 1))),
            ("vast-results", whole(calls("bmcp_calm_vast", "{}", 4))),
            ("nested-call", whole(calls("bmcp_deep_nested", r#"{\"n\":\"x\"}"#, 1))),
            (
                "listed-call",
                whole(calls("bmcp_deep_listed", &format!(r#"{{\"n\":[{numbers}]}}"#), 1)),
            ),
        ];
        Self {
            answers: answers.into(),
            harm: AtomicU64::new(0),
        }
    }

    /// An unknown model answers as `small` does.
    fn response(&self, model: &str) -> Response<Pieces> {
        let answer = self.answers.get(model).unwrap_or(&self.answers["small"]);
        let mut response = Response::new(Pieces {
            piece: answer.piece.clone(),
            left: answer.pieces,
        });
        *response.status_mut() = answer.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        response
    }
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
