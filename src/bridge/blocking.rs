//! Turns that come as one JSON reply.

use std::pin::pin;

use http::header::{self, HeaderMap};
use http::{Response, response};
use tokio::time::timeout_at;

use super::answer::Failure;
use super::attempt::RoundWalk;
use super::exchange::Exchange;
use super::headers;
use super::rounds::{Conversation, ReadTurn, drive};
use crate::body::ResponseBody;
use crate::body::collect::collect;
use crate::dialect::chat_completions::{ChatReply, ChatRequest, Malformed, Turn, UsageSum};
use crate::record::Outcome;
use crate::rope::Rope;
use crate::upstream::Upstream;

/// Reads whole replies; holds the last one.
#[derive(Default)]
struct Whole {
    reply: Option<(response::Parts, ChatReply)>,
    earlier: UsageSum,
}

pub(crate) async fn answer<U: Upstream>(mut conversation: Box<Conversation<U>>) -> Response<ResponseBody<U::Body>> {
    let mut reader = Whole::default();
    let failure = match drive(&mut conversation, &mut reader).await {
        Err(failure) => failure,
        Ok(()) => match reader.reply {
            Some((parts, reply)) => return seal(conversation.exchange, parts, reply, &reader.earlier),
            None => Failure::invalid("there is no reply"),
        },
    };
    refuse(&mut conversation.exchange, failure)
}

/// Ends an interception that has no answer of the model.
pub(super) fn refuse<U: Upstream>(exchange: &mut Exchange<U>, failure: Failure) -> Response<ResponseBody<U::Body>> {
    let intercepted = exchange.intercepted();
    exchange.finish(failure.outcome(), failure.status(), failure.error_type());
    let mut response = failure.into_response();
    if let Some(intercepted) = intercepted {
        response.extensions_mut().insert(intercepted);
    }
    response
}

fn seal<U: Upstream>(
    mut exchange: Exchange<U>,
    mut parts: response::Parts,
    reply: ChatReply,
    earlier: &UsageSum,
) -> Response<ResponseBody<U::Body>> {
    prepare_head(&exchange, &mut parts);
    let body = match exchange.intercepted() {
        Some(intercepted) => {
            parts.extensions.insert(intercepted);
            reply.seal(intercepted.id(), earlier)
        }
        None => Rope::default(),
    };
    exchange.finish(Outcome::Completed, parts.status, None);
    Response::from_parts(parts, ResponseBody::full(body))
}

/// The provider's head, for the caller.
pub(super) fn prepare_head<U>(exchange: &Exchange<U>, parts: &mut response::Parts) {
    headers::clean_response(&mut parts.headers, exchange.credentials.key_finder());
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.version = http::Version::default();
}

pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.as_bytes().trim_ascii_start());
    media_type
        .and_then(|value| value.get(..17))
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether the provider encoded an answer although it was not asked to.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

// === impl Whole ===

impl<U: Upstream> ReadTurn<U> for Whole {
    async fn read(&mut self, exchange: &mut Exchange<U>, request: &ChatRequest, body: Rope) -> Result<Turn, Failure> {
        let mut walk = RoundWalk::default();
        loop {
            let attempted = exchange.attempt(&mut walk, &body).await?;
            if !attempted.status().is_success() {
                return Err(exchange.read_refusal(attempted).await);
            }
            let (response, deadline, lease) = attempted.into_parts();
            let (parts, body) = response.into_parts();
            if is_event_stream(&parts.headers) || is_encoded(&parts.headers) {
                return Err(Failure::invalid("a stream or an encoded body in place of a JSON reply"));
            }
            let mut body = pin!(body);
            let reading = collect(body.as_mut(), exchange.config.max_response_body, |_| ());
            let body = timeout_at(deadline, reading)
                .await
                .map_err(|_| Failure::timeout())?
                .map_err(|error| Failure::unread(&error, &exchange.credentials))?;
            match ChatReply::read(body) {
                Ok((reply, turn)) => {
                    exchange.accept(lease);
                    exchange.record_prompt(&turn.completion.id, || request.prompt());
                    exchange.record_usage(&turn.completion);
                    self.reply = Some((parts, reply));
                    return Ok(turn);
                }
                Err(Malformed::Shape(cause)) => return Err(Failure::invalid(cause)),
                Err(Malformed::Error(error)) => exchange.judge_in_band(&mut walk, lease, parts, error)?,
            }
        }
    }

    async fn pause(&mut self) {}

    async fn wait<F>(&mut self, tools: F) -> F::Output
    where
        F: Future<Output: Send> + Send,
    {
        tools.await
    }

    fn replay(&mut self, keep: impl Fn(usize) -> bool + Send) -> Rope {
        let Some((_, reply)) = self.reply.take() else {
            return Rope::default();
        };
        if let Some(usage) = reply.reported() {
            self.earlier.add(usage);
        }
        reply.replay(keep)
    }
}
