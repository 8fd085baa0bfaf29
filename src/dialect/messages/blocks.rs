//! The blocks of a turn's `content`: which are calls, who owns them, which the caller sees, and how they go back.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use crate::dialect::offer::Offer;
use crate::dialect::turn::{Call, CallKind, Fault, MAX_CALLS, Owner, Thought};
use crate::json::walk;

pub(super) const TOO_MANY_BLOCKS: Fault = Fault::Shape("the provider's turn has more than 10,000 content blocks");

/// The kinds of blocks that are treated differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// `thinking` or `redacted_thinking`.
    Thinking,
    /// A `tool_use`: a call for the client to run.
    ToolUse,
    /// A call that the provider runs itself, and every unknown type.
    #[default]
    Other,
}

/// The parts that are read of a block. Ranges are in the block's text.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) name: String,
    /// The text of a `text` or `thinking` block.
    pub(super) words: Option<Range<usize>>,
    pub(super) input: Option<Range<usize>>,
    /// Whether the model itself made the call, and not a program or a toolset of the provider's.
    is_direct: bool,
}

/// The owner of the turn, decided by its calls in their order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    count: usize,
    begins_with_ours: bool,
}

// === impl Block ===

impl Block {
    /// Reads the object that `text` is; anything else is an unknown block.
    pub(super) fn read(text: &[u8]) -> Self {
        let mut block = Self {
            is_direct: true,
            ..Self::default()
        };
        let (mut words, mut thoughts) = (None, None);
        for (name, value) in walk::members(text) {
            let literal = &text[value.clone()];
            match &*name.to_bytes() {
                b"type" => block.kind = Kind::of(literal),
                b"id" => block.id = string(literal),
                b"name" => block.name = string(literal),
                b"text" => words = Some(value),
                b"thinking" => thoughts = Some(value),
                b"input" => block.input = Some(value),
                b"caller" => block.is_direct &= is_direct_caller(literal),
                b"toolset_name" => block.is_direct &= literal == b"null",
                _ => {}
            }
        }
        block.words = match block.kind {
            Kind::Text => words,
            Kind::Thinking => thoughts,
            Kind::ToolUse | Kind::Other => None,
        };
        block
    }

    pub(super) fn owner(&self, offer: &Offer) -> Owner {
        if self.kind == Kind::ToolUse && self.is_direct {
            offer.owner(&self.name)
        } else {
            Owner::Caller
        }
    }

    /// Whether the caller sees the block. `is_later` tells that a round was hidden before. Then thinking is hidden too:
    /// its signature covers everything before it, and the caller has not seen all of that.
    pub(super) fn is_shown(&self, owner: &Owner, calls: Calls, is_later: bool) -> bool {
        match self.kind {
            Kind::Thinking => !is_later,
            Kind::ToolUse => matches!(owner, Owner::Caller) && !calls.begins_with_ours,
            Kind::Text | Kind::Other => true,
        }
    }

    /// The call, with its input as JSON text.
    pub(super) fn call(&self, owner: Owner, arguments: String) -> Call {
        Call {
            id: self.id.clone(),
            name: self.name.clone(),
            arguments,
            owner,
            kind: CallKind::Function,
        }
    }
}

impl Kind {
    fn of(literal: &[u8]) -> Self {
        match walk::unescape(literal).as_deref() {
            Some("text") => Self::Text,
            Some("thinking" | "redacted_thinking") => Self::Thinking,
            Some("tool_use") => Self::ToolUse,
            _ => Self::Other,
        }
    }
}

// === impl Calls ===

impl Calls {
    /// Counts a call. The first one decides whose turn it is; the turn is never ours unless it `can_be_ours`.
    pub(super) fn count(&mut self, owner: &Owner, can_be_ours: bool) -> Result<(), Fault> {
        if self.count == 0 {
            self.begins_with_ours = can_be_ours && !matches!(owner, Owner::Caller);
        }
        self.count += 1;
        if self.count > MAX_CALLS {
            return Err(Fault::Shape("the provider's turn has more than 1,000 tool calls"));
        }
        Ok(())
    }

    pub(super) fn is_empty(self) -> bool {
        self.count == 0
    }

    /// Whether the first call is ours.
    pub(super) fn begin_with_ours(self) -> bool {
        self.begins_with_ours
    }
}

/// Whether a turn that stops for this reason may have been cut off within a call.
pub(super) fn is_cut_off(stop_reason: &str) -> bool {
    matches!(
        stop_reason,
        "max_tokens" | "model_context_window_exceeded" | "refusal" | "pause_turn" | "compaction"
    )
}

/// A call's input for records and tools. The API's clients take a missing one for an empty object.
pub(super) fn arguments(input: &[u8]) -> String {
    match input.trim_ascii() {
        b"" | b"null" => "{}".to_owned(),
        input => String::from_utf8_lossy(input).into_owned(),
    }
}

/// Whether an input may go back to the provider: an object, and JSON.
pub(super) fn is_object(input: &str) -> bool {
    input.starts_with('{') && serde_json::from_str::<&RawValue>(input).is_ok()
}

/// The text of a thinking block, if there is any; `words` is a JSON string.
pub(super) fn thought(words: &[u8]) -> Option<Thought> {
    let content = match walk::unescape(words) {
        Some(content) => content,
        // Half of a surrogate pair.
        None => String::from_utf8_lossy(words.get(1..words.len().saturating_sub(1))?),
    };
    (!content.is_empty()).then(|| Thought {
        source: "thinking",
        content: content.into_owned(),
    })
}

/// The provider refuses a text block without text.
pub(super) fn is_empty_text(kind: Kind, words: Option<&[u8]>) -> bool {
    kind == Kind::Text && words.is_none_or(|words| words == b"\"\"")
}

/// The content of a JSON string; empty for any other value.
pub(super) fn string(literal: &[u8]) -> String {
    walk::unescape(literal).map(Cow::into_owned).unwrap_or_default()
}

fn is_direct_caller(caller: &[u8]) -> bool {
    let is_direct = |kind: Range<usize>| walk::unescape(&caller[kind]).is_some_and(|kind| kind == "direct");
    caller == b"null" || walk::get(caller, "type").is_some_and(is_direct)
}
