//! The pipeline of one request, in the order of its files: route, read, record, attempt, rounds, answer.
//!
//! Order of acquisition: the caller's body, then the recorder's credit, then the inner service's readiness. Nobody waits
//! for an earlier one while holding a later one, so scarce credits and scarce slots cannot block each other.

mod answer;
mod attempt;
mod blocking;
mod client;
mod config;
mod exchange;
mod headers;
mod intake;
mod invoke;
mod listed;
mod rounds;
mod route;
mod streaming;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tracing::Instrument;

pub(crate) use self::config::Config;
pub use self::route::InvalidPattern;
pub(crate) use self::route::{Pattern, Route, route};
use crate::body::ResponseBody;
use crate::upstream::Upstream;

/// Answers one request that is the bridge's business.
///
/// Not an `async fn`: the span's parent is what is current when the service is called.
pub(crate) fn run<U, B>(
    config: Arc<Config>,
    route: Route,
    upstream: U,
    request: Request<B>,
) -> impl Future<Output = Response<ResponseBody<U::Body>>> + Send
where
    U: Upstream + 'static,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send + 'static,
{
    let span = match route {
        Route::Api(_) => intercept_span(&config),
        Route::Listed | Route::Other => tracing::debug_span!("passthrough"),
    };
    async move {
        match route {
            Route::Api(dialect) => intake::answer(config, dialect, upstream, request).await,
            Route::Listed | Route::Other => listed::answer(config, upstream, request).await,
        }
    }
    .instrument(span)
}

/// OpenTelemetry's names for generative AI, as far as it has them; what is not known yet is recorded later.
fn intercept_span(config: &Config) -> tracing::Span {
    tracing::info_span!(
        "intercept",
        "gen_ai.operation.name" = "chat",
        "gen_ai.provider.name" = config.provider,
        "gen_ai.request.model" = tracing::field::Empty,
        "gen_ai.response.model" = tracing::field::Empty,
        "gen_ai.usage.input_tokens" = tracing::field::Empty,
        "gen_ai.usage.output_tokens" = tracing::field::Empty,
        stream = tracing::field::Empty,
        interception_id = tracing::field::Empty,
    )
}
