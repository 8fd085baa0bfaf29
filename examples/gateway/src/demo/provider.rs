//! The demo provider's HTTP side: keys, routes, errors, and an answer's two forms.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
    vec,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep};

use super::{
    LIMITED_KEY, WORKING_KEY,
    model::{self, Turn},
};

const MODEL: &str = "demo";
/// Seconds after which the limited key may be tried again, in vain.
const RETRY_AFTER: &str = "20";
/// Makes a stream look like one.
const PACE: Duration = Duration::from_millis(20);

/// Server-sent events, one every [`PACE`].
struct Events {
    rest: vec::IntoIter<String>,
    pause: Pin<Box<Sleep>>,
}

pub(super) fn routes() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route(
            "/v1/models",
            get(|| async { Json(json!({ "object": "list", "data": [model_object()] })) }),
        )
        .route("/v1/models/{id}", get(model))
        .layer(middleware::from_fn(check_key))
        .layer(DefaultBodyLimit::disable())
}

async fn check_key(request: Request, next: Next) -> Response {
    let key = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match key {
        Some(WORKING_KEY) => next.run(request).await,
        Some(LIMITED_KEY) => {
            let refusal = error(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "rate_limit_exceeded",
                "Slow down",
            );
            ([(header::RETRY_AFTER, RETRY_AFTER)], refusal).into_response()
        }
        _ => error(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            "invalid_api_key",
            "Incorrect API key",
        ),
    }
}

async fn model(Path(id): Path<String>) -> Response {
    if id == MODEL {
        return Json(model_object()).into_response();
    }
    error(
        StatusCode::NOT_FOUND,
        "invalid_request_error",
        "model_not_found",
        "There is only the model `demo`",
    )
}

fn model_object() -> Value {
    json!({ "id": MODEL, "object": "model", "created": 0, "owned_by": "demo" })
}

async fn chat_completions(body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return error(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            "invalid_json",
            "The body is not JSON",
        );
    };
    let id = completion_id();
    let (text, message, finish_reason) = match model::turn(&request) {
        Turn::Say(text) => (text.clone(), json!({ "role": "assistant", "content": text }), "stop"),
        Turn::Call(name) => {
            let function = json!({ "name": name, "arguments": "{}" });
            let call = json!({ "id": format!("call_{id}"), "type": "function", "function": function });
            (
                String::new(),
                json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
                "tool_calls",
            )
        }
    };
    let (prompt, completion) = (model::prompt_tokens(&request), model::tokens(&text));
    let usage = json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": 0 },
    });
    let answer = |object, choices: Value, usage: Value| {
        let model = request["model"].clone();
        json!({ "id": id, "object": object, "created": now(), "model": model, "choices": choices, "usage": usage })
    };
    if request["stream"] != true {
        let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason });
        return Json(answer("chat.completion", json!([choice]), usage)).into_response();
    }

    let chunk = |choices, usage| format!("data: {}\n\n", answer("chat.completion.chunk", choices, usage));
    let delta = |delta, reason: Value| {
        chunk(
            json!([{ "index": 0, "delta": delta, "finish_reason": reason }]),
            Value::Null,
        )
    };
    let mut events = Vec::new();
    if text.is_empty() {
        let mut message = message;
        message["tool_calls"][0]["index"] = 0.into();
        events.push(delta(message, Value::Null));
    } else {
        events.push(delta(json!({ "role": "assistant", "content": "" }), Value::Null));
        events.extend(
            text.split_inclusive(' ')
                .map(|word| delta(json!({ "content": word }), Value::Null)),
        );
    }
    events.push(delta(json!({}), finish_reason.into()));
    if request["stream_options"]["include_usage"] == true {
        events.push(chunk(json!([]), usage));
    }
    events.push("data: [DONE]\n\n".into());
    let events = Events {
        rest: events.into_iter(),
        pause: Box::pin(sleep(Duration::ZERO)),
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::new(events)).into_response()
}

fn completion_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("chatcmpl-demo-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

fn error(status: StatusCode, kind: &str, code: &str, message: &str) -> Response {
    let body = json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    (status, Json(body)).into_response()
}

// === impl Events ===

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.pause.as_mut().poll(cx));
        self.pause = Box::pin(sleep(PACE));
        Poll::Ready(self.rest.next().map(|event| Ok(Frame::data(event.into()))))
    }
}
