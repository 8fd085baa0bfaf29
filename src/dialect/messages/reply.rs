//! A whole answer: the parts that the rounds need, and the few edits that the caller sees.
//!
//! It is read as leniently as the official SDKs read it: a reply that is only relayed is not validated.

use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;

use super::blocks::{self, Block, Calls, Kind};
use super::error::in_band;
use super::usage::{self, Total};
use crate::dialect::Reply;
use crate::dialect::offer::Offer;
use crate::dialect::turn::{Call, Completion, Earlier, Fault, MAX_PARTS, Turn};
use crate::dialect::usage::{MAX_USAGE, Usage};
use crate::excerpt;
use crate::json::{Kind as JsonKind, Member, Scanner, walk};
use crate::rope::{Edits, Rope};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A reply that has been read.
#[derive(Debug)]
pub(super) struct MessagesReply {
    /// The provider's bytes.
    whole: Bytes,
    /// The same without a byte order mark; all ranges are in it.
    body: Bytes,
    id: Option<Range<usize>>,
    /// The range of `usage`, whatever its type.
    usage: Option<Range<usize>>,
    reported: Option<Usage>,
    content: Range<usize>,
    parts: Vec<Part>,
    /// The offset of the closing brace: where a member that is missing goes.
    end: usize,
}

/// A block of the content.
#[derive(Debug)]
struct Part {
    range: Range<usize>,
    /// Whether the caller sees it, in the first round and in later ones.
    is_shown: [bool; 2],
    replayed: Replayed,
}

/// How a block goes back to the provider.
#[derive(Debug)]
enum Replayed {
    AsItIs,
    Not,
    /// With an empty input that replaces this range, or is added.
    Mended(Option<Range<usize>>),
}

// === impl MessagesReply ===

impl MessagesReply {
    /// The reply, and the turn in it.
    pub(super) fn read(body: Rope, offer: &Offer) -> Result<(Self, Turn), Fault> {
        // One contiguous buffer, so that all parts that are read or kept are slices of it.
        let whole = body.into_bytes();
        // A byte order mark is not JSON, but every SDK skips it.
        let start = if whole.starts_with(BOM) { BOM.len() } else { 0 };
        let body = whole.slice(start..);
        let mut scanner = Scanner::lenient();
        if scanner.scan(&body).is_err() {
            return Err(Fault::Shape("the reply is not one JSON object"));
        }
        let text = |name| {
            let member = scanner.get(name);
            member
                .map(|member| excerpt::name(blocks::string(&body[member.value()])))
                .unwrap_or_default()
        };
        let is_error = || {
            scanner
                .get("error")
                .is_some_and(|member| member.kind() != JsonKind::Null)
        };
        let content = match scanner.get("content") {
            Some(content) if text("type") != "error" => content.value(),
            _ if is_error() => return Err(Fault::Refused(in_band(body))),
            _ => return Err(Fault::Shape("the reply has no content")),
        };
        let (parts, calls, thoughts, is_first_ours) = read_content(&body, content.clone(), offer)?;
        let usage = scanner.get("usage");
        let usage_text = usage
            .filter(|member| member.kind() == JsonKind::Object && member.value().len() <= MAX_USAGE)
            .map(|member| body.slice(member.value()));
        let completion = Completion {
            id: text("id"),
            model: text("model"),
            service_tier: usage_text.as_deref().and_then(usage::service_tier),
            usage: usage_text.map(|text| Usage::new(text, usage::read)),
        };
        let reply = Self {
            id: scanner.get("id").map(Member::value),
            usage: usage.map(Member::value),
            reported: completion.usage.clone(),
            content,
            parts,
            end: scanner.end(),
            whole,
            body: body.clone(),
        };
        let turn = Turn {
            completion,
            is_ours: is_first_ours && !blocks::is_cut_off(&text("stop_reason")),
            calls,
            thoughts,
        };
        Ok((reply.for_caller_of(&turn), turn))
    }

    /// Shows the caller its own calls of a turn that began with ours, but turned out to be the caller's.
    fn for_caller_of(mut self, turn: &Turn) -> Self {
        if turn.is_ours || turn.calls.iter().all(Call::is_callers) {
            return self;
        }
        let mut calls = turn.calls.iter();
        for part in &mut self.parts {
            let block = Block::read(&self.body[part.range.clone()]);
            if block.kind == Kind::ToolUse {
                part.is_shown = [calls.next().is_some_and(Call::is_callers); 2];
            }
        }
        self
    }

    /// The blocks that the caller sees.
    fn shown(&self, is_later: bool) -> impl Iterator<Item = Bytes> {
        let parts = self
            .parts
            .iter()
            .filter(move |part| part.is_shown[usize::from(is_later)]);
        parts.map(|part| self.body.slice(part.range.clone()))
    }
}

impl Reply for MessagesReply {
    fn replay(self: Box<Self>, earlier: &mut Earlier) -> Rope {
        let is_later = earlier.id.is_some();
        earlier.shown.extend(self.shown(is_later));
        earlier.usages.extend(self.reported.clone());
        let id = self.id.clone().map(|id| self.body.slice(id));
        earlier.id.get_or_insert(id.unwrap_or_default());
        let mut message = Rope::from(r#"{"role":"assistant","content":"#);
        if self.parts.iter().all(|part| matches!(part.replayed, Replayed::AsItIs)) {
            message.push(self.body.slice(self.content.clone()));
        } else {
            message.append(array(self.parts.iter().filter_map(|part| part.replay(&self.body))));
        }
        message.append("}".into());
        message
    }

    fn seal(self: Box<Self>, _: Uuid, earlier: &Earlier) -> Rope {
        let is_later = earlier.id.is_some();
        let mut edits = Edits::default();
        if let Some(first) = earlier.id.clone().filter(|id| !id.is_empty()) {
            match self.id.clone() {
                Some(id) => edits.replace(id, first),
                None => edits.insert(self.end, [br#","id":"#, &first[..]].concat()),
            }
        }
        if !earlier.shown.is_empty() || self.parts.iter().any(|part| !part.is_shown[usize::from(is_later)]) {
            let blocks = earlier.shown.iter().cloned().chain(self.shown(is_later));
            edits.replace(self.content.clone(), array(blocks.map(Rope::from)));
        }
        if !earlier.usages.is_empty() {
            let mut total = Total::default();
            for usage in &earlier.usages {
                total.add(&usage.text);
            }
            let last = self.reported.as_ref().map(|usage| &usage.text[..]);
            match (self.usage.clone(), total.report(last, None, earlier.reported_usage)) {
                (Some(range), Some(report)) => edits.replace(range, report),
                (None, Some(report)) => edits.insert(self.end, format!(r#","usage":{report}"#)),
                (_, None) => {}
            }
        }
        if edits.is_empty() {
            return self.whole.into();
        }
        edits.apply(&self.body.into())
    }
}

type Content = (Vec<Part>, Vec<Call>, Vec<crate::dialect::turn::Thought>, bool);

/// Reads the blocks, and whether the first call is ours.
fn read_content(body: &[u8], content: Range<usize>, offer: &Offer) -> Result<Content, Fault> {
    let (mut parts, mut calls, mut thoughts, mut order) = (Vec::new(), Vec::new(), Vec::new(), Calls::default());
    let list = &body[content.clone()];
    for item in walk::items(list) {
        if parts.len() == MAX_PARTS {
            return Err(blocks::TOO_MANY_BLOCKS);
        }
        let text = &list[item.clone()];
        let block = Block::read(text);
        let owner = block.owner(offer);
        let words = block.words.clone().map(|words| &text[words]);
        let mut replayed = Replayed::AsItIs;
        match block.kind {
            Kind::ToolUse => {
                order.count(&owner, true)?;
                let input = block.input.clone().map_or(&b""[..], |input| &text[input]);
                if !input.starts_with(b"{") {
                    replayed = Replayed::Mended(block.input.clone());
                }
                calls.push(block.call(owner.clone(), blocks::arguments(input)));
            }
            Kind::Thinking => thoughts.extend(words.and_then(blocks::thought)),
            Kind::Text if blocks::is_empty_text(block.kind, words) => replayed = Replayed::Not,
            Kind::Text | Kind::Other => {}
        }
        parts.push(Part {
            range: content.start + item.start..content.start + item.end,
            is_shown: [false, true].map(|is_later| block.is_shown(&owner, order, is_later)),
            replayed,
        });
    }
    Ok((parts, calls, thoughts, order.begin_with_ours()))
}

fn array(items: impl Iterator<Item = Rope>) -> Rope {
    let mut array = Rope::from("[");
    for (place, item) in items.enumerate() {
        if place > 0 {
            array.append(",".into());
        }
        array.append(item);
    }
    array.append("]".into());
    array
}

// === impl Part ===

impl Part {
    /// The block for the provider.
    fn replay(&self, body: &Bytes) -> Option<Rope> {
        let block = body.slice(self.range.clone());
        let mut edits = Edits::default();
        match &self.replayed {
            Replayed::AsItIs => return Some(block.into()),
            Replayed::Not => return None,
            Replayed::Mended(Some(input)) => edits.replace(input.clone(), "{}"),
            Replayed::Mended(None) => edits.insert(block.len() - 1, r#","input":{}"#),
        }
        Some(edits.apply(&block.into()))
    }
}
