//! Decides which items of a turn the caller sees, item by item as they come, so that whole replies and streams agree.

use super::items::Kind;

/// The fate of an item when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Shown,
    Hidden,
    /// A later item decides.
    Open,
}

/// The fate of an item that was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    /// The item's number in its turn.
    pub(super) place: usize,
    pub(super) is_shown: bool,
}

/// Sorts the items of one turn.
///
/// The first call decides whether the turn is ours. `reasoning` shares the fate of the item after it. In a turn of ours
/// the caller's calls stay open: the turn becomes the caller's if a call comes that a text cannot answer, or if the
/// model was stopped half-way.
#[derive(Debug, Default)]
pub(super) struct Sorter {
    places: usize,
    /// Whether the first call was ours; none before it.
    is_ours: Option<bool>,
    /// Whether the turn is the caller's even if the first call was ours.
    is_callers_anyway: bool,
    /// The `reasoning` that came last.
    reasoning: Vec<usize>,
    /// The caller's calls in a turn of ours, with their `reasoning`.
    deferred: Vec<usize>,
    /// The items that the caller sees, in the order in which it does.
    shown: Vec<usize>,
    hides_any: bool,
}

// === impl Sorter ===

impl Sorter {
    /// Adds the next item, and appends to `decided` the fates that it decides, in their order.
    pub(super) fn add(&mut self, kind: Kind, decided: &mut Vec<Decided>) -> Sight {
        let place = self.places;
        self.places += 1;
        match kind {
            Kind::Reasoning => {
                self.reasoning.push(place);
                return Sight::Open;
            }
            Kind::Ours => {
                self.is_ours.get_or_insert(true);
                self.hides_any = true;
                let hidden = self.reasoning.drain(..).map(|place| Decided { place, is_shown: false });
                decided.extend(hidden);
                return Sight::Hidden;
            }
            Kind::Callers if *self.is_ours.get_or_insert(false) && !self.is_callers_anyway => {
                self.deferred.append(&mut self.reasoning);
                self.deferred.push(place);
                return Sight::Open;
            }
            Kind::Typed => self.give_to_caller(decided),
            Kind::Callers | Kind::Other => {}
        }
        let reasoning = std::mem::take(&mut self.reasoning);
        self.show(reasoning, decided);
        self.shown.push(place);
        Sight::Shown
    }

    /// Notes that a call of ours was cut off, so that it cannot run.
    pub(super) fn cut(&mut self) {
        self.is_callers_anyway = true;
    }

    /// Ends the turn, and appends to `decided` the fates that are still open. Returns whether the turn is ours; one
    /// that is not `whole` never is.
    pub(super) fn close(&mut self, whole: bool, decided: &mut Vec<Decided>) -> bool {
        if self.is_ours == Some(true) && whole && !self.is_callers_anyway {
            self.hides_any |= !self.deferred.is_empty() || !self.reasoning.is_empty();
            return true;
        }
        self.give_to_caller(decided);
        let reasoning = std::mem::take(&mut self.reasoning);
        self.show(reasoning, decided);
        false
    }

    /// The items that the caller sees so far, in the order in which it does.
    pub(super) fn shown(&self) -> &[usize] {
        &self.shown
    }

    /// Whether there is an item that the caller does not see.
    pub(super) fn hides_any(&self) -> bool {
        self.hides_any
    }

    fn give_to_caller(&mut self, decided: &mut Vec<Decided>) {
        self.is_ours.get_or_insert(false);
        self.is_callers_anyway = true;
        let deferred = std::mem::take(&mut self.deferred);
        self.show(deferred, decided);
    }

    fn show(&mut self, places: Vec<usize>, decided: &mut Vec<Decided>) {
        decided.extend(places.iter().map(|&place| Decided { place, is_shown: true }));
        self.shown.extend(places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places that the caller sees, and whether the turn is ours.
    fn sorted(kinds: &[Kind], whole: bool) -> (Vec<usize>, bool) {
        let (mut sorter, mut decided) = (Sorter::default(), Vec::new());
        for kind in kinds {
            sorter.add(*kind, &mut decided);
        }
        let is_ours = sorter.close(whole, &mut decided);
        (sorter.shown().to_vec(), is_ours)
    }

    #[test]
    fn the_first_call_decides() {
        use Kind::{Callers, Other, Ours, Reasoning, Typed};
        for (kinds, whole, shown, is_ours) in [
            (&[Reasoning, Other][..], true, &[0, 1][..], false),
            (&[Reasoning, Ours], true, &[], true),
            (&[Reasoning, Reasoning, Ours], true, &[], true),
            (&[Reasoning, Other, Ours], true, &[0, 1], true),
            (&[Other, Ours, Other, Reasoning], true, &[0, 2], true),
            (&[Ours, Reasoning, Callers], true, &[], true),
            (&[Callers, Reasoning, Ours, Callers], true, &[0, 3], false),
            // A typed call makes the turn the caller's, with all calls that were put off.
            (&[Ours, Callers, Other, Typed], true, &[2, 1, 3], false),
            (&[Typed, Ours], true, &[0], false),
            (&[Ours, Typed, Callers], true, &[1, 2], false),
            // Cut off: ours stays hidden, the rest is the caller's.
            (&[Ours, Callers, Reasoning], false, &[1, 2], false),
            (&[], false, &[], false),
        ] {
            assert_eq!(sorted(kinds, whole), (shown.to_vec(), is_ours), "{kinds:?}");
        }
    }

    #[test]
    fn every_open_item_is_decided_once() {
        let (mut sorter, mut decided) = (Sorter::default(), Vec::new());
        assert_eq!(sorter.add(Kind::Ours, &mut decided), Sight::Hidden);
        assert_eq!(sorter.add(Kind::Reasoning, &mut decided), Sight::Open);
        assert_eq!(sorter.add(Kind::Callers, &mut decided), Sight::Open);
        assert_eq!(sorter.add(Kind::Reasoning, &mut decided), Sight::Open);
        assert_eq!(sorter.add(Kind::Ours, &mut decided), Sight::Hidden);
        assert_eq!(
            decided,
            [Decided {
                place: 3,
                is_shown: false
            }]
        );
        decided.clear();
        sorter.cut();
        assert!(!sorter.close(true, &mut decided));
        assert_eq!(
            decided,
            [
                Decided {
                    place: 1,
                    is_shown: true
                },
                Decided {
                    place: 2,
                    is_shown: true
                }
            ]
        );
    }
}
