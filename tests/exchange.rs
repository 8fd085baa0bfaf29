//! One call of the provider as both sides see it: credentials, headers, lengths, time-outs, and bodies that are not
//! answers.

mod support;

use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response};
use hyper::body::SizeHint;
use support::*;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};
use tower_llm_bridge::tools::Tools;
use tower_llm_bridge::{Actor, BridgeError, BridgeErrorKind, Credential, Intercepted, RequestBody};

const OWN: &str = "sk-callers-0123456789abcdef";

fn with_header(mut request: Request<MockBody>, name: &'static str, value: &str) -> Request<MockBody> {
    request
        .headers_mut()
        .insert(name, value.parse().expect("a header's value"));
    request
}

fn get(path: &str) -> Request<MockBody> {
    Request::get(path).body(MockBody::new()).expect("a request")
}

fn kind(answer: &Answer) -> Option<BridgeErrorKind> {
    answer.extensions.get().map(BridgeError::kind)
}

// === credentials ===

#[tokio::test(start_paused = true)]
async fn a_callers_own_key_gets_one_attempt_and_errors_as_they_came() {
    for (status, code) in [
        (401, "invalid_api_key"),
        (403, "account_suspended"),
        (429, "insufficient_quota"),
        (500, "x"),
    ] {
        let pool = pool(2);
        let before = pool.snapshot();
        let body = format!("{{ \"error\" : {{\"code\":\"{code}\"}} }}");
        let provider = Provider::queue([Reply::new(status, body.clone()).header("retry-after", "7")]);
        let mut request = ask("hi");
        request.extensions_mut().insert(Credential::bearer(OWN).unwrap());
        let answer = send(&bridge(&BridgeLayer::new().pool(pool.clone()), &provider), request).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, &*body));
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(provider.keys(), [OWN]);
        assert_eq!(pool.snapshot(), before);
        assert!(
            provider.last().extensions.get::<Credential>().is_none(),
            "it stays with us"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_pool_the_callers_header_is_its_credential() {
    for (name, value) in [
        ("authorization", "Bearer sk-callers-0123456789abcdef"),
        ("x-api-key", OWN),
        ("api-key", OWN),
    ] {
        let provider = Provider::queue([completion("hello")]);
        let answer = send(
            &bridge(&BridgeLayer::new(), &provider),
            with_header(ask("hi"), name, value),
        )
        .await;
        assert_eq!(answer.status, 200);
        assert_eq!(provider.last().header(name), Some(value));
        assert!(provider.last().headers[name].is_sensitive());
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_credential_the_caller_is_told_so() {
    let provider = Provider::queue::<Reply>([]);
    let answer = send(&bridge(&BridgeLayer::new(), &provider), ask("hi")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.error(),
        ("invalid_request_error".into(), Some("invalid_api_key".into()))
    );
    assert_eq!(kind(&answer), Some(BridgeErrorKind::NoCredential));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_its_own_credential_and_nothing_of_the_callers() {
    let provider = Provider::queue([
        Reply::error(401, "invalid_api_key"),
        Reply::rate_limited(None),
        completion("hello").into(),
    ]);
    let mut request = ask("hi");
    for (name, value) in [
        ("authorization", "Bearer caller"),
        ("x-api-key", "caller"),
        ("api-key", "caller"),
        ("cookie", "caller=1"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("host", "bridge.example"),
        ("accept-encoding", "gzip"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("x-ai-bridge-actor-id", "root"),
        ("x-ai-bridge-actor-metadata-team", "admin"),
        ("openai-beta", "assistants=v2"),
        ("user-agent", "test/1"),
    ] {
        request = with_header(request, name, value);
    }
    *request.version_mut() = http::Version::HTTP_2;
    let answer = send(&bridge(&BridgeLayer::new().pool(pool(3)), &provider), request).await;
    assert_eq!(answer.status, 200);
    for (index, seen) in provider.seen().iter().enumerate() {
        let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "authorization",
            "content-length",
            "content-type",
            "openai-beta",
            "user-agent",
        ];
        assert_eq!(names, expected);
        assert_eq!(seen.key(), Some(KEYS[index]));
        assert!(seen.headers["authorization"].is_sensitive());
        assert_eq!(seen.header("content-length"), Some(&*seen.body.len().to_string()));
        assert_eq!(seen.body, asked("hi"));
        assert_eq!(seen.version, http::Version::HTTP_11);
        assert_eq!(seen.attempt(), Some((1, u32::try_from(index).unwrap() + 1)));
    }
    let intercepted = answer.extensions.get::<Intercepted>().unwrap();
    assert_eq!(intercepted.key_attempts(), 3);
    assert_eq!(answer.json()["id"], intercepted.id().to_string());
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_within_rounds_and_edited_bodies_have_their_length() {
    let provider = Provider::queue([
        Reply::rate_limited(Some("1")),
        tool_call("bmcp_local_echo", "{}").into(),
        Reply::rate_limited(None),
        completion("hello").into(),
    ]);
    let layer = BridgeLayer::new().pool(pool(3)).tools(Tools::new([echo()]));
    let mut request = with_header(ask("hi"), "content-length", "1");
    request.extensions_mut().insert(7_u64);
    let answer = send(&bridge(&layer, &provider), request).await;
    assert_eq!(answer.status, 200);
    let seen = provider.seen();
    let attempts: Vec<_> = seen.iter().filter_map(Seen::attempt).collect();
    assert_eq!(attempts, [(1, 1), (1, 2), (2, 1), (2, 2)]);
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[2].body, seen[3].body);
    assert!(seen[2].body.len() > seen[1].body.len());
    for seen in &seen {
        let lengths: Vec<_> = seen.headers.get_all("content-length").iter().collect();
        assert_eq!(lengths, [&*seen.body.len().to_string()]);
        assert_eq!(
            seen.extensions.get::<u64>(),
            Some(&7),
            "the caller's extensions go with each"
        );
    }
    assert_eq!(answer.extensions.get::<Intercepted>().unwrap().key_attempts(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_actor_is_told_upstream_only_if_that_is_switched_on() {
    for on in [false, true] {
        let provider = Provider::queue([completion("hello")]);
        let layer = BridgeLayer::new().pool(pool(1)).actor_headers(on);
        let mut request = with_header(ask("hi"), "x-ai-bridge-actor-id", "root");
        request
            .extensions_mut()
            .insert(Actor::new("u-17").metadata("team", "search"));
        assert_eq!(send(&bridge(&layer, &provider), request).await.status, 200);
        let seen = provider.last();
        assert_eq!(seen.header("x-ai-bridge-actor-id"), on.then_some("u-17"));
        assert_eq!(seen.header("x-ai-bridge-actor-metadata-team"), on.then_some("search"));
        assert!(seen.extensions.get::<Actor>().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_can_be_required() {
    let layer = BridgeLayer::new().pool(pool(1)).require_actor(true);
    let provider = Provider::queue([completion("hello")]);
    let stack = bridge(&layer, &provider);
    let answer = send(&stack, ask("hi")).await;
    assert_eq!(
        (answer.status.as_u16(), kind(&answer)),
        (401, Some(BridgeErrorKind::NoActor))
    );
    assert_eq!(send(&stack, get("/v1/models")).await.status, 401);
    let mut request = ask("hi");
    request.extensions_mut().insert(Actor::new("u-17"));
    assert_eq!(send(&stack, request).await.status, 200);
}

// === listed pass-throughs ===

#[tokio::test(start_paused = true)]
async fn a_listed_path_gets_a_key_and_the_same_failover() {
    let pool = pool(3);
    let list = "{\"object\" : \"list\"}";
    let provider = Provider::queue([
        Reply::error(401, "invalid_api_key"),
        Reply::rate_limited(None),
        Reply::ok(MockBody::new().data(list).tells_end())
            .header("set-cookie", "a=b")
            .header("x-request-id", "r1"),
    ]);
    let stack = bridge(&BridgeLayer::new().pool(pool.clone()), &provider);
    let answer = send(
        &stack,
        with_header(get("/v1/models?limit=3"), "authorization", "Bearer caller"),
    )
    .await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, list));
    assert_eq!(
        (answer.header("x-request-id"), answer.header("set-cookie")),
        (Some("r1"), None)
    );
    assert_eq!(provider.keys(), [KEYS[0], KEYS[1], KEYS[2]]);
    for seen in provider.seen() {
        assert_eq!(
            (seen.method.clone(), seen.uri.to_string()),
            (Method::GET, "/v1/models?limit=3".into())
        );
        assert_eq!((seen.body.len(), seen.header("content-length")), (0, None));
    }
    assert_eq!(provider.last().attempt(), Some((1, 3)));

    // The second key rests for such paths alone; once all do, the provider is not called.
    let provider = Provider::queue([Reply::rate_limited(Some("9")), Reply::rate_limited(Some("9"))]);
    let stack = bridge(&BridgeLayer::new().pool(pool), &provider);
    for _ in 0..2 {
        let answer = send(&stack, get("/v1/models/gpt-4o")).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, Some("9")));
        assert_eq!(provider.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn head_keeps_the_length_of_what_it_did_not_send() {
    let reply = Reply::new(200, MockBody::new().tells_end()).header("content-length", "1234");
    let provider = Provider::queue([Reply::error(401, "invalid_api_key"), reply]);
    let request = Request::head("/v1/models").body(MockBody::new()).unwrap();
    let answer = send(&bridge(&BridgeLayer::new().pool(pool(2)), &provider), request).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-length")),
        (200, Some("1234"))
    );
    assert_eq!(provider.last().method, Method::HEAD);
}

#[tokio::test(start_paused = true)]
async fn a_listed_body_is_sent_again_byte_by_byte_whatever_it_is() {
    let layer = BridgeLayer::new()
        .pool(pool(2))
        .keyed_paths(["POST /embeddings"])
        .unwrap();
    let provider = Provider::queue([Reply::rate_limited(None), Reply::ok("{}")]);
    let body = MockBody::new().data(&b"\xff\0not"[..]).pending().data(&b" json"[..]);
    let request = Request::post("/v1/embeddings").body(body).unwrap();
    assert_eq!(send(&bridge(&layer, &provider), request).await.status, 200);
    for seen in provider.seen() {
        assert_eq!(seen.body, &b"\xff\0not json"[..]);
        assert_eq!(seen.header("content-length"), Some("10"));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_unlisted_ever_carries_a_key() {
    let provider = Provider::answering(|_| Reply::new(401, "who are you?"));
    let stack = bridge(&BridgeLayer::new().pool(pool(2)), &provider);
    for (method, path) in [
        (Method::GET, "/v1/files"),
        (Method::POST, "/v1/embeddings"),
        (Method::DELETE, "/v1/models/ft:x"),
        (Method::GET, "/v1/models/../files"),
        (Method::GET, "/v1/models/%2e%2e/organization"),
        (Method::GET, "/v1/chat/completions"),
        (Method::POST, "/v1/chat/completions/x"),
    ] {
        for own in [None, Some("Bearer caller")] {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(path)
                .body(MockBody::new())
                .unwrap();
            if let Some(own) = own {
                request = with_header(request, "authorization", own);
            }
            let answer = send(&stack, request).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (401, "who are you?"));
            assert_eq!(provider.last().header("authorization"), own, "{method} {path}");
            assert_eq!(provider.last().attempt(), None);
        }
    }
}

// === failures ===

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_a_504() {
    let head = || Reply::from(completion("late")).gate(&Gate::new());
    let body = || Reply::ok(MockBody::new().data("{\"id\":").never());
    let refusal = || Reply::new(500, MockBody::new().data("oh").never());
    for reply in [head, body, refusal] {
        let (pool, start) = (pool(2), Instant::now());
        let provider = Provider::queue([reply()]);
        let answer = send(&bridge(&BridgeLayer::new().pool(pool.clone()), &provider), ask("hi")).await;
        assert_eq!(
            (answer.status.as_u16(), kind(&answer)),
            (504, Some(BridgeErrorKind::UpstreamTimeout))
        );
        assert_eq!(answer.error(), ("api_error".into(), Some("server_error".into())));
        assert_eq!(Instant::now().saturating_duration_since(start).as_secs(), 600);
        assert_eq!(provider.busy(), 0);
        assert!(pool.snapshot().iter().all(|key| key.time_left.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_the_whole_time() {
    let nine = Duration::from_secs(9);
    let provider = Provider::queue([
        Reply::rate_limited(None).after(nine),
        Reply::error(401, "invalid_api_key").after(nine),
        Reply::from(completion("hello")).after(nine),
    ]);
    let layer = BridgeLayer::new()
        .pool(pool(3))
        .attempt_timeout(Duration::from_secs(10));
    assert_eq!(send(&bridge(&layer, &provider), ask("hi")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_inner_failure_is_a_502_that_tells_no_address() {
    let cut = || Reply::ok(MockBody::new().data("{\"id\":").error("reset by 10.0.0.7"));
    for reply in [|| Reply::fails("no route to 10.0.0.7"), cut] {
        let pool = pool(2);
        let provider = Provider::queue([reply(), completion("next").into()]);
        let stack = bridge(&BridgeLayer::new().pool(pool.clone()), &provider);
        let answer = send(&stack, ask("hi")).await;
        assert_eq!(
            (answer.status.as_u16(), kind(&answer)),
            (502, Some(BridgeErrorKind::UpstreamFailed))
        );
        assert_eq!(answer.error(), ("api_error".into(), Some("server_error".into())));
        assert!(!answer.text().contains("10.0.0.7"));
        assert_eq!(provider.calls(), 1, "it may have been billed: it is not sent again");
        assert_eq!(send(&stack, ask("hi")).await.status, 200);
        assert_eq!(provider.keys(), [KEYS[0], KEYS[0]]);
    }
}

/// Is ready for the first `left` calls of a handle, and fails from then on.
#[derive(Clone)]
struct Failing {
    left: usize,
}

impl Service<Request<RequestBody<MockBody>>> for Failing {
    type Response = Response<MockBody>;
    type Error = MockError;
    type Future = Ready<Result<Response<MockBody>, MockError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), MockError>> {
        Poll::Ready(if self.left > 0 {
            Ok(())
        } else {
            Err(MockError("closed: 10.0.0.7"))
        })
    }

    fn call(&mut self, _request: Request<RequestBody<MockBody>>) -> Self::Future {
        self.left -= 1;
        let mut response = Response::new(MockBody::new());
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        ready(Ok(response))
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_fails_between_attempts_is_a_502_too() {
    let stack = BridgeLayer::new().pool(pool(2)).layer(Failing { left: 1 });
    let answer = answer(stack.oneshot(ask("hi")).await.unwrap()).await;
    assert_eq!(
        (answer.status.as_u16(), kind(&answer)),
        (502, Some(BridgeErrorKind::UpstreamFailed))
    );
    assert!(!answer.text().contains("10.0.0.7"));
}

#[tokio::test(start_paused = true)]
async fn a_200_that_is_no_chat_completion_is_a_502_and_the_next_request_works() {
    let whole = completion("hello");
    let bodies = [
        MockBody::new(),
        MockBody::full(whole[..whole.len() - 1].to_owned()),
        "<html>".into(),
        "[]".into(),
        "null".into(),
        "{}".into(),
        r#"{"choices":{}}"#.into(),
        MockBody::full(&b"{\"choices\":[],\"x\":\"\xff\"}"[..]),
        MockBody::new().endless("[".repeat(4096)),
        MockBody::full("{}").claims(SizeHint::with_exact(u64::MAX)),
    ];
    let layer = BridgeLayer::new().pool(pool(1)).max_response_body(64 << 10);
    for body in bodies {
        let words = format!("{body:?}");
        let provider = Provider::queue([Reply::ok(body), completion("next").into()]);
        let stack = bridge(&layer, &provider);
        let answer = send(&stack, ask("hi")).await;
        assert_eq!(
            (answer.status.as_u16(), kind(&answer)),
            (502, Some(BridgeErrorKind::UpstreamInvalid)),
            "{words}"
        );
        assert_eq!(send(&stack, ask("hi")).await.status, 200);
    }
    for odd in [
        Reply::events("data: [DONE]\n\n"),
        Reply::from(whole).header("content-encoding", "gzip"),
    ] {
        let provider = Provider::queue([odd]);
        let answer = send(&bridge(&layer, &provider), ask("hi")).await;
        assert_eq!(kind(&answer), Some(BridgeErrorKind::UpstreamInvalid));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_the_providers_own_bytes_but_for_its_id() {
    let reply = "{ \"b\":1.0, \"id\" : \"chatcmpl-1\" ,\n\"choices\":[{\"message\":{\"content\":\"\\u00e9 \\/\"}}],\"n\":1e400,\
                 \"usage\":{\"prompt_tokens\":10}, \"i\":1234567890123456789012345 }\n";
    let provider = Provider::queue([Reply::new(200, reply)
        .header("content-type", "application/json; charset=x")
        .header("content-length", "999")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .header("transfer-encoding", "chunked")
        .header("set-cookie", "a=b")
        .header("openai-organization", "org")
        .header("x-echo", &format!("key={}", KEYS[0]))
        .header("x-ratelimit-remaining", "7")]);
    let answer = send(&bridge(&BridgeLayer::new().pool(pool(1)), &provider), ask("hi")).await;
    let id = answer.extensions.get::<Intercepted>().unwrap().id().to_string();
    assert_eq!(answer.text(), reply.replace("chatcmpl-1", &id));
    let expected: HeaderMap = [
        ("content-type", "application/json; charset=x"),
        ("x-ratelimit-remaining", "7"),
    ]
    .into_iter()
    .map(|(name, value)| {
        (
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        )
    })
    .collect();
    assert_eq!(answer.headers, expected);
}
