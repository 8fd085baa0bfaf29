//! The demo model: it repeats the prompt, or asks for the clock when the prompt is about the time.

use serde_json::Value;

/// One turn of the model.
pub(super) enum Turn {
    Say(String),
    /// The name of a tool that takes no arguments.
    Call(String),
}

pub(super) fn turn(request: &Value) -> Turn {
    let last = request["messages"]
        .as_array()
        .and_then(|messages| messages.last())
        .unwrap_or(&Value::Null);
    let said = text(&last["content"]);
    if last["role"] == "tool" {
        return Turn::Say(format!("The clock says {said}."));
    }
    let tools = request["tools"].as_array().into_iter().flatten();
    let clock = tools
        .filter_map(|tool| tool["function"]["name"].as_str())
        .find(|name| name.ends_with("current_time"));
    match clock {
        Some(name) if said.to_lowercase().contains("time") && request["tool_choice"] != "none" => {
            Turn::Call(name.into())
        }
        _ => Turn::Say(format!("You said: {said}")),
    }
}

/// About one token a word.
pub(super) fn prompt_tokens(request: &Value) -> usize {
    let messages = request["messages"].as_array().into_iter().flatten();
    messages.map(|message| tokens(&text(&message["content"]))).sum()
}

pub(super) fn tokens(text: &str) -> usize {
    text.split_whitespace().count()
}

/// A content is a string or a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join(" "),
        _ => String::new(),
    }
}
