//! The stack that a caller's request goes down. Its order is the point:
//!
//! 1. request id: before anything that logs;
//! 2. trace: sees every answer, the ones of the layers below included;
//! 3. panics: become an answer that the trace still sees;
//! 4. edge: one `Host`, uploads that neither stall nor unpack to too much, streams that proxies do not buffer;
//! 5. routing: only what belongs to models is mounted, nothing else can reach a provider;
//! 6. identity: leaves the `Actor` for the bridge;
//! 7. decompression: the bridge reads JSON, so it needs plain bytes; the edge bounds the unpacked size;
//! 8. the bridge, and below it one plain client.
//!
//! A rate limit or `ConcurrencyLimit` per caller belongs between 6 and 7: above the bridge, never below it, because one
//! caller's request may be several provider calls.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    error_handling::HandleErrorLayer,
    response::IntoResponse,
    routing::{get_service, post_service},
};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_http::{
    catch_panic::CatchPanicLayer,
    classify::ServerErrorsFailureClass,
    decompression::RequestDecompressionLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::TraceLayer,
};
use tower_llm_bridge::{BaseUri, BridgeLayer, Dialect, RequestBody, pool::KeyPool};
use tracing::{Span, field, info, info_span, warn};

use super::{
    edge::{self, EdgeLayer},
    identity, refusal,
};
use crate::{
    admin::Provider,
    upstream::{self, Upstream, WithCauses},
};

/// The bridge in front of one provider.
pub struct Mount {
    pub name: &'static str,
    pub layer: BridgeLayer,
    pub base: BaseUri,
    /// The pool of `layer`.
    pub pool: Option<KeyPool>,
}

/// A [`Mount`] with a client.
pub struct Connected {
    layer: BridgeLayer,
    upstream: Upstream<RequestBody<Body>>,
}

type Boxed = BoxCloneSyncService<Request<Body>, axum::response::Response, Infallible>;

/// The services of one provider.
struct Services {
    /// For bodies that the bridge reads.
    read: Boxed,
    /// For paths that only get a key.
    keyed: Boxed,
}

/// The whole application, ready for a server.
pub fn app(
    openai: Option<Connected>,
    anthropic: Option<Connected>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<impl hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_request(())
                .on_response(on_response)
                .on_body_chunk(())
                .on_eos(())
                .on_failure(on_failure),
        )
        .layer(PropagateRequestIdLayer::x_request_id())
        // Not tower-http's layers for size and time-out: they wrap answers as well, and each wrapper costs a stream
        // time.
        .layer(EdgeLayer::new())
        .service(routes(openai, anthropic))
}

fn routes(openai: Option<Connected>, anthropic: Option<Connected>) -> Router {
    let openai = openai.map(|connected| connected.services(Dialect::ChatCompletions));
    let anthropic = anthropic.map(|connected| connected.services(Dialect::Messages));
    let models = by_version(openai.as_ref(), anthropic.as_ref());
    let mut router = Router::new();
    // An SDK whose base URL lacks the `/v1` is served as well.
    for base in ["/v1", ""] {
        let path = |path: &str| format!("{base}{path}");
        if let Some(Services { read, keyed }) = &openai {
            router = router
                .route(&path("/chat/completions"), post_service(read.clone()))
                // A websocket is asked for by GET, and refused.
                .route(
                    &path("/responses"),
                    post_service(read.clone()).get_service(keyed.clone()),
                )
                .route_service(&path("/responses/{*id}"), keyed.clone());
        }
        if let Some(Services { read, .. }) = &anthropic {
            router = router
                .route(&path("/messages"), post_service(read.clone()))
                .route(&path("/messages/count_tokens"), post_service(read.clone()));
        }
        router = router
            .route(&path("/models"), get_service(models.clone()))
            .route(&path("/models/{*id}"), get_service(models.clone()));
    }
    router
        .fallback(refusal::not_found)
        .method_not_allowed_fallback(refusal::method_not_allowed)
}

/// Both providers list models; a request with `anthropic-version` is for Anthropic's.
fn by_version(openai: Option<&Services>, anthropic: Option<&Services>) -> Boxed {
    let missing = || Boxed::new(Router::new().fallback(refusal::not_found));
    let openai = openai.map_or_else(missing, |services| services.keyed.clone());
    let anthropic = anthropic.map_or_else(missing, |services| services.keyed.clone());
    Boxed::new(tower::service_fn(move |request: Request<Body>| {
        let is_anthropics = request.headers().contains_key("anthropic-version");
        let service = if is_anthropics {
            anthropic.clone()
        } else {
            openai.clone()
        };
        service.oneshot(request)
    }))
}

// === impl Mount ===

impl Mount {
    /// Its name and pool, for the operator.
    pub fn provider(&self) -> Provider {
        Provider {
            name: self.name,
            pool: self.pool.clone(),
        }
    }

    /// Adds a new client.
    ///
    /// # Errors
    ///
    /// Says why TLS cannot be set up.
    pub fn connect(&self) -> Result<Connected, String> {
        Ok(Connected {
            layer: self.layer.clone(),
            upstream: upstream::connect(&self.base)?,
        })
    }
}

// === impl Connected ===

impl Connected {
    fn services(self, dialect: Dialect) -> Services {
        let bridge = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(move |error| async move {
                refusal::unreachable(dialect, &error)
            }))
            .layer(self.layer)
            .map_err(WithCauses)
            .service(self.upstream);
        let catch_panic = CatchPanicLayer::custom(move |panic| refusal::panicked(dialect, panic));
        let read = ServiceBuilder::new()
            .layer(catch_panic)
            .map_request(identity::identify)
            // An encoding that is not known here is passed on, to the bridge's 415 in the provider's shape.
            .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
            .map_request(edge::bound_decoded)
            .service(bridge.clone());
        let keyed = ServiceBuilder::new()
            .layer(catch_panic)
            .map_request(identity::identify)
            .service(bridge);
        Services {
            read: Boxed::new(read.map_response(IntoResponse::into_response)),
            keyed: Boxed::new(keyed.map_response(IntoResponse::into_response)),
        }
    }
}

/// The part of a caller's text that a line of the log has room for; header values and paths here are ASCII.
fn shown(text: &str) -> &str {
    text.get(..256).unwrap_or(text)
}

/// Without headers and query: both carry secrets.
fn span<B>(request: &Request<B>) -> Span {
    let id = request
        .extensions()
        .get::<RequestId>()
        .and_then(|id| id.header_value().to_str().ok())
        .map(shown);
    info_span!("request", method = %request.method(), path = shown(request.uri().path()), request_id = id, status = field::Empty)
}

fn on_response<B>(response: &Response<B>, latency: Duration, _: &Span) {
    info!(
        status = response.status().as_u16(),
        latency_ms = latency.as_millis(),
        "answered"
    );
}

fn on_failure(failure: ServerErrorsFailureClass, latency: Duration, _: &Span) {
    // `on_response` logs the statuses. An error is a body that broke after its head.
    if let ServerErrorsFailureClass::Error(error) = failure {
        warn!(error, latency_ms = latency.as_millis(), "the answer broke off");
    }
}
