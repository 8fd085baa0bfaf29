//! Admits a request: its caller, its credentials, and its body within the limits. Shared by model requests and keyed
//! paths.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::request;
use hyper::body::Body;

use super::config::Config;
use super::headers;
use super::provider::Credentials;
use crate::body::budget::Held;
use crate::body::collect::{CollectError, collect_held, discard};
use crate::dialect::Api;
use crate::error::{BridgeError, BridgeErrorKind};
use crate::extensions::{Actor, Credential};
use crate::json::ScanError;
use crate::metrics::{self, Limit, Stopwatch};
use crate::pool::KeyPool;
use crate::rope::Rope;
use crate::tools::Tools;
use crate::types::Dialect;

/// How long a client that was refused may go on sending before it has to read its answer.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// The auth layer's facts about a request, removed from its extensions.
pub(crate) struct Admitted {
    pub(crate) actor: Option<Actor>,
    pub(crate) credentials: Credentials,
    pub(crate) tools: Tools,
    pub(crate) held: Held,
    /// Runs from the last byte of the body on.
    pub(crate) since: Stopwatch,
}

/// Checks the head, then reads the body; a client that is refused half-way can still read why.
pub(crate) async fn admit<B>(
    config: &Config,
    api: &dyn Api,
    head: &mut request::Parts,
    body: B,
    check: impl Fn(&HeaderMap) -> Result<(), BridgeError>,
    look: impl FnMut(&[u8]),
) -> Result<(Admitted, Rope), BridgeError>
where
    B: Body<Data = Bytes, Error: std::fmt::Display>,
{
    let mut body = pin!(body);
    // A client that waits for `100 Continue` sends nothing until its body is read, so there is nothing to discard.
    let mut waits = head.headers.contains_key(header::EXPECT);
    let admitted = async {
        check(&head.headers)?;
        let mut admitted = Admitted::take(config, api, head)?;
        if config.budget.is_scarce() {
            config.end_stalled_readers();
        }
        waits &= body.size_hint().lower() > config.max_request_body as u64;
        match collect_held(body.as_mut(), config.max_request_body, &mut admitted.held, look).await {
            Ok(rope) => {
                admitted.since = Stopwatch::start();
                Ok((admitted, rope))
            }
            Err(CollectError::TooLarge) => {
                metrics::refused(Limit::RequestBody);
                Err(BridgeError::new(
                    BridgeErrorKind::RequestTooLarge,
                    format!(
                        "the request body is larger than the {} bytes that are allowed",
                        config.max_request_body
                    ),
                ))
            }
            Err(CollectError::OverBudget) => {
                metrics::refused(Limit::HeldBodies);
                tracing::warn!("a request was refused: all requests together hold too many bytes");
                Err(over_budget())
            }
            Err(CollectError::Broken(cause)) if is_over_limit(&cause) => Err(BridgeError::new(
                BridgeErrorKind::RequestTooLarge,
                "the request body is larger than is allowed",
            )),
            Err(CollectError::Broken(cause)) => {
                tracing::debug!(%cause, "the caller's body broke off");
                Err(BridgeError::new(
                    BridgeErrorKind::RequestUnreadable,
                    "the request body could not be read to its end",
                ))
            }
        }
    }
    .await;
    if admitted.is_err() && !waits {
        discard(body, config.max_request_body, DISCARD_TIME).await;
    }
    admitted
}

/// Whether a layer above, such as tower-http's `RequestBodyLimitLayer`, cut the body at its own limit. An error of a
/// body is known only by its text; this is the text of `http_body_util::LengthLimitError`, wrapped or not.
fn is_over_limit(cause: &impl std::fmt::Display) -> bool {
    cause.to_string().ends_with("length limit exceeded")
}

pub(super) fn refuse_encoded(headers: &HeaderMap) -> Result<(), BridgeError> {
    if headers::is_encoded(headers) {
        let message = "this content-encoding is not undone here; the operator can add tower-http's \
                       RequestDecompressionLayer above the bridge";
        return Err(BridgeError::new(BridgeErrorKind::RequestUnsupported, message));
    }
    Ok(())
}

/// The error while all requests together hold as many bytes as they may.
pub(super) fn over_budget() -> BridgeError {
    BridgeError::new(
        BridgeErrorKind::Overloaded,
        "too many requests are held at present, please try again later",
    )
}

/// The error for a body that the scanner refused.
pub(super) fn unparsable(error: &ScanError) -> BridgeError {
    let message = format!("we could not parse the JSON body of your request: {error}");
    BridgeError::new(BridgeErrorKind::RequestInvalid, message)
}

// === impl Admitted ===

impl Admitted {
    fn take(config: &Config, api: &dyn Api, head: &mut request::Parts) -> Result<Self, BridgeError> {
        let actor = head.extensions.remove::<Actor>();
        let own = head.extensions.remove::<Credential>();
        let tools = head.extensions.remove::<Tools>();
        let pool = head.extensions.remove::<KeyPool>().or_else(|| config.pool.clone());
        head.extensions.remove::<Dialect>();
        if config.require_actor && actor.is_none() {
            return Err(BridgeError::new(
                BridgeErrorKind::NoActor,
                "you must be signed in to call this API",
            ));
        }
        let credentials = Credentials::of(pool, own, &head.headers, api.key_header()).ok_or_else(|| {
            BridgeError::new(
                BridgeErrorKind::NoCredential,
                "you didn't provide an API key: send it in an Authorization header, as Bearer YOUR_KEY",
            )
        })?;
        Ok(Self {
            held: config.budget.hold(actor.as_ref().map(Actor::id)),
            actor,
            credentials,
            tools: tools.unwrap_or_else(|| config.tools.current()),
            since: Stopwatch::start(),
        })
    }
}
