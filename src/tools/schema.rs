//! Checks a call's arguments before they reach the tool, and tells the model what is wrong in few words.

use serde_json::{Map, Value};

use super::{ToolDefinition, call::floor_char_border, numbers::find_lossy, validation::Validation};

/// Paths and names in a message come from the model or from a schema, so they may be of any length.
const MAX_MESSAGE: usize = 512;

/// The longest arguments that are read, in bytes. As a tree they take many times their length.
const MAX_ARGUMENTS: usize = 1 << 20;
/// The longest arguments that are read on the request's own thread, in bytes.
const SHORT: usize = 16 << 10;

/// The rules for a tool's arguments.
pub(super) struct Schema {
    required: Box<[String]>,
    validation: Validation,
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
            validation: Validation::new(definition),
        }
    }

    /// Whether arguments of this length are read quickly: they are short, or so long that they are refused unread.
    pub(super) fn reads_quickly(length: usize) -> bool {
        length <= SHORT || length > MAX_ARGUMENTS
    }

    /// Whether a check of arguments that were read holds up no other task.
    pub(super) fn checks_quickly(&self, arguments: &Value) -> bool {
        self.validation.is_quick(arguments)
    }

    /// Reads arguments as the model wrote them; models write nothing at all where a tool takes none.
    ///
    /// # Errors
    ///
    /// The message for the model.
    pub(super) fn read(&self, arguments: &str) -> Result<Value, String> {
        if arguments.len() > MAX_ARGUMENTS {
            return Err(format!("the arguments are longer than {MAX_ARGUMENTS} bytes"));
        }
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
        Ok(value)
    }

    /// Checks arguments that were read.
    ///
    /// # Errors
    ///
    /// The message for the model.
    pub(super) fn check(&self, arguments: &Value) -> Result<(), String> {
        self.validation.check(arguments).map_err(clip)
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
