//! The caller's side of a stream: the relay, the head that is not sent yet, and the bytes that are not handed over yet.

use std::future::Future;
use std::mem;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{Response, response};
use tokio::sync::oneshot;

use super::answer::Failure;
use super::aside::{Aside, Place, Working};
use super::attempt::RoundWalk;
use super::facts;
use super::idle::{Silence, Silent};
use super::provider::Provider;
use crate::body::Sink;
use crate::dialect::sse::{Decoder, missing_end};
use crate::dialect::turn::{Fault, Progress, Turn};
use crate::dialect::{Relay, Request};
use crate::extensions::Intercepted;
use crate::pool::Lease;
use crate::record::Interception;
use crate::upstream::Upstream;

#[cfg(test)]
mod tests;

const TOO_LONG: Fault = Fault::Shape("the provider's stream has an event that is over the limit");

/// One allocation holds the events of many frames. With less room left than `OUT_LOW`, a new one is made.
const OUT_CAPACITY: usize = 8 << 10;
const OUT_LOW: usize = 1 << 10;

/// Sends the head to the caller, or the failure in its place.
pub(super) type Commit = oneshot::Sender<Result<response::Parts, (Failure, Intercepted)>>;

/// The head of an answer that has shown nothing yet, and the key that was used for it.
pub(super) type Opening = (response::Parts, Option<Lease>);

/// The caller's side.
pub(super) struct Output {
    pub(super) relay: Box<dyn Relay>,
    sink: Sink,
    pub(super) out: BytesMut,
    /// Sends the head with the first output; none from then on.
    pub(super) commit: Option<Commit>,
    /// The head of the current round's answer, cleaned; replaced by later rounds until one is sent.
    parts: Option<response::Parts>,
    pub(super) intercepted: Intercepted,
    pub(super) silence: Silence,
    /// Whether the caller may have seen a part of an answer.
    has_opened: bool,
    /// The answer's id when its first event was shown: later events of the same frame may tell more.
    first_id: Option<String>,
    /// Work on another thread that has the relay.
    lent: Option<Working<Lent>>,
}

/// What another thread works with.
struct Lent {
    relay: Box<dyn Relay>,
    out: BytesMut,
    work: Work,
}

/// The work's input and results.
struct Work {
    decoder: Decoder,
    relayed: Relayed,
    turn: Turn,
}

/// The effect of a run of events.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    /// Events may be left: those before them had as many bytes as were allowed.
    pub(super) is_cut: bool,
    pub(super) answers: bool,
    pub(super) shows: bool,
    pub(super) done: bool,
    pub(super) fault: Option<Fault>,
    /// The answer's id at its first event that is shown.
    first_id: Option<String>,
}

// === impl Output ===

impl Output {
    pub(super) fn new(relay: Box<dyn Relay>, sink: Sink, commit: Commit, intercepted: Intercepted) -> Self {
        Self {
            relay,
            sink,
            out: BytesMut::with_capacity(OUT_CAPACITY),
            commit: Some(commit),
            parts: None,
            intercepted,
            silence: Silence::new(),
            has_opened: false,
            first_id: None,
            lent: None,
        }
    }

    /// Begins a round, or another attempt at it.
    pub(super) fn begin_round(&mut self) {
        self.first_id = None;
        self.relay.begin_round(self.commit.is_none());
    }

    pub(super) fn has_opened(&self) -> bool {
        self.has_opened
    }

    /// Hands the pending bytes to the caller, the head first.
    pub(super) async fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let bytes = self.out.split().freeze();
        if bytes.len() > OUT_CAPACITY {
            // `out` still shares the memory of `bytes`, and would keep it for the rest of the stream.
            self.out = BytesMut::new();
        }
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
        self.silence.note_shown();
    }

    /// Waits for `work`, with keep-alives for the caller meanwhile. `Err` if the provider is silent for too long.
    pub(super) async fn during<F: Future>(&mut self, work: F) -> Result<F::Output, Failure> {
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

    /// Waits for `work` that is not the provider's, with keep-alives for the caller meanwhile.
    pub(super) async fn during_ours<F: Future>(&mut self, work: F) -> F::Output {
        let left = self.silence.pause();
        let mut work = pin!(work);
        let done = loop {
            match self.silence.or(work.as_mut()).await {
                Ok(done) => break done,
                Err(_) => self.keep_alive().await,
            }
        };
        if let Some(left) = left {
            self.silence.listen(left);
        }
        done
    }

    /// Feeds the relay with the events received so far, up to about `most` bytes of them. If they are large, the relay moves
    /// to another thread and takes all, where it holds up no other request; `spare` makes the relay that stands in its
    /// place meanwhile.
    pub(super) async fn relay_events(
        &mut self,
        decoder: &mut Decoder,
        most: usize,
        aside: &Aside,
        spare: impl FnOnce() -> Box<dyn Relay>,
    ) -> Relayed {
        let wants_id = !self.has_opened && self.first_id.is_none();
        let bytes = decoder.pending();
        let mut relayed = if Aside::takes(bytes) {
            let events = mem::replace(decoder, Decoder::new(0));
            let work = move |lent: &mut Lent| {
                let Lent { relay, out, work } = lent;
                work.relayed = relay_all(&mut **relay, &mut work.decoder, out, wants_id, usize::MAX);
            };
            let done = self.lend(events, aside, spare, work).await;
            *decoder = done.decoder;
            done.relayed
        } else {
            relay_all(&mut *self.relay, decoder, &mut self.out, wants_id, most)
        };
        if wants_id {
            self.first_id = relayed.first_id.take();
        }
        relayed
    }

    /// The turn of a round of `bytes` bytes; if it is large, made on another thread in the same way.
    pub(super) async fn turn(&mut self, bytes: usize, aside: &Aside, spare: impl FnOnce() -> Box<dyn Relay>) -> Turn {
        if !Aside::takes(bytes) {
            return self.relay.turn();
        }
        let work = |lent: &mut Lent| lent.work.turn = lent.relay.turn();
        self.lend(Decoder::new(0), aside, spare, work).await.turn
    }

    /// Lets another thread do `work` with the relay. While there is no place for it the relay is here, for keep-alives.
    async fn lend(
        &mut self,
        decoder: Decoder,
        aside: &Aside,
        spare: impl FnOnce() -> Box<dyn Relay>,
        work: impl FnOnce(&mut Lent) + Send + 'static,
    ) -> Work {
        let place = self.place(aside).await;
        let mut lent = Lent {
            relay: mem::replace(&mut self.relay, spare()),
            out: mem::take(&mut self.out),
            work: Work {
                decoder,
                relayed: Relayed::default(),
                turn: Turn::default(),
            },
        };
        let working = place.begin(move || {
            work(&mut lent);
            lent
        });
        let lent = self.lent.insert(working).await;
        self.take_back(lent)
    }

    /// Waits for a place, with keep-alives for the caller meanwhile. Each keep-alive ends the wait and begins another: until
    /// the caller reads it nobody polls this, and a place granted meanwhile would be lost to all.
    pub(super) async fn place(&mut self, aside: &Aside) -> Place {
        let left = self.silence.pause();
        let place = loop {
            // A separate statement: the wait must not live across the keep-alive.
            let waited = self.silence.or(pin!(aside.place())).await;
            match waited {
                Ok(place) => break place,
                Err(_) => self.keep_alive().await,
            }
        };
        if let Some(left) = left {
            self.silence.listen(left);
        }
        place
    }

    /// Waits for the relay, if another thread has it: a stream that is out of time ends with a word of its own relay.
    pub(super) async fn recall(&mut self) {
        if let Some(working) = &mut self.lent {
            let lent = working.await;
            self.take_back(lent);
        }
    }

    fn take_back(&mut self, lent: Lent) -> Work {
        self.lent = None;
        (self.relay, self.out) = (lent.relay, lent.out);
        lent.work
    }

    /// Handles the end of the provider's body: `done` says whether the answer is complete. A large unfinished event moves to
    /// another thread with the relay, as [`Self::relay_events`] does.
    pub(super) async fn relay_end(
        &mut self,
        decoder: &mut Decoder,
        aside: &Aside,
        spare: impl FnOnce() -> Box<dyn Relay>,
    ) -> Relayed {
        if !Aside::takes(decoder.held()) {
            return end_all(&mut *self.relay, decoder, &mut self.out);
        }
        let rest = mem::replace(decoder, Decoder::new(0));
        let work = |lent: &mut Lent| {
            let Lent { relay, out, work } = lent;
            work.relayed = end_all(&mut **relay, &mut work.decoder, out);
        };
        self.lend(rest, aside, spare, work).await.relayed
    }

    /// Opens the answer that is being relayed, unless it is open already.
    pub(super) fn open_relayed<U: Upstream>(
        &mut self,
        provider: &mut Provider<U>,
        interception: &mut Interception,
        request: &dyn Request,
        walk: &mut RoundWalk,
        opening: &mut Option<Opening>,
    ) {
        if opening.is_some() {
            let first_id = self.first_id.take();
            let msg_id = first_id.unwrap_or_else(|| self.relay.msg_id().to_owned());
            self.open(provider, interception, &msg_id, request, walk, opening);
        }
    }

    /// Opens an answer: its key has served, and its head is for the caller.
    pub(super) fn open<U: Upstream>(
        &mut self,
        provider: &mut Provider<U>,
        interception: &mut Interception,
        msg_id: &str,
        request: &dyn Request,
        walk: &mut RoundWalk,
        opening: &mut Option<Opening>,
    ) {
        let Some((parts, lease)) = opening.take() else { return };
        self.has_opened = true;
        provider.keep_sticky(&parts.headers, lease.as_ref());
        provider.accept(walk, lease);
        if self.commit.is_some() {
            self.parts = Some(parts);
        }
        if provider.round == 1 {
            facts::record_prompt(interception, msg_id, || request.prompt());
        }
    }

    pub(super) async fn flush_opened(&mut self, is_opened: bool) {
        if is_opened {
            self.flush().await;
        }
    }

    pub(super) async fn keep_alive(&mut self) {
        let mut bytes = BytesMut::new();
        self.relay.keep_alive(&mut bytes);
        self.hand_over(bytes.freeze()).await;
        self.silence.note_shown();
    }
}

/// Feeds a relay with the events received so far, until they have `most` bytes.
fn relay_all(relay: &mut dyn Relay, decoder: &mut Decoder, out: &mut BytesMut, wants_id: bool, most: usize) -> Relayed {
    let mut relayed = Relayed::default();
    let mut bytes = 0;
    while relayed.fault.is_none() && !relayed.done {
        if bytes >= most {
            relayed.is_cut = true;
            break;
        }
        let event = match decoder.next() {
            Ok(Some(event)) => event,
            Ok(None) => break,
            Err(_) => {
                relayed.fault = Some(TOO_LONG);
                break;
            }
        };
        bytes += event.raw().len();
        match relay.event(&event, out) {
            Ok(Progress::Aside) => {}
            Ok(Progress::Held) => relayed.answers = true,
            Ok(Progress::Shown) => {
                (relayed.answers, relayed.shows) = (true, true);
                if wants_id && relayed.first_id.is_none() {
                    relayed.first_id = Some(relay.msg_id().to_owned());
                }
            }
            Ok(Progress::Done) => relayed.done = true,
            Err(fault) => relayed.fault = Some(fault),
        }
    }
    relayed
}

/// Ends a relay's round. An unterminated final event counts if only its blank line is missing.
fn end_all(relay: &mut dyn Relay, decoder: &mut Decoder, out: &mut BytesMut) -> Relayed {
    let mut ended = Relayed::default();
    if let Some(rest) = decoder.finish() {
        let whole = out.len();
        match relay.event(&rest, out) {
            Ok(progress) => {
                if out.len() > whole {
                    // The caller needs the missing end too, to see a whole event.
                    out.extend_from_slice(missing_end(rest.raw()));
                }
                ended.done = progress == Progress::Done;
            }
            Err(Fault::Shape(_)) => out.truncate(whole),
            Err(fault @ Fault::Refused(_)) => ended.fault = Some(fault),
        }
    }
    if !ended.done && ended.fault.is_none() {
        ended.done = relay.end(out);
    }
    ended
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
