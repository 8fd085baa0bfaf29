//! A whole response: the turn in it, its way into the next request, and its edits for the caller.

use bytes::Bytes;
use uuid::Uuid;

use super::error::{in_band, is_about_the_key};
use super::items::{Item, Kind, replay};
use super::object::{Echo, Object, Output};
use super::sorter::{Sight, Sorter};
use crate::dialect::Reply;
use crate::dialect::turn::{Completion, Earlier, Fault, MAX_CALLS, MAX_PARTS, ShownId, Turn};
use crate::json::{Scanner, walk};
use crate::rope::{Edits, Rope};

/// A response that was read.
#[derive(Debug)]
pub(super) struct ResponsesReply {
    body: Bytes,
    object: Object,
    completion: Completion,
    echo: Echo,
    is_stored: bool,
    items: Vec<Bytes>,
    /// The items that the caller sees.
    shown: Vec<Bytes>,
    hides_any: bool,
}

// === impl ResponsesReply ===

impl ResponsesReply {
    /// The response, and its turn.
    pub(super) fn read(body: Rope, echo: Echo, is_stored: bool) -> Result<(Self, Turn), Fault> {
        // One contiguous buffer, so that all parts that are read or kept are slices of it.
        let mut body = body.into_bytes();
        if body.starts_with(b"\xEF\xBB\xBF") {
            body = body.slice(3..);
        }
        if Scanner::lenient().scan(&body).is_err() {
            return Err(Fault::Shape("the response is not one JSON object"));
        }
        // White space before the object would shift its places.
        let start = body.len() - body.trim_ascii_start().len();
        let object = Object::read(&body[start..]);
        let text = body.slice(start..);
        let member = |range: &Option<std::ops::Range<usize>>| range.clone().map(|range| text.slice(range));
        let output = member(&object.output).filter(|output| output.starts_with(b"["));
        let error = member(&object.error).filter(|error| error.starts_with(b"{"));
        if let Some(error) = error
            && (output.is_none() || is_about_the_key(&error))
        {
            return Err(Fault::Refused(in_band(&error)));
        }
        if output.is_none() && object.id.is_none() {
            return Err(Fault::Shape("the response has no output"));
        }
        let output = output.unwrap_or_default();
        let items = walk::items(&output).map(|item| output.slice(item));
        let items: Vec<Bytes> = items.take(MAX_PARTS + 1).collect();
        if items.len() > MAX_PARTS {
            return Err(Fault::Shape("the response has more than 10,000 output items"));
        }
        let mut turn = Turn::default();
        object.describe(&text, &mut turn.completion);
        let (mut sorter, mut decided) = (Sorter::default(), Vec::new());
        for item in &items {
            let item = Item::read(item);
            let kind = item.kind(&echo.offer);
            if sorter.add(kind, &mut decided) == Sight::Hidden && kind == Kind::Ours && item.is_cut() {
                sorter.cut();
            }
            turn.calls.extend(item.call(&echo.offer));
            if turn.calls.len() > MAX_CALLS {
                return Err(Fault::Shape("the response has more than 1,000 calls"));
            }
            turn.thoughts.extend(item.thoughts());
        }
        turn.is_ours = sorter.close(object.is_whole(&text), &mut decided);
        let reply = Self {
            shown: sorter.shown().iter().map(|&place| items[place].clone()).collect(),
            hides_any: sorter.hides_any(),
            completion: turn.completion.clone(),
            body: text,
            object,
            echo,
            is_stored,
            items,
        };
        Ok((reply, turn))
    }
}

impl Reply for ResponsesReply {
    fn replay(self: Box<Self>, earlier: &mut Earlier) -> Rope {
        self.object.keep(&self.body, &self.completion, &self.shown, earlier);
        replay(self.items.iter(), self.is_stored)
    }

    fn shown_id(&self) -> Option<ShownId> {
        let id = &self.completion.id;
        (self.is_stored && !id.is_empty()).then(|| ShownId {
            shown: id.clone(),
            stored: id.clone(),
        })
    }

    /// The provider's own bytes and id, except for the items of earlier rounds and the echo of our edits.
    fn seal(self: Box<Self>, _: Uuid, earlier: &Earlier) -> Rope {
        let mut edits = Edits::default();
        self.object.restore(&self.body, &self.echo, &mut edits);
        let output = Output {
            shown: &self.shown,
            is_edited: self.hides_any,
        };
        self.object.finish(&self.body, output, earlier, &mut edits);
        if edits.is_empty() {
            return self.body.into();
        }
        edits.apply(&self.body.into())
    }
}
