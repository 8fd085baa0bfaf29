//! Reads in providers' rate-limit headers whether the bucket that a request drew from is empty, and until when.
//!
//! The headers come with successes too, and out of order under concurrency, so an empty bucket never refuses a request
//! by itself.
//!
//! | provider | remaining | reset |
//! |---|---|---|
//! | OpenAI and compatible | `x-ratelimit-remaining-<bucket>` | `x-ratelimit-reset-<bucket>`: a Go duration, such as `547ms`, `33.023s`, `1m0s` or `1h30m` |
//! | Azure and others | the same | bare seconds, fractions too |
//! | generic | `x-ratelimit-remaining` | `x-ratelimit-reset`: seconds since 1970, or from now if small |
//! | Anthropic | `anthropic-ratelimit-<bucket>-remaining` | `anthropic-ratelimit-<bucket>-reset`: RFC 3339 |
//!
//! Sources: <https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers>,
//! <https://docs.claude.com/en/api/rate-limits#response-headers>.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

/// A provider's mistake in units must not disable a model for days.
const CAP: Duration = Duration::from_secs(60 * 60);

/// Larger numbers are points in time. As seconds from now they would be 31 years.
const FIRST_EPOCH_SECOND: f64 = 1e9;
/// Larger numbers are milliseconds since 1970. As seconds they would be in the year 5138.
const FIRST_EPOCH_MILLISECOND: f64 = 1e11;

/// The time until the latest reset of an empty bucket, 1 h at most. `None` if no bucket is empty, or if its reset is
/// past, absent or unreadable.
pub(super) fn empty_for(headers: &HeaderMap, now: impl Fn() -> SystemTime) -> Option<Duration> {
    let empty = headers
        .iter()
        .filter(|(name, value)| is_remaining(name.as_str()) && is_zero(value.as_bytes()));
    empty
        .filter_map(|(name, _)| {
            let reset = headers.get(name.as_str().replacen("remaining", "reset", 1))?;
            reset_in(reset.to_str().ok()?.trim(), now())
        })
        .filter(|reset| !reset.is_zero())
        .max()
        .map(|reset| reset.min(CAP))
}

/// Whether a header has the remaining count of a bucket.
#[inline]
fn is_remaining(name: &str) -> bool {
    if let Some(bucket) = name.strip_prefix("anthropic-ratelimit-") {
        let bucket = bucket.strip_suffix("-remaining");
        return matches!(bucket, Some("requests" | "tokens" | "input-tokens" | "output-tokens"));
    }
    let bucket = name.strip_prefix("x-ratelimit-remaining");
    bucket.is_some_and(|bucket| bucket.is_empty() || bucket.starts_with('-'))
}

/// Whether it is a zero. Negative numbers are a known fault of Azure's, and ignored.
fn is_zero(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    value.first() == Some(&b'0') && value.iter().all(|byte| matches!(byte, b'0' | b'.'))
}

/// The time until a reset, in any of the forms of the table above.
fn reset_in(text: &str, now: SystemTime) -> Option<Duration> {
    if let Some(number) = number(text) {
        return match number {
            ..FIRST_EPOCH_SECOND => Duration::try_from_secs_f64(number).ok(),
            ..FIRST_EPOCH_MILLISECOND => since_1970(number, now),
            _ => since_1970(number / 1_000.0, now),
        };
    }
    go_duration(text).or_else(|| rfc_3339(text)?.duration_since(now).ok())
}

fn since_1970(seconds: f64, now: SystemTime) -> Option<Duration> {
    let reset = SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
    reset.duration_since(now).ok()
}

/// A plain decimal number without sign or exponent.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| plain)
}

/// A duration as Go prints it: numbers with a unit each ([`time.ParseDuration`](https://pkg.go.dev/time#ParseDuration)).
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number = number(&rest[..digits])?;
        rest = &rest[digits..];
        // The longer ones first: `m` begins `ms`.
        let units = [
            ("ms", 1e-3),
            ("us", 1e-6),
            ("ns", 1e-9),
            ("h", 3_600.0),
            ("m", 60.0),
            ("s", 1.0),
        ];
        let (after, seconds) = units
            .into_iter()
            .find_map(|(unit, seconds)| Some((rest.strip_prefix(unit)?, seconds)))?;
        rest = after;
        total += number * seconds;
    }
    Duration::try_from_secs_f64(total).ok().filter(|_| !text.is_empty())
}

/// A point in time ([RFC 3339, 5.6](https://www.rfc-editor.org/rfc/rfc3339#section-5.6)), in any zone.
fn rfc_3339(text: &str) -> Option<SystemTime> {
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    let zone = text
        .len()
        .checked_sub("+00:00".len())
        .filter(|at| text.is_char_boundary(*at))?;
    let (local, zone) = text.split_at(zone);
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let two_digits = |text: &str| text.parse::<u64>().ok().filter(|_| text.len() == 2);
    let offset = Duration::from_secs(two_digits(hours)? * 3_600 + two_digits(minutes)? * 60);
    match zone.as_bytes().first()? {
        b'+' => time.checked_sub(offset),
        b'-' => time.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// The wall clock at `2026-01-02T03:04:05Z`.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
    }

    fn empty(headers: &[(&'static str, &str)]) -> Option<f64> {
        let pairs = headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        empty_for(&pairs.collect(), now).map(|reset| reset.as_secs_f64())
    }

    #[test]
    fn every_form_of_a_reset() {
        for (text, expected) in [
            // OpenAI's.
            ("547ms", Some(0.547)),
            ("33.023s", Some(33.023)),
            ("1m0s", Some(60.0)),
            ("6m12.5s", Some(372.5)),
            ("1h30m", Some(3_600.0)),
            ("59m59s", Some(3_599.0)),
            ("1500us", Some(0.0015)),
            ("1m1ms", Some(60.001)),
            // Azure's and others'.
            ("12", Some(12.0)),
            ("0.75", Some(0.75)),
            ("3601", Some(3_600.0)),
            ("999999999", Some(3_600.0)),
            // Generic.
            ("1767323050", Some(5.0)),
            ("1767323050.5", Some(5.5)),
            ("1767323050000", Some(5.0)),
            ("1767323045", None),
            ("1767323044", None),
            // Anthropic's.
            ("2026-01-02T03:04:10Z", Some(5.0)),
            ("2026-01-02T03:04:10.25Z", Some(5.25)),
            ("2026-01-02T04:04:10+01:00", Some(5.0)),
            ("2026-01-02T01:34:10-01:30", Some(5.0)),
            ("2026-01-02T03:04:05Z", None),
            ("2025-01-02T03:04:10Z", None),
            ("2027-01-02T03:04:10Z", Some(3_600.0)),
            // Garbage.
            ("", None),
            ("0", None),
            ("0s", None),
            ("-5", None),
            ("-5s", None),
            ("s", None),
            ("1", Some(1.0)),
            ("1d", None),
            ("1m5", None),
            ("1.2.3s", None),
            ("nan", None),
            ("inf", None),
            ("1e3", None),
            ("soon", None),
            ("9999999999999999999999999999999999", None),
            ("99999999999999999999999999999999999h", None),
            ("2026-01-02", None),
            ("2026-01-02T03:04:10+0100", None),
            ("2026-01-02T03:04:10+99:99", None),
            ("2026-13-02T03:04:10Z", None),
        ] {
            let headers = [
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", text),
            ];
            assert_eq!(empty(&headers), expected, "{text:?}");
        }
    }

    #[test]
    fn every_name_of_a_bucket() {
        for (remaining, reset) in [
            ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
            ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
            (
                "x-ratelimit-remaining-project-tokens",
                "x-ratelimit-reset-project-tokens",
            ),
            ("x-ratelimit-remaining-requests-day", "x-ratelimit-reset-requests-day"),
            ("x-ratelimit-remaining-tokens-minute", "x-ratelimit-reset-tokens-minute"),
            ("x-ratelimit-remaining", "x-ratelimit-reset"),
            (
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ),
            (
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ),
            (
                "anthropic-ratelimit-input-tokens-remaining",
                "anthropic-ratelimit-input-tokens-reset",
            ),
            (
                "anthropic-ratelimit-output-tokens-remaining",
                "anthropic-ratelimit-output-tokens-reset",
            ),
        ] {
            assert_eq!(empty(&[(remaining, "0"), (reset, "5s")]), Some(5.0), "{remaining}");
            assert_eq!(empty(&[(remaining, "0")]), None, "{remaining}");
            assert_eq!(empty(&[(remaining, "1"), (reset, "5s")]), None, "{remaining}");
        }
        let foreign = [
            ("x-ratelimit-limit-requests", "0"),
            ("x-ratelimit-remainingrequests", "0"),
            ("x-ratelimit-reset-requests", "5s"),
            ("anthropic-ratelimit-unified-remaining", "0"),
            ("anthropic-ratelimit-unified-reset", "5"),
        ];
        assert_eq!(empty(&foreign), None);
    }

    #[test]
    fn only_a_zero_is_empty() {
        for (text, is_empty) in [
            ("0", true),
            (" 0 ", true),
            ("0.0", true),
            ("00", true),
            ("-1", false),
            ("-0", false),
            ("1", false),
            ("0x0", false),
            ("", false),
            (".", false),
            ("none", false),
            ("0,0", false),
        ] {
            let headers = [
                ("x-ratelimit-remaining-tokens", text),
                ("x-ratelimit-reset-tokens", "5s"),
            ];
            assert_eq!(empty(&headers).is_some(), is_empty, "{text:?}");
        }
    }

    #[test]
    fn the_latest_of_several_empty_buckets_counts() {
        let headers = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "8s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "3s"),
            ("x-ratelimit-remaining-project-tokens", "500"),
            ("x-ratelimit-reset-project-tokens", "1m0s"),
        ];
        assert_eq!(empty(&headers), Some(8.0));
    }

    proptest! {
        #[test]
        fn anything_is_at_most_the_cap(remaining in any::<Vec<u8>>(), reset in any::<Vec<u8>>(), text in "[0-9hmsu.:TZ+-]{0,20}") {
            for reset in [reset, text.into_bytes()] {
                for remaining in [&remaining[..], b"0"] {
                    let mut headers = HeaderMap::new();
                    if let (Ok(remaining), Ok(reset)) = (HeaderValue::from_bytes(remaining), HeaderValue::from_bytes(&reset)) {
                        headers.insert("x-ratelimit-remaining-tokens", remaining);
                        headers.insert("x-ratelimit-reset-tokens", reset);
                    }
                    prop_assert!(empty_for(&headers, now).is_none_or(|reset| reset <= CAP && !reset.is_zero()));
                }
            }
        }
    }
}
