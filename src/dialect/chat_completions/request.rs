//! A chat completion request: the members that the bridge reads, and the edits that it makes in the caller's bytes.

use std::borrow::Cow;
use std::ops::Range;

use super::define::define;
use super::relay::ChatRelay;
use super::reply::ChatReply;
use crate::dialect::offer::{Offer, is_injected};
use crate::dialect::turn::{About, Addition, Fault, Invalid, ToolResult, Turn};
use crate::dialect::{OfferSettings, Relay, RelaySetup, Reply, ReplyReader, Request};
use crate::excerpt;
use crate::json::{Kind, Member, Scanner, quote, walk};
use crate::rope::{Edits, Rope, RopeWriter};
use crate::tools::Tools;
use crate::types::{Dialect, ReportedUsage};

/// OpenAI's limit of `tools` in one request.
const MAX_TOOLS: usize = 128;

/// A request that has been read, with the edits that every round of it shares.
#[derive(Debug)]
pub(super) struct ChatRequest {
    body: Rope,
    about: About,
    /// Whether the caller asked for the usage chunk of a stream.
    wants_usage: bool,
    messages: Member,
    last: Option<LastMessage>,
    tools: Option<Member>,
    tool_choice: Option<Member>,
    parallel_tool_calls: Option<Member>,
    stream_options: Option<Member>,
    /// Whether the caller leaves the choice of tools to the model, and asks for one answer only.
    is_open_to_tools: bool,
    /// The offset of the closing brace: where new members go.
    end: usize,
    offer: Offer,
    settings: OfferSettings,
    withdrawn: Vec<Addition>,
    /// Whether the model may call no more tools.
    is_forbidden: bool,
    edits: Edits,
    /// The rounds so far, as elements of `messages`, commas included.
    replayed: Rope,
}

/// The parts of the last message that records need.
#[derive(Debug)]
struct LastMessage {
    /// Where the content is, if it is the user's.
    prompt: Option<Range<usize>>,
    /// The call that it answers, if it is a tool's.
    call_id: Option<String>,
}

// === impl ChatRequest ===

impl ChatRequest {
    /// Reads what `scanner` has found in `body`.
    pub(super) fn read(body: Rope, scanner: &Scanner) -> Result<Self, Invalid> {
        let string = |name| {
            let member = scanner.get(name).filter(|member| member.kind() == Kind::String)?;
            walk::unescape(&body.bytes(member.value())).map(Cow::into_owned)
        };
        let model = string("model")
            .ok_or_else(|| Invalid::new("you must provide a model parameter, and it must be a string", "model"))?;
        let messages = scanner
            .get("messages")
            .filter(|member| member.kind() == Kind::Array)
            .copied()
            .ok_or_else(|| {
                Invalid::new(
                    "you must provide a messages parameter, and it must be an array",
                    "messages",
                )
            })?;
        let present = |name| scanner.get(name).filter(|member| member.kind() != Kind::Null);
        let text = |member: &Member| body.bytes(member.value());
        let stream = match present("stream").map(text) {
            None => false,
            Some(value) if value == "true" => true,
            Some(value) if value == "false" => false,
            Some(_) => return Err(Invalid::new("stream must be a boolean", "stream")),
        };
        let stream_options = scanner.get("stream_options").copied();
        if stream && stream_options.is_some_and(|member| !matches!(member.kind(), Kind::Null | Kind::Object)) {
            return Err(Invalid::new("stream_options must be an object", "stream_options"));
        }
        let mut last = messages.last_item().and_then(|item| LastMessage::read(&body, item));
        let mut request = Self {
            about: About {
                model,
                stream,
                correlating_tool_call_id: last.as_mut().and_then(|last| last.call_id.take()),
                session: None,
                cache_key: string("prompt_cache_key").map(excerpt::name),
                has_format: present("response_format").is_some(),
            },
            wants_usage: false,
            tools: scanner.get("tools").copied(),
            tool_choice: scanner.get("tool_choice").copied(),
            parallel_tool_calls: scanner.get("parallel_tool_calls").copied(),
            stream_options,
            // The API refuses `tools` together with the older `functions`.
            is_open_to_tools: present("tool_choice").is_none_or(|member| text(member) == r#""auto""#)
                && present("n").is_none_or(|member| is_one(&text(member)))
                && present("functions").or(present("function_call")).is_none()
                && present("tools").is_none_or(|member| member.kind() == Kind::Array),
            last,
            messages,
            end: scanner.end(),
            offer: Offer::default(),
            settings: OfferSettings {
                parallel: true,
                reported_usage: None,
            },
            withdrawn: Vec::new(),
            is_forbidden: false,
            edits: Edits::default(),
            replayed: Rope::default(),
            body,
        };
        request.plan();
        Ok(request)
    }

    /// Plans all edits again, except for the replayed rounds.
    fn plan(&mut self) {
        self.edits = Edits::default();
        if self.about.stream {
            self.ask_for_usage();
        }
        let Some(definitions) = self.offer.encoded(Dialect::ChatCompletions, define) else {
            return;
        };
        match &self.tools {
            Some(member) if member.kind() == Kind::Array => {
                let comma = if member.is_empty_container() { "" } else { "," };
                let end = member.value().end - 1;
                self.edits.insert(end, joined([Rope::from(comma), definitions]));
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
        if !self.settings.parallel && !self.withdrawn.contains(&Addition::ParallelToolCalls) {
            self.set(self.parallel_tool_calls, r#","parallel_tool_calls":"#, "false");
        }
        if self.is_forbidden {
            self.set(self.tool_choice, r#","tool_choice":"#, r#""none""#);
        }
    }

    /// Makes the provider report a stream's usage, and notes whether the caller asked for it.
    fn ask_for_usage(&mut self) {
        let is_withdrawn = self.withdrawn.contains(&Addition::StreamOptions);
        let edit = |edits: &mut Edits, range: Range<usize>, text: Rope| {
            if !is_withdrawn {
                edits.replace(range, text);
            }
        };
        match self.stream_options {
            None => {
                let options = r#","stream_options":{"include_usage":true}"#.into();
                edit(&mut self.edits, self.end..self.end, options);
            }
            Some(member) if member.kind() == Kind::Null => {
                edit(&mut self.edits, member.value(), r#"{"include_usage":true}"#.into());
            }
            Some(member) => {
                let start = member.value().start;
                let options = self.body.bytes(member.value());
                let mut found = None;
                for (name, value) in walk::members(&options) {
                    if name == "include_usage" {
                        found = Some(value);
                    }
                }
                match found {
                    Some(value) => {
                        self.wants_usage = &options[value.clone()] == b"true";
                        if !self.wants_usage {
                            let range = start + value.start..start + value.end;
                            edit(&mut self.edits, range, "true".into());
                        }
                    }
                    None => {
                        let comma = if member.is_empty_container() { "" } else { "," };
                        let text = format!(r#""include_usage":true{comma}"#).into_bytes();
                        edit(&mut self.edits, start + 1..start + 1, text.into());
                    }
                }
            }
        }
    }

    /// Sets a member to `value`, or adds it; `introduction` is its name with the punctuation around it.
    fn set(&mut self, member: Option<Member>, introduction: &'static str, value: &'static str) {
        match member {
            Some(member) if self.body.bytes(member.value()) == value => {}
            Some(member) => self.edits.replace(member.value(), value),
            None => self.edits.insert(self.end, joined([introduction.into(), value.into()])),
        }
    }
}

impl Request for ChatRequest {
    fn about(&self) -> &About {
        &self.about
    }

    /// The last message's string, or its last text part.
    fn prompt(&self) -> Option<String> {
        let content = self.body.bytes(self.last.as_ref()?.prompt.clone()?);
        if let Some(text) = walk::unescape(&content) {
            return Some(text.into_owned());
        }
        let is_text = |part: &&[u8]| walk::get(part, "type").is_some_and(|kind| says(&part[kind], "text"));
        let part = walk::items(&content)
            .map(|part| &content[part])
            .filter(is_text)
            .last()?;
        walk::unescape(&part[walk::get(part, "text")?]).map(Cow::into_owned)
    }

    fn offer(&mut self, tools: Tools, settings: OfferSettings) -> bool {
        self.settings = settings;
        if tools.is_empty() || !self.is_open_to_tools {
            return false;
        }
        let listed = self
            .tools
            .as_ref()
            .filter(|member| !member.is_empty_container() && member.kind() == Kind::Array);
        let (mut taken, mut count) = (Vec::new(), 0);
        if let Some(member) = listed {
            let text = self.body.bytes(member.value());
            for item in walk::items(&text) {
                count += 1;
                if count > MAX_TOOLS {
                    // No room is left for our tools, so the rest need not be read.
                    break;
                }
                let name = tool_name(&text[item]);
                taken.extend(name.filter(|name| is_injected(name)).map(Cow::into_owned));
            }
        }
        self.offer = Offer::new(tools, taken, MAX_TOOLS.saturating_sub(count));
        self.plan();
        !self.offer.is_empty()
    }

    fn additions(&self) -> Vec<Addition> {
        let mut additions = Vec::new();
        if !self.offer.is_empty() {
            additions.push(Addition::Tools);
            if !self.settings.parallel {
                additions.push(Addition::ParallelToolCalls);
            }
        }
        if self.about.stream && !self.wants_usage {
            additions.push(Addition::StreamOptions);
        }
        additions.retain(|addition| !self.withdrawn.contains(addition));
        additions
    }

    fn withdraw(&mut self, additions: &[Addition]) {
        self.withdrawn.extend_from_slice(additions);
        if self.withdrawn.contains(&Addition::Tools) {
            self.offer = Offer::default();
        }
        self.plan();
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

    /// One `tool` message per result.
    fn extend(&mut self, turn: Rope, results: &[ToolResult<'_>]) {
        if !self.messages.is_empty_container() || !self.replayed.is_empty() {
            self.replayed.append(",".into());
        }
        self.replayed.append(turn);
        let mut messages = RopeWriter::default();
        for result in results {
            let content = if result.is_error {
                quote(&format!(r#"{{"error":true,"message":{}}}"#, quote(&result.text)))
            } else {
                quote(&result.text)
            };
            let id = quote(&result.call.id);
            for part in [r#",{"role":"tool","tool_call_id":"#, &id, r#","content":"#] {
                messages.push_str(part);
            }
            messages.push(content);
            messages.push_str("}");
        }
        self.replayed.append(messages.finish());
    }

    fn forbid_tools(&mut self) {
        self.is_forbidden = true;
        self.plan();
    }

    fn read_reply(&self, body: Rope) -> Result<(Box<dyn Reply>, Turn), Fault> {
        let (reply, turn) = ChatReply::read(body, &self.offer)?;
        Ok((Box::new(reply), turn))
    }

    fn reply_reader(&self) -> ReplyReader {
        let offer = self.offer.clone();
        Box::new(move |body| {
            let (reply, turn) = ChatReply::read(body, &offer)?;
            Ok((Box::new(reply), turn))
        })
    }

    fn relay(&self, setup: RelaySetup) -> Box<dyn Relay> {
        let sums = self.settings.reported_usage != Some(ReportedUsage::LastRound);
        Box::new(ChatRelay::new(setup, self.wants_usage, sums, self.offer.clone()))
    }
}

/// Whether the content of a JSON string literal is `what`.
fn says(literal: &[u8], what: &str) -> bool {
    walk::unescape(literal).is_some_and(|text| text == what)
}

fn joined<const N: usize>(parts: [Rope; N]) -> Rope {
    let mut whole = Rope::default();
    for part in parts {
        whole.append(part);
    }
    whole
}

/// Whether a JSON number is 1, however it is written.
fn is_one(text: &[u8]) -> bool {
    std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) == Some(1.0)
}

fn tool_name(tool: &[u8]) -> Option<Cow<'_, str>> {
    let function = &tool[walk::get(tool, "function")?];
    walk::unescape(&function[walk::get(function, "name")?])
}

// === impl LastMessage ===

impl LastMessage {
    fn read(body: &Rope, place: Range<usize>) -> Option<Self> {
        let start = place.start;
        let text = body.bytes(place);
        let (mut role, mut content, mut call_id) = (None, None, None);
        for (name, value) in walk::members(&text) {
            match &*name.to_bytes() {
                b"role" => role = Some(value),
                b"content" => content = Some(value),
                b"tool_call_id" => call_id = Some(value),
                _ => {}
            }
        }
        let role = walk::unescape(&text[role?])?;
        Some(Self {
            prompt: content
                .filter(|_| role == "user")
                .map(|content| start + content.start..start + content.end),
            call_id: call_id
                .filter(|_| role == "tool")
                .and_then(|id| walk::unescape(&text[id]).map(|id| excerpt::name(id.into_owned()))),
        })
    }
}
