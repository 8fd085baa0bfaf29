//! Input that is not what it should be, from callers and from providers: each a clear error of the right status in the
//! provider's shape, nothing read without a bound, and the next request works.

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_llm_bridge::tools::Tools;
use tower_llm_bridge::{BridgeError, BridgeErrorKind, ResponseBody};

use support::*;

/// Both limits of the bridges here, in bytes.
const LIMIT: usize = 4096;

/// Counts the bytes that are pulled out of a body.
struct Counted {
    body: MockBody,
    pulled: Arc<AtomicUsize>,
}

// === impl Counted ===

impl Body for Counted {
    type Data = Bytes;
    type Error = MockError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MockError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.pulled
                .fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === what holds for every error of our own ===

fn limited() -> BridgeLayer {
    BridgeLayer::new()
        .pool(pool(1))
        .max_request_body(LIMIT)
        .max_response_body(LIMIT)
        .attempt_timeout(Duration::from_secs(60))
}

fn with_echo() -> BridgeLayer {
    limited().tools(Tools::new([echo()]))
}

/// The shape that clients parse, the typed reason for layers above, and the status that both agree on.
#[track_caller]
fn assert_ours(name: &str, answer: &Answer, kind: BridgeErrorKind) -> Value {
    let reason = answer.extensions.get::<BridgeError>().map(BridgeError::kind);
    assert_eq!(reason, Some(kind), "{name}: {:?}", answer.body);
    assert_eq!(answer.status, kind.status(), "{name}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{name}");
    let body = answer.json();
    assert_eq!(names(&body), ["error"], "{name}: {body}");
    let error = body["error"].clone();
    assert_eq!(names(&error), ["code", "message", "param", "type"], "{name}: {error}");
    assert!(
        error["message"].as_str().is_some_and(|text| text.len() > 10),
        "{name}: {error}"
    );
    assert!(error["type"].is_string(), "{name}: {error}");
    assert!(
        error["param"].is_null() || error["param"].is_string(),
        "{name}: {error}"
    );
    assert!(error["code"].is_null() || error["code"].is_string(), "{name}: {error}");
    error
}

/// The names of an object's members, sorted.
fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn assert_works(name: &str, answer: &Answer) {
    assert_eq!(answer.status, 200, "{name}: {:?}", answer.body);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "hello", "{name}");
}

/// A provider that is never to be asked by a request that is refused.
fn hello() -> Provider {
    Provider::answering(|_| completion("hello").into())
}

fn request_of(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"model":"m","messages":[],"x":{open}{close}}}"#)
}

// === requests ===

#[tokio::test(start_paused = true)]
async fn bodies_that_are_no_request_are_told_what_is_wrong_with_them() {
    let deep = request_of(200);
    let cases: &[(&str, &[u8], Option<&str>)] = &[
        ("empty", b"", None),
        ("blank", b" \r\n\t", None),
        ("no JSON", b"hello", None),
        ("a form", b"model=m&messages=", None),
        ("a list", b"[]", None),
        ("a string", br#""x""#, None),
        ("null", b"null", None),
        ("a number", b"1", None),
        ("cut", br#"{"model":"m","messages":["#, None),
        ("cut in a string", br#"{"model":"m"#, None),
        ("more behind it", br#"{"model":"m","messages":[]}{"#, None),
        ("a NUL behind it", b"{\"model\":\"m\",\"messages\":[]}\0", None),
        (
            "a byte order mark",
            b"\xEF\xBB\xBF{\"model\":\"m\",\"messages\":[]}",
            None,
        ),
        ("a comment", br#"{"model":"m",/**/"messages":[]}"#, None),
        ("a trailing comma", br#"{"model":"m","messages":[],}"#, None),
        ("single quotes", br"{'model':'m','messages':[]}", None),
        ("no number", br#"{"model":"m","messages":[],"n":01}"#, None),
        ("NaN", br#"{"model":"m","messages":[],"n":NaN}"#, None),
        ("a raw line break", b"{\"model\":\"m\n\",\"messages\":[]}", None),
        ("an unknown escape", br#"{"model":"\x41","messages":[]}"#, None),
        ("too deep", deep.as_bytes(), None),
        ("no UTF-8", b"{\"model\":\"\xFF\",\"messages\":[]}", None),
        ("overlong UTF-8", b"{\"model\":\"\xC0\xAF\",\"messages\":[]}", None),
        (
            "a surrogate in UTF-8",
            b"{\"model\":\"\xED\xA0\x80\",\"messages\":[]}",
            None,
        ),
        ("UTF-16", b"{\0\"\0m\0\"\0:\x001\0}\0", None),
        ("a lone high surrogate", br#"{"model":"\ud800","messages":[]}"#, None),
        ("a lone low surrogate", br#"{"model":"m","messages":["\udc00x"]}"#, None),
        (
            "surrogates the wrong way",
            br#"{"model":"m","messages":["\udc00\ud800"]}"#,
            None,
        ),
        ("model twice", br#"{"model":"m","messages":[],"model":"n"}"#, None),
        (
            "model twice, escaped",
            br#"{"model":"m","messages":[],"mod\u0065l":"n"}"#,
            None,
        ),
        (
            "model twice, escaped otherwise",
            br#"{"\u006Dodel":"m","messages":[],"\u006dodel":"n"}"#,
            None,
        ),
        ("messages twice", br#"{"model":"m","messages":[],"messages":[]}"#, None),
        (
            "tools twice",
            br#"{"model":"m","messages":[],"tools":[],"tools":null}"#,
            None,
        ),
        (
            "any name twice",
            br#"{"model":"m","messages":[],"a/b":1,"a\/b":1}"#,
            None,
        ),
        (
            "the empty name twice",
            br#"{"model":"m","messages":[],"":1,"":2}"#,
            None,
        ),
        ("no model", br#"{"messages":[]}"#, Some("model")),
        ("an empty object", br"{}", Some("model")),
        ("model null", br#"{"model":null,"messages":[]}"#, Some("model")),
        ("model a number", br#"{"model":4,"messages":[]}"#, Some("model")),
        ("model a list", br#"{"model":["m"],"messages":[]}"#, Some("model")),
        ("no messages", br#"{"model":"m"}"#, Some("messages")),
        ("messages null", br#"{"model":"m","messages":null}"#, Some("messages")),
        (
            "messages a string",
            br#"{"model":"m","messages":"hi"}"#,
            Some("messages"),
        ),
        (
            "messages an object",
            br#"{"model":"m","messages":{"0":1}}"#,
            Some("messages"),
        ),
        (
            "stream a string",
            br#"{"model":"m","messages":[],"stream":"true"}"#,
            Some("stream"),
        ),
        (
            "stream a number",
            br#"{"model":"m","messages":[],"stream":1}"#,
            Some("stream"),
        ),
        (
            "stream options a list",
            br#"{"model":"m","messages":[],"stream":true,"stream_options":[]}"#,
            Some("stream_options"),
        ),
    ];
    let provider = hello();
    let stack = bridge(&with_echo(), &provider);
    for (name, body, param) in cases {
        for body in [MockBody::full(body.to_vec()), MockBody::bytewise(body.to_vec())] {
            let answer = send(&stack, chat(body)).await;
            let error = assert_ours(name, &answer, BridgeErrorKind::RequestInvalid);
            assert_eq!(error["type"], "invalid_request_error", "{name}");
            assert_eq!(error["param"].as_str(), *param, "{name}");
        }
        assert_eq!(provider.calls(), 0, "{name}");
    }
    assert_works("the next request", &send(&stack, ask("hi")).await);
}

#[tokio::test(start_paused = true)]
async fn what_only_looks_bad_is_the_providers_to_judge() {
    let deep = request_of(100);
    let cases: &[(&str, &[u8])] = &[
        (
            "a name twice further down",
            br#"{"model":"m","messages":[{"a":1,"a":2}]}"#,
        ),
        ("a surrogate pair", br#"{"model":"\ud83d\ude00","messages":[]}"#),
        ("a huge number", br#"{"model":"m","messages":[],"seed":1e400}"#),
        ("an empty model", br#"{"model":"","messages":[]}"#),
        (
            "messages of no shape",
            br#"{"model":"m","messages":[1,null,"x",{"role":7}]}"#,
        ),
        ("tools of no shape", br#"{"model":"m","messages":[],"tools":"x"}"#),
        (
            "tools in a list of no shape",
            br#"{"model":"m","messages":[],"tools":[1,{"function":7}]}"#,
        ),
        ("n of no shape", br#"{"model":"m","messages":[],"n":[]}"#),
        (
            "stream null",
            br#"{"model":"m","messages":[],"stream":null,"stream_options":7}"#,
        ),
        ("deep, but not too deep", deep.as_bytes()),
        ("a NUL, escaped", br#"{"model":"\u0000","messages":[]}"#),
    ];
    let provider = hello();
    let stack = bridge(&with_echo(), &provider);
    for (place, (name, body)) in cases.iter().enumerate() {
        assert_works(name, &send(&stack, chat(MockBody::bytewise(body.to_vec()))).await);
        assert_eq!(provider.calls(), place + 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_json_by_its_headers_is_refused_with_advice() {
    let refused = [
        ("content-type", "text/plain"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-type", "application/jsonp"),
        ("content-type", "text/json"),
        ("content-type", "json"),
        ("content-encoding", "gzip"),
        ("content-encoding", "BR"),
        ("content-encoding", "zstd"),
        ("content-encoding", "identity, gzip"),
        ("content-encoding", "unheard-of"),
    ];
    let provider = hello();
    let stack = bridge(&limited(), &provider);
    let with = |name: &'static str, value: &'static str| {
        let mut request = ask("hi");
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    };
    for (name, value) in refused {
        let answer = send(&stack, with(name, value)).await;
        let error = assert_ours(value, &answer, BridgeErrorKind::RequestUnsupported);
        let advice = error["message"].as_str().unwrap_or_default();
        let expected = if name == "content-type" {
            "application/json"
        } else {
            "RequestDecompressionLayer"
        };
        assert!(advice.contains(expected), "{value}: {advice}");
    }
    assert_eq!(provider.calls(), 0);
    let taken = [
        ("content-type", "application/json; charset=utf-8"),
        ("content-type", "APPLICATION/JSON"),
        ("content-type", "application/vnd.api+json"),
        ("content-encoding", "identity"),
        ("content-encoding", ""),
    ];
    for (name, value) in taken {
        assert_works(value, &send(&stack, with(name, value)).await);
    }
    let mut request = ask("hi");
    request.headers_mut().remove(header::CONTENT_TYPE);
    assert_works("no content type", &send(&stack, request).await);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_refused_before_more_of_it_is_read() {
    let piece = Bytes::from(vec![b' '; 512]);
    let many = |count: usize| (0..count).fold(MockBody::new(), |body, _| body.data(piece.clone()));
    let claim = |body: MockBody, lower: u64| {
        let mut size = SizeHint::new();
        size.set_lower(lower);
        body.claims(size)
    };
    // In each case, what may be pulled: the limit, the piece that breaks it, and what is thrown away so that the
    // caller gets to read the answer.
    let most = 2 * LIMIT + 2 * piece.len();
    let cases = [
        ("one frame", MockBody::full(vec![b' '; LIMIT + 1])),
        ("one frame of much more", MockBody::new().data(vec![b' '; LIMIT + 1])),
        ("many frames", many(9)),
        ("endless", MockBody::new().endless(piece.clone())),
        (
            "endless, and claims to be short",
            MockBody::new().endless(piece.clone()).claims(SizeHint::with_exact(10)),
        ),
        (
            "endless, and claims to be long",
            claim(MockBody::new().endless(piece.clone()), u64::MAX),
        ),
        ("claims to be long, and is not", claim(many(1), LIMIT as u64 + 1)),
        (
            "claims to be long, and stalls",
            claim(MockBody::new().never(), LIMIT as u64 + 1),
        ),
        ("goes on after it was refused, and stalls", many(9).never()),
    ];
    let provider = hello();
    let stack = bridge(&limited(), &provider);
    for (name, body) in cases {
        let pulled = Arc::new(AtomicUsize::new(0));
        let request = chat(body).map(|body| Counted {
            body,
            pulled: Arc::clone(&pulled),
        });
        let response = stack.clone().oneshot(request).await.unwrap();
        let error = assert_ours(name, &answer(response).await, BridgeErrorKind::RequestTooLarge);
        assert_eq!(error["type"], "invalid_request_error");
        assert!(pulled.load(Ordering::Relaxed) <= most, "{name}: {pulled:?}");
    }
    assert_eq!(provider.calls(), 0);
    // The limit itself is allowed.
    let body = format!("{:width$}", asked("hi"), width = LIMIT);
    assert_works("at the limit", &send(&stack, chat(body)).await);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_told_so() {
    let provider = hello();
    let stack = bridge(&limited(), &provider);
    for body in [
        MockBody::new().error("reset"),
        MockBody::new().data(r#"{"model":"#).error("reset"),
        MockBody::new().data(asked("hi")).error("reset after the last byte"),
        MockBody::new().data(asked("hi")).pending().error("reset"),
    ] {
        let answer = send(&stack, chat(body)).await;
        let error = assert_ours("broken", &answer, BridgeErrorKind::RequestUnreadable);
        assert!(
            !error["message"].as_str().unwrap_or_default().contains("reset"),
            "{error}"
        );
    }
    assert_eq!(provider.calls(), 0);
    assert_works("the next request", &send(&stack, ask("hi")).await);
}

#[tokio::test(start_paused = true)]
async fn a_body_in_thousands_of_tiny_pieces_is_read_like_any_other() {
    let provider = hello();
    let stack = bridge(&limited().max_request_body(1 << 20), &provider);
    let body = asked(&"x".repeat(100_000));
    assert_works(
        "tiny pieces",
        &send(&stack, chat(MockBody::bytewise(body.clone()))).await,
    );
    assert_eq!(provider.last().text(), body);
    assert!(
        provider.last().pieces.len() < 2_000,
        "{} pieces",
        provider.last().pieces.len()
    );
}

// === replies ===

/// Sends one request to a provider that answers with `reply` first and properly afterwards.
async fn replied(name: &str, layer: BridgeLayer, request: Request<MockBody>, reply: Reply) -> (Answer, usize) {
    let pulled = Arc::new(AtomicUsize::new(0));
    let mut replies = vec![completion("hello").into(), reply];
    let provider = Provider::answering(move |_| replies.pop().expect("two requests"));
    let counted = Arc::clone(&pulled);
    let inner = tower::ServiceBuilder::new()
        .map_response(move |response: Response<MockBody>| {
            let pulled = Arc::clone(&counted);
            response.map(|body| Counted { body, pulled })
        })
        .service(Probe::new(provider));
    let stack = layer.layer(inner);
    let read = async |response: Response<ResponseBody<Counted>>| {
        let (parts, body) = response.into_parts();
        Answer {
            body: Piece::join(&pieces(body).await),
            status: parts.status,
            headers: parts.headers,
            extensions: parts.extensions,
        }
    };
    let answer = read(stack.clone().oneshot(request).await.expect("it is answered")).await;
    let first = pulled.load(Ordering::Relaxed);
    assert_works(
        name,
        &read(stack.oneshot(ask("again")).await.expect("it is answered")).await,
    );
    (answer, first)
}

#[tokio::test(start_paused = true)]
async fn a_success_that_is_no_completion_is_a_502() {
    let cases: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("HTML", b"<html>502 Bad Gateway</html>"),
        ("a list", b"[]"),
        ("null", b"null"),
        ("no choices", b"{}"),
        ("choices null", br#"{"choices":null}"#),
        ("choices an object", br#"{"choices":{"0":{}}}"#),
        ("choices a string", br#"{"choices":"x"}"#),
        ("a choice that is a number", br#"{"choices":[1]}"#),
        ("a choice that is null", br#"{"choices":[null]}"#),
        ("a choice without a message", br#"{"choices":[{}]}"#),
        ("a message that is null", br#"{"choices":[{"message":null}]}"#),
        ("a message that is a list", br#"{"choices":[{"message":[]}]}"#),
        ("a message that is a string", br#"{"choices":[{"message":"hello"}]}"#),
        (
            "calls that are a string",
            br#"{"choices":[{"message":{"tool_calls":"x"}}]}"#,
        ),
        (
            "calls that are an object",
            br#"{"choices":[{"message":{"tool_calls":{}}}]}"#,
        ),
        (
            "a call that is a number",
            br#"{"choices":[{"message":{"tool_calls":[1]}}]}"#,
        ),
        (
            "an id that is a number",
            br#"{"choices":[{"message":{"tool_calls":[{"id":1}]}}]}"#,
        ),
        (
            "arguments that are an object",
            br#"{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"b","arguments":{}}}]}}]}"#,
        ),
        (
            "choices twice",
            br#"{"choices":[{"message":{}}],"choices":[{"message":{}}]}"#,
        ),
        (
            "choices twice, escaped",
            br#"{"choices":[{"message":{}}],"choice\u0073":[{"message":{}}]}"#,
        ),
        ("id twice", br#"{"id":"a","id":"b","choices":[{"message":{}}]}"#),
        ("cut", br#"{"choices":[{"message":{"content":"hel"#),
        ("more behind it", br#"{"choices":[{"message":{}}]} x"#),
        ("no UTF-8", b"{\"choices\":[{\"message\":{\"content\":\"\xFF\"}}]}"),
    ];
    for (name, body) in cases {
        for body in [MockBody::full(body.to_vec()), MockBody::bytewise(body.to_vec())] {
            let (answer, _) = replied(name, with_echo(), ask("hi"), Reply::ok(body)).await;
            let error = assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("api_error"), &json!("server_error")),
                "{name}"
            );
        }
    }
    let cases = [
        ("a stream", Reply::events(completion("hello"))),
        (
            "an encoding",
            Reply::ok(completion("hello")).header("content-encoding", "gzip"),
        ),
    ];
    for (name, reply) in cases {
        let (answer, _) = replied(name, limited(), ask("hi"), reply).await;
        assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
    }
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_merely_odd_go_through() {
    let message = r#""choices":[{"message":{"role":"assistant","content":"hello"}}]"#;
    for odd in [
        r#""usage":"none""#,
        r#""usage":null"#,
        r#""usage":[]"#,
        r#""usage":{"prompt_tokens":"ten","completion_tokens":{}}"#,
        r#""usage":{"prompt_tokens":-5,"completion_tokens":1e300}"#,
        r#""usage":{"prompt_tokens":1,"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}"#,
        r#""id":7,"model":null,"service_tier":{}"#,
        r#""id":{"a":[]},"error":null"#,
    ] {
        let (answer, _) = replied(odd, with_echo(), ask("hi"), format!("{{{odd},{message}}}").into()).await;
        assert_works(odd, &answer);
        // Whatever its id was, it is ours now.
        assert_eq!(answer.json()["id"].as_str().map(str::len), Some(36), "{odd}");
    }
    for none in [
        r#"{"choices":[]}"#,
        r#"{"choices":[{"message":{"content":"x","tool_calls":null}}]}"#,
        r#"{"choices":[{"message":{"content":"x","tool_calls":[]}}]}"#,
    ] {
        let (answer, _) = replied(none, with_echo(), ask("hi"), none.into()).await;
        assert_eq!(answer.status, 200, "{none}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_over_the_limit_is_a_502_and_not_read_on() {
    let piece = Bytes::from(vec![b' '; 512]);
    let endless = || MockBody::new().data("{").endless(piece.clone());
    let mut long = SizeHint::new();
    long.set_lower(LIMIT as u64 + 1);
    let cases = [
        ("endless", Reply::ok(endless())),
        (
            "endless, and claims to be short",
            Reply::ok(endless().claims(SizeHint::with_exact(10))),
        ),
        ("claims to be long", Reply::ok(MockBody::new().claims(long))),
        ("one long frame", Reply::ok(completion(&"x".repeat(LIMIT)))),
        ("an error that is endless", Reply::new(500, endless())),
        ("a redirect that is endless", Reply::new(302, endless())),
    ];
    for (name, reply) in cases {
        let (answer, pulled) = replied(name, limited(), ask("hi"), reply).await;
        assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
        assert!(pulled <= 2 * LIMIT, "{name}: {pulled} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_key_is_judged_by_its_status_if_it_is_endless() {
    for status in [401, 403, 429] {
        let endless = MockBody::new().endless(vec![b' '; 4096]);
        let stalling = MockBody::new().data("{").never();
        for body in [endless, stalling] {
            let mut replies = vec![Reply::ok(completion("hello")), Reply::new(status, body)];
            let provider = Provider::answering(move |_| replies.pop().expect("two attempts"));
            let stack = bridge(&BridgeLayer::new().pool(pool(2)), &provider);
            assert_works("the next key", &send(&stack, ask("hi")).await);
            assert_eq!(provider.keys(), KEYS[..2]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_breaks_off_or_stalls_is_a_502_or_a_504() {
    let reply = completion("hello");
    let (half, _) = reply.split_at(reply.len() / 2);
    let half = half.to_owned();
    let cases = [
        (
            "cut",
            MockBody::new().data(half.clone()).error("secret-host:8080 reset"),
            BridgeErrorKind::UpstreamFailed,
        ),
        (
            "cut at once",
            MockBody::new().error("secret-host:8080 reset"),
            BridgeErrorKind::UpstreamFailed,
        ),
        (
            "stalled",
            MockBody::new().data(half).never(),
            BridgeErrorKind::UpstreamTimeout,
        ),
    ];
    for (name, body, kind) in cases {
        let (answer, _) = replied(name, limited(), ask("hi"), Reply::ok(body)).await;
        assert_ours(name, &answer, kind);
        assert!(!answer.text().contains("secret-host"), "{}", answer.text());
    }
}

// === streams ===

fn stream_request() -> Request<MockBody> {
    chat(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true}).to_string())
}

const CHUNK: &str = "data: {\"id\":\"a\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_begin_is_a_502() {
    let comments = || MockBody::new().endless(format!(": {}\n\n", "x".repeat(1 << 20)));
    let cases = [
        ("empty", Reply::events("")),
        ("comments alone", Reply::events(": hello\n\n: again\n\n")),
        ("[DONE] alone", Reply::events("data: [DONE]\n\n")),
        ("no JSON", Reply::events("data: hello\n\n")),
        ("a list", Reply::events("data: []\n\n")),
        (
            "a name twice",
            Reply::events("data: {\"id\":\"a\",\"id\":\"b\",\"choices\":[]}\n\n"),
        ),
        ("cut in the first event", Reply::events("data: {\"id\":")),
        (
            "no UTF-8",
            Reply::events(MockBody::full(&b"data: {\"id\":\"\xFF\"}\n\n"[..])),
        ),
        ("no stream", Reply::ok(completion("hello"))),
        ("HTML", Reply::new(200, "<html>").header("content-type", "text/html")),
        ("an encoding", Reply::events(CHUNK).header("content-encoding", "gzip")),
        (
            "one endless line",
            Reply::events(MockBody::new().data("data: ").endless(vec![b'x'; 1 << 20])),
        ),
        ("endless comments", Reply::events(comments())),
    ];
    for (name, reply) in cases {
        let (answer, pulled) = replied(name, with_echo(), stream_request(), reply).await;
        assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
        assert!(pulled < 32 << 20, "{name}: {pulled} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_bad_ends_with_an_error_event_and_without_done() {
    // Nothing of an injected call reaches the caller, so no slow reader holds an endless one back.
    let ours = "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":\
                {\"name\":\"bmcp_local_echo\",\"arguments\":\"\"}}]}}]}\n\n";
    let more = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":0,\"function\":{{\"arguments\":\
         \"{}\"}}}}]}}}}]}}\n\n",
        "x".repeat(1000)
    );
    let then = |bad: &'static str| MockBody::new().data(CHUNK).data(bad);
    let cases = [
        ("no JSON", then("data: hello\n\n")),
        ("a list", then("data: []\n\n")),
        (
            "a call that is a number",
            then("data: {\"choices\":[{\"delta\":{\"tool_calls\":[1]}}]}\n\n"),
        ),
        ("cut", then("data: {\"id\":")),
        ("ended without [DONE]", MockBody::new().data(CHUNK)),
        ("reset", MockBody::new().data(CHUNK).error("secret-host:8080 reset")),
        ("stalled", MockBody::new().data(CHUNK).never()),
        (
            "one endless line",
            MockBody::new().data(CHUNK).data("data: ").endless(vec![b'x'; 1 << 20]),
        ),
        (
            "endless arguments of ours",
            MockBody::new().data(CHUNK).data(ours).endless(more),
        ),
    ];
    for (name, body) in cases {
        let (answer, pulled) = replied(name, with_echo(), stream_request(), Reply::events(body)).await;
        assert_eq!(answer.status, 200, "{name}");
        let text = answer.text();
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let error: Value = serde_json::from_str(last.strip_prefix("data: ").expect(last)).expect(name);
        assert_eq!(names(&error["error"]), ["code", "message", "param", "type"], "{name}");
        assert_eq!(error["error"]["type"], "api_error", "{name}");
        assert!(text.contains("\"content\":\"x\""), "{name}: {text}");
        assert!(
            !text.contains("[DONE]") && !text.contains("secret-host"),
            "{name}: {text}"
        );
        assert!(pulled < 32 << 20, "{name}: {pulled} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_that_are_merely_odd_go_through() {
    for odd in [
        r#"{"choices":[]}"#,
        r#"{"choices":null}"#,
        r#"{"choices":"x"}"#,
        r#"{"choices":[1]}"#,
        r#"{"choices":[{"delta":null}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":null}}]}"#,
        r#"{"usage":"x"}"#,
        r#"{"id":5,"model":7}"#,
        r#"{"error":null}"#,
        "{}",
    ] {
        let body = format!(
            "data: {odd}\n\n{CHUNK}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":\"x\"}}}}\n\ndata: [DONE]\n\n"
        );
        let (answer, _) = replied(odd, with_echo(), stream_request(), Reply::events(body)).await;
        assert_eq!(answer.status, 200, "{odd}: {:?}", answer.body);
        assert!(answer.text().contains("\"content\":\"x\""), "{odd}");
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{odd}: {}", answer.text());
    }
}

// === anything at all ===

/// Bytes that are nearly what they should be, as often as bytes at random.
fn nearly(valid: Vec<String>) -> impl Strategy<Value = Vec<u8>> {
    let mutated = (
        proptest::sample::select(valid),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..6),
    )
        .prop_map(|(text, edits)| {
            let mut bytes = text.into_bytes();
            for (place, byte, edit) in edits {
                let at = place.index(bytes.len().max(1)).min(bytes.len());
                match edit {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    2 => bytes.insert(at, byte),
                    _ => bytes.truncate(at),
                }
            }
            bytes
        });
    prop_oneof![4 => mutated, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

fn requests() -> Vec<String> {
    let tool = json!({"type": "function", "function": {"name": "bmcp_local_echo"}});
    vec![
        asked("hi"),
        json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "é😀"}]}], "stream": true})
            .to_string(),
        json!({"model": "m", "messages": [], "tools": [tool], "n": 1, "tool_choice": "auto"}).to_string(),
        json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true, "x": [1.0]}})
            .to_string(),
    ]
}

fn replies() -> Vec<String> {
    let call = "data: {\"id\":\"a\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"tool_calls\":[{\"index\":0,\
                \"id\":\"c\",\"function\":{\"name\":\"bmcp_local_echo\",\"arguments\":\"{}\"}}]}}]}\n\n";
    vec![
        completion("hello"),
        tool_call("bmcp_local_echo", "{}"),
        tool_calls(&[("a", "bmcp_local_echo", "{\"x\":1}"), ("b", "mine", "")]),
        format!("{CHUNK}{CHUNK}data: [DONE]\n\n"),
        format!(": c\r\n\r\n{call}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1}}}}\n\ndata: [DONE]\n\n"),
        "data: {\"error\":{\"message\":\"x\",\"code\":429}}\n\n".to_owned(),
        r#"{"error":{"message":"x","type":"y","code":"invalid_api_key"}}"#.to_owned(),
    ]
}

/// Whether an answer is one that a client can understand.
fn assert_answered(answer: &Answer) -> Result<(), TestCaseError> {
    if let Some(error) = answer.extensions.get::<BridgeError>() {
        prop_assert_eq!(answer.status, error.kind().status());
        let body = answer.json();
        prop_assert_eq!(names(&body["error"]), ["code", "message", "param", "type"]);
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_answered(body in nearly(requests()), cut in any::<prop::sample::Index>()) {
        let answered = block_on(async {
            let stack = bridge(&with_echo(), &hello());
            let at = cut.index(body.len() + 1);
            let pieces = MockBody::new().data(body[..at].to_vec()).data(body[at..].to_vec());
            let first = send(&stack, chat(pieces)).await;
            (first, send(&stack, ask("hi")).await)
        });
        assert_answered(&answered.0)?;
        assert_works("the next request", &answered.1);
    }

    #[test]
    fn any_reply_is_answered(
        body in nearly(replies()),
        cut in any::<prop::sample::Index>(),
        status in prop_oneof![4 => Just(200_u16), 1 => prop::sample::select(vec![201, 204, 302, 400, 401, 403, 404, 429, 500])],
        events in any::<bool>(),
        stream in any::<bool>(),
    ) {
        let answered = block_on(async {
            let at = cut.index(body.len() + 1);
            let mut first = Some(body);
            let provider = Provider::answering(move |_| match first.take() {
                Some(body) => {
                    let pieces = MockBody::new().data(body[..at].to_vec()).data(body[at..].to_vec());
                    let kind = if events { "text/event-stream" } else { "application/json" };
                    Reply::new(status, pieces).header("content-type", kind)
                }
                None => completion("hello").into(),
            });
            let stack = bridge(&with_echo().pool(pool(4)), &provider);
            let first = send(&stack, if stream { stream_request() } else { ask("hi") }).await;
            (first, send(&stack, ask("hi")).await)
        });
        assert_answered(&answered.0)?;
        assert_works("the next request", &answered.1);
    }
}
