//! The provider's wire format, written and read independently of the crate, as clients do.

use serde_json::{Value, json};

pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// A request of a caller that does not ask for usage, and of one that does.
pub(crate) const ASK: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"What time is it?"}]}"#;
pub(crate) const ASK_USAGE: &str = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"What time is it?"}]}"#;

/// A client's result at the end of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) ids: Vec<String>,
    pub(crate) roles: usize,
    pub(crate) content: String,
    /// Id, name and arguments, by index.
    pub(crate) calls: Vec<(String, String, String)>,
    pub(crate) finish_reasons: Vec<String>,
    /// From chunks without choices.
    pub(crate) usages: Vec<Value>,
    pub(crate) errors: Vec<Value>,
    pub(crate) dones: usize,
    pub(crate) comments: usize,
}

/// One event of a stream.
pub(crate) fn event(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

/// A chunk with one choice; `delta` and `finish` are JSON texts.
pub(crate) fn chunk(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chunk\",\"model\":\"gpt-x\",\
         \"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

/// A chunk that opens a turn.
pub(crate) fn role() -> String {
    chunk(r#"{"role":"assistant","content":""}"#, "null")
}

pub(crate) fn text(text: &str) -> String {
    chunk(&json!({ "content": text }).to_string(), "null")
}

pub(crate) fn finish(reason: &str) -> String {
    chunk("{}", &format!("\"{reason}\""))
}

/// The delta that begins a call.
pub(crate) fn call(index: usize, id: &str, name: &str) -> String {
    let call = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
    chunk(&json!({ "tool_calls": [call] }).to_string(), "null")
}

/// A delta with more of a call's arguments.
pub(crate) fn arguments(index: usize, piece: &str) -> String {
    chunk(
        &json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}).to_string(),
        "null",
    )
}

/// The chunk without choices that reports usage.
pub(crate) fn usage(prompt: u64, completion: u64) -> String {
    event(&json!({
        "id": "chatcmpl-1", "object": "chunk", "model": "gpt-x", "choices": [],
        "usage": tokens(prompt, completion),
    }))
}

pub(crate) fn tokens(prompt: u64, completion: u64) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// A turn that says `words`, one per chunk.
pub(crate) fn say(words: &[&str]) -> String {
    let words: String = words.iter().map(|word| text(word)).collect();
    [&role(), &words, &finish("stop"), &usage(10, 5), DONE].concat()
}

/// A turn with one whole call.
pub(crate) fn calls(name: &str) -> String {
    [
        &role(),
        &call(0, "call_1", name),
        &arguments(0, r#"{"a""#),
        &arguments(0, ":1}"),
        &finish("tool_calls"),
        &usage(7, 3),
        DONE,
    ]
    .concat()
}

// === impl Message ===

impl Message {
    /// Reads a stream as the WHATWG standard and OpenAI's clients do.
    pub(crate) fn read(stream: &str) -> Self {
        let mut message = Self::default();
        let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let lines = stream.replace("\r\n", "\n").replace('\r', "\n");
        let mut data: Option<String> = None;
        for line in lines.split('\n') {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    message.take(&data);
                }
            } else if line.starts_with(':') {
                message.comments += 1;
            } else if let Some(value) = line.strip_prefix("data:") {
                let value = value.strip_prefix(' ').unwrap_or(value);
                data = Some(data.map_or(value.to_owned(), |data| format!("{data}\n{value}")));
            }
        }
        message
    }

    fn take(&mut self, data: &str) {
        assert_eq!(self.dones, 0, "an event after [DONE]: {data}");
        if data.trim() == "[DONE]" {
            self.dones += 1;
            return;
        }
        let chunk: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
        if let Some(error) = chunk.get("error") {
            self.errors.push(error.clone());
            return;
        }
        if let Some(id) = chunk["id"]
            .as_str()
            .filter(|id| !self.ids.iter().any(|known| known == id))
        {
            self.ids.push(id.to_owned());
        }
        let choices = chunk["choices"].as_array().unwrap();
        if choices.is_empty() && !chunk["usage"].is_null() {
            self.usages.push(chunk["usage"].clone());
        }
        for choice in choices {
            let delta = &choice["delta"];
            self.roles += usize::from(delta.get("role").is_some());
            self.content.push_str(delta["content"].as_str().unwrap_or_default());
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let index = call["index"].as_u64().map_or_else(
                    || self.calls.len() - usize::from(call["id"].is_null()),
                    |index| index as usize,
                );
                if self.calls.len() <= index {
                    self.calls.resize(index + 1, Default::default());
                }
                let (id, name, arguments) = &mut self.calls[index];
                let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                id.push_str(&part(&call["id"]));
                name.push_str(&part(&call["function"]["name"]));
                arguments.push_str(&part(&call["function"]["arguments"]));
            }
            if let Some(reason) = choice["finish_reason"].as_str() {
                self.finish_reasons.push(reason.to_owned());
            }
        }
    }
}
