//! The response object, which comes as a whole reply and inside events: its members, and the edits that make it the
//! caller's.

use std::ops::Range;

use bytes::Bytes;

use super::items::{is_absent, says};
use super::usage;
use crate::dialect::offer::Offer;
use crate::dialect::turn::{Completion, Earlier, Owner};
use crate::dialect::usage::{MAX_USAGE, Usage, UsageSum};
use crate::excerpt;
use crate::json::walk;
use crate::rope::{Edits, Rope};
use crate::types::ReportedUsage;

/// The members that describe the caller's own request: the caller gets those of the first round.
const OF_THE_FIRST_ROUND: [&str; 2] = ["input_transformations", "prompt_cache_diagnostics"];
const TOOL_USAGE: &str = "tool_usage";

/// The places of the members that are read or edited.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    pub(super) id: Option<Range<usize>>,
    pub(super) status: Option<Range<usize>>,
    pub(super) error: Option<Range<usize>>,
    pub(super) output: Option<Range<usize>>,
    model: Option<Range<usize>>,
    service_tier: Option<Range<usize>>,
    usage: Option<Range<usize>>,
    tools: Option<Range<usize>>,
    tool_choice: Option<Range<usize>>,
    parallel_tool_calls: Option<Range<usize>>,
    include: Option<Range<usize>>,
    previous_response_id: Option<Range<usize>>,
    tool_usage: Option<Range<usize>>,
    of_the_first_round: [Option<Range<usize>>; 2],
    /// The closing brace, before which a missing member goes.
    end: usize,
    is_empty: bool,
}

/// The caller's values of the request members that were edited: the response object echoes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Echo {
    pub(super) offer: Offer,
    /// Whether parallel calls were forbidden to a caller who had allowed them.
    pub(super) parallel: bool,
    /// The caller's `include` as JSON text, if it was edited.
    pub(super) include: Option<Bytes>,
    /// The caller's `previous_response_id` as JSON text, if another was sent.
    pub(super) previous: Option<Bytes>,
}

/// The caller's part of a round's output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<'a> {
    /// The items that the caller sees, in the order in which it does.
    pub(super) shown: &'a [Bytes],
    /// Whether they differ from the provider's.
    pub(super) is_edited: bool,
}

// === impl Object ===

impl Object {
    /// Finds the members of the object that `text` is.
    pub(super) fn read(text: &[u8]) -> Self {
        let mut object = Self {
            is_empty: true,
            ..Self::default()
        };
        let mut members = walk::members(text);
        for (name, value) in &mut members {
            object.is_empty = false;
            let place = match &*name.to_bytes() {
                b"id" => &mut object.id,
                b"status" => &mut object.status,
                b"error" => &mut object.error,
                b"output" => &mut object.output,
                b"model" => &mut object.model,
                b"service_tier" => &mut object.service_tier,
                b"usage" => &mut object.usage,
                b"tools" => &mut object.tools,
                b"tool_choice" => &mut object.tool_choice,
                b"parallel_tool_calls" => &mut object.parallel_tool_calls,
                b"include" => &mut object.include,
                b"previous_response_id" => &mut object.previous_response_id,
                b"tool_usage" => &mut object.tool_usage,
                b"input_transformations" => &mut object.of_the_first_round[0],
                b"prompt_cache_diagnostics" => &mut object.of_the_first_round[1],
                _ => continue,
            };
            *place = Some(value);
        }
        object.end = members.at().saturating_sub(1);
        object
    }

    /// Copies the object's description into `completion`. Returns whether any of it is new.
    pub(super) fn describe(&self, text: &[u8], completion: &mut Completion) -> bool {
        let string = |range: &Option<Range<usize>>| {
            let literal = &text[range.clone()?];
            walk::unescape(literal).map(|text| excerpt::name(text.into_owned()))
        };
        let mut is_new = false;
        for (place, range) in [(&mut completion.id, &self.id), (&mut completion.model, &self.model)] {
            if place.is_empty()
                && let Some(text) = string(range)
            {
                *place = text;
                is_new = true;
            }
        }
        // The tier that served a request is known at its end; before, it is the one that was asked for.
        if let Some(tier) = string(&self.service_tier) {
            is_new |= completion.service_tier.as_ref() != Some(&tier);
            completion.service_tier = Some(tier);
        }
        let usage = self.usage.clone().map(|range| &text[range]);
        if let Some(usage) = usage.filter(|usage| usage.starts_with(b"{") && usage.len() <= MAX_USAGE) {
            completion.usage = Some(Usage::new(Bytes::copy_from_slice(usage), usage::read));
            is_new = true;
        }
        is_new
    }

    /// Whether the answer came to its end: some providers send no status.
    pub(super) fn is_whole(&self, text: &[u8]) -> bool {
        self.status.clone().is_none_or(|range| says(&text[range], "completed"))
    }

    /// Restores the caller's values where the object echoes our edits.
    pub(super) fn restore(&self, text: &[u8], echo: &Echo, edits: &mut Edits) {
        let array = |range: &Option<Range<usize>>| range.clone().filter(|range| text[range.start] == b'[');
        if !echo.offer.is_empty() {
            if let Some(range) = array(&self.tools)
                && let Some(kept) = without_ours(&text[range.clone()], &echo.offer)
            {
                edits.replace(range, kept);
            }
            // Tools are offered only to callers who leave the choice to the model.
            if let Some(range) = self
                .tool_choice
                .clone()
                .filter(|range| says(&text[range.clone()], "none"))
            {
                edits.replace(range, r#""auto""#);
            }
        }
        if let Some(range) = self.parallel_tool_calls.clone()
            && echo.parallel
            && &text[range.clone()] == b"false"
        {
            edits.replace(range, "true");
        }
        if let (Some(range), Some(include)) = (array(&self.include), &echo.include) {
            edits.replace(range, include.clone());
        }
        if let (Some(range), Some(previous)) = (self.previous_response_id.clone(), &echo.previous)
            && !is_absent(&text[range.clone()])
        {
            edits.replace(range, previous.clone());
        }
    }

    /// Makes the last round's object the answer to the caller: all items that the caller saw, the usage that the
    /// operator chose, and what is summed or kept over the `earlier` rounds.
    pub(super) fn finish(&self, text: &[u8], output: Output<'_>, earlier: &Earlier, edits: &mut Edits) {
        if output.is_edited || earlier.id.is_some() {
            let shown = earlier.shown.iter().chain(output.shown).cloned();
            self.set("output", self.output.clone(), list(shown), edits);
        }
        if earlier.id.is_none() {
            return;
        }
        if earlier.reported_usage == Some(ReportedUsage::Sum) {
            let mut sum = UsageSum::default();
            earlier.usages.iter().for_each(|usage| sum.add(&usage.text));
            self.set_sum("usage", self.usage.clone(), &sum, text, edits);
        }
        let mut sum = UsageSum::default();
        earlier.members_of(TOOL_USAGE).for_each(|usage| sum.add(usage));
        self.set_sum(TOOL_USAGE, self.tool_usage.clone(), &sum, text, edits);
        for (name, place) in OF_THE_FIRST_ROUND.into_iter().zip(&self.of_the_first_round) {
            match (place, earlier.members_of(name).next()) {
                (Some(range), first) => {
                    let first = first.cloned().unwrap_or_else(|| Bytes::from_static(b"null"));
                    edits.replace(range.clone(), first);
                }
                (None, Some(first)) => self.set(name, None, first.clone().into(), edits),
                (None, None) => {}
            }
        }
    }

    /// Keeps the parts of a round before the last that [`finish`](Self::finish) needs.
    pub(super) fn keep(&self, text: &Bytes, completion: &Completion, shown: &[Bytes], earlier: &mut Earlier) {
        if earlier.id.is_none() {
            for (name, place) in OF_THE_FIRST_ROUND.into_iter().zip(&self.of_the_first_round) {
                earlier
                    .members
                    .extend(place.clone().map(|range| (name, text.slice(range))));
            }
            let id = self.id.clone().map(|range| text.slice(range));
            earlier.id = Some(id.unwrap_or_else(|| Bytes::from_static(b"null")));
        }
        earlier.shown.extend_from_slice(shown);
        earlier.usages.extend(completion.usage.clone());
        let tool_usage = self.tool_usage.clone().map(|range| text.slice(range));
        earlier.members.extend(
            tool_usage
                .filter(|text| text.starts_with(b"{"))
                .map(|text| (TOOL_USAGE, text)),
        );
    }

    /// Sets a member, or adds it.
    pub(super) fn set(&self, name: &str, place: Option<Range<usize>>, value: Rope, edits: &mut Edits) {
        match place {
            Some(range) => edits.replace(range, value),
            None => {
                // All edits of an empty object are additions.
                let is_first = self.is_empty && edits.is_empty();
                let comma = if is_first { "" } else { "," };
                let mut member = Rope::from(format!("{comma}\"{name}\":"));
                member.append(value);
                edits.insert(self.end, member);
            }
        }
    }

    fn set_sum(&self, name: &str, place: Option<Range<usize>>, earlier: &UsageSum, text: &[u8], edits: &mut Edits) {
        let last = place
            .clone()
            .map(|range| &text[range])
            .filter(|last| last.starts_with(b"{"));
        if let Some(sum) = last.map_or_else(|| earlier.text(), |last| earlier.with(last)) {
            self.set(name, place, sum.into(), edits);
        }
    }
}

/// The items as an array.
pub(super) fn list(items: impl Iterator<Item = Bytes>) -> Rope {
    let mut list = Rope::from("[");
    for item in items {
        if list.len() > 1 {
            list.append(",".into());
        }
        list.push(item);
    }
    list.append("]".into());
    list
}

/// The elements of an echoed `tools` that are not ours, as an array; none if all are the caller's.
fn without_ours(list: &[u8], offer: &Offer) -> Option<Vec<u8>> {
    let is_ours = |tool: &[u8]| {
        walk::get(tool, "type").is_some_and(|kind| says(&tool[kind], "function"))
            && walk::get(tool, "name")
                .and_then(|name| walk::unescape(&tool[name]))
                .is_some_and(|name| matches!(offer.owner(&name), Owner::Ours(_)))
    };
    let (mut kept, mut all) = (Vec::with_capacity(list.len()), true);
    kept.push(b'[');
    for item in walk::items(list) {
        let tool = &list[item];
        if is_ours(tool) {
            all = false;
            continue;
        }
        if kept.len() > 1 {
            kept.push(b',');
        }
        kept.extend_from_slice(tool);
    }
    kept.push(b']');
    (!all).then_some(kept)
}
