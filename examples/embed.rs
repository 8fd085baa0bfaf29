//! The layer in your own axum service: a real client below it, and a provider behind that.
//!
//! `cargo run --example embed` starts all three, asks once and prints the answer.
#![allow(clippy::print_stdout, reason = "an example's output is its purpose")]

use axum::{Json, Router, body::Body, error_handling::HandleErrorLayer, routing::get, routing::post};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_llm_bridge::{BaseUri, BridgeLayer, RequestBody, pool::KeyPool};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Your service: its own routes, and the model API beside them.
fn app(provider: BaseUri, keys: [&str; 2]) -> Result<Router, Failure> {
    // For `https://`, give `build` a `hyper_rustls::HttpsConnector`, as `examples/gateway/src/upstream.rs` does.
    let client: Client<_, RequestBody<Body>> = Client::builder(TokioExecutor::new()).build_http();
    let models = ServiceBuilder::new()
        // An intercepted request is always answered by the bridge. A keyed one, such as `/v1/models`, is not read, so
        // the client's error arrives here.
        .layer(HandleErrorLayer::new(|error: legacy::Error| async move {
            (StatusCode::BAD_GATEWAY, error.to_string())
        }))
        .layer(BridgeLayer::new().base("/v1")?.pool(KeyPool::from_secrets(keys)?))
        .layer(provider)
        .service(client);
    Ok(Router::new()
        .route("/health", get(|| async { "fine" }))
        // Only the model API's routes: a request that the bridge leaves alone keeps the caller's token.
        .route_service("/v1/chat/completions", models.clone())
        .route_service("/v1/models", models))
}

/// Plays the provider: the first key is over its rate limit.
async fn complete(headers: HeaderMap, Json(request): Json<Value>) -> (StatusCode, Json<Value>) {
    if headers
        .get(header::AUTHORIZATION)
        .is_some_and(|key| key == "Bearer sk-first-key")
    {
        let error = json!({ "error": { "message": "Slow down", "code": "rate_limit_exceeded" } });
        return (StatusCode::TOO_MANY_REQUESTS, Json(error));
    }
    let said = format!("You said: {}", request["messages"][0]["content"]);
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": said }, "finish_reason": "stop" });
    (
        StatusCode::OK,
        Json(json!({ "id": "chatcmpl-1", "object": "chat.completion", "choices": [choice] })),
    )
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let provider = format!("http://{}", listener.local_addr()?).parse()?;
    tokio::spawn(axum::serve(listener, Router::new().route("/v1/chat/completions", post(complete))).into_future());

    // A server would do `axum::serve(listener, app)`.
    let app = app(provider, ["sk-first-key", "sk-second-key"])?;
    let request = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello" }] });
    let request = Request::post("/v1/chat/completions")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(request.to_string()))?;
    let response = app.oneshot(request).await?;
    println!("{}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&body));
    if !body.windows(8).any(|bytes| bytes == b"You said") {
        return Err("the second key should have answered".into());
    }
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
