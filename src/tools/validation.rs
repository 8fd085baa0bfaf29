//! Checks arguments against the whole JSON schema of their tool, if the feature `json-schema` is on and the cost is bounded.

use serde_json::Value;

use super::ToolDefinition;
#[cfg(feature = "json-schema")]
use super::expansion::Expansion;

/// Evaluations of schema objects for one call's arguments: some tenths of a second.
#[cfg(feature = "json-schema")]
const MAX_COST: usize = 10_000_000;
/// Evaluations that hold up no other task: under a millisecond.
#[cfg(feature = "json-schema")]
const QUICK_COST: usize = 20_000;

/// A schema that arguments are checked against; none without the feature, and for a schema that cannot be followed safely.
#[cfg(feature = "json-schema")]
pub(super) struct Validation(Option<(jsonschema::Validator, Expansion)>);

#[cfg(not(feature = "json-schema"))]
pub(super) struct Validation;

// === impl Validation ===

#[cfg(feature = "json-schema")]
impl Validation {
    pub(super) fn new(definition: &ToolDefinition) -> Self {
        Self(validator(definition))
    }

    /// Whether a check of `arguments` holds up no other task.
    pub(super) fn is_quick(&self, arguments: &Value) -> bool {
        let cost = self.0.as_ref().map_or(0, |(_, expansion)| expansion.cost(arguments));
        cost <= QUICK_COST || cost > MAX_COST
    }

    /// # Errors
    ///
    /// The message for the model, of any length.
    pub(super) fn check(&self, arguments: &Value) -> Result<(), String> {
        let Some((validator, expansion)) = &self.0 else {
            return Ok(());
        };
        if expansion.cost(arguments) > MAX_COST {
            return Ok(());
        }
        let Err(error) = validator.validate(arguments) else {
            return Ok(());
        };
        let path = match error.instance_path().as_str() {
            "" => "the arguments",
            path => path,
        };
        // Masked: the model knows the value that it sent, and it may be long.
        Err(format!("{path}: {}", error.masked_with("the value")))
    }
}

#[cfg(not(feature = "json-schema"))]
#[allow(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "the methods are those that the feature has"
)]
impl Validation {
    pub(super) fn new(_: &ToolDefinition) -> Self {
        Self
    }

    pub(super) fn is_quick(&self, _: &Value) -> bool {
        true
    }

    pub(super) fn check(&self, _: &Value) -> Result<(), String> {
        Ok(())
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
        // Offline: another crate of the build may enable the feature that fetches references from the network or the
        // disk. Linear-time patterns: a backtracking pattern of a few bytes can run for hours.
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
