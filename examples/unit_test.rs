//! A unit test of your own around the bridge: no socket, no paid key, no provider.
//!
//! The service below the bridge can be any tower service, so a test uses a closure and checks both sides. Run it with
//! `cargo test --example unit_test`.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_llm_bridge::pool::{KeyPool, KeyPoolError};
use tower_llm_bridge::record::{Events, Recorder};
use tower_llm_bridge::{Bridge, BridgeLayer, RequestBody};

type Body = Full<Bytes>;

/// The stack of your application around any `provider`.
fn stack<S>(provider: S) -> Result<(Bridge<S>, Events), KeyPoolError>
where
    S: Service<Request<RequestBody<Body>>>,
{
    let (recorder, events) = Recorder::channel(64);
    let pool = KeyPool::from_secrets(["sk-preferred-0123456789", "sk-reserve-0123456789"])?;
    Ok((BridgeLayer::new().pool(pool).recorder(recorder).layer(provider), events))
}

/// A provider whose first key is over its rate limit.
async fn provider(request: Request<RequestBody<Body>>) -> Result<Response<Body>, Infallible> {
    if request.headers()[header::AUTHORIZATION] == "Bearer sk-preferred-0123456789" {
        let mut refusal = Response::new(Body::from("{}"));
        *refusal.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
        return Ok(refusal);
    }
    let reply = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hello"}}]}"#;
    Ok(Response::new(reply.into()))
}

fn question() -> Result<Request<Body>, http::Error> {
    Request::post("/v1/chat/completions").body(r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#.into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (bridge, mut events) = stack(service_fn(provider))?;
    let response = bridge.oneshot(question()?).await?;
    let mut out = format!("{}\n", response.status());
    while let Some(event) = events.try_recv() {
        out += &format!("{}\n", serde_json::to_string(&event)?);
    }
    std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// With its clock paused, a test of cool-downs and time-outs takes no time.
    #[tokio::test(start_paused = true)]
    async fn the_second_key_answers_when_the_first_may_not() {
        let (bridge, mut events) = stack(service_fn(provider)).unwrap();
        let response = bridge.oneshot(question().unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let reply: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(reply["choices"][0]["message"]["content"], "hello");

        let events: Vec<_> = std::iter::from_fn(|| events.try_recv()).collect();
        let ended = serde_json::to_value(events.last().unwrap()).unwrap();
        assert_eq!(
            (&ended["outcome"], &ended["key_attempts"]),
            (&"completed".into(), &2.into())
        );
    }
}
