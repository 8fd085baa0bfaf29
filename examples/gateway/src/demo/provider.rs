//! The demo provider's HTTP side: keys, routes, errors and the pace of streams.

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
    body::{Body, Bytes, to_bytes},
    extract::{DefaultBodyLimit, Path, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep};

use super::{LIMITED_KEY, WORKING_KEY, chat, messages, responses};

const MODEL: &str = "demo";
/// The seconds after which the limited key may be tried again; it is always refused again.
const RETRY_AFTER: &str = "20";
/// The time between two events, so that a stream is visible as one.
const PACE: Duration = Duration::from_millis(20);

/// Server-sent events, one every [`PACE`].
struct Events {
    rest: vec::IntoIter<String>,
    pause: Pin<Box<Sleep>>,
}

pub(super) fn routes() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route(
            "/v1/models",
            get(|| async { Json(json!({ "object": "list", "data": [model_object()] })) }),
        )
        .route("/v1/models/{id}", get(model))
        .layer(middleware::from_fn(check_key))
        .layer(DefaultBodyLimit::disable())
}

async fn check_key(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let key = text("x-api-key").or(bearer);
    let is_limited = match key {
        Some(WORKING_KEY) => return next.run(request).await,
        key => key == Some(LIMITED_KEY),
    };
    // A server closes a connection with an unread body, perhaps while the next request is being sent on it.
    let _ = to_bytes(request.into_body(), usize::MAX).await;
    if is_limited {
        let refusal = error(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "rate_limit_exceeded",
            "Slow down",
        );
        return ([(header::RETRY_AFTER, RETRY_AFTER)], refusal).into_response();
    }
    error(
        StatusCode::UNAUTHORIZED,
        "invalid_request_error",
        "invalid_api_key",
        "Incorrect API key",
    )
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

/// An answer as server-sent events.
pub(super) fn stream(events: Vec<String>) -> Response {
    let events = Events {
        rest: events.into_iter(),
        pause: Box::pin(sleep(Duration::ZERO)),
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::new(events)).into_response()
}

pub(super) fn invalid_json() -> Response {
    error(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        "invalid_json",
        "The body is not JSON",
    )
}

/// Numbers answers.
pub(super) fn next_id() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

/// An error that Messages' clients read as well, since they tolerate a missing outer `type`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_refused_request_is_read_to_its_end() {
        for (key, status) in [(LIMITED_KEY, 429), ("another", 401)] {
            let (mut sender, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(1);
            let request = Request::post("/v1/responses")
                .header("authorization", format!("Bearer {key}"))
                .body(Body::new(body))
                .unwrap();
            let sent = async {
                for _ in 0..9 {
                    sender.send_data(Bytes::from_static(b"{")).await.unwrap();
                }
                drop(sender);
            };
            let (response, ()) = tokio::join!(routes().oneshot(request), sent);
            assert_eq!(response.unwrap().status(), status);
        }
    }
}
