//! The counts of a chat completion's `usage`.

use crate::dialect::usage::{Counts, count};
use crate::json::walk;
use crate::types::TokenDetails;

/// Reads the counts. The API's prompt tokens include those that were read from the cache or written to it; in records
/// they do not.
pub(super) fn read(text: &[u8]) -> Counts {
    let (mut counts, mut prompt) = (Counts::default(), 0);
    let [mut prompt_audio, mut audio, mut reasoning, mut accepted, mut rejected] = [0; 5];
    let mut members = walk::members(text);
    while let Some(name) = members.next_name() {
        match &*name.to_bytes() {
            b"prompt_tokens" => prompt = count(&text[members.pass_value()]),
            b"completion_tokens" => counts.usage.output = count(&text[members.pass_value()]),
            b"prompt_tokens_details" => details(text, &mut members, |name, number| match name {
                b"audio_tokens" => prompt_audio = number,
                b"cached_tokens" => counts.usage.cache_read_input_tokens = number,
                // Not OpenAI's own: added by providers with priced cache writes.
                b"cache_write_tokens" => counts.usage.cache_write_input_tokens = number,
                _ => {}
            }),
            b"completion_tokens_details" => details(text, &mut members, |name, number| match name {
                b"audio_tokens" => audio = number,
                b"reasoning_tokens" => reasoning = number,
                b"accepted_prediction_tokens" => accepted = number,
                b"rejected_prediction_tokens" => rejected = number,
                _ => {}
            }),
            _ => drop(members.pass_value()),
        }
    }
    let cached = counts
        .usage
        .cache_read_input_tokens
        .saturating_add(counts.usage.cache_write_input_tokens);
    counts.usage.input = prompt.saturating_sub(cached);
    counts.extra = TokenDetails::from_iter([
        ("prompt_audio", prompt_audio),
        ("completion_audio", audio),
        ("completion_reasoning", reasoning),
        ("completion_accepted_prediction", accepted),
        ("completion_rejected_prediction", rejected),
    ]);
    counts
}

/// Reads the object that comes next in `members`, and passes over anything else.
fn details(text: &[u8], members: &mut walk::MemberIter<'_>, mut take: impl FnMut(&[u8], u64)) {
    if text.get(members.at()) != Some(&b'{') {
        members.pass_value();
        return;
    }
    let mut details = walk::members_at(text, members.at());
    for (name, value) in &mut details {
        take(&name.to_bytes(), count(&text[value]));
    }
    members.resume(details.at());
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn cached_and_cache_written_tokens_are_not_input() {
        let counts = read(
            br#"{"prompt_tokens":100,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":1,
            "cache_write_tokens":5},"completion_tokens_details":{"reasoning_tokens":2,"audio_tokens":3,
            "accepted_prediction_tokens":4,"rejected_prediction_tokens":6}}"#,
        );
        assert_eq!((counts.usage.input, counts.usage.output), (35, 7));
        assert_eq!(
            (
                counts.usage.cache_read_input_tokens,
                counts.usage.cache_write_input_tokens
            ),
            (60, 5)
        );
        let extra: Vec<_> = counts.extra.iter().collect();
        let expected = [
            ("completion_accepted_prediction", 4),
            ("completion_audio", 3),
            ("completion_reasoning", 2),
            ("completion_rejected_prediction", 6),
            ("prompt_audio", 1),
        ];
        assert_eq!(extra, expected);
    }

    #[test]
    fn odd_counts_never_fail_and_never_wrap() {
        let usage = |text: &str| read(text.as_bytes()).usage;
        let odd = usage(r#"{"prompt_tokens":3,"completion_tokens":null,"prompt_tokens_details":{"cached_tokens":9}}"#);
        assert_eq!((odd.input, odd.output), (0, 0));
        assert_eq!(usage(r#"{"prompt_tokens":-3,"completion_tokens":2.9}"#).output, 2);
        assert_eq!(usage(r#"{"prompt_tokens":"x"}"#), usage("{}"));
        assert_eq!(usage(r#"{"prompt\u005ftokens":3,"\ud800":4}"#).input, 3);
        assert_eq!(usage("[]"), usage("{}"));
    }
}
