//! Limits the concurrent calls of one server, so that one actor cannot take all of them from the others.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// A semaphore with shares: once half of the places are taken, one actor gets no more than a quarter of them.
///
/// Waiting calls are admitted in order, except that calls of an actor with its full share are skipped.
pub(super) struct Room {
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Only actors that have a place.
    by_actor: HashMap<String, usize>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    actor: Option<String>,
    let_in: oneshot::Sender<()>,
}

/// A place, given back on drop.
pub(super) struct Place<'a> {
    room: &'a Room,
    actor: Option<String>,
}

/// A waiting call. If it was let in and left before it noticed, its place is given back.
struct Queued<'a> {
    room: &'a Room,
    actor: Option<String>,
    let_in: oneshot::Receiver<()>,
}

// === impl Room ===

impl Room {
    pub(super) fn new(places: usize) -> Self {
        Self {
            places: places.max(1),
            state: Mutex::default(),
        }
    }

    /// Waits for a place.
    pub(super) async fn enter(&self, actor: Option<&str>) -> Place<'_> {
        let actor = actor.map(str::to_owned);
        let queued = {
            let mut state = self.lock();
            if state.admits(self.places, actor.as_deref()) {
                state.take(actor.as_deref());
                return Place { room: self, actor };
            }
            let (let_in, receiver) = oneshot::channel();
            state.waiting.push_back(Waiting {
                actor: actor.clone(),
                let_in,
            });
            Queued {
                room: self,
                actor,
                let_in: receiver,
            }
        };
        queued.wait().await
    }

    fn leave(&self, actor: Option<&str>) {
        let mut state = self.lock();
        state.taken -= 1;
        if let Some(actor) = actor
            && let Some(count) = state.by_actor.get_mut(actor)
        {
            *count -= 1;
            if *count == 0 {
                state.by_actor.remove(actor);
            }
        }
        state.let_in(self.places);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Whether a call of `actor` may have a place now. Calls without an actor have no share of their own.
    fn admits(&self, places: usize, actor: Option<&str>) -> bool {
        if self.taken >= places {
            return false;
        }
        let share = (places / 4).max(1);
        let own = actor.and_then(|actor| self.by_actor.get(actor)).copied().unwrap_or(0);
        own < share || self.taken < places / 2
    }

    fn take(&mut self, actor: Option<&str>) {
        self.taken += 1;
        if let Some(actor) = actor {
            *self.by_actor.entry(actor.to_owned()).or_default() += 1;
        }
    }

    /// Lets in every waiting call that is admitted, the longest waiting first.
    fn let_in(&mut self, places: usize) {
        let mut index = 0;
        while index < self.waiting.len() && self.taken < places {
            let Waiting { actor, let_in } = &self.waiting[index];
            if !let_in.is_closed() && !self.admits(places, actor.as_deref()) {
                index += 1;
                continue;
            }
            let Some(Waiting { actor, let_in }) = self.waiting.remove(index) else {
                return;
            };
            // Fails for a call that was given up while it waited.
            if let_in.send(()).is_ok() {
                self.take(actor.as_deref());
            }
        }
    }
}

// === impl Queued ===

impl<'a> Queued<'a> {
    async fn wait(mut self) -> Place<'a> {
        // Never an error: the sender stays in the queue until it has sent.
        let _ = (&mut self.let_in).await;
        Place {
            room: self.room,
            actor: self.actor.take(),
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.let_in.close();
        // Still there only if the call was given up after it was let in.
        if self.let_in.try_recv().is_ok() {
            self.room.leave(self.actor.as_deref());
        }
    }
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.room.leave(self.actor.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use proptest::prelude::*;

    use super::*;

    type Entering<'a> = Pin<Box<dyn Future<Output = Place<'a>> + 'a>>;

    fn poll<'a>(entering: &mut Entering<'a>) -> Option<Place<'a>> {
        match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    fn enter<'a>(room: &'a Room, actor: Option<&'a str>) -> Entering<'a> {
        Box::pin(room.enter(actor))
    }

    #[test]
    fn one_actor_leaves_half_of_the_room_to_the_others() {
        let room = Room::new(16);
        let mut greedy: Vec<_> = (0..20).map(|_| enter(&room, Some("greedy"))).collect();
        let places: Vec<_> = greedy.iter_mut().filter_map(poll).collect();
        assert_eq!(places.len(), 8);
        let mut others: Vec<_> = (0..5).map(|_| enter(&room, Some("other"))).collect();
        let theirs: Vec<_> = others.iter_mut().filter_map(poll).collect();
        assert_eq!(theirs.len(), 4, "a quarter, since half of the room is taken");
        drop((theirs, others));

        drop(places);
        let places: Vec<_> = greedy[8..].iter_mut().filter_map(poll).collect();
        assert_eq!(places.len(), 8);
    }

    #[test]
    fn calls_without_an_actor_fill_the_room() {
        let room = Room::new(8);
        let mut calls: Vec<_> = (0..10).map(|_| enter(&room, None)).collect();
        let mut places: Vec<_> = calls.iter_mut().filter_map(poll).collect();
        assert_eq!(places.len(), 8);
        places.pop();
        assert!(poll(&mut calls[8]).is_some());
    }

    #[test]
    fn a_call_that_is_given_up_leaves_its_place() {
        let room = Room::new(1);
        let place = poll(&mut enter(&room, None)).unwrap();
        let (mut first, mut second) = (enter(&room, None), enter(&room, None));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        drop(place);
        // The first was let in, but did not notice.
        drop(first);
        assert!(poll(&mut second).is_some());
    }

    proptest! {
        #[test]
        fn the_room_is_never_overfull_and_nobody_waits_in_vain(
            places in 1_usize..20,
            steps in prop::collection::vec((0_usize..4, any::<prop::sample::Index>(), 0_u8..4), 0..200),
        ) {
            let room = Room::new(places);
            let inside = RefCell::new(Vec::new());
            let mut waiting: Vec<Entering<'_>> = Vec::new();
            for (actor, index, step) in steps {
                match step {
                    0 | 1 => waiting.push(enter(&room, ["a", "b", "c"].get(actor).copied())),
                    2 if !inside.borrow().is_empty() => {
                        let index = index.index(inside.borrow().len());
                        drop(inside.borrow_mut().swap_remove(index));
                    }
                    3 if !waiting.is_empty() => drop(waiting.swap_remove(index.index(waiting.len()))),
                    _ => {}
                }
                waiting.retain_mut(|entering| match poll(entering) {
                    Some(place) => {
                        inside.borrow_mut().push(place);
                        false
                    }
                    None => true,
                });
                prop_assert!(inside.borrow().len() <= places);
                prop_assert_eq!(room.lock().taken, inside.borrow().len());
            }
            // As others leave, everybody who still waits is let in.
            while !waiting.is_empty() {
                prop_assert!(!inside.borrow().is_empty(), "somebody waits in an empty room");
                inside.borrow_mut().clear();
                waiting.retain_mut(|entering| match poll(entering) {
                    Some(place) => {
                        inside.borrow_mut().push(place);
                        false
                    }
                    None => true,
                });
            }
            inside.borrow_mut().clear();
            let state = room.lock();
            prop_assert_eq!(state.taken, 0);
            prop_assert!(state.by_actor.is_empty());
        }
    }
}
