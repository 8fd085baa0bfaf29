//! The reasons for which the bridge itself answers: one table of kinds and statuses. The answer carries its reason in
//! the response's extensions.
//!
//! The dialect gives the JSON body its shape; nothing here knows a provider.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

/// Why the bridge, and not the provider, answered a request.
///
/// Found in the extensions of every response that the bridge made itself, so that layers above can tell its answers
/// from the provider's. The inner service's own error never shows in it.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use hyper::body::Bytes;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_llm_bridge::{BridgeError, BridgeErrorKind, BridgeLayer, RequestBody};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), std::convert::Infallible> {
/// let provider = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::new())))
/// });
/// let request = Request::post("/v1/chat/completions").header("authorization", "Bearer sk-callers-own");
/// let request = request.body(Full::from("not json")).unwrap();
/// let response = BridgeLayer::new().layer(provider).oneshot(request).await?;
///
/// assert_eq!(response.status(), 400);
/// let error = response.extensions().get::<BridgeError>().unwrap();
/// assert_eq!(error.kind(), BridgeErrorKind::RequestInvalid);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BridgeError {
    kind: BridgeErrorKind,
    message: Cow<'static, str>,
    param: Option<&'static str>,
    retry_after: Option<u64>,
}

/// The kinds of [`BridgeError`], each with one HTTP status.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::BridgeErrorKind;
///
/// assert_eq!(BridgeErrorKind::KeysCoolingDown.status(), 429);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BridgeErrorKind {
    /// 400: the body is not a request of the API that the path names.
    RequestInvalid,
    /// 400: the caller's body could not be read to its end.
    RequestUnreadable,
    /// 413: the body is over the limit.
    RequestTooLarge,
    /// 415: the body is not JSON by its `content-type`, or has a `content-encoding` that nothing above the bridge undid.
    RequestUnsupported,
    /// 401: no pool is configured and the caller brought no key.
    NoCredential,
    /// 401: an [`Actor`](crate::Actor) is required and none was set.
    NoActor,
    /// 404: the stored answer is unknown, or somebody else's.
    NotFound,
    /// 429: no key is usable now, and at least one will recover by itself.
    KeysCoolingDown,
    /// 502: every key is revoked.
    KeysRevoked,
    /// 502: the inner service failed, or its connection was cut.
    UpstreamFailed,
    /// 502: a successful answer of the provider is not what the API promises.
    UpstreamInvalid,
    /// 504: an attempt took longer than allowed.
    UpstreamTimeout,
    /// 502: the model still asked for tools after it was told to stop.
    TooManyRounds,
    /// 426: the client asked for a websocket, which is not served.
    WebsocketUnsupported,
    /// 503: all requests together hold as many bytes as they may.
    Overloaded,
    /// 503: the record channel has no place, or nobody reads it any more.
    RecorderUnavailable,
}

// === impl BridgeError ===

impl BridgeError {
    /// `#[cold]`: keeps error construction out of the hot path.
    #[cold]
    pub(crate) fn new(kind: BridgeErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
        }
    }

    /// Names the request's parameter that is at fault.
    pub(crate) fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Whole seconds for the `Retry-After` header (RFC 9110 §10.2.3).
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Why the bridge answered.
    #[must_use]
    pub fn kind(&self) -> BridgeErrorKind {
        self.kind
    }

    /// The message that the caller got.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn faulty_param(&self) -> Option<&'static str> {
        self.param
    }

    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
    }
}

impl fmt::Debug for BridgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeError")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for BridgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BridgeError {}

// === impl BridgeErrorKind ===

impl BridgeErrorKind {
    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::RequestInvalid | Self::RequestUnreadable => StatusCode::BAD_REQUEST,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoCredential | Self::NoActor => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::KeysCoolingDown => StatusCode::TOO_MANY_REQUESTS,
            Self::KeysRevoked | Self::UpstreamFailed | Self::UpstreamInvalid | Self::TooManyRounds => {
                StatusCode::BAD_GATEWAY
            }
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::WebsocketUnsupported => StatusCode::UPGRADE_REQUIRED,
            Self::Overloaded | Self::RecorderUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
