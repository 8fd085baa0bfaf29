//! Checks a call's arguments before they reach the tool, and tells the model what is wrong in few words.

use serde_json::{Map, Value};

use super::{ToolDefinition, call::floor_char_border};

/// Paths and names in a message come from the model or from a schema, so they may be of any length.
const MAX_MESSAGE: usize = 512;

/// What a tool's arguments must look like.
pub(super) struct Schema {
    required: Box<[String]>,
    #[cfg(feature = "json-schema")]
    validator: Option<jsonschema::Validator>,
}

// === impl Schema ===

impl Schema {
    pub(super) fn new(definition: &ToolDefinition) -> Self {
        let required = definition
            .schema()
            .and_then(|schema| schema.get("required"))
            .and_then(Value::as_array);
        Self {
            required: required
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            #[cfg(feature = "json-schema")]
            validator: validator(definition),
        }
    }

    /// Reads arguments as the model wrote them; models write nothing at all where a tool takes none.
    ///
    /// # Errors
    ///
    /// What the model is to be told.
    pub(super) fn check(&self, arguments: &str) -> Result<Value, String> {
        let value = match arguments.trim_ascii() {
            "" => Value::Object(Map::new()),
            text => serde_json::from_str(text).map_err(|error| format!("the arguments are not JSON: {error}"))?,
        };
        let Some(object) = value.as_object() else {
            return Err(format!("the arguments must be a JSON object, not {}", kind(&value)));
        };
        let missing: Vec<&str> = self
            .required
            .iter()
            .map(String::as_str)
            .filter(|name| !object.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            return Err(clip(format!(
                "the arguments lack required properties: {}",
                missing.join(", ")
            )));
        }
        #[cfg(feature = "json-schema")]
        if let Some(error) = self
            .validator
            .as_ref()
            .and_then(|validator| validator.validate(&value).err())
        {
            let path = match error.instance_path().as_str() {
                "" => "the arguments",
                path => path,
            };
            // Masked: the model knows the value that it sent, and it may be long.
            return Err(clip(format!("{path}: {}", error.masked_with("the value"))));
        }
        Ok(value)
    }
}

#[cfg(feature = "json-schema")]
fn validator(definition: &ToolDefinition) -> Option<jsonschema::Validator> {
    let schema = definition.schema().filter(|schema| schema.is_object())?;
    // Another crate of the build may switch on that `$ref` is fetched from the network or the disk; a schema of a
    // third party's server must not make us do that.
    match jsonschema::options().offline().build(schema) {
        Ok(validator) => Some(validator),
        Err(_) => {
            // The error repeats parts of the schema; the name is enough to find it.
            tracing::warn!(
                tool = definition.name(),
                server = definition.server_name(),
                "tool schema is invalid: arguments are not checked against it"
            );
            None
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn clip(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(floor_char_border(&message, MAX_MESSAGE));
        message.push('…');
    }
    message
}
