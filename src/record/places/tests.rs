//! Admission keeps its limits in every order of requests, ends and withdrawn waits.

use proptest::prelude::*;
use tokio_test::task::{self, Spawn};

use super::*;

const PLACES: usize = 8;
const SHARE: usize = 2;
const MAX_QUEUED: usize = 100;

#[derive(Clone, Debug)]
enum Step {
    Enter(Option<u8>),
    /// One that holds a place ends.
    Leave(usize),
    /// One that waits gives up.
    Withdraw(usize),
    /// One that holds a place ends, and one that waits gives up before it learns of its place.
    LeaveAndWithdraw(usize, usize),
    Queue(usize),
    Receive,
}

type Actor = Option<&'static str>;
type Pending = Spawn<std::pin::Pin<Box<dyn Future<Output = Option<Place>>>>>;

fn step() -> impl Strategy<Value = Step> {
    let any_index = || any::<usize>();
    prop_oneof![
        6 => prop::option::of(0..3_u8).prop_map(Step::Enter),
        3 => any_index().prop_map(Step::Leave),
        1 => any_index().prop_map(Step::Withdraw),
        1 => (any_index(), any_index()).prop_map(|(left, gave_up)| Step::LeaveAndWithdraw(left, gave_up)),
        1 => (1..60_usize).prop_map(Step::Queue),
        2 => Just(Step::Receive),
    ]
}

/// The same rules, computed from scratch.
struct Model {
    held: Vec<(Actor, Place)>,
    waiting: Vec<(Actor, Pending)>,
    queued: Vec<usize>,
}

impl Model {
    fn may_enter(&self, actor: Actor) -> bool {
        let holds = self.held.iter().filter(|(other, _)| *other == actor).count();
        let is_half_taken = 2 * self.held.len() >= PLACES;
        self.held.len() < PLACES
            && self.queued.iter().sum::<usize>() < MAX_QUEUED
            && (actor.is_none() || !is_half_taken || holds < SHARE)
    }

    /// Admits in the order of arrival all who may enter, and checks that exactly these were granted a place.
    fn settle(&mut self) {
        while let Some(first) = self.waiting.iter().position(|(actor, _)| self.may_enter(*actor)) {
            let (actor, mut pending) = self.waiting.remove(first);
            match pending.poll() {
                std::task::Poll::Ready(Some(place)) => self.held.push((actor, place)),
                other => panic!("{actor:?} was to get a place: {other:?}"),
            }
        }
        for (actor, pending) in &mut self.waiting {
            assert!(pending.poll().is_pending(), "{actor:?} got a place");
        }
    }
}

proptest! {
    #[test]
    fn budgets_hold_and_places_come_back(steps in prop::collection::vec(step(), 0..200)) {
        let places = Places::new(PLACES, MAX_QUEUED);
        places.set_actor_places(SHARE);
        let mut model = Model { held: Vec::new(), waiting: Vec::new(), queued: Vec::new() };
        for step in steps {
            match step {
                Step::Enter(actor) => {
                    let actor = actor.map(|actor| ["a", "b", "c"][usize::from(actor)]);
                    match places.enter(actor) {
                        Entry::Taken(place) => {
                            prop_assert!(model.may_enter(actor));
                            model.held.push((actor, place));
                        }
                        Entry::Waits(waiting) => {
                            prop_assert!(!model.may_enter(actor));
                            model.waiting.push((actor, task::spawn(Box::pin(waiting.place()))));
                        }
                        Entry::Closed => prop_assert!(false, "nobody closed it"),
                    }
                }
                Step::Leave(index) if !model.held.is_empty() => {
                    drop(model.held.swap_remove(index % model.held.len()));
                }
                Step::Withdraw(index) if !model.waiting.is_empty() => {
                    drop(model.waiting.remove(index % model.waiting.len()));
                }
                Step::LeaveAndWithdraw(left, gave_up) if !model.held.is_empty() && !model.waiting.is_empty() => {
                    drop(model.held.swap_remove(left % model.held.len()));
                    drop(model.waiting.remove(gave_up % model.waiting.len()));
                }
                Step::Queue(bytes) => {
                    places.count_queued(bytes);
                    model.queued.push(bytes);
                }
                Step::Receive if !model.queued.is_empty() => places.count_received(model.queued.remove(0)),
                Step::Leave(_) | Step::Withdraw(_) | Step::LeaveAndWithdraw(..) | Step::Receive => {}
            }
            model.settle();
            prop_assert_eq!(places.free(), PLACES - model.held.len());
        }
        // As events are received and others leave, everybody who still waits gets a place.
        for bytes in std::mem::take(&mut model.queued) {
            places.count_received(bytes);
        }
        model.settle();
        while !model.waiting.is_empty() {
            prop_assert!(!model.held.is_empty(), "somebody waits although all places are free");
            drop(model.held.swap_remove(0));
            model.settle();
        }
        drop(model);
        let state = places.lock();
        prop_assert_eq!(state.taken, 0);
        prop_assert!(state.actors.is_empty() && state.fronts.is_empty());
    }
}

#[test]
fn closing_turns_all_away_and_keeps_nothing() {
    let places = Places::new(1, MAX_QUEUED);
    let Entry::Taken(held) = places.enter(Some("a")) else {
        panic!("the first gets a place");
    };
    let Entry::Waits(waiting) = places.enter(Some("b")) else {
        panic!("the second waits");
    };
    let mut waiting = task::spawn(waiting.place());
    assert!(waiting.poll().is_pending());
    places.close();
    assert!(matches!(waiting.poll(), std::task::Poll::Ready(None)));
    assert!(matches!(places.enter(None), Entry::Closed));
    drop(held);
    assert_eq!(places.free(), 1);
}
