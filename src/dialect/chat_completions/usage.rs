//! Token usage: what one round reports, and the sum that the caller is told after several.

use bytes::Bytes;
use serde_json::{Number, Value};

use crate::json::walk;
use crate::types::TokenUsage;

/// One round's `usage`, as text and as the numbers that records need.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    text: Bytes,
}

/// The numbers of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) usage: TokenUsage,
    pub(crate) prompt_audio: u64,
    pub(crate) completion_audio: u64,
    pub(crate) completion_reasoning: u64,
    pub(crate) completion_accepted_prediction: u64,
    pub(crate) completion_rejected_prediction: u64,
}

/// The sum of several rounds' `usage`, every number in it included.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageSum(Option<Value>);

/// A count; some providers write one as `null` or with a fraction.
fn count(text: &[u8]) -> u64 {
    let digit = |count: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        count.checked_mul(10)?.checked_add(digit.into())
    };
    text.iter().try_fold(0, digit).unwrap_or_else(|| {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
        // The cast saturates, and a negative count is none.
        number.map_or(0, |number| number as u64)
    })
}

// === impl Usage ===

impl Usage {
    pub(crate) fn new(text: Bytes) -> Self {
        Self { text }
    }

    /// The numbers; none where the provider's object has another shape than the API's.
    pub(crate) fn tokens(&self) -> Tokens {
        let (mut tokens, mut prompt) = (Tokens::default(), 0);
        let mut members = walk::members(&self.text);
        while let Some(name) = members.next_name() {
            match &*name.to_bytes() {
                b"prompt_tokens" => prompt = count(&self.text[members.pass_value()]),
                b"completion_tokens" => tokens.usage.output = count(&self.text[members.pass_value()]),
                b"prompt_tokens_details" => {
                    self.details(&mut members, |name, number| tokens.take_prompt_detail(name, number));
                }
                b"completion_tokens_details" => {
                    self.details(&mut members, |name, number| tokens.take_completion_detail(name, number));
                }
                _ => drop(members.pass_value()),
            }
        }
        tokens.usage.input = prompt.saturating_sub(tokens.usage.cache_read_input_tokens);
        tokens
    }

    /// Reads the object that comes next in `members`, and passes over anything else.
    fn details(&self, members: &mut walk::MemberIter<'_>, mut take: impl FnMut(&[u8], u64)) {
        if self.text.get(members.at()) != Some(&b'{') {
            members.pass_value();
            return;
        }
        let mut details = walk::members_at(&self.text, members.at());
        for (name, value) in &mut details {
            take(&name.to_bytes(), count(&self.text[value]));
        }
        members.resume(details.at());
    }
}

// === impl Tokens ===

impl Tokens {
    fn take_prompt_detail(&mut self, name: &[u8], number: u64) {
        match name {
            b"audio_tokens" => self.prompt_audio = number,
            b"cached_tokens" => self.usage.cache_read_input_tokens = number,
            // Not OpenAI's own: what providers with priced cache writes add.
            b"cache_write_tokens" => self.usage.cache_write_input_tokens = number,
            _ => {}
        }
    }

    fn take_completion_detail(&mut self, name: &[u8], number: u64) {
        match name {
            b"audio_tokens" => self.completion_audio = number,
            b"reasoning_tokens" => self.completion_reasoning = number,
            b"accepted_prediction_tokens" => self.completion_accepted_prediction = number,
            b"rejected_prediction_tokens" => self.completion_rejected_prediction = number,
            _ => {}
        }
    }
}

// === impl UsageSum ===

impl UsageSum {
    pub(crate) fn add(&mut self, usage: &Usage) {
        // Text that has been scanned parses; only a number beyond `f64` does not, and then the sum has no meaning.
        let Ok(value) = serde_json::from_slice(&usage.text) else {
            return;
        };
        match &mut self.0 {
            Some(sum) => add(sum, value),
            None => self.0 = Some(value),
        }
    }

    /// The sum with one more round, as JSON text; `None` if nothing was reported before that round.
    pub(crate) fn with(&self, last: &Usage) -> Option<String> {
        self.0.as_ref()?;
        let mut sum = self.clone();
        sum.add(last);
        sum.text()
    }

    pub(crate) fn text(&self) -> Option<String> {
        self.0.as_ref().map(Value::to_string)
    }
}

/// Adds every number of `more` to its counterpart; what is not a number is taken from the later round.
fn add(sum: &mut Value, more: Value) {
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

    fn usage(text: &'static str) -> Usage {
        Usage::new(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn cached_tokens_are_not_input() {
        let tokens = usage(
            r#"{"prompt_tokens":100,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":1,
            "cache_write_tokens":5},"completion_tokens_details":{"reasoning_tokens":2,"audio_tokens":3,
            "accepted_prediction_tokens":4,"rejected_prediction_tokens":6}}"#,
        )
        .tokens();
        assert_eq!((tokens.usage.input, tokens.usage.output), (40, 7));
        assert_eq!(
            (
                tokens.usage.cache_read_input_tokens,
                tokens.usage.cache_write_input_tokens
            ),
            (60, 5)
        );
        assert_eq!(
            (
                tokens.prompt_audio,
                tokens.completion_audio,
                tokens.completion_reasoning
            ),
            (1, 3, 2)
        );
        assert_eq!(
            (
                tokens.completion_accepted_prediction,
                tokens.completion_rejected_prediction
            ),
            (4, 6)
        );
    }

    #[test]
    fn odd_counts_never_fail_and_never_wrap() {
        let odd = usage(r#"{"prompt_tokens":3,"completion_tokens":null,"prompt_tokens_details":{"cached_tokens":9}}"#);
        assert_eq!((odd.tokens().usage.input, odd.tokens().usage.output), (0, 0));
        assert_eq!(
            usage(r#"{"prompt_tokens":-3,"completion_tokens":2.9}"#)
                .tokens()
                .usage
                .output,
            2
        );
        assert_eq!(usage(r#"{"prompt_tokens":"x"}"#).tokens(), Tokens::default());
        assert_eq!(usage(r#"{"prompt\u005ftokens":3,"\ud800":4}"#).tokens().usage.input, 3);
        assert_eq!(usage("[]").tokens(), Tokens::default());
    }

    #[test]
    fn a_sum_keeps_every_number_of_every_round() {
        let mut sum = UsageSum::default();
        assert!(sum.text().is_none());
        assert!(sum.with(&usage("{}")).is_none());
        sum.add(&usage(
            r#"{"total_tokens":3,"cost":0.5,"details":{"a":1},"tier":"x","early":2}"#,
        ));
        let total = sum.with(&usage(
            r#"{"total_tokens":4,"cost":0.25,"details":{"a":2,"b":3},"tier":"y","late":null}"#,
        ));
        let total: Value = serde_json::from_str(&total.unwrap()).unwrap();
        let expected = serde_json::json!(
            {"total_tokens":7,"cost":0.75,"details":{"a":3,"b":3},"tier":"y","early":2,"late":null}
        );
        assert_eq!(total, expected);
    }
}
