//! The routes of the operator's listener, and the checks before each.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware::{from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;

use super::{
    access::{self, Access},
    headers, login,
    metrics::Metrics,
    readiness::Readiness,
    site::{self, Site},
};

/// The longest body of a request; a form has a few words.
const MAX_BODY: usize = 64 * 1024;

/// The parts that the routes show.
#[derive(Clone)]
pub struct Parts {
    pub readiness: Arc<Readiness>,
    pub metrics: Metrics,
    /// The page: `/`, its files, and `/api/…`.
    pub page: Router,
}

/// All routes, with the listener's checks before them.
pub(super) fn routes(parts: Parts, site: Site, access: Access) -> Router {
    let (metrics, readiness) = (parts.metrics, Arc::clone(&parts.readiness));
    let guarded = Router::new()
        .route("/metrics", get(async move || metrics.answer(&readiness)))
        .merge(parts.page)
        .route_layer(from_fn_with_state(access.clone(), access::require));
    // Routes without a token: probes have none, and the login form asks for it.
    let open = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(parts.readiness)
        .merge(login::routes(access));
    open.merge(guarded)
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing here\n") })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(site, site::guard))
        .layer(map_response(headers::secure))
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> Response {
    match readiness.check() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
