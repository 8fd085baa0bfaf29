//! Turns that come as server-sent events, relayed to the caller while they are read.
//!
//! The head waits for the first thing that the caller can see: until then an error is an HTTP answer. From then on the
//! rest of the conversation, further rounds included, lives in the response's body, and the caller's polls drive it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, response};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, Sleep, interval_at, sleep, timeout_at};
use tracing::Instrument;

use super::answer::Failure;
use super::attempt::{RoundWalk, in_band_refusal};
use super::blocking::{is_encoded, is_event_stream, prepare_head};
use super::exchange::{Credentials, Exchange};
use super::rounds::{Conversation, ReadTurn, drive};
use crate::body::collect::{collect, discard};
use crate::body::{ResponseBody, Sink};
use crate::dialect::chat_completions::{ChatRelay, ChatReply, ChatRequest, Malformed, Progress, StreamFault, Turn};
use crate::dialect::sse::Decoder;
use crate::record::Outcome;
use crate::rope::Rope;
use crate::upstream::Upstream;

/// The largest single event, in bytes: what a delta with an image in it may take.
const MAX_EVENT: usize = 8 << 20;

/// How often a comment keeps the caller's connection alive while tools run.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a provider may still send after `[DONE]` before its connection is given up instead of reused.
const DRAIN_BYTES: usize = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_millis(250);

const TOO_LONG: StreamFault = StreamFault::Shape("the provider's stream has an event that is larger than 8 MiB");

/// Room for the events of many frames in one allocation, and how little of it makes a new one worth while.
const OUT_CAPACITY: usize = 8 << 10;
const OUT_LOW: usize = 1 << 10;

/// Relays streams, and holds the provider's body of the current round.
struct Tee<B> {
    relay: ChatRelay,
    sink: Sink,
    out: BytesMut,
    /// Gives the head away with the first output; none from then on.
    commit: Option<oneshot::Sender<Result<response::Parts, Failure>>>,
    /// The head of the current round's answer, cleaned; it counts until one is given away.
    parts: Option<response::Parts>,
    incoming: Option<Incoming<B>>,
}

/// One answer of the provider.
struct Incoming<B> {
    body: Pin<Box<B>>,
    decoder: Decoder,
}

/// Why a stream did not open.
enum Opening {
    /// What came was no answer; its words decide.
    Fault(StreamFault),
    Failure(Failure),
}

/// Tells a silent provider from a slow one without reading the clock for every event.
struct Idle {
    sleep: Pin<Box<Sleep>>,
    period: Duration,
    heard: bool,
}

pub(crate) async fn answer<U: Upstream + 'static>(
    conversation: Box<Conversation<U>>,
) -> Response<ResponseBody<U::Body>> {
    let sink = Sink::default();
    let outlet = sink.outlet();
    let (commit, mut head) = oneshot::channel();
    let Some(intercepted) = conversation.exchange.intercepted() else {
        return Failure::invalid("there is no interception").into_response();
    };
    let relay = ChatRelay::new(
        intercepted.id(),
        conversation.request.wants_usage(),
        conversation.offer.clone(),
        conversation.exchange.is_recorded(),
        conversation.exchange.config.max_response_body,
    );
    let reader = Tee {
        relay,
        sink,
        out: BytesMut::with_capacity(OUT_CAPACITY),
        commit: Some(commit),
        parts: None,
        incoming: None,
    };
    let mut driver = Box::pin(converse(conversation, reader).instrument(tracing::Span::current()));
    let head = poll_fn(|cx| {
        let ended = driver.as_mut().poll(cx).is_ready();
        match head.try_recv() {
            Ok(head) => Poll::Ready(head),
            Err(_) if ended => Poll::Ready(Err(Failure::invalid("the stream has no head"))),
            Err(_) => Poll::Pending,
        }
    })
    .await;
    match head {
        Ok(parts) => Response::from_parts(parts, ResponseBody::driven(driver, outlet)),
        Err(failure) => {
            let mut response = failure.into_response();
            response.extensions_mut().insert(intercepted);
            response
        }
    }
}

/// The whole conversation; its output goes through the reader's sink.
async fn converse<U: Upstream>(mut conversation: Box<Conversation<U>>, mut reader: Tee<U::Body>) {
    match drive(&mut conversation, &mut reader).await {
        Ok(()) => {
            // Ended before the last bytes are handed over: a caller that has them may never poll again.
            conversation
                .exchange
                .finish(Outcome::Completed, http::StatusCode::OK, None);
            reader.flush().await;
            reader.drain().await;
        }
        Err(failure) => {
            drop(reader.incoming.take());
            if let Some(commit) = reader.commit.take() {
                let exchange = &mut conversation.exchange;
                exchange.finish(failure.outcome(), failure.status(), failure.error_type());
                // The receiver waits for this; it can only be gone together with this future.
                let _ = commit.send(Err(failure));
            } else {
                conversation
                    .exchange
                    .finish(failure.outcome(), http::StatusCode::OK, failure.error_type());
                reader.out.extend_from_slice(&failure.into_event());
                reader.flush().await;
            }
        }
    }
}

// === impl Tee ===

impl<B> Tee<B>
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    /// Hands over what there is for the caller, the head first.
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
        if let (Some(commit), Some(parts)) = (self.commit.take(), self.parts.take()) {
            // The receiver waits for this; it can only be gone together with this future.
            let _ = commit.send(Ok(parts));
        }
        self.sink.send(bytes).await;
    }

    /// Takes in what is left after `[DONE]`, so that the provider's connection can be used again.
    async fn drain(&mut self) {
        let Some(Incoming { mut body, .. }) = self.incoming.take() else {
            return;
        };
        discard(body.as_mut(), DRAIN_BYTES, DRAIN_TIME).await;
    }

    /// Feeds the relay with events that are in already, up to the first chunk if `opening`. None if more is needed.
    fn relay_events(&mut self, opening: bool) -> Result<Option<Progress>, StreamFault> {
        let Some(incoming) = &mut self.incoming else {
            return Err(StreamFault::Shape("there is no stream"));
        };
        while let Some(event) = incoming.decoder.next().map_err(|_| TOO_LONG)? {
            let progress = self.relay.event(&event, &mut self.out)?;
            if progress == Progress::Done || (opening && progress == Progress::Chunk) {
                return Ok(Some(progress));
            }
        }
        Ok(None)
    }

    /// Looks at what the end of the provider's body left without a blank line: the end of the answer or an error is
    /// understood without one, part of an answer is not.
    fn last_words(&mut self) -> Result<Option<Progress>, StreamFault> {
        let Some(rest) = self.incoming.as_mut().and_then(|incoming| incoming.decoder.finish()) else {
            return Ok(None);
        };
        let whole = self.out.len();
        match self.relay.event(&rest.event, &mut self.out) {
            Ok(Progress::Done) => {
                if self.out.len() > whole {
                    // What counts as an event here has to be one for the caller, too.
                    self.out
                        .extend_from_slice(if rest.line_ended { b"\n" } else { b"\n\n" });
                }
                Ok(Some(Progress::Done))
            }
            Err(StreamFault::Error(error)) => Err(StreamFault::Error(error)),
            Ok(_) | Err(StreamFault::Shape(_)) => {
                self.out.truncate(whole);
                Ok(None)
            }
        }
    }

    /// Reads the provider's next frame into the decoder; `false` at the end of its body.
    async fn read_frame(&mut self, credentials: &Credentials) -> Result<bool, Failure> {
        let Some(incoming) = &mut self.incoming else {
            return Ok(false);
        };
        loop {
            match incoming.body.frame().await {
                None => return Ok(false),
                Some(Err(cause)) => return Err(Failure::upstream(&cause, credentials)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        incoming.decoder.push(data);
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Reads up to the first event that says anything. Nothing of a stream that fails here has been seen by the caller.
    async fn open(&mut self, credentials: &Credentials) -> Result<Progress, Opening> {
        loop {
            if let Some(progress) = self.relay_events(true)? {
                return Ok(progress);
            }
            if self.out.len() > MAX_EVENT {
                return Err(StreamFault::Shape("the provider's stream has nothing but comments").into());
            }
            if !self.read_frame(credentials).await? {
                self.last_words()?;
                return Err(StreamFault::Shape("the provider's stream is empty").into());
            }
        }
    }

    /// Sends the round's request until a stream opens.
    async fn connect<U>(&mut self, exchange: &mut Exchange<U>, body: &Rope) -> Result<Progress, Failure>
    where
        U: Upstream<Body = B>,
    {
        let mut walk = RoundWalk::default();
        loop {
            let attempted = exchange.attempt(&mut walk, body).await?;
            if !attempted.status().is_success() {
                return Err(exchange.read_refusal(attempted).await);
            }
            let (response, deadline, lease) = attempted.into_parts();
            let (mut parts, body) = response.into_parts();
            let fault = if is_encoded(&parts.headers) {
                StreamFault::Shape("an encoded body in place of a stream")
            } else if is_event_stream(&parts.headers) {
                self.relay.begin_round(self.commit.is_none());
                self.incoming = Some(Incoming {
                    body: Box::pin(body),
                    decoder: Decoder::new(MAX_EVENT),
                });
                match timeout_at(deadline, self.open(&exchange.credentials)).await {
                    Ok(Ok(progress)) => {
                        exchange.accept(lease);
                        if self.commit.is_some() {
                            prepare_head(exchange, &mut parts);
                            if let Some(intercepted) = exchange.intercepted() {
                                parts.extensions.insert(intercepted);
                            }
                            self.parts = Some(parts);
                        }
                        return Ok(progress);
                    }
                    Ok(Err(Opening::Failure(failure))) => return Err(failure),
                    Ok(Err(Opening::Fault(fault))) => fault,
                    Err(_) => return Err(Failure::timeout()),
                }
            } else {
                let mut body = pin!(body);
                let reading = collect(body.as_mut(), exchange.config.max_response_body, |_| ());
                let body = timeout_at(deadline, reading)
                    .await
                    .map_err(|_| Failure::timeout())?
                    .map_err(|error| Failure::unread(&error, &exchange.credentials))?;
                match ChatReply::read(body) {
                    Err(Malformed::Error(error)) => StreamFault::Error(error),
                    _ => StreamFault::Shape("a body that is not a stream"),
                }
            };
            // Comments that came before the fault belong to an answer that nobody sees.
            self.out.clear();
            self.incoming = None;
            match fault {
                StreamFault::Shape(cause) => return Err(Failure::invalid(cause)),
                StreamFault::Error(error) => exchange.judge_in_band(&mut walk, lease, parts, error)?,
            }
        }
    }

    /// A fault after the stream has opened.
    fn broken<U: Upstream>(&self, exchange: &Exchange<U>, fault: StreamFault) -> Failure {
        match fault {
            StreamFault::Shape(cause) => Failure::invalid(cause),
            StreamFault::Error(error) => {
                let parts = self.parts.clone().unwrap_or_else(|| Response::new(()).into_parts().0);
                exchange.refused(in_band_refusal(parts, error))
            }
        }
    }
}

impl<U: Upstream> ReadTurn<U> for Tee<U::Body> {
    async fn read(&mut self, exchange: &mut Exchange<U>, request: &ChatRequest, body: Rope) -> Result<Turn, Failure> {
        let mut progress = self.connect(exchange, &body).await?;
        exchange.record_prompt(self.relay.msg_id(), || request.prompt());
        // Counts from when the provider is waited for, not from when the caller begins to read.
        let mut idle = None;
        loop {
            let relayed = match progress {
                Progress::Done => Ok(Some(Progress::Done)),
                _ => self.relay_events(false),
            };
            if self.relay.takes_usage() {
                exchange.hold_usage(&self.relay.completion());
            }
            if self.relay.has_shown() {
                exchange.first_token();
            }
            match relayed {
                // What is left in `out` waits for the rounds' verdict: it may be the conversation's end.
                Ok(Some(_)) => {
                    let turn = self.relay.turn();
                    exchange.record_usage(&turn.completion);
                    return Ok(turn);
                }
                Ok(None) => self.flush().await,
                Err(fault) => {
                    // What came before the fault is the caller's, however it was cut into frames.
                    self.flush().await;
                    return Err(self.broken(exchange, fault));
                }
            }
            progress = Progress::Aside;
            let idle = idle.get_or_insert_with(|| Idle::new(exchange.config.attempt_timeout));
            if !idle.watch(self.read_frame(&exchange.credentials)).await? {
                let last = self.last_words().map_err(|fault| self.broken(exchange, fault))?;
                progress =
                    last.ok_or_else(|| Failure::upstream(&"the stream ended without [DONE]", &exchange.credentials))?;
            }
        }
    }

    async fn pause(&mut self) {
        self.flush().await;
        self.drain().await;
    }

    async fn wait<F>(&mut self, tools: F) -> F::Output
    where
        F: Future<Output: Send> + Send,
    {
        let mut tools = pin!(tools);
        let mut tick = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut tools => return done,
                _ = tick.tick() => self.hand_over(Bytes::from_static(b": keep-alive\n\n")).await,
            }
        }
    }

    fn replay(&mut self, keep: impl Fn(usize) -> bool + Send) -> Rope {
        self.relay.replay(keep)
    }
}

// === impl Opening ===

impl From<StreamFault> for Opening {
    fn from(fault: StreamFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Failure> for Opening {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

// === impl Idle ===

impl Idle {
    fn new(period: Duration) -> Self {
        Self {
            sleep: Box::pin(sleep(period)),
            period,
            heard: false,
        }
    }

    /// Waits for `reading`; a timeout if nothing was heard for the period, or for at most twice as long.
    async fn watch<T>(&mut self, reading: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut reading = pin!(reading);
        loop {
            tokio::select! {
                biased;
                done = &mut reading => {
                    self.heard = true;
                    return done;
                }
                () = &mut self.sleep => {
                    if !self.heard {
                        return Err(Failure::timeout());
                    }
                    self.heard = false;
                    self.sleep.as_mut().reset(Instant::now() + self.period);
                }
            }
        }
    }
}
