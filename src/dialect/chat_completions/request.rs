//! A chat completion request: the members that the bridge reads, and the edits that it makes in the caller's bytes.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::offer::{Offer, is_injected};
use crate::dialect::quote;
use crate::json::{Kind, Member, Scanner, walk};
use crate::rope::{Edits, Rope};
use crate::tools::Tools;

/// OpenAI's limit of `tools` in one request.
const MAX_TOOLS: usize = 128;

/// A request that has been read, with the edits that every round of it shares.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    body: Rope,
    model: String,
    stream: bool,
    /// Whether the caller asked for the usage chunk of a stream.
    wants_usage: bool,
    messages: Member,
    last: Option<LastMessage>,
    tools: Option<Member>,
    tool_choice: Option<Member>,
    parallel_tool_calls: Option<Member>,
    /// Whether the caller leaves the choice of tools, and there is one answer to run rounds for.
    open_to_tools: bool,
    /// The offset of the closing brace: where new members go.
    end: usize,
    edits: Edits,
    /// What the rounds so far append to `messages`, commas included.
    replayed: Rope,
}

/// Why a body is not a chat completion request, and which parameter is at fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) message: Cow<'static, str>,
    pub(crate) param: Option<&'static str>,
}

/// What records need of the last message.
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
    pub(crate) fn read(body: Rope, scanner: &Scanner) -> Result<Self, Invalid> {
        let model = scanner
            .get("model")
            .and_then(|member| walk::unescape(&body.bytes(member.value())).map(Cow::into_owned))
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
        let mut request = Self {
            model,
            stream,
            wants_usage: false,
            tools: scanner.get("tools").copied(),
            tool_choice: scanner.get("tool_choice").copied(),
            parallel_tool_calls: scanner.get("parallel_tool_calls").copied(),
            // The API refuses `tools` beside the `functions` that came before them.
            open_to_tools: present("tool_choice").is_none_or(|member| text(member) == r#""auto""#)
                && present("n").is_none_or(|member| is_one(&text(member)))
                && present("functions").or(present("function_call")).is_none()
                && present("tools").is_none_or(|member| member.kind() == Kind::Array),
            last: messages.last_item().and_then(|item| LastMessage::read(&body, item)),
            messages,
            end: scanner.end(),
            edits: Edits::default(),
            replayed: Rope::default(),
            body,
        };
        if stream {
            request.ask_for_usage(scanner.get("stream_options"))?;
        }
        Ok(request)
    }

    /// Sees to it that the provider reports a stream's usage, and notes whether the caller asked for it.
    fn ask_for_usage(&mut self, options: Option<&Member>) -> Result<(), Invalid> {
        let Some(member) = options else {
            self.edits
                .insert(self.end, r#","stream_options":{"include_usage":true}"#);
            return Ok(());
        };
        match member.kind() {
            Kind::Null => self.edits.replace(member.value(), r#"{"include_usage":true}"#),
            Kind::Object => {
                let start = member.value().start;
                let options = self.body.bytes(member.value());
                let mut asked = false;
                for (name, value) in walk::members(&options) {
                    if name == "include_usage" {
                        asked = true;
                        self.wants_usage = &options[value.clone()] == b"true";
                        if !self.wants_usage {
                            self.edits.replace(start + value.start..start + value.end, "true");
                        }
                    }
                }
                if !asked {
                    let comma = if member.is_empty_container() { "" } else { "," };
                    self.edits
                        .insert(start + 1, format!(r#""include_usage":true{comma}"#).into_bytes());
                }
            }
            _ => return Err(Invalid::new("stream_options must be an object", "stream_options")),
        }
        Ok(())
    }

    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.stream
    }

    pub(crate) fn wants_usage(&self) -> bool {
        self.wants_usage
    }

    /// Offers `tools` to the model, as far as the caller leaves room for them.
    pub(crate) fn offer(&mut self, tools: Tools, parallel: bool) -> Offer {
        if tools.is_empty() || !self.open_to_tools {
            return Offer::none();
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
                let name = tool_name(&text[item]);
                taken.extend(name.filter(|name| is_injected(name)).map(Cow::into_owned));
            }
        }
        let offer = Offer::new(tools, taken, MAX_TOOLS.saturating_sub(count));
        let Some(definitions) = offer.encoded() else {
            return Offer::none();
        };
        match &self.tools {
            Some(member) if member.kind() == Kind::Array => {
                let comma = if member.is_empty_container() { "" } else { "," };
                self.edits
                    .insert(member.value().end - 1, joined([Rope::from(comma), definitions]));
            }
            Some(member) => {
                self.edits
                    .replace(member.value(), joined(["[".into(), definitions, "]".into()]));
            }
            None => self
                .edits
                .insert(self.end, joined([r#","tools":["#.into(), definitions, "]".into()])),
        }
        if !parallel {
            self.set(self.parallel_tool_calls, r#","parallel_tool_calls":"#, "false");
        }
        offer
    }

    /// Sets a member to `value`, or adds it; `introduction` is its name with what stands around it.
    fn set(&mut self, member: Option<Member>, introduction: &'static str, value: &'static str) {
        match member {
            Some(member) if self.body.bytes(member.value()) == value => {}
            Some(member) => self.edits.replace(member.value(), value),
            None => self.edits.insert(self.end, joined([introduction.into(), value.into()])),
        }
    }

    /// Appends a round: the model's message, then one `tool` message per result, in call order.
    pub(crate) fn extend<'a>(&mut self, message: Rope, results: impl Iterator<Item = (&'a str, &'a str)>) {
        if !self.messages.is_empty_container() || !self.replayed.is_empty() {
            self.replayed.append(",".into());
        }
        self.replayed.append(message);
        for (call_id, content) in results {
            let text = format!(
                r#",{{"role":"tool","tool_call_id":{},"content":{}}}"#,
                quote(call_id),
                quote(content)
            );
            self.replayed.append(text.into_bytes().into());
        }
    }

    /// From now on the model may not call tools.
    pub(crate) fn forbid_tools(&mut self) {
        self.set(self.tool_choice, r#","tool_choice":"#, r#""none""#);
    }

    /// The body for the next round: the caller's own bytes, if nothing had to be edited.
    pub(crate) fn encode(&self) -> Rope {
        if self.edits.is_empty() && self.replayed.is_empty() {
            return self.body.clone();
        }
        let mut edits = self.edits.clone();
        if !self.replayed.is_empty() {
            edits.insert(self.messages.value().end - 1, self.replayed.clone());
        }
        edits.apply(&self.body)
    }

    /// What the user said last, if the last message is the user's: its string, or its last text part.
    pub(crate) fn prompt(&self) -> Option<String> {
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

    /// The call that the last message answers, if it is a tool's.
    pub(crate) fn correlating_tool_call_id(&self) -> Option<String> {
        self.last.as_ref()?.call_id.clone()
    }
}

/// Whether a JSON string, quotes included, says `what`.
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
                .and_then(|id| walk::unescape(&text[id]).map(Cow::into_owned)),
        })
    }
}

// === impl Invalid ===

impl Invalid {
    #[cold]
    pub(crate) fn new(message: &'static str, param: &'static str) -> Self {
        Self {
            message: message.into(),
            param: Some(param),
        }
    }
}
