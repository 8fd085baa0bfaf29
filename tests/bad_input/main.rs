//! Invalid input of callers and providers: each gets a clear error of the right status in the provider's shape, nothing
//! is read without a bound, and the next request works.

#[path = "../support/mod.rs"]
mod support;

mod anything;
mod replies;
mod requests;
mod streams;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use hyper::body::SizeHint;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_llm_bridge::tools::Tools;
use tower_llm_bridge::{BridgeError, BridgeErrorKind};

use support::*;

/// Both limits of the bridges here, in bytes.
const LIMIT: usize = 4096;

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

/// A provider that must never get a refused request.
fn hello() -> Provider {
    Provider::answering(|_| completion("hello").into())
}

fn request_of(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"model":"m","messages":[],"x":{open}{close}}}"#)
}

/// Sends one request to a provider that answers with `reply` first and properly afterwards; returns the answer, and how
/// many bytes of `reply` were read.
async fn replied(name: &str, layer: BridgeLayer, request: Request<MockBody>, reply: Reply) -> (Answer, usize) {
    let provider = Provider::queue([reply, completion("hello").into()]);
    let stack = bridge(&layer, &provider);
    let (parts, body) = stack
        .clone()
        .oneshot(request)
        .await
        .expect("it is answered")
        .into_parts();
    // Not `send`: the body may end in an error.
    let answer = Answer {
        body: Piece::join(&pieces(body).await),
        status: parts.status,
        headers: parts.headers,
        extensions: parts.extensions,
    };
    let read = provider.pulled().bytes();
    assert_works(name, &send(&stack, ask("again")).await);
    (answer, read)
}
