//! Writes an injected tool as an element of a chat completion's `tools`.

use crate::dialect::offer::object_schema;
use crate::json::quote;
use crate::tools::ToolDefinition;

/// Appends one element of `tools`.
pub(super) fn define(name: &str, tool: &ToolDefinition, out: &mut String) {
    // An injected name has nothing to escape.
    out.extend([r#"{"type":"function","function":{"name":""#, name, "\""]);
    if let Some(description) = tool.text() {
        out.extend([r#","description":"#, &quote(description)]);
    }
    out.extend([
        r#","parameters":"#,
        &object_schema(tool.schema()),
        r#","strict":false}}"#,
    ]);
}
