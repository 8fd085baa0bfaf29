//! The stack that a caller's request goes down. Its order is the point:
//!
//! 1. request id: before anything that logs;
//! 2. trace: sees every answer, the ones of the layers below included;
//! 3. panics: become an answer that the trace still sees;
//! 4. edge: one `Host`, uploads that neither stall nor swell, streams that proxies do not buffer;
//! 5. routing: only what belongs to models is mounted, nothing else can reach a provider;
//! 6. identity: leaves the `Actor` for the bridge;
//! 7. decompression: the bridge reads JSON, so it wants plain bytes; the edge bounds what comes of it;
//! 8. the bridge, and below it one plain client.
//!
//! A rate limit or `ConcurrencyLimit` per caller belongs between 6 and 7: above the bridge, never below it, because one
//! caller's request may be several provider calls.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    error_handling::HandleErrorLayer,
    routing::{get_service, post_service},
};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::{
    catch_panic::CatchPanicLayer,
    classify::ServerErrorsFailureClass,
    decompression::RequestDecompressionLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::TraceLayer,
};
use tower_llm_bridge::{BridgeLayer, RequestBody};
use tracing::{Span, field, info, info_span, warn};

use super::{
    edge::{self, EdgeLayer},
    identity, refusal,
};
use crate::upstream::{Upstream, WithCauses};

/// The whole application, ready for a server.
pub fn app(
    bridge: &BridgeLayer,
    upstream: Upstream<RequestBody<Body>>,
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
        .layer(CatchPanicLayer::custom(refusal::panicked))
        // Not tower-http's layers for size and time-out: they wrap answers as well, and a stream pays for each wrapping.
        .layer(EdgeLayer)
        .service(routes(bridge, upstream))
}

fn routes(bridge: &BridgeLayer, upstream: Upstream<RequestBody<Body>>) -> Router {
    let bridge = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(refusal::unreachable))
        .layer(bridge)
        .map_err(WithCauses)
        .service(upstream);
    let chat = ServiceBuilder::new()
        .map_request(identity::identify)
        // An encoding that is not known here goes on, to the bridge's 415 in the provider's shape.
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .map_request(edge::bound_decoded)
        .service(bridge.clone());
    let models = ServiceBuilder::new().map_request(identity::identify).service(bridge);

    let mut router = Router::new();
    // An SDK whose base URL lacks the `/v1` is served all the same.
    for base in ["/v1", ""] {
        router = router
            .route(&format!("{base}/chat/completions"), post_service(chat.clone()))
            .route(&format!("{base}/models"), get_service(models.clone()))
            .route(&format!("{base}/models/{{*id}}"), get_service(models.clone()));
    }
    router
        .fallback(refusal::not_found)
        .method_not_allowed_fallback(refusal::method_not_allowed)
}

/// No header and no query: both carry secrets.
fn span<B>(request: &Request<B>) -> Span {
    let id = request
        .extensions()
        .get::<RequestId>()
        .and_then(|id| id.header_value().to_str().ok());
    info_span!("request", method = %request.method(), path = request.uri().path(), request_id = id, status = field::Empty)
}

fn on_response<B>(response: &Response<B>, latency: Duration, _: &Span) {
    info!(
        status = response.status().as_u16(),
        latency_ms = latency.as_millis(),
        "answered"
    );
}

fn on_failure(failure: ServerErrorsFailureClass, latency: Duration, _: &Span) {
    // A status is told by `on_response`; what is left is an answer that broke after its head.
    if let ServerErrorsFailureClass::Error(error) = failure {
        warn!(error, latency_ms = latency.as_millis(), "the answer broke");
    }
}
