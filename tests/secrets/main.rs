//! No key is visible outside the header that it is sent in: not in logs at trace level, spans, records, answers or any
//! `Debug`, whatever fails, and even if the provider repeats it.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails the test that called it")]

#[path = "../support/mod.rs"]
mod support;

mod public;

use std::convert::Infallible;
use std::fmt::{Debug, Write as _};

use http::{Request, header};
use http_body_util::Empty;
use serde_json::json;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::trace::{DefaultMakeSpan, DefaultOnRequest, DefaultOnResponse, TraceLayer};
use tower_llm_bridge::pool::{ApiKey, KeyPool, VerdictTable};
use tower_llm_bridge::record::{Event, Events, Recorder};
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, Tools, tool_fn};
use tower_llm_bridge::{Actor, BridgeError, Credential, RequestBody, ResponseBody};
use tracing::Level;

use support::*;

/// The middle of all keys here, which no hint shows.
const SECRET: &str = "0123456789ab";

/// The caller's own key.
const OWN: &str = "sk-own-0123456789abcdef";

/// A user's prompt, which must not be logged.
const PROMPT: &str = "my-private-question";

/// A bridge whose output is all captured.
struct Watched {
    stack: BoxCloneService<Request<MockBody>, http::Response<Words>, MockError>,
    layer: BridgeLayer,
    pool: KeyPool,
    provider: Provider,
    events: Events,
    logs: Logs,
}

/// A caller's answer, body included, as text.
struct Words {
    status: u16,
    body: String,
    /// The rest: headers, extensions, and its debug output.
    rest: String,
}

// === impl Watched ===

impl Watched {
    fn new(layer: BridgeLayer, pool: KeyPool, provider: Provider) -> Self {
        let logs = Logs::capture();
        let (recorder, events) = Recorder::channel(8);
        let layer = layer.base("/v1").expect("a path").recorder(recorder);
        // A layer below that logs the head of every request that carries a key.
        let trace = TraceLayer::new_for_http()
            .make_span_with(DefaultMakeSpan::new().level(Level::TRACE).include_headers(true))
            .on_request(DefaultOnRequest::new().level(Level::TRACE))
            .on_response(DefaultOnResponse::new().level(Level::TRACE))
            // It would log the inner service's own error, which is not the bridge's.
            .on_failure(());
        let inner = ServiceBuilder::new().layer(trace).service(provider.clone());
        let bridge = layer.layer(inner);
        let stack = tower::service_fn(move |request: Request<MockBody>| {
            let bridge = bridge.clone();
            async move { Ok(words(bridge.oneshot(request).await?).await) }
        });
        Self {
            stack: BoxCloneService::new(stack),
            layer,
            pool,
            provider,
            events,
            logs,
        }
    }

    async fn send(&self, request: Request<MockBody>) -> Words {
        let response = self.stack.clone().oneshot(request).await;
        response.expect("an intercepted request is always answered").into_body()
    }

    /// Everything that is readable by now, except for the caller's answers.
    fn words(&mut self) -> String {
        let mut words = self.logs.text();
        show(&mut words, &self.layer);
        show(&mut words, &self.pool);
        show(&mut words, &self.pool.snapshot());
        words += &serde_json::to_string(&self.pool.snapshot()).unwrap();
        let events: Vec<Event> = std::iter::from_fn(|| self.events.try_recv()).collect();
        for event in &events {
            show(&mut words, event);
            words += &serde_json::to_string(event).unwrap();
        }
        show(&mut words, &self.events);
        show(&mut words, &self.provider.seen());
        words
    }
}

fn show(words: &mut String, value: &impl Debug) {
    write!(words, "{value:?}\n{value:#?}\n").unwrap();
}

/// Reads a response to its end, or to its error.
async fn words<B>(response: http::Response<ResponseBody<B>>) -> http::Response<Words>
where
    B: hyper::body::Body<Data = bytes::Bytes, Error: std::fmt::Display>,
{
    let mut rest = format!("{:?}\n{:?}\n", response.headers(), response.body());
    let values = response.headers().values();
    values.for_each(|value| rest += &String::from_utf8_lossy(value.as_bytes()));
    if let Some(error) = response.extensions().get::<BridgeError>() {
        show(&mut rest, error);
        rest += &error.to_string();
        rest += error.message();
    }
    let status = response.status().as_u16();
    let body = Piece::join(&pieces(response.into_body()).await);
    let body = String::from_utf8_lossy(&body).into_owned();
    http::Response::new(Words { status, body, rest })
}

#[track_caller]
fn assert_silent(name: &str, words: &str) {
    if let Some(at) = words.find(SECRET) {
        let mut start = at.saturating_sub(300);
        while !words.is_char_boundary(start) {
            start -= 1;
        }
        panic!("{name}: a key shows in …{}", &words[start..at + SECRET.len()]);
    }
}

// === what a provider may say ===

/// An error that contains the key wherever possible.
fn telling(status: u16, code: &str, key: &str) -> Reply {
    let message = format!("Incorrect API key provided: {key}. Bearer {key}{key}");
    let body =
        json!({"error": {"message": message, "type": "invalid_request_error", "param": key, "code": code}, key: key});
    tell_in_headers(Reply::new(status, body.to_string()), key)
}

fn tell_in_headers(reply: Reply, key: &str) -> Reply {
    reply
        .header("content-type", "application/json")
        .header("x-echo", key)
        .header("x-echo-all", &format!("authorization: Bearer {key}"))
        .header("x-request-id", "req-1")
}

type Script = fn(&str) -> Reply;

/// The provider's reactions to a key, by name.
const SCRIPTS: &[(&str, Script)] = &[
    ("401", |key| telling(401, "invalid_api_key", key)),
    ("403", |key| telling(403, "permission_denied", key)),
    ("403 about the model", |key| telling(403, "model_not_found", key)),
    ("429", |key| telling(429, "rate_limit_exceeded", key)),
    ("429 without money", |key| telling(429, "insufficient_quota", key)),
    ("400", |key| telling(400, "bad", key)),
    ("404", |key| telling(404, "model_not_found", key)),
    ("422", |key| telling(422, "bad", key)),
    ("500", |key| telling(500, "server_error", key)),
    ("529", |key| telling(529, "overloaded", key)),
    ("302", |key| telling(302, "moved", key)),
    ("an error named by the key", |key| {
        let body = json!({"error": {"message": "x", "type": key, "code": key}});
        Reply::new(400, body.to_string())
    }),
    ("an error that is not JSON", |key| {
        Reply::new(500, format!("<html>{key}"))
    }),
    ("an error in a success", |key| telling(200, "invalid_api_key", key)),
    ("an error in a success, of no kind", |key| telling(200, "whatever", key)),
    ("a success of no shape", |key| {
        Reply::ok(format!("{{\"key\":\"{key}\"}}"))
    }),
    ("a success that is not JSON", |key| Reply::ok(key.to_owned())),
    ("a success with telling headers", |key| {
        tell_in_headers(Reply::ok(completion("hello")), key)
    }),
    ("telling usage", |key| {
        Reply::ok(with_usage(&completion("hello"), json!({"prompt_tokens": key})))
    }),
    ("a stream with telling headers", |key| {
        tell_in_headers(Reply::events(format!("{CHUNK}data: [DONE]\n\n")), key)
    }),
    ("an error as the first event", |key| {
        Reply::events(format!(
            "data: {{\"error\":{{\"message\":\"{key}\",\"code\":\"invalid_api_key\"}}}}\n\n"
        ))
    }),
    ("an error of no kind as the first event", |key| {
        Reply::events(format!(
            "data: {{\"error\":{{\"message\":\"{key}\",\"type\":\"{key}\"}}}}\n\n"
        ))
    }),
    ("an error as a later event", |key| {
        Reply::events(format!(
            "{CHUNK}data: {{\"error\":{{\"message\":\"{key}\",\"type\":\"{key}\"}}}}\n\n"
        ))
    }),
    ("a later event that is not JSON", |key| {
        Reply::events(format!("{CHUNK}data: {key}\n\n"))
    }),
    ("no connection", |key| {
        Reply::fails(format!("cannot send Bearer {key}").leak())
    }),
    ("a reply cut short", |key| {
        Reply::ok(MockBody::new().data("{").error(format!("lost {key}").leak()))
    }),
    ("a stream cut short", |key| {
        Reply::events(MockBody::new().data(CHUNK).error(format!("lost {key}").leak()))
    }),
    ("a stream cut at once", |key| {
        Reply::events(MockBody::new().error(format!("lost {key}").leak()))
    }),
    ("an error cut short", |key| {
        Reply::new(500, MockBody::new().data("{").error(format!("lost {key}").leak()))
    }),
];

#[tokio::test(start_paused = true)]
async fn a_provider_cannot_make_the_bridge_tell_a_pools_key() {
    for (name, script) in SCRIPTS {
        for request in [ask, |_: &str| ask_streamed(PROMPT), |_: &str| listed_request()] {
            let keys = pool(3);
            let provider = Provider::answering(|seen| script(seen.key().expect("a key")));
            let layer = BridgeLayer::new().pool(keys.clone());
            let mut watched = Watched::new(layer, keys, provider);
            let request = request(PROMPT);
            let listed = request.uri().path() == "/v1/models";
            let answer = watched.send(request).await;
            assert_silent(name, &answer.rest);
            // The body of a success is the provider's own and is not searched, which would slow every answer.
            if answer.status != 200 || (!listed && answer.body.contains("\"error\"")) {
                assert_silent(name, &answer.body);
            }
            let words = watched.words();
            assert_silent(name, &words);
            if !listed {
                assert!(!watched.logs.text().contains(PROMPT), "{name}: the prompt was logged");
                assert!(
                    watched.logs.text().contains("credential_hint=sk-f...cdef"),
                    "{name}: nothing was logged"
                );
                assert!(words.contains(r#""event":"ended""#), "{name}: nothing was recorded");
            }
        }
    }
}

fn listed_request() -> Request<MockBody> {
    Request::get("/v1/models").body(MockBody::new()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_key_is_told_to_the_caller_alone() {
    for (name, script) in SCRIPTS {
        for stream in [false, true] {
            for by_extension in [false, true] {
                let keys = pool(1);
                let provider = Provider::answering(|seen| script(seen.key().expect("a key")));
                let mut watched = Watched::new(BridgeLayer::new(), keys, provider);
                let mut request = if stream { ask_streamed(PROMPT) } else { ask(PROMPT) };
                if by_extension {
                    request.extensions_mut().insert(Credential::bearer(OWN).unwrap());
                } else {
                    let value = format!("Bearer {OWN}").parse().unwrap();
                    request.headers_mut().insert(header::AUTHORIZATION, value);
                }
                let answer = watched.send(request).await;
                assert_silent(name, &answer.rest);
                let words = watched.words();
                assert_silent(name, &words);
                assert!(words.contains("sk-o...cdef"), "{name}: the hint is missing");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_and_exhausted_pools_tell_hints_only() {
    let keys = pool(3);
    let provider = Provider::answering(|seen| telling(401, "invalid_api_key", seen.key().expect("a key")));
    let mut watched = Watched::new(BridgeLayer::new().pool(keys.clone()), keys, provider);
    for status in [502, 502] {
        let answer = watched.send(ask(PROMPT)).await;
        assert_eq!(answer.status, status);
        assert_silent("revoked", &(answer.rest + &answer.body));
    }
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    let probe = watched.send(ask(PROMPT)).await;
    assert_silent("probe", &(probe.rest + &probe.body));
    watched.pool.restore_all();
    watched
        .pool
        .replace([ApiKey::new("sk-fresh-0123456789abcdef").unwrap()])
        .unwrap();
    let words = watched.words();
    assert_silent("revoked", &words);
    assert!(
        words.contains("key revoked") && words.contains("key restored"),
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn tools_that_fail_tell_nothing_to_the_log() {
    let panicking = tool_fn(
        ToolDefinition::new("panics"),
        async |_: ToolCall| -> Result<&str, Infallible> { panic!("with {}", KEYS[0]) },
    );
    // A tool's error is told to the model and recorded: the tool decides its text. Logs have other readers.
    let failing = tool_fn(ToolDefinition::new("fails"), async |_: ToolCall| {
        Err::<&str, _>("https://internal/?token=my-token")
    });
    let keys = pool(1);
    let mut calls = 0;
    let provider = Provider::answering(move |_| {
        calls += 1;
        let all = [
            ("a", "bmcp_local_panics", "{}"),
            ("b", "bmcp_local_fails", r#"{"argument":"my-argument"}"#),
            ("c", "bmcp_local_fails", "my-argument"),
        ];
        if calls == 1 {
            tool_calls(&all).into()
        } else {
            completion("hello").into()
        }
    });
    let layer = BridgeLayer::new()
        .pool(keys.clone())
        .tools(Tools::new([panicking, failing]));
    let mut watched = Watched::new(layer, keys, provider);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let answer = watched.send(ask(PROMPT)).await;
    std::panic::set_hook(hook);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let words = watched.words();
    assert_silent("tools", &(words + &answer.body + &answer.rest));
    let told = watched.provider.last();
    assert!(
        told.text().contains("the tool crashed") && told.text().contains("my-token"),
        "{}",
        told.text()
    );
    for private in ["my-token", "my-argument", PROMPT] {
        assert!(!watched.logs.text().contains(private), "{private} was logged");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_refused_tell_nothing() {
    let keys = pool(1);
    let provider = Provider::answering(|_| completion("hello").into());
    let layer = BridgeLayer::new()
        .pool(keys.clone())
        .max_request_body(200)
        .require_actor(true);
    let mut watched = Watched::new(layer, keys, provider);
    let bodies = [
        format!("{{\"model\":\"{}\"", KEYS[0]),
        format!("{{\"model\":7,\"{}\":1}}", KEYS[0]),
        KEYS[0].repeat(100),
        format!("[\"{}\"]", KEYS[0]),
    ];
    for body in bodies {
        for actor in [false, true] {
            let mut request = chat(body.clone());
            if actor {
                request
                    .extensions_mut()
                    .insert(Actor::new("u").metadata("team", "search"));
            }
            let answer = watched.send(request).await;
            assert!((400..500).contains(&answer.status));
            assert_silent(&body, &(answer.body + &answer.rest));
        }
    }
    let words = watched.words();
    assert_silent("refused", &words);
    assert!(!words.contains(r#""event":"started""#));
}

/// The header with the key is marked as sensitive, so that layers below hide it too.
#[tokio::test(start_paused = true)]
async fn the_key_is_sent_and_marked_as_sensitive() {
    let provider = Provider::answering(|_| completion("hello").into());
    let answer = send(&bridge(&BridgeLayer::new().pool(pool(1)), &provider), ask(PROMPT)).await;
    assert_eq!(answer.status, 200);
    let seen = provider.last();
    assert_eq!(seen.key(), Some(KEYS[0]));
    assert!(seen.headers[header::AUTHORIZATION].is_sensitive());
    let own = bridge(&BridgeLayer::new(), &provider);
    for name in ["authorization", "x-api-key", "api-key"] {
        let mut request = ask(PROMPT);
        request.headers_mut().insert(name, OWN.parse().unwrap());
        assert_eq!(send(&own, request).await.status, 200);
        assert!(provider.last().headers[name].is_sensitive(), "{name}");
    }
}
