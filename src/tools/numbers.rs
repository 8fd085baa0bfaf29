//! Finds the argument whose number would lose digits. Without `serde_json`'s feature `arbitrary_precision`, a number
//! that fits no integer becomes a float: an account number of 23 digits would reach the tool as another number.

use std::str::FromStr;

use serde_json::Number;

/// Numbers with fewer characters lose nothing: they have at most 15 significant digits, and no exponent.
const SAFE: usize = 15;

/// The name of the first top-level argument with such a number in it. `arguments` is a valid JSON object.
pub(super) fn find_lossy(arguments: &str) -> Option<String> {
    let bytes = arguments.as_bytes();
    let mut depth = 0_usize;
    // The key of the current top-level argument, quotes included.
    let mut key = 0..0;
    let mut last_string = 0..0;
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let start = index;
        index += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' if depth == 1 => key = last_string.clone(),
            b'"' => {
                index = end_of_string(bytes, index);
                last_string = start..index;
            }
            b'-' | b'0'..=b'9' => {
                while bytes.get(index).is_some_and(|byte| b"+-.eE0123456789".contains(byte)) {
                    index += 1;
                }
                let number = arguments.get(start..index).unwrap_or_default();
                if loses_digits(number) {
                    let key = arguments.get(key).unwrap_or_default();
                    return Some(serde_json::from_str(key).unwrap_or_else(|_| key.to_owned()));
                }
            }
            _ => {}
        }
    }
    None
}

/// The index after the closing quote.
fn end_of_string(bytes: &[u8], mut index: usize) -> usize {
    while let Some(found) = bytes.get(index..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        let at = index + found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        index = at + 2;
    }
    bytes.len()
}

fn loses_digits(number: &str) -> bool {
    if number.len() <= SAFE && !number.contains(['e', 'E']) {
        return false;
    }
    match Number::from_str(number) {
        Ok(read) => {
            let wanted = Decimal::of(number);
            // Two texts of the same length can be the shortest of one float; each library prints another.
            let printed = read.as_f64().map(|float| format!("{float:e}"));
            Decimal::of(&read.to_string()) != wanted
                && (!read.is_f64() || printed.is_none_or(|printed| Decimal::of(&printed) != wanted))
        }
        // `serde_json` refuses the arguments anyway.
        Err(_) => false,
    }
}

/// A number as its significant digits and the power of ten of the first of them.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

// === impl Decimal ===

impl Decimal {
    /// `None` for an exponent that no float has.
    fn of(number: &str) -> Option<Self> {
        let (is_negative, number) = match number.strip_prefix('-') {
            Some(number) => (true, number),
            None => (false, number),
        };
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        let leading_zeros = digits.len() - significant.len();
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() {
            // All zeros are the same, whatever their sign and exponent.
            return Some(Self {
                is_negative: false,
                digits: String::new(),
                exponent: 0,
            });
        }
        let shift = i64::try_from(whole.len()).ok()? - i64::try_from(leading_zeros).ok()?;
        Some(Self {
            is_negative,
            digits: significant.to_owned(),
            exponent: i64::from_str(exponent).ok()?.checked_add(shift)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_that_keep_their_digits_pass() {
        for number in [
            "0",
            "-0",
            "0.0",
            "-0.0e5",
            "1.0",
            "1e2",
            "1E+2",
            "100000000000000000000",
            "18446744073709551615",
            "-9223372036854775808",
            "0.1",
            "1.7976931348623157e308",
            "5e-324",
            "0.30000000000000004",
            "1234567890123456000000000",
            "123456789.123456",
            "0.000000000000000000001",
            "12.50000000000000000000",
            "1341185378103335.2",
            "1341185378103335.3",
        ] {
            assert!(!loses_digits(number), "{number}");
        }
    }

    #[test]
    fn numbers_that_lose_digits_are_found() {
        for number in [
            "12345678901234567890123",
            "18446744073709551617",
            "-9223372036854775809",
            "0.1234567890123456789",
            "1e-400",
            "1.00000000000000000001",
        ] {
            assert!(loses_digits(number), "{number}");
        }
    }

    #[test]
    fn the_argument_is_named() {
        let long = "12345678901234567890123";
        for (arguments, name) in [
            (format!(r#"{{"account":{long}}}"#), Some("account")),
            (
                format!(r#"{{"a":1,"b c":[{{"account":[{long}]}}],"d":2}}"#),
                Some("b c"),
            ),
            (format!(r#"{{"a\"\u0062":{{"x":"y","z":{long}}}}}"#), Some("a\"b")),
            (format!(r#"{{"text":"{long}","more\\":"\"{long}"}}"#), None),
            (format!(r#" {{ "{long}" : 1 }} "#), None),
            ("{}".to_owned(), None),
        ] {
            assert_eq!(find_lossy(&arguments).as_deref(), name, "{arguments}");
        }
    }

    proptest! {
        #[test]
        fn floats_as_they_print_keep_their_digits(float in any::<f64>().prop_filter("finite", |float| float.is_finite())) {
            for text in [format!("{float:e}"), serde_json::json!(float).to_string()] {
                prop_assert!(!loses_digits(&text), "{text}");
            }
        }

        #[test]
        fn integers_pass_exactly_if_they_fit(number in any::<i128>()) {
            let fits = i64::try_from(number).is_ok() || u64::try_from(number).is_ok();
            let text = number.to_string();
            #[allow(clippy::cast_precision_loss, reason = "the loss is what is asked for")]
            let kept = Decimal::of(&text) == Decimal::of(&format!("{:e}", number as f64));
            prop_assert_eq!(loses_digits(&text), !fits && !kept);
        }

        #[test]
        fn no_text_makes_the_search_panic(text in ".*") {
            find_lossy(&text);
        }

        #[test]
        fn it_agrees_with_the_parser(keys in prop::collection::vec(".{0,8}", 1..5), index in any::<prop::sample::Index>()) {
            let lossy = index.index(keys.len());
            let members: Vec<String> = keys.iter().enumerate().map(|(place, key)| {
                let value = if place == lossy { "[1e-400]" } else { "[1, \"1e-400\"]" };
                format!("{}: {value}", serde_json::Value::from(key.as_str()))
            }).collect();
            let found = find_lossy(&["{", &members.join(","), "}"].concat());
            prop_assert_eq!(found.as_ref(), Some(&keys[lossy]));
        }
    }
}
