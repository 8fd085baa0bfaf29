//! One round of a stream: its items, put together from their events, and the events that wait for a decision.

use std::collections::HashMap;

use bytes::Bytes;

use super::caller::HeldEvent;
use super::failure::Failure;
use super::items::{Item, Kind};
use super::object::Object;
use super::sorter::{Decided, Sight, Sorter};
use crate::dialect::offer::Offer;
use crate::dialect::turn::{Completion, Fault, MAX_CALLS, Turn};
use crate::json::walk;

/// The state of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) completion: Completion,
    pub(super) is_usage_new: bool,
    /// The events before the first item that the caller sees.
    pub(super) preamble: Vec<HeldEvent>,
    /// The response object in the last of them, as the caller would have it.
    pub(super) object: Option<Bytes>,
    /// Whether the caller's life cycle is that of this round.
    pub(super) is_callers_cycle: bool,
    pub(super) slots: Vec<Slot>,
    /// The slots by the provider's `output_index`.
    places: HashMap<u64, usize>,
    pub(super) sorter: Sorter,
    calls: usize,
    pub(super) is_ours: bool,
    /// The response object of a round that is followed by another.
    pub(super) last: Option<(Bytes, Object)>,
    pub(super) failure: Option<Failure>,
    /// How many bytes are kept.
    pub(super) held: usize,
}

/// One item.
#[derive(Debug)]
pub(super) struct Slot {
    /// The item as JSON text: as it was announced, then as it was done.
    pub(super) text: Bytes,
    pub(super) is_done: bool,
    pub(super) state: State,
}

/// Whether the caller sees an item.
#[derive(Debug)]
pub(super) enum State {
    /// Under this number.
    Shown(u64),
    Hidden,
    Open(Vec<HeldEvent>),
}

// === impl Round ===

impl Round {
    pub(super) fn place(&self, index: u64) -> Option<usize> {
        self.places.get(&index).copied()
    }

    /// The item of an event with this number; one without belongs to the item that came last.
    pub(super) fn place_of_event(&self, index: Option<u64>) -> Option<usize> {
        match index {
            Some(index) => self.place(index),
            None => self.slots.len().checked_sub(1),
        }
    }

    /// Adds an item that was announced, or came whole. Returns its place and its fate so far.
    pub(super) fn add(
        &mut self,
        index: Option<u64>,
        item: &[u8],
        offer: &Offer,
        decided: &mut Vec<Decided>,
    ) -> Result<(usize, Sight), Fault> {
        let kind = Item::read(item).kind(offer);
        self.calls += usize::from(matches!(kind, Kind::Ours | Kind::Callers | Kind::Typed));
        if self.calls > MAX_CALLS {
            return Err(Fault::Shape("the streamed turn has more than 1,000 calls"));
        }
        let place = self.slots.len();
        // Without tools of ours no item waits for another.
        let sight = if offer.is_empty() {
            Sight::Shown
        } else {
            self.sorter.add(kind, decided)
        };
        let state = match sight {
            // Its number comes with its first event.
            Sight::Shown => State::Shown(0),
            Sight::Hidden => State::Hidden,
            Sight::Open => State::Open(Vec::new()),
        };
        self.slots.push(Slot {
            text: Bytes::copy_from_slice(item),
            is_done: false,
            state,
        });
        if let Some(index) = index {
            self.places.insert(index, place);
        }
        Ok((place, sight))
    }

    /// Notes an item's final text.
    pub(super) fn finish(&mut self, place: usize, item: Bytes, offer: &Offer) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        let read = Item::read(&item);
        if read.is_cut() && read.kind(offer) == Kind::Ours {
            self.sorter.cut();
        }
        slot.text = item;
        slot.is_done = true;
    }

    /// For each item of the final `output`, the place of the announced one that it is: by its id, else by its number,
    /// since some hosts give an item several ids. `None` if every item was announced and finished.
    pub(super) fn announced(&self, output: &Bytes) -> Option<Vec<(Bytes, Option<usize>)>> {
        let count = walk::items(output).take(self.slots.len() + 1).count();
        if count <= self.slots.len() && self.slots.iter().all(|slot| slot.is_done) {
            return None;
        }
        let id = |text: &[u8]| walk::get(text, "id").map(|id| text[id].to_vec());
        let places: HashMap<_, _> = (0..)
            .zip(&self.slots)
            .filter_map(|(place, slot)| Some((id(&slot.text)?, place)))
            .collect();
        let mut taken = vec![false; self.slots.len()];
        let mut take = |place: usize| !std::mem::replace(&mut taken[place], true);
        let items = walk::items(output).map(|item| output.slice(item));
        let mut items: Vec<_> = items
            .map(|item| {
                let place = id(&item).and_then(|id| places.get(&id).copied());
                let place = place.filter(|place| take(*place));
                (item, place)
            })
            .collect();
        for (index, (_, place)) in (0..).zip(&mut items) {
            if place.is_none() {
                *place = self.place(index).filter(|place| take(*place));
            }
        }
        Some(items)
    }

    /// The finished items that the caller sees, in the order in which it does.
    pub(super) fn shown(&self) -> Vec<Bytes> {
        let slots = self.sorter.shown().iter().filter_map(|&place| self.slots.get(place));
        slots
            .filter(|slot| slot.is_done)
            .map(|slot| slot.text.clone())
            .collect()
    }

    pub(super) fn turn(&self, offer: &Offer) -> Turn {
        let items = || self.slots.iter().map(|slot| Item::read(&slot.text));
        Turn {
            completion: self.completion.clone(),
            calls: items().filter_map(|item| item.call(offer)).collect(),
            is_ours: self.is_ours,
            thoughts: items().flat_map(|item| item.thoughts()).collect(),
        }
    }
}
