//! A request: the members that the bridge reads, and the edits that it makes in the caller's bytes.

use std::borrow::Cow;
use std::ops::Range;

use super::define::define;
use super::relay::MessagesRelay;
use super::reply::MessagesReply;
use crate::dialect::offer::{Offer, is_injected};
use crate::dialect::turn::{About, Addition, Fault, Invalid, ToolResult, Turn};
use crate::dialect::{OfferSettings, Purpose, Relay, RelaySetup, Reply, ReplyReader, Request};
use crate::excerpt;
use crate::json::{Kind, Member, Scanner, quote, walk};
use crate::rope::{Edits, Rope, RopeWriter};
use crate::tools::Tools;
use crate::types::Dialect;

/// How many tools a request may have, ours included. The API states no limit.
const MAX_TOOLS: usize = 512;

/// How far from the end the user's message is looked for: system messages may follow it.
const LAST_MESSAGES: usize = 8;

/// The longest `user_id` in which a session is looked for, in bytes.
const MAX_USER_ID: usize = 4 << 10;

/// The beginning of text that Claude Code adds to its user's text.
const REMINDER: &str = "<system-reminder>";

/// A request that has been read, with the edits that every round of it shares.
#[derive(Debug)]
pub(super) struct MessagesRequest {
    body: Rope,
    about: About,
    purpose: Purpose,
    messages: Member,
    last: Option<LastMessage>,
    tools: Option<Member>,
    tool_choice: Option<Member>,
    /// Whether the caller leaves the choice of tools to the model, and the provider does not keep the conversation.
    is_open_to_tools: bool,
    /// The offset of the closing brace: where new members go.
    end: usize,
    offer: Offer,
    settings: OfferSettings,
    /// Whether the model may call no more tools.
    is_forbidden: bool,
    edits: Edits,
    /// The rounds so far, as elements of `messages`, commas included.
    replayed: Rope,
}

/// The last message that is not the system's.
#[derive(Debug)]
struct LastMessage {
    /// Where the content is, if it is the user's.
    prompt: Option<Range<usize>>,
    /// The call of its last tool result.
    call_id: Option<String>,
    /// Whether the model has to continue it.
    is_prefill: bool,
}

// === impl MessagesRequest ===

impl MessagesRequest {
    /// Reads what `scanner` has found in `body`. Leaves every error that the provider can find to the provider: clients
    /// know its messages.
    pub(super) fn read(body: Rope, scanner: &Scanner, purpose: Purpose) -> Result<Self, Invalid> {
        let model = scanner
            .get("model")
            .and_then(|member| walk::unescape(&body.bytes(member.value())).map(Cow::into_owned))
            .ok_or_else(|| Invalid::new("model: a string is required", "model"))?;
        let messages = scanner
            .get("messages")
            .filter(|member| member.kind() == Kind::Array)
            .copied()
            .ok_or_else(|| Invalid::new("messages: an array is required", "messages"))?;
        let present = |name| scanner.get(name).filter(|member| member.kind() != Kind::Null);
        let text = |member: &Member| body.bytes(member.value());
        let has_format = present("output_config").is_some_and(|member| {
            let config = text(member);
            walk::get(&config, "format").is_some_and(|format| &config[format] != b"null")
        }) || present("output_format").is_some();
        let tools = scanner.get("tools").copied();
        let has_tools = tools.is_some_and(|member| member.kind() == Kind::Array && !member.is_empty_container());
        let last = LastMessage::read(&body, &messages);
        Ok(Self {
            is_open_to_tools: present("tool_choice").is_none_or(|member| leaves_choice(&text(member)))
                && present("thread").is_none()
                && (has_tools || !has_format)
                && present("tools").is_none_or(|member| member.kind() == Kind::Array)
                && (purpose == Purpose::Answer || present("system").is_some() || has_several(&body, &messages))
                && !last.as_ref().is_some_and(|last| last.is_prefill),
            about: About {
                model,
                stream: purpose == Purpose::Answer && present("stream").is_some_and(|member| text(member) == "true"),
                correlating_tool_call_id: last.as_ref().and_then(|last| last.call_id.clone()),
                session: present("metadata").and_then(|member| session(&text(member))),
                cache_key: None,
                has_format,
            },
            purpose,
            messages,
            last,
            tools,
            tool_choice: scanner.get("tool_choice").copied(),
            end: scanner.end(),
            offer: Offer::default(),
            settings: OfferSettings {
                parallel: true,
                reported_usage: None,
            },
            is_forbidden: false,
            edits: Edits::default(),
            replayed: Rope::default(),
            body,
        })
    }

    /// Plans all edits again, except for the replayed rounds.
    fn plan(&mut self) {
        self.edits = Edits::default();
        if let Some(definitions) = self.offer.encoded(Dialect::Messages, define) {
            // Before the caller's tools: a cache breakpoint on its last tool covers all tools before it.
            match &self.tools {
                Some(member) if member.kind() == Kind::Array => {
                    let comma = if member.is_empty_container() { "" } else { "," };
                    let start = member.value().start + 1;
                    self.edits.insert(start, joined([definitions, comma.into()]));
                }
                Some(member) => {
                    let list = joined(["[".into(), definitions, "]".into()]);
                    self.edits.replace(member.value(), list);
                }
                None => {
                    let list = joined([r#","tools":["#.into(), definitions, "]".into()]);
                    self.edits.insert(self.end, list);
                }
            }
        }
        if self.is_forbidden {
            self.choose(r#"{"type":"none"}"#);
        } else if !self.offer.is_empty() && !self.settings.parallel && self.purpose == Purpose::Answer {
            self.forbid_parallel();
        }
    }

    fn choose(&mut self, choice: &'static str) {
        match &self.tool_choice {
            Some(member) => self.edits.replace(member.value(), choice),
            None => self
                .edits
                .insert(self.end, joined([r#","tool_choice":"#.into(), choice.into()])),
        }
    }

    /// Allows one call a turn, where the caller lets the model choose.
    fn forbid_parallel(&mut self) {
        const ONE_CALL: &str = r#"{"type":"auto","disable_parallel_tool_use":true}"#;
        let Some(member) = self.tool_choice.filter(|member| member.kind() == Kind::Object) else {
            return self.choose(ONE_CALL);
        };
        let start = member.value().start;
        let choice = self.body.bytes(member.value());
        if says(&choice, "type", "none") {
            return;
        }
        match walk::get(&choice, "disable_parallel_tool_use") {
            Some(value) => self.edits.replace(start + value.start..start + value.end, "true"),
            None => self.edits.insert(start + 1, r#""disable_parallel_tool_use":true,"#),
        }
    }
}

impl Request for MessagesRequest {
    fn about(&self) -> &About {
        &self.about
    }

    /// The last user message's string, or its last text block that the client did not add by itself.
    fn prompt(&self) -> Option<String> {
        let content = self.body.bytes(self.last.as_ref()?.prompt.clone()?);
        if let Some(text) = walk::unescape(&content) {
            return Some(text.into_owned());
        }
        let mut prompt = None;
        for item in walk::items(&content) {
            let block = &content[item];
            if !says(block, "type", "text") {
                continue;
            }
            let text = walk::get(block, "text").and_then(|text| walk::unescape(&block[text]));
            if let Some(text) = text.filter(|text| !text.trim_start().starts_with(REMINDER)) {
                prompt = Some(text.into_owned());
            }
        }
        prompt
    }

    fn offer(&mut self, tools: Tools, settings: OfferSettings) -> bool {
        self.settings = settings;
        if tools.is_empty() || !self.is_open_to_tools {
            return false;
        }
        let (mut taken, mut count) = (Vec::new(), 0);
        if let Some(member) = &self.tools {
            let text = self.body.bytes(member.value());
            for item in walk::items(&text) {
                count += 1;
                if count > MAX_TOOLS {
                    // No room is left for our tools, so the rest need not be read.
                    break;
                }
                let tool = &text[item];
                let name = walk::get(tool, "name").and_then(|name| walk::unescape(&tool[name]));
                taken.extend(name.filter(|name| is_injected(name)).map(Cow::into_owned));
            }
        }
        self.offer = Offer::new(tools, taken, MAX_TOOLS.saturating_sub(count));
        self.plan();
        !self.offer.is_empty()
    }

    fn additions(&self) -> Vec<Addition> {
        if self.offer.is_empty() {
            Vec::new()
        } else {
            vec![Addition::Tools]
        }
    }

    fn withdraw(&mut self, additions: &[Addition]) {
        if additions.contains(&Addition::Tools) {
            self.offer = Offer::default();
            self.plan();
        }
    }

    fn encode(&self) -> Rope {
        if self.edits.is_empty() && self.replayed.is_empty() {
            return self.body.clone();
        }
        let mut edits = self.edits.clone();
        if !self.replayed.is_empty() {
            edits.insert(self.messages.value().end - 1, self.replayed.clone());
        }
        edits.apply(&self.body)
    }

    /// All results in one `user` message, with nothing before them.
    fn extend(&mut self, turn: Rope, results: &[ToolResult<'_>]) {
        if !self.messages.is_empty_container() || !self.replayed.is_empty() {
            self.replayed.append(",".into());
        }
        self.replayed.append(turn);
        let mut message = RopeWriter::default();
        message.push_str(r#",{"role":"user","content":["#);
        for (place, result) in results.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            let (id, text) = (quote(&result.call.id), quote(&result.text));
            for part in [comma, r#"{"type":"tool_result","tool_use_id":"#, &id, r#","content":"#] {
                message.push_str(part);
            }
            message.push(text);
            message.push_str(if result.is_error { r#","is_error":true}"# } else { "}" });
        }
        message.push_str("]}");
        self.replayed.append(message.finish());
    }

    fn forbid_tools(&mut self) {
        self.is_forbidden = true;
        self.plan();
    }

    fn read_reply(&self, body: Rope) -> Result<(Box<dyn Reply>, Turn), Fault> {
        let (reply, turn) = MessagesReply::read(body, &self.offer)?;
        Ok((Box::new(reply), turn))
    }

    fn reply_reader(&self) -> ReplyReader {
        let offer = self.offer.clone();
        Box::new(move |body| {
            let (reply, turn) = MessagesReply::read(body, &offer)?;
            Ok((Box::new(reply), turn))
        })
    }

    fn relay(&self, setup: RelaySetup) -> Box<dyn Relay> {
        Box::new(MessagesRelay::new(
            setup,
            self.settings.reported_usage,
            self.offer.clone(),
        ))
    }
}

/// Whether a `tool_choice` leaves room for tools of ours. With `none` they are sent as well, but not called: the
/// signatures of a conversation's thinking cover its tools.
fn leaves_choice(choice: &[u8]) -> bool {
    says(choice, "type", "auto") || says(choice, "type", "none")
}

/// Whether there is more than one message. One alone, without a system prompt, is a piece that a client counts to show its
/// size; tools of ours would be counted with every piece.
fn has_several(body: &Rope, messages: &Member) -> bool {
    walk::items(&body.bytes(messages.value())).nth(1).is_some()
}

/// Whether a member of an object is this string.
fn says(object: &[u8], name: &str, what: &str) -> bool {
    walk::get(object, name).is_some_and(|value| walk::unescape(&object[value]).is_some_and(|text| text == what))
}

fn joined<const N: usize>(parts: [Rope; N]) -> Rope {
    let mut whole = Rope::default();
    for part in parts {
        whole.append(part);
    }
    whole
}

/// Claude Code's session: `user_id` is JSON text with a `session_id`, or, in older versions, ends in one.
fn session(metadata: &[u8]) -> Option<String> {
    let user_id = &metadata[walk::get(metadata, "user_id")?];
    // Parsing a longer one would take many times its size.
    if user_id.len() > MAX_USER_ID {
        return None;
    }
    let user_id = walk::unescape(user_id)?.into_owned();
    let session = match serde_json::from_str::<serde_json::Value>(&user_id) {
        Ok(user) => user.get("session_id")?.as_str()?.to_owned(),
        Err(_) => user_id.rsplit_once("_session_")?.1.to_owned(),
    };
    Some(session).filter(|session| !session.is_empty())
}

// === impl LastMessage ===

impl LastMessage {
    fn read(body: &Rope, messages: &Member) -> Option<Self> {
        let last = messages.last_item()?;
        let text = body.bytes(last.clone());
        if !says(&text, "role", "system") {
            return Self::of(&text, last.start);
        }
        // The scanner remembers the last message only.
        let start = messages.value().start;
        let text = body.bytes(messages.value());
        let mut lasts = std::collections::VecDeque::with_capacity(LAST_MESSAGES);
        for item in walk::items(&text) {
            if lasts.len() == LAST_MESSAGES {
                lasts.pop_front();
            }
            lasts.push_back(item);
        }
        let mut lasts = lasts.into_iter().rev();
        let found = lasts.find(|item| !says(&text[item.clone()], "role", "system"))?;
        let last = Self::of(&text[found.clone()], start + found.start)?;
        // A system message follows it.
        Some(Self {
            is_prefill: false,
            ..last
        })
    }

    /// Reads a message that begins at `start`.
    fn of(text: &[u8], start: usize) -> Option<Self> {
        let is_user = says(text, "role", "user");
        let content = walk::get(text, "content");
        let call_id = content.clone().and_then(|content| last_result(&text[content]));
        Some(Self {
            prompt: content
                .filter(|_| is_user)
                .map(|content| start + content.start..start + content.end),
            call_id,
            is_prefill: says(text, "role", "assistant"),
        })
    }
}

/// The call of the last tool result in a message's content.
fn last_result(content: &[u8]) -> Option<String> {
    let results = walk::items(content).filter(|item| says(&content[item.clone()], "type", "tool_result"));
    let result = &content[results.last()?];
    let id = walk::get(result, "tool_use_id")?;
    walk::unescape(&result[id]).map(|id| excerpt::name(id.into_owned()))
}
