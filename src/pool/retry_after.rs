//! How long a provider asks us to leave a key alone, in each of the forms that providers use.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header::RETRY_AFTER};

/// For a 429 that does not say.
pub(super) const DEFAULT: Duration = Duration::from_secs(60);

/// A provider's mistake in units must not put a key away for days.
pub(super) const CAP: Duration = Duration::from_secs(60 * 60);

/// Set by OpenAI and Azure; their SDKs prefer it to the whole seconds of `retry-after`.
static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The cool-down that `headers` ask for: `retry-after-ms`, else `retry-after`, else [`DEFAULT`]; [`CAP`] at most.
pub(super) fn cool_down(headers: &HeaderMap, now: SystemTime) -> Duration {
    let first = |name: &HeaderName, parse: &dyn Fn(&str) -> Option<Duration>| {
        let mut values = headers.get_all(name).iter();
        values.find_map(|value| parse(value.to_str().ok()?.trim()))
    };
    first(&RETRY_AFTER_MS, &|text| decimal(text, 1_000.0))
        .or_else(|| first(&RETRY_AFTER, &|text| decimal(text, 1.0).or_else(|| date(text, now))))
        .unwrap_or(DEFAULT)
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
