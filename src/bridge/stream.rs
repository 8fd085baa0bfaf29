//! Reads turns that come as server-sent events, relayed to the caller while they are read.
//!
//! The head waits for the first event that the caller can see, 10 s at most: until the head is out an error is an HTTP
//! answer. From then on the rest of the conversation, further rounds included, lives in the response's body, and the
//! caller's polls drive it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode, response};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::answer::{Failure, prepare_head};
use super::attempt::RoundWalk;
use super::facts;
use super::idle::{Silence, Silent};
use super::provider::{Credentials, Provider};
use super::rounds::{Conversation, ReadTurn, drive};
use super::whole::is_encoded;
use crate::body::collect::{collect_after, discard};
use crate::body::{ResponseBody, Sink};
use crate::dialect::sse::Decoder;
use crate::dialect::turn::{Fault, Progress, Turn};
use crate::dialect::{Relay, RelaySetup, Request};
use crate::extensions::Intercepted;
use crate::pool::Lease;
use crate::record::{Interception, Outcome};
use crate::rope::Rope;
use crate::upstream::Upstream;

/// What a provider may still send after its last event before its connection is given up instead of reused.
const DRAIN_BYTES: usize = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_millis(250);

/// How many bytes of comments may come before an answer.
const MAX_COMMENTS: usize = 1 << 20;

const TOO_LONG: Fault = Fault::Shape("the provider's stream has an event that is over the limit");

/// Room for the events of many frames in one allocation, and the rest of it that makes a new one worth while.
const OUT_CAPACITY: usize = 8 << 10;
const OUT_LOW: usize = 1 << 10;

/// Reads streams and relays them; holds the provider's body of the current round.
struct Tee<B> {
    output: Output,
    /// The answer that was read to its last event.
    incoming: Option<Pin<Box<B>>>,
}

/// The caller's side.
struct Output {
    relay: Box<dyn Relay>,
    sink: Sink,
    out: BytesMut,
    /// Gives the head away with the first output; none from then on.
    commit: Option<oneshot::Sender<Result<response::Parts, (Failure, Intercepted)>>>,
    /// The head of the current round's answer, cleaned; it counts until one is given away.
    parts: Option<response::Parts>,
    intercepted: Intercepted,
    silence: Silence,
}

pub(crate) async fn answer<U: Upstream + 'static>(
    conversation: Box<Conversation<U>>,
) -> Response<ResponseBody<U::Body>> {
    let sink = Sink::default();
    let outlet = sink.outlet();
    let (commit, mut head) = oneshot::channel();
    let api = conversation.provider.api;
    let id = conversation.interception.id();
    let intercepted = facts::intercepted(&conversation.interception);
    let relay = conversation.request.relay(RelaySetup {
        id,
        recorded: conversation.interception.is_recorded(),
        max_held: conversation.provider.config.max_response_body,
    });
    let reader = Tee {
        output: Output {
            relay,
            sink,
            out: BytesMut::with_capacity(OUT_CAPACITY),
            commit: Some(commit),
            parts: None,
            intercepted,
            silence: Silence::new(),
        },
        incoming: None,
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
        Ok(parts) => Response::from_parts(parts, ResponseBody::driven(driver, outlet)),
        Err((failure, intercepted)) => {
            let mut response = failure.into_response(api, Some(id));
            response.extensions_mut().insert(intercepted);
            response
        }
    }
}

/// The whole conversation; its output goes through the reader's sink.
async fn run<U: Upstream>(mut conversation: Box<Conversation<U>>, mut reader: Tee<U::Body>) {
    let limit = conversation.provider.config.request_timeout;
    let driven = timeout(limit, drive(&mut conversation, &mut reader))
        .await
        .unwrap_or_else(|_| Err(Failure::timeout()));
    let Conversation {
        provider, interception, ..
    } = *conversation;
    match driven {
        Ok(()) => {
            // Ended before the last bytes are handed over: a caller that has them may never poll again.
            facts::finish(interception, Outcome::Completed, StatusCode::OK, None);
            reader.output.flush().await;
            reader.drain().await;
        }
        Err(failure) => {
            drop(reader.incoming.take());
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
}

// === impl Output ===

impl Output {
    /// Hands over the bytes that are there for the caller, the head first.
    async fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let bytes = self.out.split().freeze();
        self.hand_over(bytes).await;
        if self.out.capacity() < OUT_LOW {
            self.out.reserve(OUT_CAPACITY);
        }
    }

    async fn hand_over(&mut self, bytes: Bytes) {
        if let Some(commit) = self.commit.take() {
            let mut parts = self.parts.take().unwrap_or_else(event_stream_head);
            parts.extensions.insert(self.intercepted);
            // The receiver waits for this; it can only be gone together with this future.
            let _ = commit.send(Ok(parts));
        }
        self.sink.send(bytes).await;
        self.silence.shown();
    }

    /// Waits for `work`, with keep-alives for the caller meanwhile. `Err` if the provider is silent for too long.
    async fn during<F: Future>(&mut self, work: F) -> Result<F::Output, Failure> {
        let mut work = pin!(work);
        loop {
            let silent = match self.silence.or(work.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(silent) => silent,
            };
            match silent {
                Silent::Provider => return Err(Failure::timeout()),
                Silent::Caller => self.keep_alive().await,
            }
        }
    }
}

/// The head of a stream whose provider has not answered yet.
fn event_stream_head() -> response::Parts {
    let (mut parts, ()) = Response::new(()).into_parts();
    let media_type = HeaderValue::from_static("text/event-stream");
    parts.headers.insert(header::CONTENT_TYPE, media_type);
    parts
        .headers
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    parts
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

impl Output {
    /// Feeds the relay with the events that are in already.
    fn relay_events(&mut self, decoder: &mut Decoder) -> Relayed {
        let mut relayed = Relayed::default();
        while relayed.fault.is_none() && !relayed.done {
            let event = match decoder.next() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => {
                    relayed.fault = Some(TOO_LONG);
                    break;
                }
            };
            match self.relay.event(&event, &mut self.out) {
                Ok(Progress::Aside) => {}
                Ok(Progress::Held) => relayed.answers = true,
                Ok(Progress::Shown) => (relayed.answers, relayed.shows) = (true, true),
                Ok(Progress::Done) => relayed.done = true,
                Err(fault) => relayed.fault = Some(fault),
            }
        }
        relayed
    }

    /// Handles the end of the provider's body, an unterminated final event first: the answer's end and errors count
    /// there, a part of an answer does not. Whether the answer is complete.
    fn relay_end(&mut self, decoder: &mut Decoder) -> Result<bool, Fault> {
        if let Some(rest) = decoder.finish() {
            let whole = self.out.len();
            match self.relay.event(&rest.event, &mut self.out) {
                Ok(Progress::Done) => {
                    if self.out.len() > whole {
                        // An event here has to be one for the caller, too.
                        self.out
                            .extend_from_slice(if rest.line_ended { b"\n" } else { b"\n\n" });
                    }
                    return Ok(true);
                }
                Err(Fault::Refused(error)) => return Err(Fault::Refused(error)),
                Ok(_) | Err(Fault::Shape(_)) => self.out.truncate(whole),
            }
        }
        Ok(self.relay.end(&mut self.out))
    }

    /// Notes that the answer counts: its key has served, and its head is the caller's.
    fn open<U: Upstream>(
        &mut self,
        provider: &Provider<U>,
        interception: &mut Interception,
        request: &dyn Request,
        opening: &mut Option<(response::Parts, Option<Lease>)>,
    ) {
        let Some((parts, lease)) = opening.take() else { return };
        provider.accept(lease);
        if self.commit.is_some() {
            self.parts = Some(parts);
        }
        if provider.round == 1 {
            facts::record_prompt(interception, self.relay.msg_id(), || request.prompt());
        }
    }

    async fn flush_opened(&mut self, is_opened: bool) {
        if is_opened {
            self.flush().await;
        }
    }

    async fn keep_alive(&mut self) {
        let mut bytes = BytesMut::new();
        self.relay.keep_alive(&mut bytes);
        self.hand_over(bytes.freeze()).await;
        self.silence.shown();
    }
}

/// What a run of events amounted to.
#[derive(Debug, Default)]
struct Relayed {
    answers: bool,
    shows: bool,
    done: bool,
    fault: Option<Fault>,
}

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
    ) -> Result<Result<Turn, Unopened>, Failure>
    where
        U: Upstream<Body = B>,
    {
        let Conversation {
            provider,
            interception,
            request,
        } = conversation;
        let output = &mut self.output;
        output.silence.stop_listening();
        let attempt = provider.attempt(walk, body, Some(&mut *interception));
        let attempted = output.during(attempt).await??;
        output.intercepted = facts::intercepted(interception);
        if !attempted.status().is_success() {
            return Err(output.during(provider.read_refusal(attempted)).await?);
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
        let first = output
            .during(read_frame(body.as_mut(), &provider.credentials))
            .await??;
        if let Some(first) = first.as_ref().filter(|first| is_json(first)) {
            let reading = collect_after(first.clone(), body.as_mut(), config.max_response_body);
            let reply = output.during(reading).await?;
            let reply = reply.map_err(|error| Failure::unread(&error, &provider.credentials))?;
            let fault = match request.read_reply(reply) {
                Err(fault @ Fault::Refused(_)) => fault,
                _ => Fault::Shape("a body that is not a stream"),
            };
            return Ok(Err(Unopened { parts, lease, fault }));
        }
        prepare_head(provider, &mut parts);
        output.relay.begin_round(output.commit.is_none());
        let mut decoder = Decoder::new(config.max_response_body);
        let (mut next, mut opening, mut answers) = (first, Some((parts, lease)), false);
        loop {
            match next.take() {
                Some(frame) => decoder.push(frame),
                None => match output.relay_end(&mut decoder) {
                    Ok(true) => break,
                    Ok(false) if answers => {
                        output.flush_opened(opening.is_none()).await;
                        return Err(Failure::upstream(
                            &"the stream ended before the answer did",
                            &provider.credentials,
                        ));
                    }
                    Ok(false) => return unopened(opening, Fault::Shape("the provider's stream is empty"), provider),
                    Err(fault) => {
                        output.flush_opened(opening.is_none()).await;
                        return unopened(opening, fault, provider);
                    }
                },
            }
            let relayed = output.relay_events(&mut decoder);
            if output.relay.take_usage_changed() {
                facts::hold_usage(interception, &output.relay.completion());
            }
            if relayed.shows {
                output.open(provider, interception, &**request, &mut opening);
                interception.first_token();
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
            if answers {
                output.silence.listen(config.stream_idle_timeout);
            }
            next = output
                .during(read_frame(body.as_mut(), &provider.credentials))
                .await??;
        }
        output.open(provider, interception, &**request, &mut opening);
        self.incoming = Some(body);
        // The rest of the output waits for the rounds' verdict: it may be the conversation's end.
        let turn = self.output.relay.turn();
        facts::record_usage(interception, &turn.completion);
        Ok(Ok(turn))
    }
}

/// A fault before the answer was opened lets the pool decide; after it, it ends the conversation.
fn unopened<U: Upstream>(
    opening: Option<(response::Parts, Option<Lease>)>,
    fault: Fault,
    provider: &Provider<U>,
) -> Result<Result<Turn, Unopened>, Failure> {
    match (opening, fault) {
        (Some((parts, lease)), fault) => Ok(Err(Unopened { parts, lease, fault })),
        (None, Fault::Shape(cause)) => Err(Failure::invalid(cause)),
        (None, Fault::Refused(error)) => {
            let (parts, ()) = Response::new(()).into_parts();
            Err(provider.refused(provider.in_band_refusal(parts, error)).into())
        }
    }
}

/// Whether an answer is one JSON document and not a stream: told by its first byte, since providers label streams with
/// any content type or none.
fn is_json(first: &[u8]) -> bool {
    first.trim_ascii_start().starts_with(b"{")
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
    type Answer = ();

    async fn read(&mut self, conversation: &mut Conversation<U>) -> Result<(Turn, ()), Failure> {
        let body = conversation.request.encode();
        let mut walk = RoundWalk::default();
        loop {
            let Unopened { parts, lease, fault } = match self.attempt(conversation, &mut walk, &body).await? {
                Ok(turn) => return Ok((turn, ())),
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

    async fn wait<F>(&mut self, tools: F) -> F::Output
    where
        F: Future<Output: Send> + Send,
    {
        self.output.flush().await;
        self.drain().await;
        self.output.silence.stop_listening();
        let mut tools = pin!(tools);
        loop {
            if let Ok(done) = self.output.silence.or(tools.as_mut()).await {
                return done;
            }
            self.output.keep_alive().await;
        }
    }

    fn replay(&mut self, (): ()) -> Rope {
        self.output.relay.replay()
    }
}
