//! Turns the result of a call into text for the model.

use std::panic::resume_unwind;

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::tools::ToolOutput;

/// The least result that is read on another thread, in bytes: copying and freeing it takes milliseconds.
const LARGE: usize = 256 << 10;

/// Text reaches the model as it is, any other content as the protocol's own JSON.
pub(super) async fn output(result: CallToolResult) -> ToolOutput {
    if size(&result) < LARGE {
        return read(result);
    }
    match spawn_blocking(move || read(result)).await {
        Ok(output) => output,
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// About how many bytes a result has, as far as is needed to tell whether it is large.
fn size(result: &CallToolResult) -> usize {
    let block = |block: &ContentBlock| match block {
        ContentBlock::Text(text) => text.text.len(),
        ContentBlock::Image(image) => image.data.len(),
        ContentBlock::Audio(audio) => audio.data.len(),
        _ => 0,
    };
    let blocks: usize = result.content.iter().map(block).sum();
    let mut size = blocks;
    let mut values: Vec<&Value> = result.structured_content.iter().collect();
    while let Some(value) = values.pop().filter(|_| size < LARGE) {
        size += size_of::<Value>();
        match value {
            Value::String(text) => size += text.len(),
            Value::Array(items) => values.extend(items),
            Value::Object(members) => values.extend(members.values()),
            _ => {}
        }
    }
    size
}

fn read(mut result: CallToolResult) -> ToolOutput {
    let text = text(&mut result).unwrap_or_else(|| raw(&result));
    if result.is_error == Some(true) {
        ToolOutput::error(text)
    } else {
        ToolOutput::text(text)
    }
}

/// The text of a result that has no other content.
fn text(result: &mut CallToolResult) -> Option<String> {
    if let ([ContentBlock::Text(text)], None) = (&mut result.content[..], &result.structured_content) {
        return Some(std::mem::take(&mut text.text));
    }
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
        assert_eq!(read(one), ToolOutput::text("4 °C"));
        let two = result(json!({ "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }));
        assert_eq!(read(two), ToolOutput::text("a\nb"));
        let same = json!({ "content": [{ "type": "text", "text": "{\"c\": 4}" }], "structuredContent": { "c": 4 } });
        assert_eq!(read(result(same)), ToolOutput::text("{\"c\": 4}"));
    }

    #[tokio::test]
    async fn a_large_result_is_read_as_a_small_one() {
        let text = "x".repeat(LARGE);
        let blocks = json!({ "content": [{ "type": "text", "text": text }] });
        let structured = json!({ "content": [], "structuredContent": { "list": vec![text.as_str(); 2] } });
        let many = json!({ "content": [], "structuredContent": { "list": vec![0; LARGE / size_of::<Value>()] } });
        for value in [blocks, structured, many] {
            assert!(size(&result(value.clone())) >= LARGE);
            assert_eq!(output(result(value.clone())).await, read(result(value)));
        }
        let small = json!({ "content": [{ "type": "text", "text": "x" }], "structuredContent": { "list": [0, "a"] } });
        assert!(size(&result(small)) < 1_000);
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
        let read = |value| -> Value { serde_json::from_str(read(result(value)).content()).unwrap() };
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
        assert_eq!(read(result(words)), ToolOutput::error("no such city"));
        let image =
            json!({ "content": [{ "type": "image", "data": "aGk=", "mimeType": "image/png" }], "isError": true });
        let told = read(result(image));
        assert!(told.is_error() && told.content().contains("image/png"), "{told:?}");
    }
}
