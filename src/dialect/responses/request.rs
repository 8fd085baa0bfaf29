//! A request for a response: the members that the bridge reads, and the edits that it makes in the caller's bytes.

use std::borrow::Cow;

use bytes::Bytes;

use super::define::define;
use super::items::{Item, says};
use super::object::Echo;
use super::relay::ResponsesRelay;
use super::reply::ResponsesReply;
use crate::dialect::offer::{Offer, is_injected};
use crate::dialect::turn::{About, Addition, CallKind, Fault, Invalid, ToolResult, Turn};
use crate::dialect::{OfferSettings, Relay, RelaySetup, Reply, ReplyReader, Request};
use crate::excerpt;
use crate::json::{Kind, Member, Scanner, quote, walk};
use crate::rope::{Edits, Rope, RopeWriter};
use crate::tools::Tools;
use crate::types::{Dialect, ReportedUsage};

/// The API's limit of `tools` in one request.
const MAX_TOOLS: usize = 128;

/// Makes the provider return reasoning in a form that a request without `store` may send back.
const ENCRYPTED_REASONING: &str = r#""reasoning.encrypted_content""#;

/// A request that was read, with the edits that every round of it shares.
#[derive(Debug)]
pub(super) struct ResponsesRequest {
    body: Rope,
    about: About,
    input: Option<Member>,
    tools: Option<Member>,
    tool_choice: Option<Member>,
    parallel_tool_calls: Option<Member>,
    include: Option<Member>,
    previous: Option<Member>,
    /// The place of the closing brace: new members go before it.
    end: usize,
    /// Whether the provider keeps the response.
    is_stored: bool,
    /// Whether the caller leaves the choice of tools to the model, and rounds may follow.
    is_open_to_tools: bool,
    offer: Offer,
    forbids_parallel: bool,
    asks_for_reasoning: bool,
    forbids_tools: bool,
    /// The provider's id in the place of the caller's `previous_response_id`.
    resolved: Option<String>,
    reported_usage: Option<ReportedUsage>,
    /// The items that the rounds so far append to `input`, with commas between them.
    replayed: Rope,
}

// === impl ResponsesRequest ===

impl ResponsesRequest {
    /// Reads the members that `scanner` has found in `body`.
    pub(super) fn read(body: Rope, scanner: &Scanner) -> Result<Self, Invalid> {
        let present = |name| scanner.get(name).filter(|member| member.kind() != Kind::Null).copied();
        let text = |member: Member| body.bytes(member.value());
        let string = |name| present(name).and_then(|member| walk::unescape(&text(member)).map(Cow::into_owned));
        let is_true = |name| present(name).is_some_and(|member| text(member) == "true");

        let model = match (present("model"), present("prompt")) {
            (Some(_), _) => string("model").ok_or_else(|| Invalid::new("model must be a string", "model"))?,
            // The stored prompt names the model.
            (None, Some(_)) => String::new(),
            (None, None) => return Err(Invalid::new("you must provide a model parameter", "model")),
        };
        let input = present("input");
        if input.is_some_and(|member| !matches!(member.kind(), Kind::String | Kind::Array)) {
            return Err(Invalid::new("input must be a string or an array", "input"));
        }
        let stream = match present("stream").map(text) {
            None => false,
            Some(value) if value == "true" => true,
            Some(value) if value == "false" => false,
            Some(_) => return Err(Invalid::new("stream must be a boolean", "stream")),
        };
        let tools = present("tools");
        let has_tools = tools.is_some_and(|member| !member.is_empty_container());
        let format = present("text").and_then(|member| format_of(&text(member)));
        let has_schema = format.as_deref() == Some("json_schema");
        let last = input.and_then(|member| member.last_item()).map(|item| body.bytes(item));
        let session = present("client_metadata").and_then(|member| {
            let metadata = text(member);
            let id = walk::get(&metadata, "session_id")?;
            walk::unescape(&metadata[id]).map(|id| excerpt::name(id.into_owned()))
        });
        Ok(Self {
            about: About {
                model,
                stream,
                correlating_tool_call_id: last.and_then(|item| Item::read(&item).answered_call().map(excerpt::name)),
                session,
                cache_key: string("prompt_cache_key").map(excerpt::name),
                has_format: has_schema || format.as_deref() == Some("json_object"),
            },
            is_open_to_tools: present("tool_choice").is_none_or(|member| says(&text(member), "auto"))
                && tools.is_none_or(|member| member.kind() == Kind::Array)
                && !is_true("background")
                && present("conversation").is_none()
                && (has_tools || !has_schema && present("prompt").is_none()),
            is_stored: present("store").is_none_or(|member| text(member) != "false"),
            input: scanner.get("input").copied(),
            tools: scanner.get("tools").copied(),
            tool_choice: scanner.get("tool_choice").copied(),
            parallel_tool_calls: scanner.get("parallel_tool_calls").copied(),
            include: scanner.get("include").copied(),
            previous: present("previous_response_id"),
            end: scanner.end(),
            offer: Offer::default(),
            forbids_parallel: false,
            asks_for_reasoning: false,
            forbids_tools: false,
            resolved: None,
            reported_usage: None,
            replayed: Rope::default(),
            body,
        })
    }

    fn text(&self, member: Option<Member>) -> Bytes {
        member.map_or_else(Bytes::new, |member| self.body.bytes(member.value()))
    }

    /// The injected names that the caller uses itself, and how many tools it has.
    fn callers_tools(&self) -> (Vec<String>, usize) {
        let text = self.text(self.tools);
        let (mut taken, mut count) = (Vec::new(), 0);
        for tool in walk::items(&text) {
            count += 1;
            if count > MAX_TOOLS {
                // No room is left for our tools, so the rest need not be read.
                break;
            }
            let tool = &text[tool];
            let name = walk::get(tool, "name").and_then(|name| walk::unescape(&tool[name]));
            taken.extend(name.filter(|name| is_injected(name)).map(Cow::into_owned));
        }
        (taken, count)
    }

    fn includes_reasoning(&self) -> bool {
        let text = self.text(self.include);
        let mut elements = walk::items(&text);
        elements.any(|element| says(&text[element], "reasoning.encrypted_content"))
    }

    /// Appends `elements` to a member that is an array, or adds the member.
    fn push_to_array(&self, member: Option<Member>, name: &str, elements: Rope, edits: &mut Edits) {
        match member {
            Some(member) if member.kind() == Kind::Array => {
                let comma = if member.is_empty_container() { "" } else { "," };
                edits.insert(member.value().end - 1, joined([comma.into(), elements]));
            }
            _ => self.set(member, name, joined(["[".into(), elements, "]".into()]), edits),
        }
    }

    /// Sets a member, or adds it.
    fn set(&self, member: Option<Member>, name: &str, value: Rope, edits: &mut Edits) {
        match member {
            Some(member) => edits.replace(member.value(), value),
            None => edits.insert(self.end, joined([format!(",\"{name}\":").into(), value])),
        }
    }

    fn append_input(&self, edits: &mut Edits) {
        match self.input {
            Some(member) if member.kind() == Kind::String => {
                let words = self.body.slice(member.value());
                let input = joined([
                    r#"[{"role":"user","content":"#.into(),
                    words,
                    "},".into(),
                    self.replayed.clone(),
                    "]".into(),
                ]);
                edits.replace(member.value(), input);
            }
            member => self.push_to_array(member, "input", self.replayed.clone(), edits),
        }
    }

    /// The edits of the request that the provider's answers echo.
    fn echo(&self) -> Echo {
        let include = || match self.include {
            Some(member) => self.body.bytes(member.value()),
            None => Bytes::from_static(b"[]"),
        };
        Echo {
            offer: self.offer.clone(),
            parallel: self.forbids_parallel,
            include: self.asks_for_reasoning.then(include),
            previous: self.resolved.as_ref().map(|_| self.text(self.previous)),
        }
    }
}

impl Request for ResponsesRequest {
    fn about(&self) -> &About {
        &self.about
    }

    fn prompt(&self) -> Option<String> {
        let member = self.input?;
        if member.kind() == Kind::String {
            return walk::unescape(&self.body.bytes(member.value())).map(Cow::into_owned);
        }
        Item::read(&self.body.bytes(member.last_item()?)).prompt()
    }

    fn previous(&self) -> Option<String> {
        walk::unescape(&self.text(self.previous)).map(Cow::into_owned)
    }

    fn resolve(&mut self, id: String) {
        self.resolved = Some(id);
    }

    fn offer(&mut self, tools: Tools, settings: OfferSettings) -> bool {
        self.reported_usage = settings.reported_usage;
        if tools.is_empty() || !self.is_open_to_tools {
            return false;
        }
        let (taken, count) = self.callers_tools();
        self.offer = Offer::new(tools, taken, MAX_TOOLS.saturating_sub(count));
        if self.offer.is_empty() {
            return false;
        }
        // A hidden call in a stored response could never be answered: the caller's next request builds on that response.
        let must_be_alone = self.is_stored || !settings.parallel;
        self.forbids_parallel = must_be_alone && self.text(self.parallel_tool_calls) != "false";
        self.asks_for_reasoning = !self.is_stored && !self.includes_reasoning();
        true
    }

    fn additions(&self) -> Vec<Addition> {
        let additions = [
            (!self.offer.is_empty(), Addition::Tools),
            (self.forbids_parallel, Addition::ParallelToolCalls),
            (self.asks_for_reasoning, Addition::Include),
        ];
        additions
            .into_iter()
            .filter_map(|(is_there, addition)| is_there.then_some(addition))
            .collect()
    }

    fn withdraw(&mut self, additions: &[Addition]) {
        for addition in additions {
            match addition {
                Addition::Tools => self.offer = Offer::default(),
                Addition::ParallelToolCalls => self.forbids_parallel = false,
                Addition::Include => self.asks_for_reasoning = false,
                _ => {}
            }
        }
        // The other two edits are needed only with tools.
        if self.offer.is_empty() {
            (self.forbids_parallel, self.asks_for_reasoning) = (false, false);
        }
    }

    fn encode(&self) -> Rope {
        let mut edits = Edits::default();
        if let Some(definitions) = self.offer.encoded(Dialect::Responses, define) {
            self.push_to_array(self.tools, "tools", definitions, &mut edits);
        }
        if self.forbids_parallel {
            self.set(
                self.parallel_tool_calls,
                "parallel_tool_calls",
                "false".into(),
                &mut edits,
            );
        }
        if self.asks_for_reasoning {
            self.push_to_array(self.include, "include", ENCRYPTED_REASONING.into(), &mut edits);
        }
        if let Some(id) = &self.resolved {
            self.set(self.previous, "previous_response_id", quote(id).into(), &mut edits);
        }
        if self.forbids_tools {
            self.set(self.tool_choice, "tool_choice", r#""none""#.into(), &mut edits);
        }
        if !self.replayed.is_empty() {
            self.append_input(&mut edits);
        }
        if edits.is_empty() {
            return self.body.clone();
        }
        edits.apply(&self.body)
    }

    fn extend(&mut self, turn: Rope, results: &[ToolResult<'_>]) {
        if !self.replayed.is_empty() && !turn.is_empty() {
            self.replayed.append(",".into());
        }
        self.replayed.append(turn);
        let mut items = RopeWriter::default();
        let mut comma = if self.replayed.is_empty() { "" } else { "," };
        for result in results {
            let kind = match result.call.kind {
                CallKind::Custom => "custom_tool_call_output",
                CallKind::Function => "function_call_output",
            };
            let (call_id, output) = (quote(&result.call.id), quote(&result.text));
            for part in [
                comma,
                r#"{"type":""#,
                kind,
                r#"","call_id":"#,
                &call_id,
                r#","output":"#,
            ] {
                items.push_str(part);
            }
            items.push(output);
            items.push_str("}");
            comma = ",";
        }
        self.replayed.append(items.finish());
    }

    fn forbid_tools(&mut self) {
        self.forbids_tools = true;
    }

    fn read_reply(&self, body: Rope) -> Result<(Box<dyn Reply>, Turn), Fault> {
        let (reply, turn) = ResponsesReply::read(body, self.echo(), self.is_stored)?;
        Ok((Box::new(reply), turn))
    }

    fn reply_reader(&self) -> ReplyReader {
        let (echo, is_stored) = (self.echo(), self.is_stored);
        Box::new(move |body| {
            let (reply, turn) = ResponsesReply::read(body, echo, is_stored)?;
            Ok((Box::new(reply), turn))
        })
    }

    fn relay(&self, setup: RelaySetup) -> Box<dyn Relay> {
        let model = self.about.model.clone();
        Box::new(ResponsesRelay::new(
            setup,
            self.echo(),
            model,
            self.is_stored,
            self.reported_usage,
        ))
    }
}

/// The `type` of `text.format`.
fn format_of(text: &[u8]) -> Option<String> {
    let format = &text[walk::get(text, "format")?];
    let kind = &format[walk::get(format, "type")?];
    walk::unescape(kind).map(Cow::into_owned)
}

fn joined<const N: usize>(parts: [Rope; N]) -> Rope {
    let mut whole = Rope::default();
    for part in parts {
        whole.append(part);
    }
    whole
}
