//! Writes an injected tool as an element of a message request's `tools`.

use serde_json::Value;

use crate::dialect::offer::object_schema;
use crate::json::quote;
use crate::tools::ToolDefinition;

/// Appends one element of `tools`, with no member beyond the three: each further one needs a beta or takes one of the
/// caller's four cache breakpoints.
pub(super) fn define(name: &str, tool: &ToolDefinition, out: &mut String) {
    // An injected name has nothing to escape.
    out.extend([r#"{"name":""#, name, "\""]);
    if let Some(description) = tool.text() {
        out.extend([r#","description":"#, &quote(description)]);
    }
    out.extend([r#","input_schema":"#, &input_schema(tool.schema()), "}"]);
}

/// A tool's whole schema. The API demands `"type":"object"`, which JSON schema allows to leave out.
pub(super) fn input_schema(schema: Option<&Value>) -> String {
    match schema.and_then(Value::as_object) {
        Some(schema) if !schema.is_empty() && schema.get("type").is_none_or(|kind| kind != "object") => {
            let mut schema = schema.clone();
            schema.insert("type".to_owned(), "object".into());
            object_schema(Some(&Value::Object(schema)))
        }
        _ => object_schema(schema),
    }
}
