//! Turns the result of a call into text for the model.

use std::panic::resume_unwind;

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::{Value, json};
use tokio::task::{JoinError, spawn_blocking};

use crate::tools::ToolOutput;

/// The least result that is read on another thread, in bytes: copying and freeing it takes milliseconds.
const LARGE: usize = 256 << 10;

/// Text reaches the model as it is, any other content as the protocol's own JSON.
pub(super) async fn output(result: CallToolResult) -> ToolOutput {
    if size(&result) < LARGE {
        return read(result);
    }
    match spawn_blocking(move || read(result))
        .await
        .map_err(JoinError::try_into_panic)
    {
        Ok(output) => output,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime shuts down.
        Err(Err(_)) => ToolOutput::error("the result could not be read"),
    }
}

/// About how many bytes a result has, as far as is needed to tell whether it is large.
fn size(result: &CallToolResult) -> usize {
    let block = |block: &ContentBlock| {
        let content = match block {
            ContentBlock::Text(text) => text.text.len(),
            ContentBlock::Image(image) => image.data.len(),
            ContentBlock::Audio(audio) => audio.data.len(),
            ContentBlock::Resource(resource) => match &resource.resource {
                ResourceContents::TextResourceContents { text, .. } => text.len(),
                ResourceContents::BlobResourceContents { blob, .. } => blob.len(),
                _ => 0,
            },
            _ => 0,
        };
        size_of::<ContentBlock>() + content
    };
    let blocks: usize = result.content.iter().map(block).sum();
    let mut size = blocks;
    let mut values: Vec<&Value> = result.structured_content.iter().collect();
    while let Some(value) = values.pop().filter(|_| size < LARGE) {
        size += size_of::<Value>();
        match value {
            Value::String(text) => size += text.len(),
            Value::Array(items) => values.extend(items),
            Value::Object(members) => {
                size += members.keys().map(String::len).sum::<usize>();
                values.extend(members.values());
            }
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
    use tokio_test::task;

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

    #[test]
    fn a_large_result_is_read_on_another_thread() {
        let text = "x".repeat(LARGE);
        let blocks = json!({ "content": [{ "type": "text", "text": text }] });
        let structured = json!({ "content": [], "structuredContent": { "list": vec![text.as_str(); 2] } });
        let many = json!({ "content": [], "structuredContent": { "list": vec![0; LARGE / size_of::<Value>()] } });
        let resource = json!({ "uri": "file:///b", "mimeType": "x/y", "blob": text });
        let blob = json!({ "content": [{ "type": "resource", "resource": resource }] });
        let names: serde_json::Map<_, _> = (0..10_000)
            .map(|n| (format!("a long name {n:0>20}"), 0.into()))
            .collect();
        let named = json!({ "content": [], "structuredContent": names });
        let empty =
            json!({ "content": vec![json!({ "type": "text", "text": "" }); LARGE / size_of::<ContentBlock>() + 1] });
        // With one other thread, which is busy.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        let _entered = runtime.enter();
        for value in [blocks, structured, many, blob, named, empty] {
            let (end, ends) = std::sync::mpsc::channel::<()>();
            let busy = spawn_blocking(move || ends.recv().is_err());
            let mut reading = task::spawn(output(result(value.clone())));
            assert!(reading.poll().is_pending());
            drop(end);
            assert!(runtime.block_on(busy).unwrap());
            assert_eq!(runtime.block_on(reading), read(result(value)));
        }
        let small = json!({ "content": [{ "type": "text", "text": "x" }], "structuredContent": { "list": [0, "a"] } });
        assert!(task::spawn(output(result(small))).poll().is_ready());
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
