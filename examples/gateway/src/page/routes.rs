//! The page's routes, the headers of their answers, and the checks of changes.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Request, State},
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tower_llm_bridge::pool::KeyPool;
use tracing::info;
use uuid::Uuid;

use super::{Page, feed::Feed, history::Range, past::Past, view::Viewer};
use crate::admin::{headers, site};

/// The longest body of a request; it holds two names.
const MAX_BODY: usize = 4096;

const HTML: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");
const ICON: &str = include_str!("assets/icon.svg");

struct Shared {
    viewer: Arc<Viewer>,
    feed: Arc<Feed>,
    past: Past,
}

/// The page and the data that it asks for. See the [module docs](super) for what the application must do.
pub fn router(page: Page) -> Router {
    let past = Past::new(page.history, Arc::clone(&page.ledger));
    let shared = Arc::new(Shared {
        viewer: Arc::new(Viewer {
            ledger: page.ledger,
            pools: page.pools,
            servers: page.servers,
            boot: Uuid::now_v7(),
            has_prompts: past.has_prompts(),
            has_logout: page.has_logout,
        }),
        feed: Arc::default(),
        past,
    });
    Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", HTML) }))
        .route("/page.css", get(|| async { style() }))
        .route("/icon.svg", get(|| async { file("image/svg+xml", ICON) }))
        .route(
            "/page.js",
            get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }),
        )
        .route("/api/events", get(events))
        .route("/api/history/{range}", get(pictures))
        .route("/api/prompt/{id}", get(prompt))
        .route("/api/restore", post(restore))
        .with_state(shared)
        .route_layer(DefaultBodyLimit::max(MAX_BODY))
        .route_layer(from_fn(guard))
        .route_layer(map_response(headers::secure))
}

/// The style sheet, which the login form shares.
pub(crate) fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

/// Refuses a change that another site's page may have sent.
async fn guard(request: Request, next: Next) -> Response {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let has_token = request.extensions().get::<site::ByToken>().is_some();
    if is_safe || has_token || is_own_origin(&request) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "a change needs the Origin of this page\n").into_response()
}

fn is_own_origin(request: &Request) -> bool {
    // With HTTP/2 it is in the target.
    let host = match request.headers().get(header::HOST) {
        Some(host) => host.to_str().ok().and_then(|host| host.parse().ok()),
        None => request.uri().authority().cloned(),
    };
    host.is_some_and(|host| site::is_own_origin(request.headers(), &host))
}

/// The snapshot and its changes, for as long as the page is open.
async fn events(State(shared): State<Arc<Shared>>) -> Response {
    match shared.feed.open(&shared.viewer) {
        Some(messages) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
                (
                    HeaderName::from_static("x-accel-buffering"),
                    HeaderValue::from_static("no"),
                ),
            ];
            (headers, Body::new(messages)).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response(),
    }
}

async fn pictures(State(shared): State<Arc<Shared>>, Path(range): Path<String>) -> Response {
    let Some(range) = Range::parse(&range) else {
        return (StatusCode::NOT_FOUND, "hours or days\n").into_response();
    };
    match shared.past.pictures(range).await {
        Some(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        None => unavailable(),
    }
}

/// The prompts of one request, from the database.
async fn prompt(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    if !shared.past.has_prompts() {
        return (StatusCode::NOT_FOUND, "prompts are kept in a database alone\n").into_response();
    }
    let Ok(id) = id.parse::<Uuid>() else {
        return (StatusCode::NOT_FOUND, "this is no id of a request\n").into_response();
    };
    match shared.past.prompts(id).await {
        Some(prompts) => {
            info!(interception_id = %id, "an operator reads the prompt of a request");
            Json(json!({ "prompts": prompts })).into_response()
        }
        None => unavailable(),
    }
}

fn unavailable() -> Response {
    let message = "the records cannot be read now, the log says why\n";
    (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
}

#[derive(Deserialize)]
struct Restore {
    provider: String,
    hint: String,
}

/// Makes a key and its domain usable again.
async fn restore(State(shared): State<Arc<Shared>>, Json(wish): Json<Restore>) -> Response {
    let pools = shared.viewer.pools.iter();
    let is_known = |pool: &KeyPool| pool.snapshot().iter().any(|key| key.hint == *wish.hint);
    let mut pools = pools.filter(|(provider, pool)| *provider == wish.provider && is_known(pool));
    let Some((_, pool)) = pools.next() else {
        return (StatusCode::NOT_FOUND, "there is no such key\n").into_response();
    };
    let restored = pool.restore(&wish.hint);
    info!(
        provider = wish.provider,
        credential_hint = wish.hint,
        restored,
        "an operator restores a key"
    );
    Json(json!({ "restored": restored })).into_response()
}
