//! The counts of a response's `usage`.

use crate::dialect::usage::{Counts, count};
use crate::json::walk;
use crate::types::TokenDetails;

/// Reads the counts. The API's input tokens include those that were read from the cache or written to it; in records
/// they do not.
pub(super) fn read(text: &[u8]) -> Counts {
    let mut counts = Counts::default();
    let [mut input, mut total, mut reasoning] = [0; 3];
    for (name, value) in walk::members(text) {
        let value = &text[value];
        match &*name.to_bytes() {
            b"input_tokens" => input = count(value),
            b"output_tokens" => counts.usage.output = count(value),
            b"total_tokens" => total = count(value),
            b"input_tokens_details" => {
                for (name, part) in walk::members(value) {
                    match &*name.to_bytes() {
                        b"cached_tokens" => counts.usage.cache_read_input_tokens = count(&value[part]),
                        b"cache_write_tokens" => counts.usage.cache_write_input_tokens = count(&value[part]),
                        _ => {}
                    }
                }
            }
            b"output_tokens_details" => {
                let part = walk::get(value, "reasoning_tokens");
                reasoning = part.map_or(0, |part| count(&value[part]));
            }
            _ => {}
        }
    }
    let cached = counts
        .usage
        .cache_read_input_tokens
        .saturating_add(counts.usage.cache_write_input_tokens);
    counts.usage.input = input.saturating_sub(cached);
    counts.extra = TokenDetails::from_iter([("completion_reasoning", reasoning), ("total_tokens", total)]);
    counts
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn cached_and_cache_written_tokens_are_not_input() {
        let counts = read(
            br#"{"input_tokens":100,"input_tokens_details":{"cached_tokens":60,"cache_write_tokens":5},
            "output_tokens":7,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":107}"#,
        );
        let usage = counts.usage;
        assert_eq!((usage.input, usage.output), (35, 7));
        assert_eq!((usage.cache_read_input_tokens, usage.cache_write_input_tokens), (60, 5));
        let extra: Vec<_> = counts.extra.iter().collect();
        assert_eq!(extra, [("completion_reasoning", 2), ("total_tokens", 107)]);
    }

    #[test]
    fn odd_counts_never_fail_and_never_wrap() {
        let usage = |text: &str| read(text.as_bytes()).usage;
        let odd = usage(r#"{"input_tokens":3,"output_tokens":null,"input_tokens_details":{"cached_tokens":9}}"#);
        assert_eq!((odd.input, odd.output), (0, 0));
        assert_eq!(
            usage(r#"{"input_tokens":"x","input_tokens_details":null}"#),
            usage("{}")
        );
        assert_eq!(usage("[]"), usage("{}"));
    }
}
