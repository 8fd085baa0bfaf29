//! A streamed response over all of its rounds: relays each event with its own bytes except for its numbers and its
//! response object. Items of ours leave no trace, and the caller sees one life cycle.

mod ending;

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::caller::{Caller, Frame};
use super::error::Words;
use super::event_kind::{EventKind, object};
use super::failure;
use super::items::{Item, replay};
use super::object::{self, Echo, Object};
use super::round::{Round, State};
use super::sorter::{Decided, Sight};
use crate::dialect::sse::Event;
use crate::dialect::turn::{Completion, Earlier, ErrorWords, Fault, Progress, ShownId, Turn};
use crate::dialect::{Relay, RelaySetup};
use crate::json::Scanner;
use crate::rope::{Edits, Rope};
use crate::types::ReportedUsage;

/// Bytes that are counted for an item besides its text.
const ITEM_OVERHEAD: usize = 256;

/// The text of an item that was not announced.
const UNTOLD: &[u8] = b"{}";

const LACKS_OBJECT: Fault = Fault::Shape("an event of the stream lacks its object");

/// Relays all rounds of one request to one caller.
pub(super) struct ResponsesRelay {
    setup: RelaySetup,
    echo: Echo,
    /// The request's model, for a response object of our own.
    model: String,
    is_stored: bool,
    scanner: Scanner,
    caller: Caller,
    earlier: Earlier,
    /// Bytes that are kept of the rounds before this one.
    held_before: usize,
    last: Fate,
    /// The provider's id that the bridge was last told.
    told_id: String,
    decided: Vec<Decided>,
    round: Round,
}

/// The destination of the last event: a late LF of it goes there, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Shown,
    Hidden,
    HeldInPreamble,
    /// By the item's place.
    HeldForItem(usize),
}

// === impl ResponsesRelay ===

impl ResponsesRelay {
    pub(super) fn new(
        setup: RelaySetup,
        echo: Echo,
        model: String,
        is_stored: bool,
        reported_usage: Option<ReportedUsage>,
    ) -> Self {
        Self {
            caller: Caller::new(!echo.offer.is_empty()),
            earlier: Earlier {
                reported_usage,
                ..Earlier::default()
            },
            setup,
            echo,
            model,
            is_stored,
            scanner: Scanner::lenient(),
            held_before: 0,
            last: Fate::Hidden,
            told_id: String::new(),
            decided: Vec::new(),
            round: Round::default(),
        }
    }

    /// The place of a member that is an object.
    fn object(&self, name: &str) -> Option<Range<usize>> {
        object(&self.scanner, name)
    }

    /// Counts bytes that are about to be kept: backpressure does not bound events that the caller does not see.
    fn hold(&mut self, bytes: usize) -> Result<(), Fault> {
        self.round.held = self.round.held.saturating_add(bytes);
        if self.held_before.saturating_add(self.round.held) > self.setup.max_held {
            return Err(Fault::Shape("the streamed turn is over the limit"));
        }
        Ok(())
    }

    /// The late LF of the last event.
    fn tail(&mut self, tail: &Event<'_>, out: &mut BytesMut) {
        let held = match self.last {
            Fate::Shown => {
                out.extend_from_slice(tail.raw());
                None
            }
            Fate::Hidden => None,
            Fate::HeldInPreamble => self.round.preamble.last_mut(),
            Fate::HeldForItem(place) => match self.round.slots.get_mut(place).map(|slot| &mut slot.state) {
                Some(State::Open(waiting)) => waiting.last_mut(),
                _ => None,
            },
        };
        if let Some(held) = held {
            held.push_tail(tail);
        }
    }

    /// An event of the response's life cycle: the caller sees those of one round, once it sees an item.
    fn cycle(&mut self, event: &Event<'_>, mut frame: Frame, out: &mut BytesMut) -> Result<Progress, Fault> {
        if let Some(place) = self.object("response") {
            let text = Bytes::copy_from_slice(&event.data()[place.clone()]);
            let object = Object::read(&text);
            self.round.is_usage_new |= object.describe(&text, &mut self.round.completion);
            let mut edits = Edits::default();
            object.restore(&text, &self.echo, &mut edits);
            let shown = if edits.is_empty() {
                text
            } else {
                let edited = edits.apply(&text.into()).into_bytes();
                frame.replace_object(place, edited.clone());
                edited
            };
            self.hold(shown.len())?;
            self.round.object = Some(shown);
        }
        if !self.caller.is_open {
            let held = frame.hold(event);
            self.hold(held.len())?;
            self.round.preamble.push(held);
            self.last = Fate::HeldInPreamble;
            return Ok(Progress::Held);
        }
        if !self.round.is_callers_cycle {
            return Ok(Progress::Held);
        }
        self.caller.object.clone_from(&self.round.object);
        self.caller.show(event, frame, None, out);
        Ok(Progress::Shown)
    }

    /// Opens the caller's stream, with the events that this round began with.
    fn open(&mut self, out: &mut BytesMut) {
        if self.caller.is_open {
            return;
        }
        self.caller.is_open = true;
        self.round.is_callers_cycle = true;
        self.caller.id.clone_from(&self.round.completion.id);
        self.caller.object.clone_from(&self.round.object);
        for held in std::mem::take(&mut self.round.preamble) {
            self.caller.show_held(&held, None, out);
        }
    }

    /// An item is announced.
    fn added(&mut self, event: &Event<'_>, frame: Frame, out: &mut BytesMut) -> Result<Progress, Fault> {
        let Some(item) = self.object("item") else {
            return self.bare(event, frame, out);
        };
        let place = self.add(&event.data()[item], frame.number(), out)?;
        self.item_event(place, event, frame, out)
    }

    /// An event without the object that it should have: relayed only if events are not renumbered.
    fn bare(&mut self, event: &Event<'_>, frame: Frame, out: &mut BytesMut) -> Result<Progress, Fault> {
        if self.caller.is_renumbered {
            return Err(LACKS_OBJECT);
        }
        self.other(event, frame, out)
    }

    fn add(&mut self, item: &[u8], index: Option<u64>, out: &mut BytesMut) -> Result<usize, Fault> {
        self.hold(item.len() + ITEM_OVERHEAD)?;
        let (place, sight) = self.round.add(index, item, &self.echo.offer, &mut self.decided)?;
        self.settle(out);
        if sight == Sight::Shown {
            self.round.slots[place].state = State::Shown(self.caller.take_index());
        }
        Ok(place)
    }

    /// Carries out the decisions on items that were open.
    fn settle(&mut self, out: &mut BytesMut) {
        for Decided { place, is_shown } in std::mem::take(&mut self.decided) {
            let Some(slot) = self.round.slots.get_mut(place) else {
                continue;
            };
            if !is_shown {
                slot.state = State::Hidden;
                continue;
            }
            let index = self.caller.take_index();
            if let State::Open(held) = std::mem::replace(&mut slot.state, State::Shown(index)) {
                self.open(out);
                for event in held {
                    self.caller.show_held(&event, Some(index), out);
                }
            }
        }
    }

    /// An item is finished.
    fn done(&mut self, event: &Event<'_>, frame: Frame, out: &mut BytesMut) -> Result<Progress, Fault> {
        let Some(item) = self.object("item") else {
            return self.bare(event, frame, out);
        };
        let item = &event.data()[item];
        let is_known = |place: &usize| frame.index.is_some() || !self.round.slots[*place].is_done;
        let known = self.round.place_of_event(frame.number()).filter(is_known);
        let place = match known {
            Some(place) => place,
            None => self.add(item, frame.number(), out)?,
        };
        if self.is_kept(item) {
            self.hold(item.len())?;
            self.round.finish(place, Bytes::copy_from_slice(item), &self.echo.offer);
        }
        self.item_event(place, event, frame, out)
    }

    /// Whether an item's text is needed later.
    fn is_kept(&self, item: &[u8]) -> bool {
        let is_told = || {
            let item = Item::read(item);
            item.call(&self.echo.offer).is_some() || !item.thoughts().is_empty()
        };
        self.caller.is_renumbered || self.setup.recorded && is_told()
    }

    fn part(&mut self, event: &Event<'_>, frame: Frame, out: &mut BytesMut) -> Result<Progress, Fault> {
        let place = match self.round.place_of_event(frame.number()) {
            Some(place) => place,
            None => self.add(UNTOLD, frame.number(), out)?,
        };
        self.item_event(place, event, frame, out)
    }

    /// Shows, holds or hides an event of an item.
    fn item_event(
        &mut self,
        place: usize,
        event: &Event<'_>,
        frame: Frame,
        out: &mut BytesMut,
    ) -> Result<Progress, Fault> {
        let held = match &self.round.slots[place].state {
            State::Hidden => return Ok(Progress::Held),
            State::Shown(index) => {
                let index = self.caller.is_renumbered.then_some(*index);
                self.open(out);
                self.caller.show(event, frame, index, out);
                return Ok(Progress::Shown);
            }
            State::Open(_) => frame.hold(event),
        };
        self.hold(held.len())?;
        if let State::Open(waiting) = &mut self.round.slots[place].state {
            waiting.push(held);
            self.last = Fate::HeldForItem(place);
        }
        Ok(Progress::Held)
    }

    /// An event of the whole stream, such as `response.metadata`.
    fn other(&mut self, event: &Event<'_>, frame: Frame, out: &mut BytesMut) -> Result<Progress, Fault> {
        if self.caller.is_open {
            self.caller.show(event, frame, None, out);
            return Ok(Progress::Shown);
        }
        let held = frame.hold(event);
        self.hold(held.len())?;
        self.round.preamble.push(held);
        self.last = Fate::HeldInPreamble;
        Ok(Progress::Held)
    }
}

impl Relay for ResponsesRelay {
    fn begin_round(&mut self, begun: bool) {
        self.round = Round::default();
        self.decided.clear();
        self.last = Fate::Hidden;
        self.caller.has_bytes = begun;
    }

    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<Progress, Fault> {
        if event.is_tail() {
            self.tail(event, out);
            return Ok(Progress::Aside);
        }
        let data = event.data();
        if data.trim_ascii().is_empty() {
            self.last = Fate::Shown;
            self.caller.pass(event, out);
            return Ok(Progress::Aside);
        }
        self.last = Fate::Hidden;
        // Some hosts end this stream with `[DONE]`, as chat completions.
        if data.trim_ascii() == b"[DONE]" {
            return Ok(Progress::Aside);
        }
        if self.scanner.scan(data).is_err() {
            return Err(Fault::Shape("the stream has an event that is not a JSON object"));
        }
        let frame = Frame::read(data, &self.scanner);
        let progress = match EventKind::of(data, &self.scanner) {
            EventKind::Cycle => self.cycle(event, frame, out)?,
            EventKind::Added => self.added(event, frame, out)?,
            EventKind::Done => self.done(event, frame, out)?,
            EventKind::Part => self.part(event, frame, out)?,
            EventKind::Completed => self.over(event, frame, true, out)?,
            EventKind::Incomplete => self.over(event, frame, false, out)?,
            EventKind::Failed => return Err(self.failed(event, frame, true)),
            EventKind::Error => return Err(self.failed(event, frame, false)),
            EventKind::KeepAlive if !self.caller.is_open => Progress::Held,
            EventKind::KeepAlive | EventKind::Other => self.other(event, frame, out)?,
        };
        if progress == Progress::Shown {
            self.last = Fate::Shown;
        }
        Ok(progress)
    }

    /// A response without its last event never looks complete.
    fn end(&mut self, _: &mut BytesMut) -> bool {
        false
    }

    fn keep_alive(&mut self, out: &mut BytesMut) {
        if !self.caller.comment(out) {
            return;
        }
        if !self.caller.is_open && !self.round.preamble.is_empty() {
            self.open(out);
        } else if let Some(object) = self.caller.object.clone().filter(|_| self.caller.is_open) {
            let members = [&b"\"response\":"[..], &object].concat();
            self.caller.say("response.in_progress", &members, out);
        }
    }

    fn fail(&mut self, error: ErrorWords<'_>, out: &mut BytesMut) {
        if !self.round.preamble.is_empty() {
            self.open(out);
        }
        let failure = self.round.failure.take().filter(|failure| match error {
            ErrorWords::Provider { body, .. } => failure.body == body,
            ErrorWords::Bridge(_) => false,
        });
        let words = Words::from(error);
        match failure {
            Some(failure) => {
                self.caller.show_held(&failure.event, None, out);
                if failure.is_terminal {
                    return;
                }
            }
            None => {
                self.caller.say("error", failure::error_members(&words).as_bytes(), out);
            }
        }
        let object = self.caller.object.clone();
        let object = object.unwrap_or_else(|| failure::made_object(self.setup.id, &self.model));
        let shown = self.earlier.shown.iter().cloned().chain(self.round.shown());
        let object = failure::failed_object(object, &words, object::list(shown));
        let members = [&b"\"response\":"[..], &object].concat();
        self.caller.say("response.failed", &members, out);
    }

    fn msg_id(&self) -> &str {
        &self.round.completion.id
    }

    fn take_shown_id(&mut self) -> Option<ShownId> {
        let (shown, stored) = (&self.caller.id, &self.round.completion.id);
        if !self.is_stored || shown.is_empty() || stored.is_empty() || self.told_id == *stored {
            return None;
        }
        self.told_id.clone_from(stored);
        Some(ShownId {
            shown: shown.clone(),
            stored: stored.clone(),
        })
    }

    fn take_usage_changed(&mut self) -> bool {
        std::mem::take(&mut self.round.is_usage_new)
    }

    fn completion(&self) -> Completion {
        self.round.completion.clone()
    }

    fn turn(&mut self) -> Turn {
        self.round.turn(&self.echo.offer)
    }

    fn replay(&mut self) -> Rope {
        let shown = self.round.shown();
        self.held_before += shown.iter().map(Bytes::len).sum::<usize>();
        if let Some((text, object)) = self.round.last.take() {
            object.keep(&text, &self.round.completion, &shown, &mut self.earlier);
        }
        let texts = self.round.slots.iter().map(|slot| &slot.text);
        replay(texts.filter(|text| *text != UNTOLD), self.is_stored)
    }

    fn held(&self) -> usize {
        self.round.held
    }
}
