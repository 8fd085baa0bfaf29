//! How long a cool-down lasts: as long as the provider asks for, in each of the forms that providers use.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header::RETRY_AFTER};

use super::headroom;

/// The cool-down after a 429 that names none.
pub(super) const DEFAULT: Duration = Duration::from_secs(60);

/// A provider's mistake in units must not disable a key for days.
pub(super) const CAP: Duration = Duration::from_secs(60 * 60);

/// Set by OpenAI and Azure; their SDKs prefer it to the whole seconds of `retry-after`.
static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The cool-down that an answer asks for: `retry-after-ms`, else `retry-after`, else the time in its `message`, else
/// the latest reset of an empty bucket, else [`DEFAULT`]; [`CAP`] at most.
///
/// An error inside a stream follows the headers of a success, so only its message can tell how long.
pub(super) fn cool_down(headers: &HeaderMap, message: &str, now: SystemTime) -> Duration {
    let first = |name: &HeaderName, parse: &dyn Fn(&str) -> Option<Duration>| {
        let mut values = headers.get_all(name).iter();
        values.find_map(|value| parse(value.to_str().ok()?.trim()))
    };
    first(&RETRY_AFTER_MS, &|text| decimal(text, 1_000.0))
        .or_else(|| first(&RETRY_AFTER, &|text| decimal(text, 1.0).or_else(|| date(text, now))))
        .or_else(|| in_words(message))
        .or_else(|| headroom::empty_for(headers, || now))
        .unwrap_or(DEFAULT)
}

/// OpenAI's text: `Please try again in 6ms.`, with a duration as Go prints it.
fn in_words(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("try again in ")?;
    let word = rest.split(char::is_whitespace).next()?;
    let word = word.trim_end_matches(|end: char| !end.is_ascii_alphanumeric());
    headroom::go_duration(word).map(|asked| asked.min(CAP))
}

/// A non-negative decimal number of which `per_second` make a second.
fn decimal(text: &str, per_second: f64) -> Option<Duration> {
    // Rust also reads `inf` and `nan`, which no provider means.
    if !text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
    {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    if number.is_sign_negative() {
        return None;
    }
    Duration::try_from_secs_f64((number / per_second).min(CAP.as_secs_f64())).ok()
}

/// An HTTP date ([RFC 9110, 5.6.7](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7)); one in the past is now.
fn date(text: &str, now: SystemTime) -> Option<Duration> {
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(CAP))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const HOUR: f64 = 3_600.0;

    /// The wall clock at `Wed, 21 Oct 2015 07:28:00 GMT`.
    fn then() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480)
    }

    fn seconds(headers: &[(&'static str, &[u8])]) -> f64 {
        let headers = headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        cool_down(&map, "", then()).as_secs_f64()
    }

    #[test]
    fn every_form() {
        for (value, expected) in [
            ("0", 0.0),
            ("1", 1.0),
            ("007", 7.0),
            ("0.25", 0.25),
            ("1.", 1.0),
            (".5", 0.5),
            (" 2 ", 2.0),
            ("1e1", 10.0),
            ("3600", HOUR),
            ("3601", HOUR),
            ("99999999999999999999999999", HOUR),
            ("1e400", HOUR),
            ("Wed, 21 Oct 2015 07:28:05 GMT", 5.0),
            ("Wednesday, 21-Oct-15 07:28:05 GMT", 5.0),
            ("Wed Oct 21 07:28:05 2015", 5.0),
            ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
            ("Wed, 21 Oct 2015 23:28:05 GMT", HOUR),
            ("Fri, 31 Dec 9999 23:59:59 GMT", HOUR),
            ("", 60.0),
            ("-1", 60.0),
            ("-0", 60.0),
            ("nan", 60.0),
            ("inf", 60.0),
            ("infinity", 60.0),
            ("e", 60.0),
            ("--1", 60.0),
            ("1 s", 60.0),
            ("1s", 60.0),
            ("1,5", 60.0),
            ("0x10", 60.0),
            ("soon", 60.0),
            ("Wed, 32 Oct 2015 07:28:05 GMT", 60.0),
        ] {
            assert_eq!(seconds(&[("retry-after", value.as_bytes())]), expected, "{value:?}");
        }
        assert_eq!(seconds(&[("retry-after", b"\xff")]), 60.0);
        assert_eq!(seconds(&[]), 60.0);
    }

    #[test]
    fn milliseconds_come_first() {
        for (value, expected) in [
            ("1", 0.001),
            ("1500", 1.5),
            ("20.5", 0.0205),
            ("0", 0.0),
            ("3600001", HOUR),
            ("1e999", HOUR),
            // Then the other header counts.
            ("", 7.0),
            ("-5", 7.0),
            ("NaN", 7.0),
            ("soon", 7.0),
            // A date is a form of the other header only.
            ("Wed, 21 Oct 2015 07:28:05 GMT", 7.0),
        ] {
            let headers: [(_, &[u8]); 2] = [("retry-after-ms", value.as_bytes()), ("retry-after", b"7")];
            assert_eq!(seconds(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn the_reset_of_an_empty_bucket_comes_last() {
        let bucket: [(_, &[u8]); 2] = [
            ("x-ratelimit-remaining-tokens", b"0"),
            ("x-ratelimit-reset-tokens", b"1m1s"),
        ];
        assert_eq!(seconds(&bucket), 61.0);
        assert_eq!(seconds(&[bucket[0], bucket[1], ("retry-after", b"7")]), 7.0);
        assert_eq!(seconds(&[("x-ratelimit-remaining-tokens", b"1"), bucket[1]]), 60.0);
    }

    #[test]
    fn words_ask_where_no_header_does() {
        let words = |duration: &str| {
            let message = format!("Rate limit reached for gpt-9. Please try again in {duration} Visit the guide.");
            cool_down(&HeaderMap::new(), &message, then()).as_secs_f64()
        };
        for (duration, expected) in [
            ("6ms.", 0.006),
            ("1.5s.", 1.5),
            ("7m12s.", 432.0),
            ("1h0m1s", HOUR),
            ("20s,", 20.0),
            ("", 60.0),
            ("20.", 60.0),
            ("20 seconds.", 60.0),
            ("-5s.", 60.0),
            ("5\u{e9}.", 60.0),
        ] {
            assert_eq!(words(duration), expected, "{duration:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-remaining-tokens", HeaderValue::from_static("0"));
        headers.insert("x-ratelimit-reset-tokens", HeaderValue::from_static("1m1s"));
        let seconds = |headers: &HeaderMap| cool_down(headers, "try again in 3s", then()).as_secs_f64();
        assert_eq!(seconds(&headers), 3.0, "the bucket need not be full for this request");
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        assert_eq!(seconds(&headers), 7.0);
    }

    #[test]
    fn of_several_values_the_first_that_can_be_read() {
        assert_eq!(
            seconds(&[("retry-after", b"soon"), ("retry-after", b"5"), ("retry-after", b"6")]),
            5.0
        );
        assert_eq!(
            seconds(&[("retry-after-ms", b"\xff"), ("retry-after-ms", b"5000")]),
            5.0
        );
    }

    proptest! {
        #[test]
        fn anything_is_at_most_the_cap(ms in any::<Vec<u8>>(), plain in any::<Vec<u8>>(), number in any::<f64>(), word in any::<String>()) {
            for words in [word, number.to_string() + "h"] {
                let message = "try again in ".to_owned() + &words;
                prop_assert!(cool_down(&HeaderMap::new(), &message, then()) <= CAP);
            }
            let number = number.to_string().into_bytes();
            for value in [ms, plain, number] {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    for name in ["retry-after-ms", "retry-after"] {
                        let mut headers = HeaderMap::new();
                        headers.append(name, value.clone());
                        prop_assert!(cool_down(&headers, "", then()) <= CAP);
                    }
                }
            }
        }

        #[test]
        fn whole_seconds_are_exact(seconds in 0_u64..=3_600) {
            let mut headers = HeaderMap::new();
            headers.append("retry-after", HeaderValue::from(seconds));
            prop_assert_eq!(cool_down(&headers, "", then()), Duration::from_secs(seconds));
        }
    }
}
