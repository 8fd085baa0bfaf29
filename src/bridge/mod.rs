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

use std::pin::Pin;
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

/// The answer to come.
pub(crate) type Bridged<B> = Pin<Box<dyn Future<Output = Response<ResponseBody<B>>> + Send>>;

/// Answers one request that is the bridge's business.
///
/// Not an `async fn`: the span's parent is what is current when the service is called. Each way is boxed by itself, as one
/// future around both would hold the request a second time.
pub(crate) fn run<U, B>(config: Arc<Config>, route: Route, upstream: U, request: Request<B>) -> Bridged<U::Body>
where
    U: Upstream + 'static,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send + 'static,
{
    let (head, body) = request.into_parts();
    // It is handed on many times.
    let head = Box::new(head);
    match route {
        Route::Api(dialect) => {
            let span = intercept_span(&config);
            Box::pin(intake::answer(config, dialect, upstream, head, body).instrument(span))
        }
        Route::Listed | Route::Other => {
            let span = tracing::debug_span!("passthrough");
            Box::pin(listed::answer(config, upstream, head, body).instrument(span))
        }
    }
}

/// OpenTelemetry's names for generative AI, as far as it has them; what is not known yet is recorded later.
#[inline(never)]
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
