//! One event as a database takes it: its columns by name, mended where a database cannot hold them.

use serde_json::{Map, Value};

use super::schema::{Column, Kind, Type};

/// The row, or the half of a row, that one event becomes.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// A value for each of the kind's columns, in their order.
    pub(super) values: Vec<Value>,
    /// Whether a text or a count had to be changed.
    pub(super) is_mended: bool,
    /// The event as it came.
    pub(super) line: String,
}

// === impl Row ===

impl Row {
    /// Reads an event's line; `None` if it is not an event of a known kind.
    pub(super) fn read(line: &str) -> Option<Self> {
        let mut event: Map<String, Value> = serde_json::from_str(line).ok()?;
        let kind = Kind::of(event.get("event")?.as_str()?)?;
        if kind.table().key == ["id"] {
            let id = event.remove("interception_id")?;
            event.insert("id".to_owned(), id);
        }
        if let Some(Value::Object(mut cost)) = event.remove("cost") {
            event.insert("cost".to_owned(), cost.remove("amount")?);
            event.insert("cost_currency".to_owned(), cost.remove("currency")?);
        }
        let (mut values, mut is_mended) = (Vec::new(), false);
        for column in kind.columns() {
            let mut value = event.remove(column.name).unwrap_or_default();
            is_mended |= match column.kind {
                Type::Count => clamp(&mut value),
                _ => replace_nul(&mut value),
            };
            values.push(value);
        }
        Some(Self {
            kind,
            values,
            is_mended,
            line: line.to_owned(),
        })
    }

    /// The columns with their values.
    pub(super) fn cells(&self) -> impl Iterator<Item = (&'static Column, &Value)> {
        self.kind.columns().zip(&self.values)
    }
}

/// Both databases have integers of at most 63 bits and a sign.
fn clamp(value: &mut Value) -> bool {
    let is_too_large = value.as_i64().is_none() && value.as_u64().is_some();
    if is_too_large {
        *value = i64::MAX.into();
    }
    is_too_large
}

/// PostgreSQL has no text with a NUL in it, and many readers of SQLite stop there.
fn replace_nul(value: &mut Value) -> bool {
    match value {
        Value::String(text) if text.contains('\0') => {
            *text = text.replace('\0', "\u{FFFD}");
            true
        }
        Value::Array(values) => values
            .iter_mut()
            .fold(false, |mended, value| replace_nul(value) | mended),
        Value::Object(members) => {
            let mut mended = false;
            if members.keys().any(|name| name.contains('\0')) {
                mended = true;
                *members = std::mem::take(members)
                    .into_iter()
                    .map(|(name, value)| (name.replace('\0', "\u{FFFD}"), value))
                    .collect();
            }
            members
                .values_mut()
                .fold(mended, |mended, value| replace_nul(value) | mended)
        }
        _ => false,
    }
}
