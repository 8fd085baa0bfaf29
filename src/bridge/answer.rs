//! Failures, and the answers built from them: the provider's own error, or ours in the provider's shape.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, response};
use uuid::Uuid;

use super::admit::over_budget;
use super::facts;
use super::headers;
use super::provider::{Credentials, Provider};
use crate::body::ResponseBody;
use crate::body::collect::CollectError;
use crate::dialect::Api;
use crate::dialect::turn::{ErrorNames, ErrorWords};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::metrics::{self, Limit};
use crate::record::{Interception, Outcome};

/// Why a round has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The provider refused; the caller gets the provider's own error.
    Provider(Box<Refusal>),
    Bridge(BridgeError),
}

/// An error of the provider.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) parts: response::Parts,
    pub(crate) body: Bytes,
    /// None if the body is not the API's error.
    pub(crate) names: Option<ErrorNames>,
}

// === impl Failure ===

impl Failure {
    #[cold]
    pub(crate) fn bridge(kind: BridgeErrorKind, message: &'static str) -> Self {
        Self::Bridge(BridgeError::new(kind, message))
    }

    /// The provider could not be reached, or broke off. The cause is redacted: a client that quotes the request quotes
    /// the key.
    #[cold]
    pub(crate) fn upstream(cause: &dyn std::fmt::Display, credentials: &Credentials) -> Self {
        let cause = cause.to_string();
        let cause = match credentials.redact(cause.as_bytes()) {
            Some(redacted) => String::from_utf8_lossy(&redacted).into_owned(),
            None => cause,
        };
        if is_timeout(&cause) {
            return Self::timeout();
        }
        tracing::warn!(cause, "the call of the provider failed");
        Self::bridge(
            BridgeErrorKind::UpstreamFailed,
            "the provider could not be reached, or its connection was cut",
        )
    }

    /// An answer could not be read to its end.
    #[cold]
    pub(crate) fn unread<E: std::fmt::Display>(error: &CollectError<E>, credentials: &Credentials) -> Self {
        match error {
            CollectError::TooLarge => {
                metrics::refused(Limit::ResponseBody);
                Self::invalid("the answer is over the limit")
            }
            CollectError::OverBudget => Self::over_budget(),
            CollectError::Broken(cause) => Self::upstream(cause, credentials),
        }
    }

    /// All requests together hold as much as they may.
    #[cold]
    pub(crate) fn over_budget() -> Self {
        tracing::warn!("a request was aborted: all requests together hold too many bytes");
        metrics::refused(Limit::HeldBodies);
        over_budget().into()
    }

    #[cold]
    pub(crate) fn timeout() -> Self {
        tracing::warn!("the provider took longer than allowed");
        metrics::refused(Limit::Time);
        Self::bridge(BridgeErrorKind::UpstreamTimeout, "the provider did not answer in time")
    }

    /// A success that is not what the API promises.
    #[cold]
    pub(crate) fn invalid(cause: &'static str) -> Self {
        tracing::warn!(cause, "the provider's answer breaks its API's rules");
        Self::bridge(
            BridgeErrorKind::UpstreamInvalid,
            "the provider's answer is not what its API promises",
        )
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Provider(_) => Outcome::UpstreamError,
            Self::Bridge(error) => match error.kind() {
                BridgeErrorKind::KeysCoolingDown | BridgeErrorKind::KeysRevoked => Outcome::KeysExhausted,
                BridgeErrorKind::UpstreamFailed
                | BridgeErrorKind::UpstreamInvalid
                | BridgeErrorKind::UpstreamTimeout => Outcome::UpstreamError,
                _ => Outcome::BridgeError,
            },
        }
    }

    pub(crate) fn status(&self) -> http::StatusCode {
        match self {
            Self::Provider(refusal) => refusal.parts.status,
            Self::Bridge(error) => error.kind().status(),
        }
    }

    /// The error's `type`, if it has one.
    pub(crate) fn error_type(&self, api: &dyn Api) -> Option<&str> {
        match self {
            Self::Provider(refusal) => {
                let names = refusal.names.as_ref()?;
                names.kind.as_deref().or(names.code.as_deref())
            }
            Self::Bridge(error) => Some(api.error_type(error.kind())),
        }
    }

    /// The error in a form that a stream can end with.
    pub(crate) fn words(&self) -> ErrorWords<'_> {
        match self {
            Self::Provider(refusal) => ErrorWords::Provider {
                status: refusal.parts.status,
                body: &refusal.body,
            },
            Self::Bridge(error) => ErrorWords::Bridge(error),
        }
    }

    /// The answer of an interception with the id `id`, or of a request that is not intercepted.
    pub(crate) fn into_response<B>(self, api: &dyn Api, id: Option<Uuid>) -> Response<ResponseBody<B>> {
        match self {
            Self::Provider(refusal) => {
                let Refusal { mut parts, body, .. } = *refusal;
                parts.headers.remove(header::CONTENT_LENGTH);
                Response::from_parts(parts, ResponseBody::full(body.into()))
            }
            Self::Bridge(error) => bridge_response(api, error, id),
        }
    }
}

/// Whether a time-out layer below gave up. An inner service's error is known only by its text; these are the texts of
/// tower's and tokio's `Elapsed`.
fn is_timeout(cause: &str) -> bool {
    cause.ends_with("request timed out") || cause.ends_with("deadline has elapsed")
}

impl From<BridgeError> for Failure {
    fn from(error: BridgeError) -> Self {
        Self::Bridge(error)
    }
}

impl From<Box<Refusal>> for Failure {
    fn from(refusal: Box<Refusal>) -> Self {
        Self::Provider(refusal)
    }
}

/// Ends an interception that has no answer of the model.
pub(crate) fn refuse<U, B>(
    provider: &Provider<U>,
    interception: Interception,
    failure: Failure,
) -> Response<ResponseBody<B>> {
    let intercepted = facts::intercepted(&interception);
    let error_type = failure.error_type(provider.api);
    facts::finish(interception, failure.outcome(), failure.status(), error_type);
    let mut response = failure.into_response(provider.api, Some(intercepted.id()));
    response.extensions_mut().insert(intercepted);
    response
}

/// The provider's head, for the caller.
pub(crate) fn prepare_head<U>(provider: &Provider<U>, parts: &mut response::Parts) {
    headers::clean_response(&mut parts.headers, provider.credentials.key_finder());
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.version = http::Version::default();
}

/// The bridge's own answer: in the dialect's shape, with the typed reason in the extensions for layers above.
#[cold]
pub(crate) fn bridge_response<B>(api: &dyn Api, error: BridgeError, id: Option<Uuid>) -> Response<ResponseBody<B>> {
    tracing::debug!(kind = ?error.kind(), "answered by the bridge");
    let mut response = Response::new(ResponseBody::full(api.error_body(&error, id).into()));
    *response.status_mut() = error.kind().status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.kind() == BridgeErrorKind::KeysRevoked {
        // Tells the official SDKs and Claude Code not to try again.
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    if let (Some(name), Some(id)) = (api.error_id_header(), id)
        && let Ok(id) = HeaderValue::try_from(id.to_string())
    {
        headers.insert(name, id);
    }
    response.extensions_mut().insert(error);
    response
}
