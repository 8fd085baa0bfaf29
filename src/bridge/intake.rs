//! Reads a model request: who calls, with whose key, and what for. Refuses what it cannot understand.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, request};
use hyper::body::Body;

use super::answer::bridge_response;
use super::blocking;
use super::client::Client;
use super::config::Config;
use super::exchange::{Credentials, Exchange};
use super::rounds::Conversation;
use super::streaming;
use crate::body::ResponseBody;
use crate::body::collect::{CollectError, collect, discard};
use crate::dialect::chat_completions::{ChatRequest, Invalid};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::extensions::{Actor, Credential};
use crate::json::Scanner;
use crate::record::{Fact, Injection, Interception, Recorder, Unavailable};
use crate::rope::Rope;
use crate::tools::Tools;
use crate::types::Dialect;
use crate::upstream::Upstream;

/// How long a client that was refused may go on sending before it has to read its answer.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// What the user's auth layer knows of a request, taken out of its extensions for good.
pub(crate) struct Identity {
    pub(crate) actor: Option<Actor>,
    pub(crate) credentials: Credentials,
    tools: Tools,
}

/// Answers one model request.
pub(crate) async fn answer<U, B>(
    config: Arc<Config>,
    dialect: Dialect,
    upstream: U,
    head: Box<request::Parts>,
    body: B,
) -> Response<ResponseBody<U::Body>>
where
    U: Upstream + 'static,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    debug_assert_eq!(dialect, Dialect::ChatCompletions, "no other API has a route yet");
    match read(config, upstream, head, body).await {
        Ok(conversation) if conversation.request.is_stream() => streaming::answer(conversation).await,
        Ok(conversation) => blocking::answer(conversation).await,
        Err(error) => bridge_response(error),
    }
}

async fn read<U, B>(
    config: Arc<Config>,
    upstream: U,
    mut head: Box<request::Parts>,
    body: B,
) -> Result<Box<Conversation<U>>, BridgeError>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    let mut scanner = Scanner::new();
    let (identity, body) = admit(&config, &mut head, body, content_is_json, |frame| {
        // An error is kept by the scanner and told by `finish`.
        let _ = scanner.feed(frame);
    })
    .await?;
    scanner.finish().map_err(|error| {
        let message = format!("we could not parse the JSON body of your request: {error}");
        BridgeError::new(BridgeErrorKind::RequestInvalid, message)
    })?;
    let mut request = ChatRequest::read(body, &scanner)?;
    let mut interception = match &config.recorder {
        Some(recorder) => begin(recorder, &config, &head, &identity, &request).await?,
        None => Interception::unrecorded(),
    };
    let span = tracing::Span::current();
    span.record("gen_ai.request.model", request.model());
    span.record("stream", request.is_stream());
    span.record("interception_id", tracing::field::display(interception.id()));
    let Identity {
        actor,
        credentials,
        tools,
    } = identity;
    // A tool that no round could run must not be called.
    let tools = if config.max_rounds == 0 {
        Tools::default()
    } else {
        tools
    };
    let offer = request.offer(tools, config.parallel_tool_calls);
    if !offer.is_empty() {
        interception.set_injection(Injection::Offered);
    }
    let exchange = Exchange::new(config, upstream, credentials, head, actor.as_ref(), Some(interception));
    // Boxed, because it would otherwise lie several times over in the futures that hand it on.
    Ok(Box::new(Conversation {
        exchange,
        request,
        offer,
    }))
}

/// Checks the head, then reads the body; a client that is refused half-way gets to read why.
pub(crate) async fn admit<B>(
    config: &Config,
    head: &mut request::Parts,
    body: B,
    check: impl Fn(&HeaderMap) -> Result<(), BridgeError>,
    look: impl FnMut(&Bytes),
) -> Result<(Identity, Rope), BridgeError>
where
    B: Body<Data = Bytes, Error: std::fmt::Display>,
{
    let mut body = pin!(body);
    // Until its body is asked for, a client that waits for `100 Continue` has not begun to send, and need not.
    let mut waits = head.headers.contains_key(header::EXPECT);
    let admitted = async {
        check(&head.headers)?;
        let identity = Identity::take(config, head)?;
        waits &= body.size_hint().lower() > config.max_request_body as u64;
        match collect(body.as_mut(), config.max_request_body, look).await {
            Ok(rope) => Ok((identity, rope)),
            Err(CollectError::TooLarge) => Err(BridgeError::new(
                BridgeErrorKind::RequestTooLarge,
                format!(
                    "the request body is larger than the {} bytes that are allowed",
                    config.max_request_body
                ),
            )),
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

/// Whether a layer above, such as tower-http's `RequestBodyLimitLayer`, cut the body at its own limit. Of the errors of
/// bodies we ask only for what they say, and this is what `http_body_util::LengthLimitError` says, however it is wrapped.
fn is_over_limit(cause: &impl std::fmt::Display) -> bool {
    cause.to_string().ends_with("length limit exceeded")
}

fn content_is_json(headers: &HeaderMap) -> Result<(), BridgeError> {
    let unsupported = |message| Err(BridgeError::new(BridgeErrorKind::RequestUnsupported, message));
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes().trim_ascii());
    if encoding.is_some_and(|value| !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")) {
        return unsupported(
            "this content-encoding is not undone here; the operator can add tower-http's RequestDecompressionLayer \
             above the bridge",
        );
    }
    let media_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let essence = media_type.map(|value| value[..memchr::memchr(b';', value).unwrap_or(value.len())].trim_ascii());
    let is_json = essence.is_none_or(|essence| {
        let suffix = &essence[essence.len().saturating_sub(b"+json".len())..];
        essence.eq_ignore_ascii_case(b"application/json") || suffix.eq_ignore_ascii_case(b"+json")
    });
    if is_json {
        Ok(())
    } else {
        unsupported("the request body must be JSON, with content-type: application/json")
    }
}

async fn begin(
    recorder: &Recorder,
    config: &Config,
    head: &request::Parts,
    identity: &Identity,
    request: &ChatRequest,
) -> Result<Interception, BridgeError> {
    let started = || started(config, head, identity, request);
    recorder
        .begin(identity.actor.as_ref().map(Actor::id), started)
        .await
        .map_err(|unavailable| {
            let message = match unavailable {
                Unavailable::Busy => "too many requests are being recorded, please try again later",
                Unavailable::Closed => "requests cannot be recorded at present",
            };
            tracing::warn!(
                ?unavailable,
                "a request was turned away because it could not be recorded"
            );
            BridgeError::new(BridgeErrorKind::RecorderUnavailable, message)
        })
}

fn started(config: &Config, head: &request::Parts, identity: &Identity, request: &ChatRequest) -> Fact {
    let client = Client::recognise(&head.headers);
    let (initiator_id, metadata) = identity.actor.clone().map(Actor::into_parts).unzip();
    Fact::Started {
        provider: config.provider.clone(),
        dialect: Dialect::ChatCompletions,
        model: request.model().to_owned(),
        path: head.uri.path().to_owned(),
        streaming: request.is_stream(),
        initiator_id,
        metadata: metadata.unwrap_or_default(),
        client: client.name.to_owned(),
        client_session_id: client.session_id,
        user_agent: client.user_agent,
        correlating_tool_call_id: request.correlating_tool_call_id(),
        credential_kind: identity.credentials.kind(),
        credential_hint: identity.credentials.hint(),
    }
}

// === impl Identity ===

impl Identity {
    fn take(config: &Config, head: &mut request::Parts) -> Result<Self, BridgeError> {
        let actor = head.extensions.remove::<Actor>();
        let own = head.extensions.remove::<Credential>();
        let tools = head.extensions.remove::<Tools>();
        if config.require_actor && actor.is_none() {
            return Err(BridgeError::new(
                BridgeErrorKind::NoActor,
                "you must be signed in to call this API",
            ));
        }
        let credentials = Credentials::of(config, own, &head.headers).ok_or_else(|| {
            BridgeError::new(
                BridgeErrorKind::NoCredential,
                "you didn't provide an API key: send it in an Authorization header, as Bearer YOUR_KEY",
            )
        })?;
        Ok(Self {
            actor,
            credentials,
            tools: tools.unwrap_or_else(|| config.tools.current()),
        })
    }
}

impl From<Invalid> for BridgeError {
    fn from(invalid: Invalid) -> Self {
        let error = Self::new(BridgeErrorKind::RequestInvalid, invalid.message);
        match invalid.param {
            Some(param) => error.param(param),
            None => error,
        }
    }
}
