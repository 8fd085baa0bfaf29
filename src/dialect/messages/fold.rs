//! Collects one streamed round: puts its blocks together from their deltas, as the official SDKs do.
//!
//! Text is gathered as it is written, escapes included: pieces of a JSON string make the whole string's text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::blocks::{self, Block, Calls, Kind};
use super::usage;
use crate::dialect::turn::{Call, Completion, Fault, MAX_PARTS, Owner, Thought};
use crate::dialect::usage::{MAX_USAGE, Usage};
use crate::excerpt;
use crate::json::walk;

/// One round of a stream.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) id: String,
    pub(super) model: String,
    start_usage: Option<Bytes>,
    delta_usage: Option<Bytes>,
    pub(super) has_started: bool,
    pub(super) calls: Calls,
    blocks: Vec<PartialBlock>,
    /// The block for each index that the provider uses.
    places: HashMap<u64, usize>,
    /// Whether all deltas were understood, so that the turn can go back to the provider.
    can_replay: bool,
    /// Whether another round follows; `None` until the model has given its reason to stop.
    verdict: Option<bool>,
}

/// A block that comes in pieces.
#[derive(Debug)]
pub(super) struct PartialBlock {
    block: Block,
    pub(super) owner: Owner,
    /// The `content_block` of its start.
    start: Vec<u8>,
    /// The values that its deltas make, as JSON without the quotes or brackets around it.
    gathered: Vec<(Part, Vec<u8>)>,
    /// The index that the caller sees; none if the block is withheld.
    pub(super) shown: Option<u64>,
}

/// A member of a block that deltas complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Text,
    Thinking,
    Signature,
    Input,
    Citations,
    Content,
    EncryptedContent,
}

/// The content of a delta; ranges are in its text.
struct Delta {
    part: Part,
    value: Range<usize>,
    /// The second member of a delta that has two.
    more: Option<(Part, Range<usize>)>,
}

// === impl Fold ===

impl Default for Fold {
    fn default() -> Self {
        Self {
            id: String::new(),
            model: String::new(),
            start_usage: None,
            delta_usage: None,
            has_started: false,
            calls: Calls::default(),
            blocks: Vec::new(),
            places: HashMap::new(),
            can_replay: true,
            verdict: None,
        }
    }
}

impl Fold {
    /// Reads the `message` of a `message_start`; whether it reports usage.
    pub(super) fn start(&mut self, message: &[u8]) -> bool {
        self.has_started = true;
        for (name, value) in walk::members(message) {
            let literal = &message[value];
            match &*name.to_bytes() {
                b"id" => self.id = excerpt::name(blocks::string(literal)),
                b"model" => self.model = excerpt::name(blocks::string(literal)),
                b"usage" if literal.starts_with(b"{") && literal.len() <= MAX_USAGE => {
                    self.start_usage = Some(Bytes::copy_from_slice(literal));
                }
                _ => {}
            }
        }
        self.start_usage.is_some()
    }

    /// Takes a later report of the usage, which replaces the one before.
    pub(super) fn report(&mut self, usage: &[u8]) {
        if usage.len() > MAX_USAGE {
            return;
        }
        self.delta_usage = Some(Bytes::copy_from_slice(usage));
    }

    /// The round's usage so far, as JSON text.
    pub(super) fn usage(&self) -> Option<Bytes> {
        usage::overlaid(self.start_usage.as_ref(), self.delta_usage.as_ref())
    }

    pub(super) fn completion(&self) -> Completion {
        let usage = self.usage();
        Completion {
            id: self.id.clone(),
            model: self.model.clone(),
            service_tier: usage.as_deref().and_then(usage::service_tier),
            usage: usage.map(|text| Usage::new(text, usage::read)),
        }
    }

    /// Whether the turn, not finished yet, can go back to the provider.
    pub(super) fn can_replay(&self) -> bool {
        self.can_replay && self.verdict.is_none()
    }

    /// Whether the turn is ours, or a later call can still make it ours.
    pub(super) fn may_be_ours(&self) -> bool {
        self.can_replay() && (self.calls.is_empty() || self.calls.begin_with_ours())
    }

    /// Adds a block; `kept` is its text, or nothing if nobody needs it.
    ///
    /// # Errors
    ///
    /// There are too many: a block that is not kept takes memory, too.
    pub(super) fn push(
        &mut self,
        index: u64,
        mut block: Block,
        owner: Owner,
        kept: &[u8],
        shown: Option<u64>,
    ) -> Result<(), Fault> {
        if self.blocks.len() == MAX_PARTS {
            return Err(blocks::TOO_MANY_BLOCKS);
        }
        if kept.is_empty() {
            (block.words, block.input) = (None, None);
        }
        self.places.insert(index, self.blocks.len());
        self.blocks.push(PartialBlock {
            block,
            owner,
            start: kept.to_vec(),
            gathered: Vec::new(),
            shown,
        });
        Ok(())
    }

    /// The block for an index that the provider uses.
    pub(super) fn block(&self, index: u64) -> Option<&PartialBlock> {
        self.blocks.get(*self.places.get(&index)?)
    }

    /// Adds a delta to its block.
    pub(super) fn add(&mut self, index: u64, delta: &[u8]) {
        let block = self.places.get(&index).and_then(|place| self.blocks.get_mut(*place));
        let Some(block) = block.filter(|block| !block.start.is_empty()) else {
            return;
        };
        let Some(read) = Delta::read(delta) else {
            self.forgo_replay();
            return;
        };
        let second = read.more.clone();
        let is_added = block.add(read.part, &delta[read.value])
            && second.is_none_or(|(part, value)| block.add(part, &delta[value]));
        if !is_added {
            self.forgo_replay();
        }
    }

    /// Gives up the replay: only the provider's own client can send back a part of an unknown kind.
    pub(super) fn forgo_replay(&mut self) {
        self.can_replay = false;
    }

    /// Takes the reason why the model stopped, which settles whether another round follows.
    pub(super) fn stop(&mut self, reason: &str) {
        let is_ours = self.runs(reason);
        self.verdict.get_or_insert(is_ours);
    }

    fn runs(&self, reason: &str) -> bool {
        self.calls.begin_with_ours() && self.can_replay && !blocks::is_cut_off(reason)
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.verdict.is_some()
    }

    /// Whether another round follows, as far as is known.
    pub(super) fn is_ours(&self) -> bool {
        self.verdict.unwrap_or_else(|| self.runs(""))
    }

    pub(super) fn turn_calls(&self) -> Vec<Call> {
        let calls = self.blocks.iter().filter(|block| block.block.kind == Kind::ToolUse);
        calls
            .map(|call| call.block.call(call.owner.clone(), call.input().into_owned()))
            .collect()
    }

    pub(super) fn thoughts(&self) -> Vec<Thought> {
        let thoughts = self.blocks.iter().filter(|block| block.block.kind == Kind::Thinking);
        thoughts.filter_map(|block| blocks::thought(&block.words())).collect()
    }

    /// The caller's calls that were withheld because the turn began with one of ours.
    pub(super) fn withheld(&mut self) -> impl Iterator<Item = &mut PartialBlock> {
        let is_withheld = |block: &&mut PartialBlock| {
            block.block.kind == Kind::ToolUse && block.shown.is_none() && matches!(block.owner, Owner::Caller)
        };
        self.blocks.iter_mut().filter(is_withheld)
    }

    /// The model's message.
    pub(super) fn replay(&self) -> Vec<u8> {
        let mut message = Vec::from(*br#"{"role":"assistant","content":["#);
        let mut is_first = true;
        for block in &self.blocks {
            if block.is_empty_text() {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                message.push(b',');
            }
            block.write(&mut message);
        }
        message.extend_from_slice(b"]}");
        message
    }
}

// === impl PartialBlock ===

impl PartialBlock {
    pub(super) fn kind(&self) -> Kind {
        self.block.kind
    }

    /// Adds to a part. Returns whether the value has the part's type.
    fn add(&mut self, part: Part, value: &[u8]) -> bool {
        let inner = match value {
            [b'"', inner @ .., b'"'] if part != Part::Citations => inner,
            [b'{', .., b'}'] if part == Part::Citations => value,
            b"null" => return true,
            _ => return false,
        };
        let known = self.gathered.iter().position(|(known, _)| *known == part);
        let place = known.unwrap_or_else(|| {
            self.gathered.push((part, self.begun(part)));
            self.gathered.len() - 1
        });
        let text = &mut self.gathered[place].1;
        match part {
            // Each delta has the whole value.
            Part::Signature | Part::Content | Part::EncryptedContent => text.clear(),
            Part::Citations if !text.is_empty() => text.push(b','),
            Part::Text | Part::Thinking | Part::Input | Part::Citations => {}
        }
        text.extend_from_slice(inner);
        true
    }

    /// The part of a value that the block's start has, without quotes or brackets.
    fn begun(&self, part: Part) -> Vec<u8> {
        let value = match part {
            Part::Text | Part::Thinking | Part::Citations => walk::get(&self.start, part.name()),
            Part::Signature | Part::Input | Part::Content | Part::EncryptedContent => None,
        };
        match value.map(|value| &self.start[value]) {
            Some([b'"', inner @ .., b'"']) => inner.to_vec(),
            Some([b'[', inner @ .., b']']) => inner.trim_ascii().to_vec(),
            _ => Vec::new(),
        }
    }

    fn gathered(&self, part: Part) -> Option<&[u8]> {
        let (_, text) = self.gathered.iter().find(|(known, _)| *known == part)?;
        Some(text)
    }

    fn is_empty_text(&self) -> bool {
        let words = || self.block.words.clone().map(|words| &self.start[words]);
        match self.gathered(Part::Text) {
            Some(text) => text.is_empty(),
            None => blocks::is_empty_text(self.block.kind, words()),
        }
    }

    /// The text of a text or thinking block, as a JSON string.
    fn words(&self) -> Vec<u8> {
        let part = match self.block.kind {
            Kind::Text => Part::Text,
            _ => Part::Thinking,
        };
        match (self.gathered(part), &self.block.words) {
            (Some(text), _) => [b"\"", text, b"\""].concat(),
            (None, Some(words)) => self.start[words.clone()].to_vec(),
            (None, None) => b"\"\"".to_vec(),
        }
    }

    /// A call's input as JSON text, if the model got it right.
    fn input(&self) -> Cow<'_, str> {
        let pieces = self.gathered(Part::Input).unwrap_or_default();
        if pieces.is_empty() {
            let input = self.block.input.clone().map(|input| &self.start[input]);
            return blocks::arguments(input.unwrap_or_default()).into();
        }
        let literal = [b"\"", pieces, b"\""].concat();
        let text = walk::unescape(&literal).map(Cow::into_owned);
        text.unwrap_or_else(|| String::from_utf8_lossy(pieces).into_owned())
            .into()
    }

    /// Appends the whole block. Its members keep the order of its start.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (mut written, mut comma) = (Vec::new(), false);
        let mut separate = |out: &mut Vec<u8>| {
            if std::mem::replace(&mut comma, true) {
                out.push(b',');
            }
        };
        out.push(b'{');
        for (entry, name, _) in walk::entries(&self.start) {
            separate(out);
            match Part::of(name).and_then(|part| Some((part, self.value(part)?))) {
                Some((part, value)) => {
                    written.push(part);
                    push_member(out, part, &value);
                }
                None => out.extend_from_slice(&self.start[entry]),
            }
        }
        for part in Part::ALL {
            if !written.contains(&part)
                && let Some(value) = self.value(part)
            {
                separate(out);
                push_member(out, part, &value);
            }
        }
        out.push(b'}');
    }

    /// A part's value as JSON, if deltas made it or it must be repaired.
    fn value(&self, part: Part) -> Option<Vec<u8>> {
        Some(match part {
            Part::Input if self.block.kind == Kind::ToolUse || self.gathered(part).is_some() => {
                let input = self.input();
                // The provider accepts only an object.
                let input = if blocks::is_object(&input) { &input } else { "{}" };
                input.as_bytes().to_vec()
            }
            Part::Citations => [b"[", self.gathered(part)?, b"]"].concat(),
            _ => [b"\"", self.gathered(part)?, b"\""].concat(),
        })
    }

    /// Appends the events of a whole block that was withheld.
    pub(super) fn write_events(&self, index: u64, out: &mut Vec<u8>) {
        let mut event = |name: &str, rest: &[u8]| {
            let head = format!("event: {name}\ndata: {{\"type\":\"{name}\",\"index\":{index}");
            out.extend_from_slice(head.as_bytes());
            let start = out.len();
            out.extend_from_slice(rest);
            crate::dialect::writer::on_one_line(&mut out[start..]);
            out.extend_from_slice(b"}\n\n");
        };
        event(
            "content_block_start",
            &[br#","content_block":"#, &self.start[..]].concat(),
        );
        if let Some(pieces) = self.gathered(Part::Input) {
            let delta = [
                br#","delta":{"type":"input_json_delta","partial_json":""#,
                pieces,
                br#""}"#,
            ]
            .concat();
            event("content_block_delta", &delta);
        }
        event("content_block_stop", b"");
    }
}

fn push_member(out: &mut Vec<u8>, part: Part, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(part.name().as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value);
}

// === impl Part ===

impl Part {
    const ALL: [Self; 7] = [
        Self::Text,
        Self::Thinking,
        Self::Signature,
        Self::Input,
        Self::Citations,
        Self::Content,
        Self::EncryptedContent,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Thinking => "thinking",
            Self::Signature => "signature",
            Self::Input => "input",
            Self::Citations => "citations",
            Self::Content => "content",
            Self::EncryptedContent => "encrypted_content",
        }
    }

    fn of(name: walk::RawName<'_>) -> Option<Self> {
        Self::ALL.into_iter().find(|part| name == part.name())
    }
}

// === impl Delta ===

impl Delta {
    /// Reads a delta; none if it is of a type that is not known here.
    fn read(text: &[u8]) -> Option<Self> {
        let get = |name| walk::get(text, name);
        let kind = get("type").map(|kind| blocks::string(&text[kind]))?;
        let (part, member) = match kind.as_str() {
            "text_delta" => (Part::Text, "text"),
            "thinking_delta" => (Part::Thinking, "thinking"),
            "signature_delta" => (Part::Signature, "signature"),
            "input_json_delta" => (Part::Input, "partial_json"),
            "citations_delta" => (Part::Citations, "citation"),
            "compaction_delta" => (Part::Content, "content"),
            _ => return None,
        };
        let more = match part {
            Part::Content => get("encrypted_content").map(|value| (Part::EncryptedContent, value)),
            _ => None,
        };
        let value = get(member)?;
        Some(Self { part, value, more })
    }
}
