//! Where the bridge belongs in a stack, with an auth layer that says who calls and a rate limit.
//!
//! | from the outside in | why there |
//! |---|---|
//! | auth | it knows the caller: it sets [`Actor`], and [`Credential`] for a caller with its own key |
//! | rate limit, concurrency limit | it counts what callers ask; a limit below would count each attempt and each round |
//! | bridge | one request above it, one or many calls below |
//! | time-out, trace, retry *per call* | below the bridge they see each call of the provider by itself |
//! | client | it sees a clean request with the right key |
//!
//! A concurrency limit *below* the bridge is a trap: a handle that reserves a slot there and does not use it starves
//! the rounds of running requests. Run it with `cargo run --example stack_order`, its tests with `cargo test --example
//! stack_order`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::Full;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_llm_bridge::pool::{KeyPool, KeyPoolError};
use tower_llm_bridge::{Actor, BridgeLayer, Credential, RequestBody, ResponseBody};

type Body = Full<Bytes>;

/// The auth layer, with two users of two kinds. A real one looks them up; it never trusts the bridge's own headers.
fn authenticate(mut request: Request<Body>) -> Request<Body> {
    let token = request.headers_mut().remove(header::AUTHORIZATION);
    match token.as_ref().map(http::HeaderValue::as_bytes) {
        Some(b"Bearer of-alice") => {
            request
                .extensions_mut()
                .insert(Actor::new("alice").metadata("team", "search"));
        }
        Some(b"Bearer of-bob") => {
            request.extensions_mut().insert(Actor::new("bob"));
            // Bob pays for himself: one attempt with his key, and none with a key of the pool.
            if let Ok(own) = Credential::bearer("sk-of-bob-0123456789") {
                request.extensions_mut().insert(own);
            }
        }
        // An unknown caller: `require_actor` answers.
        _ => {}
    }
    request
}

fn stack<F>(
    provider: F,
) -> Result<
    impl Service<Request<Body>, Response = Response<ResponseBody<Body>>, Error = BoxError> + Clone + Send + 'static,
    KeyPoolError,
>
where
    F: Fn(&HeaderMap) -> Body + Clone + Send + 'static,
{
    let bridge = BridgeLayer::new()
        .pool(KeyPool::from_secrets(["sk-of-the-company-0123456789"])?)
        .require_actor(true)
        .actor_headers(true);
    let provider = service_fn(move |request: Request<RequestBody<Body>>| {
        let answer = provider(request.headers());
        async move { Ok::<_, Infallible>(Response::new(answer)) }
    });
    Ok(ServiceBuilder::new()
        .map_request(authenticate)
        // A rate limit has one owner; the buffer shares it. What waits here is bounded, and holds nothing yet.
        .buffer(128)
        .rate_limit(100, Duration::from_secs(1))
        .layer(bridge)
        .timeout(Duration::from_secs(120))
        .service(provider))
}

/// Answers with the head that it saw.
fn mirror(headers: &HeaderMap) -> Body {
    let seen = format!(
        "{:?} {:?}",
        headers.get("x-ai-bridge-actor-id"),
        headers.get(header::AUTHORIZATION)
    );
    let message = serde_json::json!({"role": "assistant", "content": seen});
    serde_json::json!({"choices": [{"index": 0, "message": message}]})
        .to_string()
        .into()
}

fn question(token: &str) -> Result<Request<Body>, http::Error> {
    Request::post("/v1/chat/completions")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(r#"{"model":"m","messages":[]}"#.into())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let stack = stack(mirror)?;
    for token in ["of-alice", "of-bob", "of-nobody"] {
        let status = stack.clone().oneshot(question(token)?).await?.status();
        std::io::Write::write_all(&mut std::io::stdout(), format!("{token}: {status}\n").as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_provider_sees_who_asks_and_the_right_key() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let stack = stack(move |headers| {
            let text = |name| headers[name].to_str().unwrap().to_owned();
            log.lock()
                .unwrap()
                .push((text("x-ai-bridge-actor-id"), text("authorization")));
            mirror(headers)
        })
        .unwrap();
        for (token, status) in [("of-alice", 200), ("of-bob", 200), ("of-nobody", 401)] {
            let response = stack.clone().oneshot(question(token).unwrap()).await.unwrap();
            assert_eq!(response.status(), status, "{token}");
        }
        let expected = [
            ("alice".to_owned(), "Bearer sk-of-the-company-0123456789".to_owned()),
            ("bob".to_owned(), "Bearer sk-of-bob-0123456789".to_owned()),
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_limit_counts_what_callers_ask() {
        let stack = stack(mirror).unwrap();
        let start = tokio::time::Instant::now();
        for _ in 0..201 {
            stack.clone().oneshot(question("of-alice").unwrap()).await.unwrap();
        }
        assert_eq!(
            tokio::time::Instant::now().saturating_duration_since(start).as_secs(),
            2
        );
    }
}
