//! The guard that an interception's future or body owns: it records exactly one `ended`, whatever happens, as the last event.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Event, Fact, Injection, Outcome, cost::CostSum, events::Sender, places::Place, price::Priced, text::TextLimits,
};
use crate::{
    metrics::{Operation, Stopwatch},
    types::{KeyHint, TokenUsage},
};

/// One request on its way through the bridge.
///
/// Everything here is synchronous: there is no `.await` between learning a fact and recording it, so dropping the owner
/// at any point loses nothing that was known.
pub(crate) struct Interception {
    id: Uuid,
    began: Instant,
    first_token: Option<Duration>,
    key_attempts: u32,
    rounds: u32,
    hint: Option<KeyHint>,
    injection: Injection,
    usage: TokenUsage,
    has_reported: bool,
    cost: CostSum,
    /// The latest report of a round's usage; a newer one replaces it, the end of the round records it.
    held: Option<Box<Fact>>,
    operation: Operation,
    /// The prompt, read before it is recorded.
    prompt: Option<Option<String>>,
    /// `None` once ended, or when nobody records.
    channel: Option<Channel>,
}

struct Channel {
    sender: Sender,
    place: Place,
    limits: TextLimits,
    priced: Option<Priced>,
    sequence: u64,
}

// === impl Interception ===

impl Interception {
    pub(super) fn begin(
        sender: Sender,
        place: Place,
        limits: TextLimits,
        priced: Option<Priced>,
        started: Fact,
    ) -> Self {
        debug_assert!(matches!(started, Fact::Started { .. }));
        let mut interception = Self::unrecorded();
        interception.channel = Some(Channel {
            sender,
            place,
            limits,
            priced,
            sequence: 0,
        });
        interception.emit(started);
        interception
    }

    /// For a bridge without a recorder: it has an id and counts, and records nothing.
    pub(crate) fn unrecorded() -> Self {
        Self {
            id: Uuid::now_v7(),
            began: Instant::now(),
            first_token: None,
            key_attempts: 0,
            rounds: 0,
            hint: None,
            injection: Injection::None,
            usage: TokenUsage::default(),
            has_reported: false,
            cost: CostSum::default(),
            held: None,
            operation: Operation::default(),
            prompt: None,
            channel: None,
        }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Reports this interception as metrics, too.
    pub(crate) fn measure(&mut self, operation: Operation) {
        self.operation = operation;
    }

    /// Begins to measure a wait for the provider or for tools.
    pub(crate) fn stopwatch(&self) -> Option<Stopwatch> {
        self.operation.stopwatch()
    }

    /// Ends the measured wait that began at `begun`.
    pub(crate) fn waited(&mut self, begun: Option<Stopwatch>) {
        self.operation.waited(begun);
    }

    /// Whether events are recorded; lets callers skip building an expensive fact.
    pub(crate) fn is_recorded(&self) -> bool {
        self.channel.is_some()
    }

    /// The longest text that is recorded whole, in bytes.
    pub(crate) fn max_text(&self) -> usize {
        self.channel.as_ref().map_or(0, |channel| channel.limits.text)
    }

    /// Keeps the prompt, if there is one, until it is recorded.
    pub(crate) fn keep_prompt(&mut self, prompt: Option<String>) {
        self.prompt = Some(prompt);
    }

    /// The kept prompt; `None` if none was read ahead.
    pub(crate) fn take_prompt(&mut self) -> Option<Option<String>> {
        self.prompt.take()
    }

    /// Records `fact`, which is neither `started` nor `ended`; tokens are summed up for `ended`.
    pub(crate) fn emit(&mut self, mut fact: Fact) {
        debug_assert!(
            !matches!(fact, Fact::Ended { .. }),
            "`finish` and `drop` record the end"
        );
        if let Some(priced) = self.channel.as_ref().and_then(|channel| channel.priced.as_ref()) {
            priced.fill(&mut fact);
        }
        if let Fact::TokenUsage { usage, cost, .. } = &fact {
            self.usage += *usage;
            let amount = cost.as_ref().map(|cost| (cost.amount.approximate(), &*cost.currency));
            self.operation.usage(usage, amount);
            self.cost.add(cost.as_ref());
            // Each round's usage is recorded once.
            self.held = None;
        }
        if let Some(channel) = &mut self.channel {
            channel.send(self.id, fact);
        }
    }

    /// Notes that usage was reported. Returns whether it was for the first time.
    pub(crate) fn note_report(&mut self) -> bool {
        !std::mem::replace(&mut self.has_reported, true)
    }

    /// Holds a report that a later one may replace: the usage that a stream has told so far.
    pub(crate) fn hold(&mut self, fact: Fact) {
        self.held = Some(Box::new(fact));
    }

    /// Records the held report: none will replace it any more.
    pub(crate) fn release(&mut self) {
        if let Some(fact) = self.held.take() {
            self.emit(*fact);
        }
    }

    /// Notes whether the provider was offered injected tools; the last call counts.
    pub(crate) fn set_injection(&mut self, injection: Injection) {
        self.injection = injection;
    }

    /// Counts a key that is about to be tried.
    pub(crate) fn note_key_attempt(&mut self, hint: Option<&KeyHint>) {
        self.key_attempts = self.key_attempts.saturating_add(1);
        self.hint = hint.cloned();
    }

    /// Keys tried so far, over all rounds.
    pub(crate) fn key_attempts(&self) -> u32 {
        self.key_attempts
    }

    /// Counts a round that begins.
    pub(crate) fn note_round(&mut self) {
        self.rounds = self.rounds.saturating_add(1);
    }

    /// Notes the time of the first part of the answer; later calls change nothing.
    pub(crate) fn note_first_token(&mut self) {
        if self.first_token.is_none() {
            let after = Instant::now().saturating_duration_since(self.began);
            self.first_token = Some(after);
            self.operation.first_token(after);
        }
    }

    /// Tokens so far, over all rounds, as given to [`emit`](Self::emit).
    pub(crate) fn usage(&self) -> TokenUsage {
        self.usage
    }

    /// Records the end. `status` and `error_type` are those of the answer, as far as there is one.
    pub(crate) fn finish(mut self, outcome: Outcome, status: Option<StatusCode>, error_type: Option<&str>) {
        self.end(outcome, status, error_type);
    }

    fn end(&mut self, outcome: Outcome, status: Option<StatusCode>, error_type: Option<&str>) {
        self.release();
        let duration = Instant::now().saturating_duration_since(self.began);
        let is_complete = outcome == Outcome::Completed;
        self.operation.end(outcome.as_str(), is_complete, duration);
        let Some(channel) = self.channel.take() else { return };
        let ended = Fact::Ended {
            outcome,
            status: status.map(|status| status.as_u16()),
            error_type: error_type.map(str::to_owned),
            credential_hint: self.hint.take(),
            key_attempts: self.key_attempts,
            rounds: self.rounds,
            injection: self.injection,
            usage: self.usage,
            cost: std::mem::take(&mut self.cost).into_cost(),
            duration_ms: millis(duration),
            time_to_first_token_ms: self.first_token.map(millis),
        };
        channel.close(self.id, ended);
    }
}

impl Drop for Interception {
    fn drop(&mut self) {
        let outcome = if std::thread::panicking() {
            Outcome::BridgeError
        } else {
            Outcome::Cancelled
        };
        self.end(outcome, None, None);
    }
}

impl fmt::Debug for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interception")
            .field("id", &self.id)
            .field("recorded", &self.is_recorded())
            .finish_non_exhaustive()
    }
}

// === impl Channel ===

impl Channel {
    fn send(&mut self, id: Uuid, fact: Fact) {
        let event = self.event(id, fact);
        self.sequence += 1;
        self.sender.send(event, self.place.places(), None);
    }

    fn close(self, id: Uuid, ended: Fact) {
        let event = self.event(id, ended);
        let places = Arc::clone(self.place.places());
        self.sender.send(event, &places, Some(self.place));
    }

    fn event(&self, interception_id: Uuid, mut fact: Fact) -> Box<Event> {
        self.limits.apply(&mut fact);
        Box::new(Event {
            interception_id,
            sequence: self.sequence,
            at: SystemTime::now(),
            fact,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
