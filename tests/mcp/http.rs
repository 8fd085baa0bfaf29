//! Streamable HTTP over the loopback: the requests, the secrets that are never logged, and redirects.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
    routing::any,
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use tower_llm_bridge::{
    BridgeLayer,
    mcp::{McpServer, McpServerState, McpServers},
    record::{Fact, Recorder},
};

use crate::support::{Fake, Log, call_once, converse, lock};

/// Serves until it is dropped.
struct Site {
    origin: String,
    _task: JoinSet<()>,
}

impl Site {
    async fn start(app: Router) -> Self {
        // In a build of the workspace, the gateway switches on `reqwest`'s TLS without a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { origin, _task: task }
    }
}

fn mcp(fake: &Fake) -> Router {
    let fake = fake.clone();
    let service = StreamableHttpService::new(
        move || Ok(fake.clone()),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    Router::new().route_service("/mcp", service)
}

#[tokio::test]
async fn the_authorization_is_on_every_request_and_in_no_log() {
    let log = Log::start();
    let fake = Fake::with(&["echo", "fail"]);
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let app = mcp(&fake).layer(middleware::from_fn({
        let seen = Arc::clone(&seen);
        move |request: Request, next: Next| {
            lock(&seen).push(request.headers().clone());
            next.run(request)
        }
    }));
    let site = Site::start(app).await;
    let url = format!("{}/mcp?api_key=query-secret", site.origin);
    let server = McpServer::http("s", &url)
        .unwrap()
        .authorization("Bearer header-secret")
        .unwrap();
    let servers = McpServers::connect([server], []).unwrap();
    servers.settled().await;
    assert_eq!(servers.snapshot()[0].state, McpServerState::Ready, "{servers:?}");

    let (recorder, mut events) = Recorder::channel(8);
    let layer = BridgeLayer::new().tools(&servers).recorder(recorder);
    assert_eq!(call_once(&layer, "bmcp_s_echo", &json!({})).await, "echo {}");
    drop(layer);
    let mut recorded = None;
    while let Some(event) = events.recv().await {
        if let Fact::ToolUsage { server_url, .. } = &event.fact {
            recorded.clone_from(server_url);
        }
    }
    assert_eq!(recorded, Some(format!("{}/mcp", site.origin)));

    let seen = std::mem::take(&mut *lock(&seen));
    assert!(seen.len() >= 4, "{seen:?}");
    for headers in seen {
        assert_eq!(headers[header::AUTHORIZATION], "Bearer header-secret");
    }
    drop(site);
    let text = log.text() + &format!("{servers:?}") + &serde_json::to_string(&servers.snapshot()).unwrap();
    assert!(text.contains("mcp_call"), "the log is on");
    // The server's side is logged on the same thread; its own lines may show the requests.
    for line in text.lines().filter(|line| !line.contains("streamable_http_server")) {
        assert!(!line.contains("header-secret"), "{line}");
    }
}

#[tokio::test]
async fn an_error_shows_neither_the_query_nor_the_authorization() {
    let log = Log::start();
    let echo = |request: Request| async move {
        let authorization = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
        (
            StatusCode::BAD_REQUEST,
            format!("no session for {} {authorization}", request.uri()),
        )
    };
    let site = Site::start(Router::new().fallback(any(echo))).await;
    for origin in [&*site.origin, "http://127.0.0.1:1"] {
        let url = format!("{origin}/mcp?api_key=query-secret");
        let server = McpServer::http("s", &url)
            .unwrap()
            .authorization("Bearer header-secret")
            .unwrap();
        let servers = McpServers::connect([server], []).unwrap();
        servers.settled().await;
        let error = servers.snapshot()[0].last_error.clone().unwrap();
        assert!(!error.contains("secret"), "{error}");
    }
    assert_eq!(log.count(&["WARN", "MCP server is away"]), 2, "{}", log.text());
    let ours = log.text();
    for line in ours.lines().filter(|line| line.contains("tower_llm_bridge")) {
        assert!(!line.contains("secret"), "{line}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_origin_only() {
    let fake = Fake::with(&["echo"]);
    let hits = Arc::new(AtomicUsize::new(0));
    let elsewhere = Site::start(mcp(&fake).layer(middleware::from_fn({
        let hits = Arc::clone(&hits);
        move |request: Request, next: Next| {
            hits.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        }
    })))
    .await;
    let target = format!("{}/mcp", elsewhere.origin);
    let away =
        any(move || async move { (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target)]).into_response() });
    let near = any(|| async { (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/mcp")]).into_response() });
    let site = Site::start(mcp(&fake).route("/away", away).route("/near", near)).await;

    let server = |name: &str| McpServer::http(name, &format!("{}/{name}", site.origin)).unwrap();
    let servers = McpServers::connect([server("away"), server("near")], []).unwrap();
    servers.settled().await;
    let [away, near] = &servers.snapshot()[..] else {
        panic!("two servers");
    };
    assert_eq!(away.state, McpServerState::Away);
    let error = away.last_error.as_deref().unwrap();
    assert!(
        error.contains("a redirect to another origin is not followed"),
        "{error}"
    );
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    assert_eq!(near.state, McpServerState::Ready, "{near:?}");
}

#[tokio::test]
async fn over_http_a_caller_that_leaves_cancels_the_call_too() {
    let fake = Fake::with(&["slow"]);
    let site = Site::start(mcp(&fake)).await;
    let server = McpServer::http("s", &format!("{}/mcp", site.origin)).unwrap();
    let servers = McpServers::connect([server], []).unwrap();
    servers.settled().await;
    let mut conversation = converse(&BridgeLayer::new().tools(&servers), None);
    conversation.provider.next().await.call("bmcp_s_slow");
    fake.started().next().await;
    conversation.caller.abort();
    fake.cancelled().next().await;
}
