//! Usage: a round's counts, which a stream reports in two places, and the sum that the caller is told.
//!
//! A caller reads the sum as its bill, and the last entry of `iterations` as the size of its conversation.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::dialect::usage::{Counts, add, count};
use crate::json::walk;
use crate::types::{ReportedUsage, TokenDetails};

/// The counts of an iteration.
const ITERATION: [&str; 5] = [
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "cache_creation",
];

/// The counts that a stream's last usage always has: clients take them from there.
const ALWAYS: [&str; 4] = [
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
];

/// The usage of several rounds.
#[derive(Debug, Default)]
pub(super) struct Total {
    sum: Value,
    iterations: Vec<Value>,
}

/// Reads the counts. Cached tokens are not part of `input_tokens`.
pub(super) fn read(text: &[u8]) -> Counts {
    let mut counts = Counts::default();
    let [mut short, mut long, mut searches, mut fetches, mut thinking] = [0; 5];
    for (name, value) in walk::members(text) {
        let value = &text[value];
        match &*name.to_bytes() {
            b"input_tokens" => counts.usage.input = count(value),
            b"output_tokens" => counts.usage.output = count(value),
            b"cache_read_input_tokens" => counts.usage.cache_read_input_tokens = count(value),
            b"cache_creation_input_tokens" => counts.usage.cache_write_input_tokens = count(value),
            b"cache_creation" => {
                (short, long) = pair(value, "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens");
            }
            b"server_tool_use" => (searches, fetches) = pair(value, "web_search_requests", "web_fetch_requests"),
            b"output_tokens_details" => (thinking, _) = pair(value, "thinking_tokens", ""),
            _ => {}
        }
    }
    counts.extra = TokenDetails::from_iter([
        ("cache_ephemeral_5m_input", short),
        ("cache_ephemeral_1h_input", long),
        ("web_search_requests", searches),
        ("web_fetch_requests", fetches),
        ("completion_reasoning", thinking),
    ]);
    counts
}

fn pair(object: &[u8], first: &str, second: &str) -> (u64, u64) {
    let member = |name| walk::get(object, name).map_or(0, |value| count(&object[value]));
    (member(first), member(second))
}

/// The usage of a streamed round so far: that of its start, with the members that its latest delta replaces.
pub(super) fn overlaid(start: Option<&Bytes>, delta: Option<&Bytes>) -> Option<Bytes> {
    let (Some(start), Some(delta)) = (start, delta) else {
        return start.or(delta).cloned();
    };
    let (Some(mut usage), Some(later)) = (object(start), object(delta)) else {
        return Some(delta.clone());
    };
    usage.extend(later.into_iter().filter(|(_, value)| !value.is_null()));
    Some(Value::Object(usage).to_string().into())
}

/// The `service_tier` of a round's usage.
pub(super) fn service_tier(text: &[u8]) -> Option<String> {
    let value = walk::get(text, "service_tier")?;
    walk::unescape(&text[value]).map(|tier| crate::excerpt::name(tier.into_owned()))
}

fn object(text: &[u8]) -> Option<Map<String, Value>> {
    // Scanned text parses, except for a number beyond `f64`, with which a sum has no meaning.
    serde_json::from_slice(text).ok()
}

// === impl Total ===

impl Total {
    /// Adds a round's usage.
    pub(super) fn add(&mut self, round: &[u8]) {
        let Some(round) = object(round) else { return };
        match round.get("iterations").and_then(Value::as_array) {
            Some(own) if !own.is_empty() => self.iterations.extend(own.iter().cloned()),
            _ => self.iterations.push(iteration(&round)),
        }
        if self.sum.is_null() {
            self.sum = Value::Object(round);
        } else {
            add(&mut self.sum, Value::Object(round));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sum.is_null()
    }

    /// The usage of all rounds for the caller; `last` is that of the last round, if it reported any. For a stream,
    /// `told` is the usage of the provider's last event: only its members, and those that clients look for, are
    /// written.
    pub(super) fn report(
        mut self,
        last: Option<&[u8]>,
        told: Option<&[u8]>,
        reported: Option<ReportedUsage>,
    ) -> Option<String> {
        let is_last_alone = reported == Some(ReportedUsage::LastRound);
        if is_last_alone && last.is_some() {
            self = Self::default();
        }
        if let Some(last) = last {
            self.add(last);
        }
        let Self {
            sum: Value::Object(mut sum),
            iterations,
        } = self
        else {
            return None;
        };
        if let Some(told) = told {
            let told = object(told).unwrap_or_default();
            sum.retain(|name, _| ALWAYS.contains(&name.as_str()) || told.contains_key(name));
        }
        if !is_last_alone {
            sum.insert("iterations".to_owned(), iterations.into());
        }
        Some(Value::Object(sum).to_string())
    }
}

impl Clone for Total {
    fn clone(&self) -> Self {
        Self {
            sum: self.sum.clone(),
            iterations: self.iterations.clone(),
        }
    }
}

fn iteration(round: &Map<String, Value>) -> Value {
    let mut entry = json!({"type": "message"});
    for name in ITERATION {
        match round.get(name) {
            Some(value) if !value.is_null() => entry[name] = value.clone(),
            _ if name == "cache_creation" => {}
            _ => entry[name] = 0.into(),
        }
    }
    entry
}
