//! The pipeline of one request, in the order of its files: route, read, record, attempt, rounds, answer. It knows no
//! dialect by name.
//!
//! Order of acquisition: the caller's body, then the recorder's place, then the inner service's readiness. Nobody waits
//! for an earlier one while holding a later one, so scarce places and scarce slots cannot block each other.

mod additions;
mod admit;
mod answer;
mod aside;
mod attempt;
mod client;
mod config;
mod facts;
mod headers;
mod idle;
mod intake;
mod keyed;
mod output;
mod paths;
mod provider;
mod rounds;
mod route;
mod stored;
mod stream;
mod tools;
mod whole;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tracing::Instrument;

pub(crate) use self::config::Config;
pub(crate) use self::headers::ForwardedHeader;
pub use self::headers::HeaderPatternError;
pub use self::paths::PathError;
pub(crate) use self::paths::{Base, Pattern};
pub(crate) use self::route::{Route, route};
use crate::body::ResponseBody;
use crate::dialect;
use crate::error::{BridgeError, BridgeErrorKind};
use crate::types::Dialect;
use crate::upstream::Upstream;

/// The future of an answer.
pub(crate) type Bridged<B> = Pin<Box<dyn Future<Output = Response<ResponseBody<B>>> + Send>>;

/// Answers one request that the bridge handles.
///
/// Not an `async fn`: the span's parent is the span that is current when the service is called. Each branch is boxed; one
/// outer future would store the request twice.
pub(crate) fn run<U, B>(config: Arc<Config>, route: Route, upstream: U, request: Request<B>) -> Bridged<U::Body>
where
    U: Upstream + 'static,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send + 'static,
{
    let (head, body) = request.into_parts();
    // Boxed: the head moves through several futures.
    let head = Box::new(head);
    match route {
        Route::Api(dialect, purpose) => {
            let span = intercept_span(&config, dialect);
            let api = dialect::api(dialect);
            Box::pin(intake::answer(config, api, purpose, upstream, head, body).instrument(span))
        }
        Route::Websocket(dialect) => {
            let error = BridgeError::new(
                BridgeErrorKind::WebsocketUnsupported,
                "this API is served over HTTP only, not over a websocket",
            );
            let response = answer::bridge_response(dialect::api(dialect), error, None);
            Box::pin(std::future::ready(response))
        }
        Route::Keyed => {
            let span = tracing::debug_span!("keyed");
            Box::pin(keyed::answer(config, upstream, head, body).instrument(span))
        }
    }
}

/// The span of an interception, with OpenTelemetry's names for generative AI as far as it has them. Fields that are not
/// known yet are recorded later.
#[inline(never)]
fn intercept_span(config: &Config, dialect: Dialect) -> tracing::Span {
    tracing::info_span!(
        "intercept",
        "gen_ai.operation.name" = "chat",
        "gen_ai.provider.name" = config.provider(dialect),
        "gen_ai.request.model" = tracing::field::Empty,
        "gen_ai.response.model" = tracing::field::Empty,
        "gen_ai.usage.input_tokens" = tracing::field::Empty,
        "gen_ai.usage.output_tokens" = tracing::field::Empty,
        "llm_bridge.dialect" = dialect.as_str(),
        stream = tracing::field::Empty,
        interception_id = tracing::field::Empty,
    )
}
