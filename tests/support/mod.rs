//! The parts that the tests share: a scripted provider below the bridge, bodies that misbehave, a probe of tower's
//! contract, and chat completions.
//!
//! ```ignore
//! mod support;
//! use support::*;
//!
//! #[tokio::test(start_paused = true)]
//! async fn a_key_that_is_refused_is_followed_by_the_next() {
//!     let provider = Provider::queue([Reply::error(401, "invalid_api_key"), completion("hello").into()]);
//!     let answer = send(&bridge(&BridgeLayer::new().pool(pool(2)), &provider), ask("hi")).await;
//!     assert_eq!(answer.status, 200);
//!     assert_eq!(provider.keys(), [KEYS[0], KEYS[1]]);
//! }
//! ```
#![allow(
    dead_code,
    unused_imports,
    reason = "every test file takes only what it needs of this module"
)]

mod body;
mod chat;
mod logs;
mod probe;
mod records;
mod upstream;

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
pub(crate) use tower_llm_bridge::BridgeLayer;
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::{Bridge, ResponseBody};

pub(crate) use self::{
    body::{Alive, Cut, Gate, MockBody, MockError, Piece, Pulled, Token, halves, pieces},
    chat::{CHUNK, ECHO, ask, ask_streamed, asked, chat, completion, echo, text, tool_call, tool_calls, with_usage},
    logs::Logs,
    probe::Probe,
    records::{bare, drain, ended, kinds, lines, of_kind},
    upstream::{Provider, Reply, Seen},
};

/// Keys that are long enough for distinct hints; in order of preference.
pub(crate) const KEYS: [&str; 4] = [
    "sk-first-0123456789abcdef",
    "sk-second-0123456789abcdef",
    "sk-third-0123456789abcdef",
    "sk-fourth-0123456789abcdef",
];

/// The bridge as the tests use it: every call below it is checked by the contract probe.
pub(crate) type Stack = Bridge<Probe<Provider>>;

/// A response that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
    pub(crate) body: Bytes,
}

/// A pool of the first `count` of [`KEYS`].
pub(crate) fn pool(count: usize) -> KeyPool {
    KeyPool::from_secrets(KEYS[..count].iter().copied()).expect("the test's keys are a pool")
}

/// `provider` under the contract probe under `layer`.
pub(crate) fn bridge(layer: &BridgeLayer, provider: &Provider) -> Stack {
    let layer = layer.clone().base("/v1").expect("a path");
    layer.layer(Probe::new(provider.clone()))
}

/// Sends one request through a clone of `stack` and reads the answer.
pub(crate) async fn send(stack: &Stack, request: Request<MockBody>) -> Answer {
    let response = stack.clone().oneshot(request).await;
    answer(response.expect("an intercepted request is always answered")).await
}

/// Sends `request` to a provider that gives `replies` one after the other. Returns the requests that it saw, and the
/// answer.
pub(crate) async fn converse<R: Into<Reply>>(
    layer: &BridgeLayer,
    request: Request<MockBody>,
    replies: impl IntoIterator<Item = R>,
) -> (Vec<Seen>, Answer) {
    let provider = Provider::queue(replies);
    let answer = send(&bridge(layer, &provider), request).await;
    (provider.seen(), answer)
}

/// Milliseconds of virtual time since `start`.
pub(crate) fn since(start: Instant) -> u128 {
    Instant::now().saturating_duration_since(start).as_millis()
}

/// Runs `future` in virtual time, for tests that are not async functions.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(future)
}

/// Reads a response to its end.
pub(crate) async fn answer(response: Response<ResponseBody<MockBody>>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("the answer's body is whole").to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        extensions: parts.extensions,
        body,
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `type` and the `code` of an error.
    pub(crate) fn error(&self) -> (String, Option<String>) {
        let error = &self.json()["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (text("type").expect("an error has a type"), text("code"))
    }
}
