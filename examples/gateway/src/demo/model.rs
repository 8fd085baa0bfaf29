//! The demo model: it repeats the prompt, or asks for the clock when the prompt is about the time.

use serde_json::Value;

/// One request, independent of the API.
pub(super) struct Asked {
    /// The text of the last message.
    pub(super) said: String,
    /// Whether that is a tool's result.
    pub(super) is_result: bool,
    /// The names of the tools that may be called.
    pub(super) tools: Vec<String>,
    /// About one token a word.
    pub(super) tokens: usize,
}

/// One turn of the model.
pub(super) enum Turn {
    Say(String),
    /// The name of a tool that takes no arguments.
    Call(String),
}

pub(super) fn turn(asked: &Asked) -> Turn {
    if asked.is_result {
        return Turn::Say(format!("The clock says {}.", asked.said));
    }
    let clock = asked.tools.iter().find(|name| name.ends_with("current_time"));
    match clock {
        Some(name) if asked.said.to_lowercase().contains("time") => Turn::Call(name.clone()),
        _ => Turn::Say(format!("You said: {}", asked.said)),
    }
}

pub(super) fn tokens(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The text of a content: a string, or a list of parts that each have a text or a content.
pub(super) fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| match part["text"].as_str() {
                Some(text) => text.to_owned(),
                None => text(&part["content"]),
            });
            texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

/// The names in a list of tools; `name` finds one of them.
pub(super) fn names<'a>(request: &'a Value, name: impl Fn(&'a Value) -> &'a Value) -> Vec<String> {
    let tools = request["tools"].as_array().into_iter().flatten();
    tools
        .filter_map(|tool| name(tool).as_str().map(str::to_owned))
        .collect()
}
