//! Checks a call's arguments before they reach the tool, and tells the model what is wrong in few words.

use serde_json::{Map, Value};

#[cfg(feature = "json-schema")]
use super::expansion::Expansion;
use super::{ToolDefinition, call::floor_char_border, numbers::find_lossy};

/// Paths and names in a message come from the model or from a schema, so they may be of any length.
const MAX_MESSAGE: usize = 512;

/// Evaluations of schema objects for one call's arguments: some tenths of a second.
#[cfg(feature = "json-schema")]
const MAX_COST: usize = 10_000_000;

/// The rules for a tool's arguments.
pub(super) struct Schema {
    required: Box<[String]>,
    #[cfg(feature = "json-schema")]
    validator: Option<(jsonschema::Validator, Expansion)>,
}

// === impl Schema ===

impl Schema {
    pub(super) fn new(definition: &ToolDefinition) -> Self {
        let required = definition
            .get_parameters()
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
        if let Some(name) = find_lossy(arguments) {
            return Err(clip(format!(
                "a number in the argument {name:?} has more digits than can be passed on exactly: write it as a string, if \
                 the tool takes one, or with fewer digits"
            )));
        }
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
            .filter(|(_, expansion)| expansion.cost(&value) <= MAX_COST)
            .and_then(|(validator, _)| validator.validate(&value).err())
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

/// The validator of a schema that can be followed at a bounded cost.
#[cfg(feature = "json-schema")]
fn validator(definition: &ToolDefinition) -> Option<(jsonschema::Validator, Expansion)> {
    let schema = definition.get_parameters().filter(|schema| schema.is_object())?;
    let expansion = Expansion::of(schema);
    let problem = if expansion.is_too_large {
        "it is too large once its references are followed"
    } else if expansion.is_opaque {
        "it has references that cannot be followed"
    } else {
        // Offline: another crate of the build may switch on that references are fetched from the network or the disk.
        // Linear patterns: a backtracking one of a few bytes can take hours.
        let options = jsonschema::options()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .offline();
        match options.build(schema) {
            Ok(validator) => return Some((validator, expansion)),
            // The error repeats parts of the schema; the tool's name is enough to find it.
            Err(_) => "it is invalid",
        }
    };
    tracing::warn!(
        tool = definition.name(),
        server = definition.get_server(),
        problem,
        "a tool's arguments are not checked against its schema"
    );
    crate::metrics::refused(crate::metrics::Limit::Schema);
    None
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
