//! The bridge together with other layers, routers, servers and clients: compiled, and run.
//!
//! Most mistakes here show in a user's type checker, so each stack is written as a user would write it, and sends at
//! least one request of each kind through.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails the test that called it")]

#[path = "../support/mod.rs"]
mod support;

mod types;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::{any_service, get, post};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::retry::{Policy, RetryLayer};
use tower::util::{BoxCloneService, BoxCloneSyncService};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_llm_bridge::{Bridge, RequestBody, ResponseBody, ResponseFuture};

use support::*;

// === a provider, and what is asked of every stack ===

/// A provider as an axum app: it completes chats, and answers any other request with the parts that reached it.
fn provider() -> Router {
    let complete = async |request: Request<AxumBody>| {
        assert_eq!(request.headers()[header::AUTHORIZATION], format!("Bearer {}", KEYS[0]));
        let length = request.headers()[header::CONTENT_LENGTH].to_str().unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(length, body.len().to_string());
        let request: Value = serde_json::from_slice(&body).unwrap();
        let said = request["messages"][0]["content"].as_str().unwrap().to_owned();
        ([(header::CONTENT_TYPE, "application/json")], completion(&said))
    };
    let echo = async |request: Request<AxumBody>| {
        assert!(!request.headers().contains_key(header::AUTHORIZATION));
        request.into_body()
    };
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/echo", post(echo))
}

fn layer() -> BridgeLayer {
    BridgeLayer::new().pool(pool(2))
}

fn ask_with<B: From<String>>(prompt: &str) -> Request<B> {
    Request::post("http://bridge/v1/chat/completions")
        .header(header::CONTENT_TYPE, "application/json")
        .body(B::from(asked(prompt)))
        .unwrap()
}

fn other<B: From<String>>() -> Request<B> {
    Request::post("http://bridge/v1/echo")
        .body(B::from("as it is".to_owned()))
        .unwrap()
}

async fn text<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn assert_said(reply: &str, prompt: &str) {
    let reply: Value = serde_json::from_str(reply).unwrap();
    assert_eq!(reply["choices"][0]["message"]["content"], prompt);
    // It has our id, so it went through the bridge.
    assert_eq!(reply["id"].as_str().map(str::len), Some(36), "{reply}");
}

/// Sends one request of each kind through `stack`.
async fn assert_serves<S, Sent, Got>(stack: S)
where
    S: Service<Request<Sent>, Response = Response<Got>> + Clone,
    S::Error: std::fmt::Debug,
    Sent: From<String>,
    Got: Body<Data = Bytes>,
    Got::Error: std::fmt::Debug,
{
    assert_said(&text(stack.clone().oneshot(ask_with("hi")).await.unwrap()).await, "hi");
    assert_eq!(text(stack.oneshot(other()).await.unwrap()).await, "as it is");
}

// === axum ===

#[tokio::test]
async fn an_axum_router_inside() {
    assert_serves::<_, AxumBody, _>(layer().layer(provider())).await;
    assert_serves::<_, Full<Bytes>, _>(layer().layer(provider())).await;
}

#[tokio::test]
async fn around_an_axum_app() {
    assert_serves::<_, AxumBody, _>(provider().layer(layer())).await;
    assert_serves::<_, AxumBody, _>(provider().route_layer(layer())).await;
    // As one route of an app, beside others.
    let app = Router::new()
        .route("/v1/chat/completions", any_service(layer().layer(provider())))
        .route("/v1/echo", post(async |body: Bytes| body))
        .route("/health", get(async || "fine"));
    assert_serves::<_, AxumBody, _>(app).await;
    // As the fallback of an app.
    let app = Router::new()
        .route("/health", get(async || "fine"))
        .fallback_service(layer().layer(provider()));
    assert_serves::<_, AxumBody, _>(app.clone()).await;
    let health = Request::get("/health").body(AxumBody::empty()).unwrap();
    assert_eq!(text(app.clone().oneshot(health).await.unwrap()).await, "fine");
    // Nested below another path.
    let nested = Router::new().nest_service("/team", layer().layer(provider()));
    let mut request: Request<AxumBody> = ask_with("hi");
    *request.uri_mut() = "/team/v1/chat/completions".parse().unwrap();
    assert_said(&text(nested.oneshot(request).await.unwrap()).await, "hi");
}

// === hyper ===

/// The whole path in memory: a client's bytes, a hyper server's `Incoming`, the bridge, a hyper client, another hyper
/// server, and back; with a body of unknown length.
#[tokio::test]
async fn a_servers_incoming_goes_through_to_a_client() {
    let (near, far) = tokio::io::duplex(64);
    let upstream = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), TowerToHyperService::new(provider()));
    tokio::spawn(upstream);
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    let sender = std::sync::Arc::new(tokio::sync::Mutex::new(sender));
    let client = service_fn(move |mut request: Request<RequestBody<Incoming>>| {
        let sender = std::sync::Arc::clone(&sender);
        async move {
            let host = http::HeaderValue::from_static("provider");
            request.headers_mut().insert(header::HOST, host);
            let mut sender = sender.lock().await;
            sender.ready().await?;
            sender.send_request(request).await
        }
    });

    let (near, far) = tokio::io::duplex(64);
    let bridge = TowerToHyperService::new(layer().layer(client));
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), bridge);
    tokio::spawn(server);
    let (mut caller, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    let pieces = |text: String| MockBody::bytewise(text);
    for _ in 0..2 {
        let mut request = ask_with::<String>("hi").map(pieces);
        request
            .headers_mut()
            .insert(header::HOST, http::HeaderValue::from_static("bridge"));
        *request.uri_mut() = "/v1/chat/completions".parse().unwrap();
        assert_said(&text(caller.send_request(request).await.unwrap()).await, "hi");
        let mut request = other::<String>().map(pieces);
        *request.uri_mut() = "/v1/echo".parse().unwrap();
        assert_eq!(text(caller.send_request(request).await.unwrap()).await, "as it is");
    }
}

/// The usual client of a gateway: type-checked with the body that a server gives, and not sent anywhere.
#[tokio::test]
async fn a_hyper_util_client_takes_the_bridges_bodies() {
    let client: Client<HttpConnector, RequestBody<Incoming>> =
        Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let bridge = layer().layer(client);
    fn is_service<S>(_: &S)
    where
        S: Service<Request<Incoming>, Response = Response<ResponseBody<Incoming>>> + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
    }
    is_service(&bridge);
    let make = ServiceBuilder::new().layer(TraceLayer::new_for_http()).service(bridge);
    drop(TowerToHyperService::new(make));
    // And fed by axum, as its fallback.
    let client: Client<HttpConnector, RequestBody<AxumBody>> =
        Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let proxied = ServiceBuilder::new()
        .layer(axum::error_handling::HandleErrorLayer::new(
            async |_: hyper_util::client::legacy::Error| StatusCode::BAD_GATEWAY,
        ))
        .layer(layer())
        .service(client);
    drop(Router::<()>::new().fallback_service(proxied));
}

// === tonic ===

/// A gRPC service and a model API on one router, with the bridge over both.
async fn grpc_and_chat() -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("models", tonic_health::ServingStatus::Serving)
        .await;
    tonic::service::Routes::new(health).into_axum_router().merge(provider())
}

/// An HTTP/2 client of `app`, served in memory.
async fn served_over_http2<B>(app: Router) -> hyper::client::conn::http2::SendRequest<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (near, far) = tokio::io::duplex(1024);
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(far), TowerToHyperService::new(app));
    tokio::spawn(server);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn a_grpc_call_passes_beside_a_chat_completion() {
    let app = grpc_and_chat().await.layer(layer());
    let sender = served_over_http2(app.clone()).await;
    let channel = service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client = HealthClient::with_origin(channel, "http://bridge".parse().unwrap());
    let check = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let status = client.check(check("models")).await.unwrap().into_inner().status();
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
    let unknown = client.check(check("unknown")).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    let mut watch = client.watch(check("models")).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    assert_serves::<_, AxumBody, _>(app).await;
}

/// Head, frames and trailers are the same with the bridge and without it.
#[tokio::test]
async fn a_grpc_answer_is_untouched() {
    let mut answers = Vec::new();
    for app in [grpc_and_chat().await, grpc_and_chat().await.layer(layer())] {
        let mut sender = served_over_http2(app).await;
        let call = Request::post("http://bridge/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", "Bearer of-the-service")
            .body(MockBody::new().data(vec![0; 5]))
            .unwrap();
        let (parts, body) = sender.send_request(call).await.unwrap().into_parts();
        let mut headers = parts.headers;
        headers.remove("date");
        answers.push((parts.status, headers, pieces(body).await));
    }
    let [plain, bridged] = <[_; 2]>::try_from(answers).unwrap();
    assert_eq!(plain, bridged);
    let Some(Piece::Trailers(trailers)) = bridged.2.last() else {
        panic!("no trailers: {bridged:?}");
    };
    assert_eq!(trailers["grpc-status"], "0");
}

// === tower-http ===

#[tokio::test]
async fn under_the_layers_of_a_gateway() {
    let stack = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(600),
        ))
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .layer(RequestDecompressionLayer::new())
        .layer(layer())
        .service(provider());
    assert_serves::<_, AxumBody, _>(stack.clone()).await;
    let mut zipped: Request<AxumBody> = ask_with("hi");
    let headers = zipped.headers_mut();
    headers.insert(header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
    *zipped.body_mut() = gzip(asked("zipped").as_bytes()).into();
    let response = stack.clone().oneshot(zipped).await.unwrap();
    assert!(response.headers().contains_key("x-request-id"));
    assert_said(&text(response).await, "zipped");
    let long: Request<AxumBody> = ask_with(&"x".repeat(1 << 20));
    let response = stack.clone().oneshot(long).await.unwrap();
    // Without a `content-length` the layer above can only cut the body, and it is the bridge that answers.
    assert_eq!(response.status(), 413);
    let error = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&error).contains(r#""code":"request_too_large""#));
    let mut long: Request<AxumBody> = ask_with(&"x".repeat(1 << 20));
    long.headers_mut().insert(header::CONTENT_LENGTH, (2 << 20).into());
    assert_eq!(stack.oneshot(long).await.unwrap().status(), 413);
}

#[tokio::test]
async fn each_layer_of_tower_http_takes_the_bridge_as_it_is() {
    let bridge = || layer().layer(provider());
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(600));
    assert_serves::<_, AxumBody, _>(TraceLayer::new_for_http().layer(bridge())).await;
    assert_serves::<_, AxumBody, _>(CatchPanicLayer::new().layer(bridge())).await;
    assert_serves::<_, AxumBody, _>(timeout.layer(bridge())).await;
    assert_serves::<_, AxumBody, _>(RequestBodyLimitLayer::new(1 << 20).layer(bridge())).await;
    assert_serves::<_, AxumBody, _>(RequestDecompressionLayer::new().layer(bridge())).await;
    assert_serves::<_, AxumBody, _>(SetRequestIdLayer::x_request_id(MakeRequestUuid).layer(bridge())).await;
    // And below it.
    let bridge = layer();
    assert_serves::<_, AxumBody, _>(bridge.layer(TraceLayer::new_for_http().layer(provider()))).await;
    assert_serves::<_, AxumBody, _>(bridge.layer(CatchPanicLayer::new().layer(provider()))).await;
    assert_serves::<_, AxumBody, _>(bridge.layer(timeout.layer(provider()))).await;
    assert_serves::<_, AxumBody, _>(bridge.layer(RequestBodyLimitLayer::new(1 << 20).layer(provider()))).await;
    assert_serves::<_, AxumBody, _>(bridge.layer(SetRequestIdLayer::x_request_id(MakeRequestUuid).layer(provider())))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_below_is_a_500_above() {
    let stack = CatchPanicLayer::new().layer(layer().layer(Provider::queue([Reply::panics()])));
    let response = stack.oneshot(ask("hi")).await.unwrap();
    assert_eq!(response.status(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_above_ends_a_request_that_takes_too_long() {
    let provider = Provider::queue([Reply::ok(MockBody::new().never())]);
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(5));
    let response = timeout
        .layer(layer().layer(provider.clone()))
        .oneshot(ask("hi"))
        .await
        .unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(provider.busy(), 0);
}

/// One stored block (RFC 1951, 3.2.4) in a gzip member (RFC 1952).
fn gzip(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    let crc = data.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    let mut gzip = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF, 1];
    gzip.extend(length.to_le_bytes());
    gzip.extend((!length).to_le_bytes());
    gzip.extend(data);
    gzip.extend((!crc).to_le_bytes());
    gzip.extend(u32::from(length).to_le_bytes());
    gzip
}

// === tower ===

#[tokio::test(start_paused = true)]
async fn over_and_under_towers_own_layers() {
    let second = Duration::from_secs(1);
    let over = ServiceBuilder::new()
        .load_shed()
        .buffer(4)
        .rate_limit(10, second)
        .concurrency_limit(2)
        .timeout(second)
        .layer(layer())
        .service(provider());
    assert_serves::<_, AxumBody, _>(over).await;
    let under = ServiceBuilder::new()
        .layer(layer())
        .load_shed()
        .buffer(4)
        .rate_limit(10, second)
        .concurrency_limit(2)
        .timeout(second)
        .service(provider());
    assert_serves::<_, AxumBody, _>(under).await;
    let between = ServiceBuilder::new()
        .buffer(1)
        .concurrency_limit(1)
        .layer(layer())
        .buffer(1)
        .concurrency_limit(1)
        .service(provider());
    let all: Vec<_> = (0..16)
        .map(|_| tokio::spawn(assert_serves::<_, AxumBody, _>(between.clone())))
        .collect();
    for one in all {
        one.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_out_layer_below_is_a_504_above() {
    let slow = Provider::answering(|_| Reply::ok(completion("late")).after(Duration::from_secs(9)));
    let stack = layer().layer(ServiceBuilder::new().timeout(Duration::from_secs(1)).service(slow));
    let response = stack.oneshot(ask("hi")).await.unwrap();
    assert_eq!(response.status(), 504);
}

/// Sends a request again, once, after a server error.
#[derive(Clone)]
struct OnceMore {
    left: bool,
}

impl<Sent, Got, Error> Policy<Request<RequestBody<Sent>>, Response<Got>, Error> for OnceMore {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<RequestBody<Sent>>,
        result: &mut Result<Response<Got>, Error>,
    ) -> Option<Ready<()>> {
        let unwell = result
            .as_ref()
            .is_ok_and(|response| response.status().is_server_error());
        (unwell && std::mem::take(&mut self.left)).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<RequestBody<Sent>>) -> Option<Request<RequestBody<Sent>>> {
        let mut copy = Request::new(request.body().try_clone()?);
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        copy.extensions_mut().clone_from(request.extensions());
        Some(copy)
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_below_sends_the_same_again() {
    let provider = Provider::queue([Reply::error(503, "overloaded"), completion("hello").into()]);
    let stack = layer().layer(
        ServiceBuilder::new()
            .layer(RetryLayer::new(OnceMore { left: true }))
            .service(provider.clone()),
    );
    assert_said(&text(stack.oneshot(ask("hi")).await.unwrap()).await, "hello");
    let seen = provider.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((&seen[0].body, &seen[0].headers), (&seen[1].body, &seen[1].headers));
    // An unread body is not copied.
    let provider = Provider::queue([Reply::error(503, "overloaded")]);
    let stack = layer().layer(
        ServiceBuilder::new()
            .layer(RetryLayer::new(OnceMore { left: true }))
            .service(provider.clone()),
    );
    let other = Request::post("/upload").body(MockBody::full("x")).unwrap();
    assert_eq!(stack.oneshot(other).await.unwrap().status(), 503);
}
