//! Failures, and the answers made of them: the provider's own error as it came, or ours in the provider's shape.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, response};

use super::exchange::Credentials;
use crate::body::ResponseBody;
use crate::body::collect::CollectError;
use crate::dialect::chat_completions as wire;
use crate::error::{BridgeError, BridgeErrorKind};
use crate::record::Outcome;

/// Why a round has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The provider refused, and the caller is told so in its words.
    Provider(Box<Refusal>),
    Bridge(BridgeError),
}

/// An error of the provider.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) parts: response::Parts,
    pub(crate) body: Bytes,
    /// The error's `code` and `type`.
    pub(crate) codes: Vec<String>,
}

// === impl Failure ===

impl Failure {
    #[cold]
    pub(crate) fn bridge(kind: BridgeErrorKind, message: &'static str) -> Self {
        Self::Bridge(BridgeError::new(kind, message))
    }

    /// The provider could not be reached, or broke off. A client that quotes what it sent quotes the key.
    #[cold]
    pub(crate) fn upstream(cause: &dyn std::fmt::Display, credentials: &Credentials) -> Self {
        let cause = cause.to_string();
        let cause = match credentials.redact(cause.as_bytes()) {
            Some(redacted) => String::from_utf8_lossy(&redacted).into_owned(),
            None => cause,
        };
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
            CollectError::TooLarge => Self::invalid("the answer is over the limit"),
            CollectError::Broken(cause) => Self::upstream(cause, credentials),
        }
    }

    #[cold]
    pub(crate) fn timeout() -> Self {
        tracing::warn!("the provider took longer than allowed");
        Self::bridge(BridgeErrorKind::UpstreamTimeout, "the provider did not answer in time")
    }

    /// A success that is not what the API promises.
    #[cold]
    pub(crate) fn invalid(cause: &'static str) -> Self {
        tracing::warn!(cause, "the provider's answer is not the API's");
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

    /// The error's `type` where there is one: its last word, as `code` stands before it.
    pub(crate) fn error_type(&self) -> Option<&str> {
        match self {
            Self::Provider(refusal) => refusal.codes.last().map(String::as_str),
            Self::Bridge(error) => Some(wire::error_type(error.kind())),
        }
    }

    pub(crate) fn into_response<B>(self) -> Response<ResponseBody<B>> {
        match self {
            Self::Provider(refusal) => {
                let Refusal { mut parts, body, .. } = *refusal;
                parts.headers.remove(header::CONTENT_LENGTH);
                Response::from_parts(parts, ResponseBody::full(body.into()))
            }
            Self::Bridge(error) => bridge_response(error),
        }
    }

    /// The same, told inside a stream that has begun.
    pub(crate) fn into_event(self) -> Bytes {
        let data = match self {
            Self::Provider(refusal) => wire::error_event(&refusal.body).unwrap_or_else(|| {
                let error = BridgeError::new(BridgeErrorKind::UpstreamFailed, "the provider refused to go on");
                String::from_utf8_lossy(&wire::bridge_error(&error)).into_owned()
            }),
            Self::Bridge(error) => String::from_utf8_lossy(&wire::bridge_error(&error)).into_owned(),
        };
        Bytes::from(format!("data: {data}\n\n"))
    }
}

impl From<BridgeError> for Failure {
    fn from(error: BridgeError) -> Self {
        Self::Bridge(error)
    }
}

/// An answer of our own: the dialect's shape, and the typed reason in the extensions for layers above.
#[cold]
pub(crate) fn bridge_response<B>(error: BridgeError) -> Response<ResponseBody<B>> {
    tracing::debug!(kind = ?error.kind(), "answered by the bridge");
    let mut response = Response::new(ResponseBody::full(wire::bridge_error(&error).into()));
    *response.status_mut() = error.kind().status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response.extensions_mut().insert(error);
    response
}
