//! Turns the result of a call into text for the model.

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};

use crate::tools::ToolOutput;

/// Text reaches the model as it is, any other content as the protocol's own JSON.
pub(super) fn output(result: &CallToolResult) -> ToolOutput {
    let text = text(result);
    if result.is_error == Some(true) {
        return ToolOutput::error(text.unwrap_or_else(|| raw(result)));
    }
    match text {
        Some(text) => ToolOutput::text(text),
        None => ToolOutput::text(raw(result)),
    }
}

/// The text of a result that has no other content.
fn text(result: &CallToolResult) -> Option<String> {
    let texts: Option<Vec<&str>> = result
        .content
        .iter()
        .map(|block| match block {
            ContentBlock::Text(text) => Some(text.text.as_str()),
            _ => None,
        })
        .collect();
    let texts = texts.filter(|texts| !texts.is_empty())?;
    let says_the_same = |structured: &Value| {
        // For older clients a server repeats its structured content as one text.
        matches!(texts[..], [text] if serde_json::from_str::<Value>(text).is_ok_and(|value| value == *structured))
    };
    if result.structured_content.as_ref().is_none_or(says_the_same) {
        Some(texts.join("\n"))
    } else {
        None
    }
}

fn raw(result: &CallToolResult) -> String {
    let mut value = json!({ "content": result.content });
    if let Some(structured) = &result.structured_content {
        value["structuredContent"] = structured.clone();
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(value: Value) -> CallToolResult {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn text_stays_text() {
        let one = result(json!({ "content": [{ "type": "text", "text": "4 °C" }] }));
        assert_eq!(output(&one), ToolOutput::text("4 °C"));
        let two = result(json!({ "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }));
        assert_eq!(output(&two), ToolOutput::text("a\nb"));
        let same = json!({ "content": [{ "type": "text", "text": "{\"c\": 4}" }], "structuredContent": { "c": 4 } });
        assert_eq!(output(&result(same)), ToolOutput::text("{\"c\": 4}"));
    }

    #[test]
    fn every_other_kind_is_the_protocols_own_json() {
        let content = json!([
            { "type": "text", "text": "see" },
            { "type": "image", "data": "aGk=", "mimeType": "image/png" },
            { "type": "audio", "data": "aGk=", "mimeType": "audio/wav" },
            { "type": "resource", "resource": { "uri": "file:///a", "mimeType": "text/plain", "text": "a" } },
            { "type": "resource", "resource": { "uri": "file:///b", "mimeType": "x/y", "blob": "aGk=" } },
            { "type": "resource_link", "uri": "file:///c", "name": "c" },
        ]);
        let read = |value| -> Value { serde_json::from_str(output(&result(value)).content()).unwrap() };
        for block in content.as_array().unwrap().iter().skip(1) {
            let value = json!({ "content": [block] });
            assert_eq!(read(value.clone()), value);
        }
        let all = json!({ "content": content, "structuredContent": { "n": null } });
        assert_eq!(read(all.clone()), all);
        let differs = json!({ "content": [{ "type": "text", "text": "four" }], "structuredContent": { "c": 4 } });
        assert_eq!(read(differs.clone()), differs);
        let nothing = json!({ "content": [] });
        assert_eq!(read(nothing.clone()), nothing);
    }

    #[test]
    fn errors_are_told_as_errors() {
        let words = json!({ "content": [{ "type": "text", "text": "no such city" }], "isError": true });
        assert_eq!(output(&result(words)), ToolOutput::error("no such city"));
        let image =
            json!({ "content": [{ "type": "image", "data": "aGk=", "mimeType": "image/png" }], "isError": true });
        let told = output(&result(image));
        assert!(told.is_error() && told.content().contains("image/png"), "{told:?}");
    }
}
