//! Token usage: the text that one round reports, the counts that records need, and sums over rounds.

use bytes::Bytes;
use serde_json::{Number, Value};

use crate::types::{TokenDetails, TokenUsage};

/// The longest `usage` that is read, in bytes. It is summed up and written again with every report.
pub(crate) const MAX_USAGE: usize = 64 << 10;

/// One round's `usage` as JSON text, read only where the counts are needed.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) text: Bytes,
    read: fn(&[u8]) -> Counts,
}

/// The counts of one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) usage: TokenUsage,
    /// The parts that the provider breaks its counts into, by their names in records.
    pub(crate) extra: TokenDetails,
}

/// The sum of several rounds' `usage`, every number in it included.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageSum(Option<Value>);

/// A count; some providers write one as `null` or with a fraction.
pub(crate) fn count(text: &[u8]) -> u64 {
    let digit = |count: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        count.checked_mul(10)?.checked_add(digit.into())
    };
    text.iter().try_fold(0, digit).unwrap_or_else(|| {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
        // The cast saturates, so a negative count becomes 0.
        number.map_or(0, |number| number as u64)
    })
}

// === impl Usage ===

impl Usage {
    pub(crate) fn new(text: Bytes, read: fn(&[u8]) -> Counts) -> Self {
        Self { text, read }
    }

    /// The counts; zero where the provider's object has another shape than the API's.
    pub(crate) fn counts(&self) -> Counts {
        (self.read)(&self.text)
    }
}

// === impl UsageSum ===

impl UsageSum {
    pub(crate) fn add(&mut self, usage: &[u8]) {
        if usage.len() > MAX_USAGE {
            return;
        }
        // Scanned text parses, except for a number beyond `f64`, with which the sum has no meaning.
        let Ok(value) = serde_json::from_slice(usage) else {
            return;
        };
        match &mut self.0 {
            Some(sum) => add(sum, value),
            None => self.0 = Some(value),
        }
    }

    /// The sum with one more round, as JSON text; `None` if nothing was reported before that round.
    pub(crate) fn with(&self, last: &[u8]) -> Option<String> {
        self.0.as_ref()?;
        let mut sum = self.clone();
        sum.add(last);
        sum.text()
    }

    pub(crate) fn text(&self) -> Option<String> {
        self.0.as_ref().map(Value::to_string)
    }
}

/// Adds every number of `more` to its counterpart; any other value is taken from the later round.
pub(crate) fn add(sum: &mut Value, more: Value) {
    match (sum, more) {
        (Value::Object(sum), Value::Object(more)) => {
            for (name, value) in more {
                match sum.get_mut(&name) {
                    Some(part) => add(part, value),
                    None => drop(sum.insert(name, value)),
                }
            }
        }
        (Value::Number(sum), Value::Number(more)) => {
            let whole = sum
                .as_u64()
                .zip(more.as_u64())
                .and_then(|(a, b)| a.checked_add(b))
                .map(Number::from);
            let total = whole.or_else(|| Number::from_f64(sum.as_f64()? + more.as_f64()?));
            if let Some(total) = total {
                *sum = total;
            }
        }
        // A part that one round left out is not lost.
        (_, Value::Null) => {}
        (sum, more) => *sum = more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_counts_never_fail_and_never_wrap() {
        for (text, expected) in [("3", 3), ("2.9", 2), ("-3", 0), ("null", 0), ("\"x\"", 0), ("", 0)] {
            assert_eq!(count(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(count(b"99999999999999999999"), u64::MAX);
    }

    #[test]
    fn a_sum_keeps_every_number_of_every_round() {
        let mut sum = UsageSum::default();
        assert!(sum.text().is_none());
        assert!(sum.with(b"{}").is_none());
        sum.add(br#"{"total_tokens":3,"cost":0.5,"details":{"a":1},"tier":"x","early":2}"#);
        let total = sum.with(br#"{"total_tokens":4,"cost":0.25,"details":{"a":2,"b":3},"tier":"y","late":null}"#);
        let total: Value = serde_json::from_str(&total.unwrap()).unwrap();
        let expected = serde_json::json!(
            {"total_tokens":7,"cost":0.75,"details":{"a":3,"b":3},"tier":"y","early":2,"late":null}
        );
        assert_eq!(total, expected);
    }
}
