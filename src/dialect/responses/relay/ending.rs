//! The end of a round: the final `output`, and the last response object as the caller gets it.

use bytes::{Bytes, BytesMut};

use super::{LACKS_OBJECT, ResponsesRelay};
use crate::dialect::responses::caller::{Frame, HeldEvent};
use crate::dialect::responses::error::in_band;
use crate::dialect::responses::failure::Failure;
use crate::dialect::responses::object::{Object, Output};
use crate::dialect::responses::round::State;
use crate::dialect::sse::Event;
use crate::dialect::turn::{Fault, Progress};
use crate::json::quote;
use crate::rope::Edits;

impl ResponsesRelay {
    /// Adds the items of the final `output` that no event announced or finished. Those that the caller sees are
    /// announced to it, since clients compare the `output` with the events.
    fn fill(&mut self, output: &Bytes, out: &mut BytesMut) -> Result<(), Fault> {
        for (item, place) in self.round.announced(output).unwrap_or_default() {
            if !self.is_kept(&item) {
                continue;
            }
            let place = match place {
                Some(place) if self.round.slots[place].is_done => continue,
                Some(place) => place,
                None => {
                    let place = self.add(&item, None, out)?;
                    self.announce(place, &item, out)?;
                    place
                }
            };
            self.round.finish(place, item, &self.echo.offer);
        }
        Ok(())
    }

    /// Writes the events of an item for which the provider sent none, if the caller's stream has begun properly.
    fn announce(&mut self, place: usize, item: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        if !self.caller.is_renumbered || (!self.caller.is_open && self.round.preamble.is_empty()) {
            return Ok(());
        }
        for kind in ["response.output_item.added", "response.output_item.done"] {
            let event = HeldEvent::of_item(kind, item);
            match &self.round.slots[place].state {
                State::Hidden => {}
                State::Shown(index) => {
                    let index = *index;
                    self.open(out);
                    self.caller.show_held(&event, Some(index), out);
                }
                State::Open(_) => {
                    self.hold(event.len())?;
                    if let State::Open(waiting) = &mut self.round.slots[place].state {
                        waiting.push(event);
                    }
                }
            }
        }
        Ok(())
    }

    /// The model's turn is over.
    pub(super) fn over(
        &mut self,
        event: &Event<'_>,
        mut frame: Frame,
        is_whole: bool,
        out: &mut BytesMut,
    ) -> Result<Progress, Fault> {
        if let Some(place) = self.object("response") {
            let text = Bytes::copy_from_slice(&event.data()[place.clone()]);
            let object = Object::read(&text);
            self.round.is_usage_new |= object.describe(&text, &mut self.round.completion);
            if self.caller.is_renumbered || self.setup.recorded {
                let output = object.output.clone().map(|output| text.slice(output));
                self.fill(&output.unwrap_or_default(), out)?;
            }
            if self.caller.is_renumbered {
                let is_whole = is_whole && object.is_whole(&text);
                self.round.is_ours = self.round.sorter.close(is_whole, &mut self.decided);
                if self.round.is_ours {
                    self.decided.clear();
                    self.round.last = Some((text, object));
                    return Ok(Progress::Done);
                }
                self.settle(out);
            }
            if let Some(edited) = self.edited(&text, &object) {
                frame.replace_object(place, edited);
            }
        } else if self.caller.is_renumbered {
            return Err(LACKS_OBJECT);
        }
        self.open(out);
        self.caller.show(event, frame, None, out);
        if event.raw().ends_with(b"\r") && event.raw().contains(&b'\n') {
            // No input is read after this event, so an LF that may come with another frame is written here.
            out.extend_from_slice(b"\n");
        }
        Ok(Progress::Done)
    }

    /// The last response object as the caller gets it; none if that is the provider's.
    fn edited(&self, text: &Bytes, object: &Object) -> Option<Bytes> {
        let mut edits = Edits::default();
        object.restore(text, &self.echo, &mut edits);
        let shown = self.round.shown();
        let output = Output {
            shown: &shown,
            is_edited: self.round.sorter.hides_any(),
        };
        if self.caller.is_renumbered {
            object.finish(text, output, &self.earlier, &mut edits);
        }
        let id = &self.caller.id;
        if !id.is_empty() && *id != self.round.completion.id {
            object.set("id", object.id.clone(), quote(id).into(), &mut edits);
        }
        (!edits.is_empty()).then(|| edits.apply(&text.clone().into()).into_bytes())
    }

    /// An error in place of an answer. It is kept as it came: a stream that has begun ends with it.
    pub(super) fn failed(&mut self, event: &Event<'_>, mut frame: Frame, is_terminal: bool) -> Fault {
        let data = event.data();
        let error = match self.object("response").filter(|_| is_terminal) {
            Some(place) => {
                let text = Bytes::copy_from_slice(&data[place.clone()]);
                let object = Object::read(&text);
                self.round.is_usage_new |= object.describe(&text, &mut self.round.completion);
                if let Some(edited) = self.edited(&text, &object) {
                    frame.replace_object(place, edited);
                }
                let error = object.error.clone().map(|error| text.slice(error));
                error.unwrap_or_default()
            }
            None => Bytes::copy_from_slice(data),
        };
        let error = in_band(&error);
        let mut held = frame.hold(event);
        held.complete();
        self.round.failure = Some(Failure {
            event: held,
            body: error.body.clone(),
            is_terminal,
        });
        Fault::Refused(error)
    }
}
