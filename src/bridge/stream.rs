//! Reads turns that come as server-sent events, relayed to the caller while they are read.
//!
//! The head waits for the first event that the caller can see, 10 s at most: until the head is out an error is an HTTP
//! answer. From then on the rest of the conversation, further rounds included, lives in the response's body, and the
//! caller's polls drive it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, response};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::answer::{Failure, prepare_head};
use super::aside::Aside;
use super::attempt::RoundWalk;
use super::facts;
use super::headers::is_encoded;
use super::output::{Opening, Output};
use super::provider::{Credentials, Provider};
use super::rounds::{Conversation, ReadTurn, Replay, drive};
use crate::body::collect::{collect_after, discard};
use crate::body::{ResponseBody, Sink};
use crate::dialect::sse::Decoder;
use crate::dialect::turn::{Earlier, Fault, Turn};
use crate::dialect::{self, RelaySetup, Reply};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::pool::Lease;
use crate::record::Outcome;
use crate::rope::Rope;
use crate::types::Dialect;
use crate::upstream::Upstream;
use crate::vast;

/// How many bytes, and for how long, a provider may still send after its last event. Beyond that its connection is
/// closed instead of reused.
const DRAIN_BYTES: usize = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_millis(250);

/// How many bytes are relayed between two yields, so that streams that are always ready do not hold up the other
/// requests of a thread: a hundred of them take 3 ms for it.
const YIELD: usize = 16 << 10;

/// How many bytes a stream keeps before they are counted, so that most streams never are.
const UNCOUNTED: usize = 16 << 10;

/// How many bytes of comments may come before an answer.
const MAX_COMMENTS: usize = 1 << 20;

/// Reads streams and relays them; holds the provider's body of the current round.
struct Tee<B> {
    output: Output,
    /// Parts of whole replies that came in place of a round's stream.
    earlier: Earlier,
    /// The body of an answer that was read to its last event.
    incoming: Option<Pin<Box<B>>>,
    /// How many bytes of the round's answer are counted as held.
    counted: usize,
}

pub(crate) async fn answer<U: Upstream + 'static>(
    conversation: Box<Conversation<U>>,
) -> Response<ResponseBody<U::Body>> {
    let sink = Sink::default();
    let outlet = sink.outlet();
    let (commit, mut head) = oneshot::channel();
    let api = conversation.provider.api;
    let readers = conversation.provider.config.readers.clone();
    let id = conversation.interception.id();
    let intercepted = facts::intercepted(&conversation.interception);
    let relay = conversation.request.relay(RelaySetup {
        id,
        recorded: conversation.interception.is_recorded(),
        max_held: conversation.provider.config.max_response_body,
    });
    let reader = Tee {
        output: Output::new(relay, sink, commit, intercepted),
        earlier: Earlier {
            reported_usage: conversation.provider.config.reported_usage,
            ..Earlier::default()
        },
        incoming: None,
        counted: 0,
    };
    let mut driver = Box::pin(run(conversation, reader).instrument(tracing::Span::current()));
    let head = poll_fn(|cx| {
        let ended = driver.as_mut().poll(cx).is_ready();
        match head.try_recv() {
            Ok(head) => Poll::Ready(head),
            Err(_) if ended => Poll::Ready(Err((Failure::invalid("the stream has no head"), intercepted))),
            Err(_) => Poll::Pending,
        }
    })
    .await;
    match head {
        Ok(parts) => Response::from_parts(
            parts,
            ResponseBody::driven(driver, outlet, &readers, cut_event, api.dialect()),
        ),
        Err((failure, intercepted)) => {
            let mut response = failure.into_response(api, Some(id));
            response.extensions_mut().insert(intercepted);
            response
        }
    }
}

/// The last event of a stream that is ended because its caller stopped reading.
fn cut_event(dialect: Dialect) -> Bytes {
    let error = BridgeError::new(
        BridgeErrorKind::Overloaded,
        "the stream was not read for too long, and its place was needed",
    );
    dialect::api(dialect).error_event(&error)
}

/// The whole conversation; its output goes through the reader's sink.
async fn run<U: Upstream>(mut conversation: Box<Conversation<U>>, mut reader: Tee<U::Body>) {
    let limit = conversation.provider.config.request_timeout;
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
    match driven {
        Ok(reply) => {
            if let Some(reply) = reply {
                if let Some(id) = reply.shown_id() {
                    stored.remember(id).await;
                }
                let body = reply.seal(interception.id(), &reader.earlier);
                reader.output.out.extend_from_slice(&body.into_bytes());
            }
            // The interception ends before the last bytes are handed over: a caller that has them may never poll again.
            facts::finish(interception, Outcome::Completed, StatusCode::OK, None);
            reader.output.flush().await;
            reader.drain().await;
        }
        Err(failure) => {
            drop(reader.incoming.take());
            reader.output.recall().await;
            let error_type = failure.error_type(provider.api).map(str::to_owned);
            let is_head_out = reader.output.commit.is_none();
            let status = if is_head_out { StatusCode::OK } else { failure.status() };
            let intercepted = facts::intercepted(&interception);
            facts::finish(interception, failure.outcome(), status, error_type.as_deref());
            match reader.output.commit.take() {
                Some(commit) => {
                    // The receiver waits for this; it can only be gone together with this future.
                    let _ = commit.send(Err((failure, intercepted)));
                }
                None => {
                    let Output { relay, out, .. } = &mut reader.output;
                    relay.fail(failure.words(), out);
                    reader.output.flush().await;
                }
            }
        }
    }
    vast::drop_elsewhere(held.bytes(), (request, reader.output.relay, held));
}

// === impl Tee ===

impl<B> Tee<B>
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    /// Reads the rest after the last event, so that the provider's connection can be used again.
    async fn drain(&mut self) {
        if let Some(mut body) = self.incoming.take() {
            discard(body.as_mut(), DRAIN_BYTES, DRAIN_TIME).await;
        }
    }
}

/// A round's turn, with the reply if it came whole.
type Read = (Turn, Option<Box<dyn Reply>>);

/// An attempt whose answer failed before the caller could see anything of it.
struct Unopened {
    parts: response::Parts,
    lease: Option<Lease>,
    fault: Fault,
}

impl<B> Tee<B>
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    /// Sends the round's request once through the pool, and relays the answer to its end.
    async fn attempt<U>(
        &mut self,
        conversation: &mut Conversation<U>,
        walk: &mut RoundWalk,
        body: &Rope,
    ) -> Result<Result<Read, Unopened>, Failure>
    where
        U: Upstream<Body = B>,
    {
        let Conversation {
            provider,
            interception,
            request,
            stored,
            held,
            ..
        } = conversation;
        let output = &mut self.output;
        output.silence.stop_listening();
        let attempt = provider.attempt(walk, body, Some(&mut *interception));
        let attempted = output.during(attempt).await??;
        output.intercepted = facts::intercepted(interception);
        if !attempted.status().is_success() {
            return Err(output.during(provider.read_refusal(walk, attempted)).await?);
        }
        let (response, deadline, lease) = attempted.into_parts();
        let (mut parts, body) = response.into_parts();
        if is_encoded(&parts.headers) {
            return Err(Failure::invalid("an encoded body in place of a stream"));
        }
        let config = std::sync::Arc::clone(&provider.config);
        let mut body = Box::pin(body);
        output
            .silence
            .listen(deadline.saturating_duration_since(Instant::now()));
        let asked = interception.stopwatch();
        let first = output
            .during(read_frame(body.as_mut(), &provider.credentials))
            .await??;
        interception.waited(asked);
        if let Some(first) = first.as_ref().filter(|first| is_json(first)) {
            let reading = collect_after(first.clone(), body.as_mut(), config.max_response_body, held);
            let reply = output.during(reading).await?;
            let reply = reply.map_err(|error| Failure::unread(&error, &provider.credentials))?;
            self.counted += reply.len();
            let read = if Aside::takes(reply.len()) {
                let reader = request.reply_reader();
                let place = output.place(&config.aside).await;
                output.during_ours(place.begin(move || reader(reply))).await
            } else {
                request.read_reply(reply)
            };
            let fault = match read {
                // Relayed unchanged: the caller's client decides what to make of a provider that does not stream.
                Ok((reply, turn)) if output.commit.is_some() => {
                    prepare_head(provider, &mut parts);
                    output.open(
                        provider,
                        interception,
                        &turn.completion.id,
                        &**request,
                        walk,
                        &mut Some((parts, lease)),
                    );
                    facts::record_usage(interception, &turn.completion);
                    return Ok(Ok((turn, Some(reply))));
                }
                Ok(_) => Fault::Shape("a body that is not a stream, after the head of one"),
                Err(fault) => fault,
            };
            return Ok(Err(Unopened { parts, lease, fault }));
        }
        prepare_head(provider, &mut parts);
        output.begin_round();
        let mut decoder = Decoder::new(config.max_response_body);
        let mut has_ended = false;
        let (mut next, mut opening, mut answers) = (first, Some((parts, lease)), false);
        let (mut received, mut unyielded, mut is_cut) = (0, 0, false);
        let setup = RelaySetup {
            id: interception.id(),
            recorded: interception.is_recorded(),
            max_held: config.max_response_body,
        };
        loop {
            if let Some(frame) = next.take() {
                received += frame.len();
                unyielded += frame.len();
                decoder.push(frame);
            } else if !is_cut {
                has_ended = true;
                let ended = output
                    .relay_end(&mut decoder, &config.aside, || request.relay(setup))
                    .await;
                match ended.fault {
                    None if ended.done => break,
                    None if answers => {
                        output.flush_opened(opening.is_none()).await;
                        return Err(Failure::upstream(
                            &"the stream ended before the answer did",
                            &provider.credentials,
                        ));
                    }
                    None => return unopened(opening, Fault::Shape("the provider's stream is empty"), provider),
                    Some(fault) => {
                        output.flush_opened(opening.is_none()).await;
                        return unopened(opening, fault, provider);
                    }
                }
            }
            let spare = || request.relay(setup);
            let relayed = output.relay_events(&mut decoder, YIELD, &config.aside, spare).await;
            is_cut = relayed.is_cut;
            let kept = output.relay.held() + decoder.held();
            if kept >= self.counted + UNCOUNTED {
                if !held.take_more(kept - self.counted) {
                    return Err(Failure::over_budget());
                }
                self.counted = kept;
            }
            if output.relay.take_usage_changed() {
                facts::hold_usage(interception, &output.relay.completion());
            }
            if relayed.shows {
                output.open_relayed(provider, interception, &**request, walk, &mut opening);
                interception.note_first_token();
            }
            if let Some(id) = output.relay.take_shown_id() {
                stored.remember(id).await;
            }
            answers |= relayed.answers;
            if let Some(fault) = relayed.fault {
                // The caller gets the events before the fault, however they were cut into frames.
                output.flush_opened(opening.is_none()).await;
                return unopened(opening, fault, provider);
            }
            if relayed.done {
                break;
            }
            output.flush_opened(opening.is_none()).await;
            if output.out.len() > MAX_COMMENTS {
                let fault = Fault::Shape("the provider's stream has nothing but comments");
                return unopened(opening, fault, provider);
            }
            if is_cut || unyielded >= YIELD {
                unyielded = 0;
                tokio::task::yield_now().await;
            }
            if is_cut {
                continue;
            }
            if answers {
                output.silence.listen(config.stream_idle_timeout);
            }
            let asked = interception.stopwatch();
            next = output
                .during(read_frame(body.as_mut(), &provider.credentials))
                .await??;
            interception.waited(asked);
        }
        output.open_relayed(provider, interception, &**request, walk, &mut opening);
        // A body must not be polled after its end.
        if !has_ended {
            self.incoming = Some(body);
        }
        // The rest of the output is not flushed until `drive` knows whether another round follows.
        let spare = || request.relay(setup);
        let turn = self.output.turn(received, &config.aside, spare).await;
        facts::record_usage(interception, &turn.completion);
        Ok(Ok((turn, None)))
    }
}

/// Before the answer is opened, a fault is judged like a refusal: another key may do better. After that it ends the
/// conversation.
fn unopened<U: Upstream>(
    opening: Option<Opening>,
    fault: Fault,
    provider: &Provider<U>,
) -> Result<Result<Read, Unopened>, Failure> {
    match (opening, fault) {
        (Some((parts, lease)), fault) => Ok(Err(Unopened { parts, lease, fault })),
        (None, Fault::Shape(cause)) => Err(Failure::invalid(cause)),
        (None, Fault::Refused(error)) => {
            let (parts, ()) = Response::new(()).into_parts();
            Err(provider.refused(provider.in_band_refusal(parts, error)).into())
        }
    }
}

/// Whether an answer is one JSON document and not a stream. Its first byte decides, since providers label streams with
/// any content type or none.
fn is_json(first: &[u8]) -> bool {
    first.starts_with(b"{")
}

/// The provider's next bytes; none at the end of its body.
async fn read_frame<B>(mut body: Pin<&mut B>, credentials: &Credentials) -> Result<Option<Bytes>, Failure>
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Display>,
{
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(cause)) => return Err(Failure::upstream(&cause, credentials)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            },
        }
    }
}

impl<U: Upstream> ReadTurn<U> for Tee<U::Body> {
    /// A whole reply in place of a stream, if it is one.
    type Answer = Option<Box<dyn Reply>>;

    async fn read(&mut self, conversation: &mut Conversation<U>) -> Result<Read, Failure> {
        let body = conversation.request.encode();
        let mut walk = RoundWalk::new(conversation.provider.caller);
        loop {
            let Unopened { parts, lease, fault } = match self.attempt(conversation, &mut walk, &body).await? {
                Ok(read) => return Ok(read),
                Err(unopened) => unopened,
            };
            // Comments before the fault belong to an answer that nobody sees.
            self.output.out.clear();
            match fault {
                Fault::Shape(cause) => return Err(Failure::invalid(cause)),
                Fault::Refused(error) => conversation.provider.judge_in_band(&mut walk, lease, parts, error)?,
            }
        }
    }

    fn has_shown(&self) -> bool {
        self.output.has_opened()
    }

    async fn wait<F>(&mut self, tools: F) -> F::Output
    where
        F: Future<Output: Send> + Send,
    {
        self.output.flush().await;
        self.drain().await;
        self.output.during_ours(tools).await
    }

    fn replay(&mut self, answer: Self::Answer) -> Replay {
        let turn = match answer {
            Some(reply) => reply.replay(&mut self.earlier),
            None => self.output.relay.replay(),
        };
        Replay {
            turn,
            counted: std::mem::take(&mut self.counted),
        }
    }
}
