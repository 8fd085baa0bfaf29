//! A gRPC service and a model API behind one port, with the bridge over both.
//!
//! The bridge answers model requests and leaves everything else alone: a gRPC call goes through with its headers, frames
//! and trailers, unread, so that one layer over the whole router is enough.
//!
//! Run it with `cargo run --example tonic_router`, its test with `cargo test --example tonic_router`.

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, StatusCode, header};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{BoxError, ServiceExt};
use tower_llm_bridge::BridgeLayer;
use tower_llm_bridge::pool::KeyPool;

/// Plays the provider; in production this is an HTTP client, as `Router::fallback_service`.
async fn complete() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    let reply = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hello"}}]}"#;
    ([(header::CONTENT_TYPE, "application/json")], reply)
}

/// Any tonic service will do; this one needs no protocol file.
async fn app() -> Result<Router, BoxError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("models", tonic_health::ServingStatus::Serving)
        .await;
    let bridge = BridgeLayer::new().pool(KeyPool::from_secrets(["sk-0123456789"])?);
    Ok(tonic::service::Routes::new(health)
        .into_axum_router()
        .route("/v1/chat/completions", post(complete))
        .layer(bridge))
}

/// Asks both without a socket: to tonic's client the router is a channel.
async fn ask(app: Router) -> Result<(i32, StatusCode), BoxError> {
    let mut client = HealthClient::new(app.clone());
    let service = "models".to_owned();
    let health = client.check(HealthCheckRequest { service }).await?.into_inner();
    let chat = Request::post("/v1/chat/completions").body(Body::from(r#"{"model":"m","messages":[]}"#))?;
    Ok((health.status, app.oneshot(chat).await?.status()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (health, chat) = ask(app().await?).await?;
    let line = format!("health {health}, chat {chat}\n");
    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_health::pb::health_check_response::ServingStatus;

    use super::*;

    #[tokio::test]
    async fn both_are_served() {
        let (health, chat) = ask(app().await.unwrap()).await.unwrap();
        assert_eq!(health, ServingStatus::Serving as i32);
        assert_eq!(chat, StatusCode::OK);
    }

    /// A status that is sent in trailers, or instead of them, arrives.
    #[tokio::test]
    async fn grpc_errors_are_grpc_errors() {
        let mut client = HealthClient::new(app().await.unwrap());
        let service = "unknown".to_owned();
        let status = client.check(HealthCheckRequest { service }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
}
