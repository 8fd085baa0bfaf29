//! The items of a response: the kind of each, the owner of a call, the thoughts in it, and its way into the next request.

use std::borrow::Cow;

use bytes::Bytes;

use crate::dialect::offer::Offer;
use crate::dialect::turn::{Call, CallKind, Owner, Thought};
use crate::dialect::without;
use crate::json::walk;
use crate::rope::Rope;

/// How the bridge treats an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `reasoning`, which belongs to the item after it.
    Reasoning,
    /// A call of an injected tool, or of a tool that the model invented with our prefix.
    Ours,
    /// A call of the caller's that a text can answer.
    Callers,
    /// A call or a question to the caller whose answer needs a special type.
    Typed,
    /// A message, a call that the provider runs itself, or an item of an unknown type.
    Other,
}

/// The members of an item that the bridge reads, as JSON text; empty where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Item<'a> {
    kind: &'a [u8],
    name: &'a [u8],
    namespace: &'a [u8],
    call_id: &'a [u8],
    arguments: &'a [u8],
    input: &'a [u8],
    action: &'a [u8],
    operation: &'a [u8],
    status: &'a [u8],
    is_async: &'a [u8],
    caller: &'a [u8],
    execution: &'a [u8],
    environment: &'a [u8],
    phase: &'a [u8],
    role: &'a [u8],
    summary: &'a [u8],
    content: &'a [u8],
    encrypted_content: &'a [u8],
}

/// Appends the items of a turn to the input of the next request, with commas between them, byte for byte.
///
/// The one exception is the API's: without `store` it refuses `reasoning` without `encrypted_content`, and the `id` of
/// an item whose `reasoning` is missing.
pub(super) fn replay<'a>(items: impl Iterator<Item = &'a Bytes>, stored: bool) -> Rope {
    let (mut turn, mut lost_reasoning) = (Rope::default(), false);
    for text in items {
        let mut text = text.clone();
        if !stored {
            let item = Item::read(&text);
            if item.is("reasoning") {
                if is_absent(item.encrypted_content) {
                    lost_reasoning = true;
                    continue;
                }
            } else if std::mem::take(&mut lost_reasoning) && item.is_free_of_its_id() {
                text = without(&text, "id").into();
            }
        }
        if !turn.is_empty() {
            turn.append(",".into());
        }
        turn.push(text);
    }
    turn
}

/// Whether a member is missing or `null`.
pub(super) fn is_absent(value: &[u8]) -> bool {
    value.is_empty() || value == b"null"
}

/// Whether the content of a JSON string literal is `what`.
pub(super) fn says(literal: &[u8], what: &str) -> bool {
    walk::unescape(literal).is_some_and(|text| text == what)
}

/// A JSON string's text; other JSON stays as it is written.
fn text(value: &[u8]) -> Cow<'_, str> {
    if is_absent(value) {
        return Cow::Borrowed("");
    }
    walk::unescape(value).unwrap_or_else(|| String::from_utf8_lossy(value))
}

/// The texts of the parts of one type in a list.
fn part_texts<'a>(parts: &'a [u8], kind: &'static str) -> impl Iterator<Item = Cow<'a, str>> {
    walk::items(parts)
        .map(|part| &parts[part])
        .filter(move |part| walk::get(part, "type").is_some_and(|found| says(&part[found], kind)))
        .filter_map(|part| walk::unescape(&part[walk::get(part, "text")?]))
}

// === impl Item ===

impl<'a> Item<'a> {
    /// Reads the object that `item` is. Of a name that occurs twice the last one counts, as for most parsers.
    pub(super) fn read(item: &'a [u8]) -> Self {
        let mut read = Self::default();
        for (name, value) in walk::members(item) {
            let place = match &*name.to_bytes() {
                b"type" => &mut read.kind,
                b"name" => &mut read.name,
                b"namespace" => &mut read.namespace,
                b"call_id" => &mut read.call_id,
                b"arguments" => &mut read.arguments,
                b"input" => &mut read.input,
                b"action" => &mut read.action,
                b"operation" => &mut read.operation,
                b"status" => &mut read.status,
                b"async" => &mut read.is_async,
                b"caller" => &mut read.caller,
                b"execution" => &mut read.execution,
                b"environment" => &mut read.environment,
                b"phase" => &mut read.phase,
                b"role" => &mut read.role,
                b"summary" => &mut read.summary,
                b"content" => &mut read.content,
                b"encrypted_content" => &mut read.encrypted_content,
                _ => continue,
            };
            *place = &item[value];
        }
        read
    }

    fn is(&self, kind: &str) -> bool {
        says(self.kind, kind)
    }

    pub(super) fn kind(&self, offer: &Offer) -> Kind {
        match &*text(self.kind) {
            "reasoning" => Kind::Reasoning,
            "function_call" if self.owner(offer).is_some() => Kind::Ours,
            "function_call" | "custom_tool_call" => Kind::Callers,
            "apply_patch_call" | "computer_call" | "local_shell_call" | "mcp_approval_request" => Kind::Typed,
            "shell_call" if !self.runs_in_a_container() => Kind::Typed,
            "tool_search_call" if says(self.execution, "client") => Kind::Typed,
            _ => Kind::Other,
        }
    }

    /// The owner of a function call that is not the caller's. A name in a namespace is not one of ours, and a call that
    /// is asynchronous or made by a program is answered in another way.
    fn owner(&self, offer: &Offer) -> Option<Owner> {
        let is_direct = || walk::get(self.caller, "type").is_some_and(|kind| says(&self.caller[kind], "direct"));
        if !is_absent(self.namespace) || self.is_async == b"true" || !(is_absent(self.caller) || is_direct()) {
            return None;
        }
        Some(offer.owner(&text(self.name))).filter(|owner| !matches!(owner, Owner::Caller))
    }

    /// Whether a shell's commands run at the provider's.
    fn runs_in_a_container(&self) -> bool {
        walk::get(self.environment, "type").is_some_and(|kind| !says(&self.environment[kind], "local"))
    }

    /// Whether the item may be sent without its `id`.
    fn is_free_of_its_id(&self) -> bool {
        ["function_call", "custom_tool_call", "message"]
            .iter()
            .any(|kind| self.is(kind))
    }

    /// Whether the model was stopped half-way through the item.
    pub(super) fn is_cut(&self) -> bool {
        says(self.status, "incomplete")
    }

    /// The call in the item, if it has one that the provider does not run itself.
    pub(super) fn call(&self, offer: &Offer) -> Option<Call> {
        let kind = self.kind(offer);
        let (name, arguments, form) = match kind {
            Kind::Reasoning | Kind::Other => return None,
            Kind::Typed if self.is("mcp_approval_request") => return None,
            Kind::Typed => {
                let what = [self.action, self.operation, self.arguments].into_iter();
                let what = what
                    .filter(|value| !value.is_empty())
                    .map(String::from_utf8_lossy)
                    .next();
                (text(self.kind), what.unwrap_or(Cow::Borrowed("{}")), CallKind::Function)
            }
            Kind::Callers if self.is("custom_tool_call") => {
                // The input is a text, so its JSON is that of a string.
                (self.full_name(), String::from_utf8_lossy(self.input), CallKind::Custom)
            }
            Kind::Callers | Kind::Ours => (self.full_name(), text(self.arguments), CallKind::Function),
        };
        let owner = match kind {
            Kind::Ours => self.owner(offer).unwrap_or_default(),
            _ => Owner::Caller,
        };
        Some(Call {
            id: text(self.call_id).into_owned(),
            name: name.into_owned(),
            arguments: arguments.into_owned(),
            owner,
            kind: form,
        })
    }

    fn full_name(&self) -> Cow<'a, str> {
        match &*text(self.namespace) {
            "" => text(self.name),
            namespace => Cow::Owned(format!("{namespace}.{}", text(self.name))),
        }
    }

    /// The model's reasoning in the item, as far as it may be read.
    pub(super) fn thoughts(&self) -> Vec<Thought> {
        let thought = |source: &'static str| {
            move |content: Cow<'_, str>| Thought {
                source,
                content: content.into_owned(),
            }
        };
        if self.is("reasoning") {
            part_texts(self.summary, "summary_text")
                .map(thought("reasoning_summary"))
                .collect()
        } else if says(self.phase, "commentary") {
            part_texts(self.content, "output_text")
                .map(thought("commentary"))
                .collect()
        } else {
            Vec::new()
        }
    }

    /// The user's text, if the item is a message of the user's: its string, or its texts.
    pub(super) fn prompt(&self) -> Option<String> {
        let is_message = self.kind.is_empty() || self.is("message");
        if !is_message || !says(self.role, "user") {
            return None;
        }
        if let Some(text) = walk::unescape(self.content) {
            return Some(text.into_owned());
        }
        let texts: Vec<_> = part_texts(self.content, "input_text").collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    /// The call that the item answers, if it is a result.
    pub(super) fn answered_call(&self) -> Option<String> {
        let is_result = walk::unescape(self.kind).is_some_and(|kind| kind.ends_with("_output"));
        walk::unescape(self.call_id).filter(|_| is_result).map(Cow::into_owned)
    }
}
