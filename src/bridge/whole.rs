//! Reads turns that come as one JSON reply.

use std::pin::pin;

use http::{Response, response};
use tokio::time::{timeout, timeout_at};

use super::answer::{Failure, prepare_head, refuse};
use super::aside::Aside;
use super::attempt::RoundWalk;
use super::facts;
use super::headers::is_encoded;
use super::rounds::{Conversation, ReadTurn, Replay, drive};
use crate::body::ResponseBody;
use crate::body::collect::collect_held;
use crate::dialect::Reply;
use crate::dialect::turn::{Earlier, Fault, Turn};
use crate::record::Outcome;
use crate::upstream::Upstream;
use crate::vast;

/// Reads whole replies.
struct Whole {
    earlier: Earlier,
    /// The length of the last reply.
    length: usize,
}

pub(crate) async fn answer<U: Upstream>(mut conversation: Box<Conversation<U>>) -> Response<ResponseBody<U::Body>> {
    let mut reader = Whole {
        earlier: Earlier {
            reported_usage: conversation.provider.config.reported_usage,
            ..Earlier::default()
        },
        length: 0,
    };
    let (limit, api) = (conversation.provider.config.request_timeout, conversation.provider.api);
    let driven = timeout(limit, drive(&mut conversation, &mut reader))
        .await
        .unwrap_or_else(|_| Err(Failure::timeout()));
    let Conversation {
        provider,
        interception,
        request,
        stored,
        held,
        ..
    } = *conversation;
    vast::drop_elsewhere(held.bytes(), request);
    match driven {
        Ok((mut parts, reply)) => {
            if let Some(id) = reply.shown_id() {
                stored.remember(id).await;
            }
            prepare_head(&provider, &mut parts);
            let intercepted = facts::intercepted(&interception);
            parts.extensions.insert(intercepted);
            let body = reply.seal(intercepted.id(), &reader.earlier);
            facts::finish(interception, Outcome::Completed, parts.status, None);
            let body = ResponseBody::paced(body, held, &provider.config.readers, api.dialect());
            Response::from_parts(parts, body)
        }
        Err(failure) => refuse(&provider, interception, failure),
    }
}

// === impl Whole ===

impl<U: Upstream> ReadTurn<U> for Whole {
    type Answer = (response::Parts, Box<dyn Reply>);

    async fn read(&mut self, conversation: &mut Conversation<U>) -> Result<(Turn, Self::Answer), Failure> {
        let Conversation {
            provider,
            interception,
            request,
            held,
            ..
        } = conversation;
        let body = request.encode();
        let mut walk = RoundWalk::new(provider.caller);
        loop {
            let attempted = provider.attempt(&mut walk, &body, Some(&mut *interception)).await?;
            if !attempted.status().is_success() {
                return Err(provider.read_refusal(&mut walk, attempted).await);
            }
            let (response, deadline, lease) = attempted.into_parts();
            let (parts, body) = response.into_parts();
            if is_encoded(&parts.headers) {
                return Err(Failure::invalid("an encoded body in place of a JSON reply"));
            }
            let mut body = pin!(body);
            let reading = collect_held(body.as_mut(), provider.config.max_response_body, held, |_| ());
            let asked = interception.stopwatch();
            let read = timeout_at(deadline, reading).await;
            interception.waited(asked);
            let body = read
                .map_err(|_| Failure::timeout())?
                .map_err(|error| Failure::unread(&error, &provider.credentials))?;
            self.length = body.len();
            let read = if Aside::takes(body.len()) {
                let reader = request.reply_reader();
                provider.config.aside.run(move || reader(body)).await
            } else {
                request.read_reply(body)
            };
            match read {
                Ok((reply, turn)) => {
                    provider.keep_sticky(&parts.headers, lease.as_ref());
                    provider.accept(&mut walk, lease);
                    if provider.round == 1 {
                        facts::record_prompt(interception, &turn.completion.id, || request.prompt());
                    }
                    facts::record_usage(interception, &turn.completion);
                    return Ok((turn, (parts, reply)));
                }
                Err(Fault::Shape(cause)) => return Err(Failure::invalid(cause)),
                Err(Fault::Refused(error)) => provider.judge_in_band(&mut walk, lease, parts, error)?,
            }
        }
    }

    fn has_shown(&self) -> bool {
        false
    }

    async fn wait<F>(&mut self, tools: F) -> F::Output
    where
        F: Future<Output: Send> + Send,
    {
        tools.await
    }

    fn replay(&mut self, (_, reply): Self::Answer) -> Replay {
        Replay {
            turn: reply.replay(&mut self.earlier),
            counted: self.length,
        }
    }
}
