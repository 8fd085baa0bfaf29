//! Admission: bounds the interceptions at once, those of one actor, and the bytes of events that wait to be received.
//!
//! A place is free again when the consumer receives the interception's last event. An interception waits for nothing
//! else, so no two of them can wait for each other.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

use crate::metrics;

/// The admission of one channel.
pub(super) struct Places {
    state: Mutex<State>,
    /// Bytes of all events that were sent and not received yet.
    queued: AtomicUsize,
    max_queued: AtomicUsize,
}

struct State {
    places: usize,
    taken: usize,
    actor_places: usize,
    is_closed: bool,
    /// Interceptions without an actor share one line, which has no actor's limit.
    nobody: Line,
    actors: HashMap<Arc<str>, Line>,
    /// The first of each line, in order of arrival.
    fronts: BTreeMap<u64, Option<Arc<str>>>,
    next_ticket: u64,
}

/// One actor's interceptions.
#[derive(Default)]
struct Line {
    held: usize,
    /// By ticket. Dropping the sender says that the channel is closed.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One interception's place; dropping it frees the place.
pub(super) struct Place {
    places: Arc<Places>,
    actor: Option<Arc<str>>,
}

/// The answer to a request for a place.
pub(super) enum Entry {
    Taken(Place),
    Waits(Waiting),
    Closed,
}

/// A request for a place that has to wait; dropping it withdraws the request.
pub(super) struct Waiting {
    places: Arc<Places>,
    actor: Option<Arc<str>>,
    ticket: u64,
    granted: oneshot::Receiver<()>,
    is_settled: bool,
}

// === impl Places ===

impl Places {
    pub(super) fn new(places: usize, max_queued: usize) -> Arc<Self> {
        let places = places.max(1);
        Arc::new(Self {
            state: Mutex::new(State {
                places,
                taken: 0,
                actor_places: (places / 8).max(1),
                is_closed: false,
                nobody: Line::default(),
                actors: HashMap::new(),
                fronts: BTreeMap::new(),
                next_ticket: 0,
            }),
            queued: AtomicUsize::new(0),
            max_queued: AtomicUsize::new(max_queued.max(1)),
        })
    }

    pub(super) fn set_actor_places(&self, places: usize) {
        let mut state = self.lock();
        state.actor_places = places.max(1);
        self.admit_waiting(&mut state);
    }

    pub(super) fn set_max_queued(&self, bytes: usize) {
        self.max_queued.store(bytes.max(1), Ordering::Relaxed);
        self.admit_waiting(&mut self.lock());
    }

    /// Takes a place if one is free, else a ticket.
    pub(super) fn enter(self: &Arc<Self>, actor: Option<&str>) -> Entry {
        let mut state = self.lock();
        if state.is_closed {
            return Entry::Closed;
        }
        let actor = actor.map(|actor| state.key(actor));
        // This passes over no waiting request: each change admits all that can be admitted.
        if self.has_room(&state) && state.may_hold_more(actor.as_ref()) {
            state.take(actor.as_ref());
            let places = Arc::clone(self);
            return Entry::Taken(Place { places, actor });
        }
        let (grant, granted) = oneshot::channel();
        let ticket = state.join_line(actor.as_ref(), grant);
        Entry::Waits(Waiting {
            places: Arc::clone(self),
            actor,
            ticket,
            granted,
            is_settled: false,
        })
    }

    /// Counts an event that is sent.
    pub(super) fn count_queued(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts an event that was received.
    pub(super) fn count_received(&self, bytes: usize) {
        let before = self.queued.fetch_sub(bytes, Ordering::Relaxed);
        let limit = self.max_queued.load(Ordering::Relaxed);
        if before >= limit && before - bytes < limit {
            // The lock orders this after a request that saw the higher count and joined the line.
            self.admit_waiting(&mut self.lock());
        }
    }

    /// Refuses all waiting requests and all later ones.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.fronts.clear();
        state.nobody.waiting.clear();
        state.actors.values_mut().for_each(|line| line.waiting.clear());
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub(super) fn free(&self) -> usize {
        let state = self.lock();
        state.places - state.taken
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    fn has_room(&self, state: &State) -> bool {
        state.taken < state.places && self.queued.load(Ordering::Relaxed) < self.max_queued.load(Ordering::Relaxed)
    }

    fn admit_waiting(&self, state: &mut State) {
        while self.has_room(state) && state.admit_one() {}
    }

    fn release(&self, actor: Option<&Arc<str>>) {
        let mut state = self.lock();
        state.taken -= 1;
        metrics::free_places(state.places - state.taken);
        if let Some(line) = state.line(actor) {
            line.held -= 1;
        }
        state.forget_if_idle(actor);
        self.admit_waiting(&mut state);
    }

    fn withdraw(&self, actor: Option<&Arc<str>>, ticket: u64) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        let waited = state
            .line(actor)
            .is_some_and(|line| line.waiting.remove(&ticket).is_some());
        if waited {
            state.fronts.remove(&ticket);
            state.show_front(actor);
            state.forget_if_idle(actor);
        } else {
            // The place was granted in the meantime.
            drop(state);
            self.release(actor);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// The map's copy of the actor's name, so that each name is in memory once.
    fn key(&mut self, actor: &str) -> Arc<str> {
        if let Some((key, _)) = self.actors.get_key_value(actor) {
            return Arc::clone(key);
        }
        let key = Arc::<str>::from(actor);
        self.actors.insert(Arc::clone(&key), Line::default());
        key
    }

    fn line(&mut self, actor: Option<&Arc<str>>) -> Option<&mut Line> {
        match actor {
            Some(actor) => self.actors.get_mut(actor),
            None => Some(&mut self.nobody),
        }
    }

    fn may_hold_more(&self, actor: Option<&Arc<str>>) -> bool {
        let is_half_taken = self.taken >= self.places.div_ceil(2);
        let held = actor
            .and_then(|actor| self.actors.get(actor))
            .map_or(0, |line| line.held);
        !is_half_taken || held < self.actor_places
    }

    fn take(&mut self, actor: Option<&Arc<str>>) {
        self.taken += 1;
        metrics::free_places(self.places - self.taken);
        if let Some(line) = self.line(actor) {
            line.held += 1;
        }
    }

    fn join_line(&mut self, actor: Option<&Arc<str>>, grant: oneshot::Sender<()>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(line) = self.line(actor) {
            line.waiting.insert(ticket, grant);
        }
        self.show_front(actor);
        ticket
    }

    /// Gives the longest-waiting request that may be admitted its place. Returns whether there was one.
    ///
    /// Looks at most at one line more than there are actors at their limit.
    fn admit_one(&mut self) -> bool {
        let first = self.fronts.iter().find(|(_, actor)| self.may_hold_more(actor.as_ref()));
        let Some((&ticket, actor)) = first else { return false };
        let actor = actor.clone();
        self.fronts.remove(&ticket);
        let grant = self.line(actor.as_ref()).and_then(|line| line.waiting.remove(&ticket));
        self.show_front(actor.as_ref());
        // Taken even if the request is gone: its `Waiting` cannot know that, and frees the place.
        self.take(actor.as_ref());
        if let Some(grant) = grant {
            let _ = grant.send(());
        }
        true
    }

    fn show_front(&mut self, actor: Option<&Arc<str>>) {
        let front = self.line(actor).and_then(|line| line.waiting.keys().next().copied());
        if let Some(ticket) = front {
            self.fronts.insert(ticket, actor.cloned());
        }
    }

    fn forget_if_idle(&mut self, actor: Option<&Arc<str>>) {
        if let Some(actor) = actor
            && self
                .actors
                .get(actor)
                .is_some_and(|line| line.held == 0 && line.waiting.is_empty())
        {
            self.actors.remove(actor);
        }
    }
}

// === impl Place ===

impl Place {
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.release(self.actor.as_ref());
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

// === impl Waiting ===

impl Waiting {
    /// The place, once it is granted; `None` if the channel closes first.
    pub(super) async fn place(mut self) -> Option<Place> {
        let granted = (&mut self.granted).await;
        self.is_settled = true;
        granted.ok().map(|()| Place {
            places: Arc::clone(&self.places),
            actor: self.actor.clone(),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_settled {
            self.places.withdraw(self.actor.as_ref(), self.ticket);
        }
    }
}

#[cfg(test)]
mod tests;
