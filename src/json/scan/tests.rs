//! The scanner against `serde_json`: on a table, on generated documents and on damaged ones, whole and cut at every byte.

use std::collections::HashSet;

use proptest::prelude::*;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::super::{Kind, walk};
use super::{ScanError, ScanErrorKind, Scanner};

mod generated;

/// Everything that a scan finds out.
type Found = Result<(Vec<(String, super::Member)>, usize), ScanError>;

fn found(scanner: &Scanner, outcome: Result<(), ScanError>) -> Found {
    outcome?;
    let members = scanner
        .members()
        .iter()
        .map(|member| (scanner.name(member).to_owned(), *member))
        .collect();
    Ok((members, scanner.end()))
}

fn scan_in(scanner: &mut Scanner, chunks: &[&[u8]]) -> Found {
    scanner.reset();
    let outcome = chunks
        .iter()
        .try_for_each(|chunk| scanner.feed(chunk))
        .and_then(|()| scanner.finish());
    found(scanner, outcome)
}

/// Scans whole, in two chunks cut at every byte, and byte by byte; the result must be the same.
fn scan(text: &[u8]) -> Found {
    let mut scanner = Scanner::new();
    let outcome = scanner.scan(text);
    let whole = found(&scanner, outcome);
    for cut in 0..=text.len() {
        let (left, right) = text.split_at(cut);
        assert_eq!(scan_in(&mut scanner, &[left, right]), whole, "cut at {cut}: {text:?}");
    }
    let bytes: Vec<_> = text.chunks(1).collect();
    assert_eq!(scan_in(&mut scanner, &bytes), whole, "byte by byte: {text:?}");
    whole
}

/// The names of a top-level object, unescaped and in order; no other value will do.
struct Names(Vec<String>);

impl<'de> serde::Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Whether `serde_json` takes the document, magnitudes of numbers aside.
fn serde_takes(text: &[u8]) -> bool {
    let mut text = text.to_vec();
    loop {
        let Err(error) = serde_json::from_slice::<Value>(&text) else {
            return true;
        };
        if !error.to_string().contains("number out of range") {
            return false;
        }
        // Replace it by a number that is in range, to see what `serde_json` says of the rest.
        let lines: usize = text
            .split_inclusive(|&byte| byte == b'\n')
            .take(error.line() - 1)
            .map(<[u8]>::len)
            .sum();
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
        let mut end = (lines + error.column()).min(text.len());
        while end > 0 && !is_number(&text[end - 1]) {
            end -= 1;
        }
        let start = end - text[..end].iter().rev().take_while(|byte| is_number(byte)).count();
        let end = end + text[end..].iter().take_while(|byte| is_number(byte)).count();
        if serde_json::from_slice::<IgnoredAny>(&text[start..end]).is_err() {
            return false;
        }
        text.splice(start..end, *b"0");
    }
}

fn oracle(text: &[u8]) -> bool {
    serde_takes(text)
        && serde_json::from_slice::<Names>(text).is_ok_and(|Names(names)| {
            let mut seen = HashSet::new();
            names.into_iter().all(|name| seen.insert(name))
        })
}

fn kind(value: &Value) -> Kind {
    match value {
        Value::Null => Kind::Null,
        Value::Bool(_) => Kind::Bool,
        Value::Number(_) => Kind::Number,
        Value::String(_) => Kind::String,
        Value::Array(_) => Kind::Array,
        Value::Object(_) => Kind::Object,
    }
}

/// Compares the scanner's result with the oracle's, and its findings with a parse of each value.
fn check(text: &[u8]) -> Result<(), TestCaseError> {
    let found = scan(text);
    prop_assert_eq!(
        found.is_ok(),
        oracle(text),
        "{:?}: {:?}",
        String::from_utf8_lossy(text),
        found
    );
    let Ok((members, end)) = found else { return Ok(()) };
    prop_assert_eq!(text[end], b'}');
    prop_assert!(text[end + 1..].trim_ascii().is_empty());

    let Names(names) = serde_json::from_slice(text).unwrap();
    prop_assert!(names.iter().eq(members.iter().map(|(name, _)| name)));
    let walked: Vec<_> = walk::entries(text).collect();
    prop_assert_eq!(walked.len(), members.len());
    for ((name, member), (entry, raw_name, value)) in members.iter().zip(walked) {
        prop_assert!(raw_name == *name.as_str());
        prop_assert_eq!(raw_name.to_str().unwrap(), name.as_str());
        prop_assert_eq!(value.clone(), member.value());
        prop_assert_eq!(entry.end, value.end);
        let entry = [b"{", &text[entry], b"}"].concat();
        prop_assert!(oracle(&entry));
        let text = &text[value.clone()];
        prop_assert!(serde_json::from_slice::<IgnoredAny>(text).is_ok());
        prop_assert_eq!(text.trim_ascii(), text);
        // It refuses the magnitudes of some numbers.
        if let Ok(parsed) = serde_json::from_slice(text) {
            prop_assert_eq!(kind(&parsed), member.kind());
        }

        let items: Vec<_> = walk::items(text)
            .map(|item| value.start + item.start..value.start + item.end)
            .collect();
        prop_assert_eq!(items.last().cloned(), member.last_item());
        let parts = items.len() + walk::members(text).count();
        let is_container = matches!(member.kind(), Kind::Array | Kind::Object);
        prop_assert_eq!(member.is_empty_container(), is_container && parts == 0);
    }
    Ok(())
}

fn kind_of(text: impl AsRef<[u8]>) -> Option<ScanErrorKind> {
    let text = text.as_ref();
    check(text).unwrap();
    scan(text).err().map(|error| error.kind())
}

fn nested(depth: usize, open: &str, close: &str) -> String {
    format!(r#"{{"a":{}1{}}}"#, open.repeat(depth), close.repeat(depth))
}

#[test]
fn takes_what_is_json() {
    for text in [
        "{}",
        " \t\r\n{ \t\r\n} \t\r\n",
        r#"{"":0}"#,
        r#"{"a":-0,"b":-0.0e-0,"c":0E+1,"d":1e400,"e":-1e999999999999,"f":123456789012345678901234567890.5}"#,
        r#"{"a":1e400,"b":[1e999,-1E+4000,0.1e-4000]}"#,
        r#"{"a":[],"b":{},"c":[[]],"d":[{}],"e":{"a":[]},"f":[ ],"g":{ }}"#,
        r#"{"a":[1 , 2 ],"b":"" , "c" : null , "d":true,"e":false}"#,
        r#"{"a":"\"\\\/\b\f\n\r\t\u0000\uFFFF\ud83d\ude00\uD83D\uDE00"}"#,
        r#"{"a\"b":1,"\u0061":2,"\ud83d\ude00":3,"\n\t\b\f\r\/\\":4}"#,
        "{\"\u{e9}\u{20ac}\u{1f600}\":\"\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}\"}",
        r#"{"nested":{"a":1,"a":2}}"#,
    ] {
        assert_eq!(kind_of(text), None, "{text}");
    }
}

#[test]
fn refuses_what_is_not() {
    use ScanErrorKind as K;
    let cases: &[(&[u8], K)] = &[
        (b"", K::Truncated),
        (b" \n", K::Truncated),
        (b"{", K::Truncated),
        (br#"{""#, K::Truncated),
        (br#"{"a"#, K::Truncated),
        (br#"{"a""#, K::Truncated),
        (br#"{"a":"#, K::Truncated),
        (br#"{"a":1"#, K::Truncated),
        (br#"{"a":1,"#, K::Truncated),
        (br#"{"a":[1"#, K::Truncated),
        (br#"{"a":"\"#, K::Truncated),
        (br#"{"a":"\u00"#, K::Truncated),
        (br#"{"a":tru"#, K::Truncated),
        (b"[]", K::NotAnObject),
        (b"\"a\"", K::NotAnObject),
        (b"1", K::NotAnObject),
        (b"null", K::NotAnObject),
        (b"}", K::NotAnObject),
        (b"\0{}", K::NotAnObject),
        (b"\x0C{}", K::NotAnObject),
        (b"\xEF\xBB\xBF{}", K::NotAnObject),
        (b"// {}\n{}", K::NotAnObject),
        (b"{}{}", K::TrailingBytes),
        (b"{},", K::TrailingBytes),
        (b"{}\0", K::TrailingBytes),
        (b"{} // no", K::TrailingBytes),
        (b"{,}", K::Syntax),
        (br#"{"a":1,}"#, K::Syntax),
        (br#"{,"a":1}"#, K::Syntax),
        (br#"{"a":1,,"b":2}"#, K::Syntax),
        (br#"{"a":1 "b":2}"#, K::Syntax),
        (br#"{"a" 1}"#, K::Syntax),
        (br#"{"a"}"#, K::Syntax),
        (br#"{"a":}"#, K::Syntax),
        (br#"{"a"::1}"#, K::Syntax),
        (br#"{a:1}"#, K::Syntax),
        (br#"{1:1}"#, K::Syntax),
        (br#"{'a':1}"#, K::Syntax),
        (br#"{"a":'b'}"#, K::Syntax),
        (br#"{"a":[1,]}"#, K::Syntax),
        (br#"{"a":[,1]}"#, K::Syntax),
        (br#"{"a":[,]}"#, K::Syntax),
        (br#"{"a":[1 2]}"#, K::Syntax),
        (br#"{"a":[1}"#, K::Syntax),
        (br#"{"a":{"b":1]}"#, K::Syntax),
        (br#"{"a":[}]"#, K::Syntax),
        (br#"{"a":{]}"#, K::Syntax),
        (br#"{"a":1]"#, K::Syntax),
        (br#"{"a":"b" "c"}"#, K::Syntax),
        (br#"{"a":True}"#, K::Syntax),
        (br#"{"a":truE}"#, K::Syntax),
        (br#"{"a":truee}"#, K::Syntax),
        (br#"{"a":nul}"#, K::Syntax),
        (br#"{"a":NaN}"#, K::Syntax),
        (br#"{"a":Infinity}"#, K::Syntax),
        (br#"{"a":undefined}"#, K::Syntax),
        (br#"{"a":+1}"#, K::Syntax),
        (br#"{"a":.5}"#, K::Syntax),
        (br#"{"a":1/**/}"#, K::Syntax),
        (b"{\"a\":\x0B1}", K::Syntax),
        (b"{\"a\":\xC2\xA01}", K::Syntax),
        (b"{\"a\":1\0}", K::Syntax),
        (b"{\"a\":\\u0031}", K::Syntax),
        (br#"{"a":01}"#, K::Number),
        (br#"{"a":-01}"#, K::Number),
        (br#"{"a":00}"#, K::Number),
        (br#"{"a":1.}"#, K::Number),
        (br#"{"a":1.e1}"#, K::Number),
        (br#"{"a":-}"#, K::Number),
        (br#"{"a":--1}"#, K::Number),
        (br#"{"a":-a}"#, K::Number),
        (br#"{"a":1e}"#, K::Number),
        (br#"{"a":1e+}"#, K::Number),
        (br#"{"a":1e+-1}"#, K::Number),
        (br#"{"a":1eE1}"#, K::Number),
        (br#"{"a":0x1}"#, K::Syntax),
        (br#"{"a":1.2.3}"#, K::Syntax),
        (br#"{"a":1e5.0}"#, K::Syntax),
        (br#"{"a":1-2}"#, K::Syntax),
        (br#"{"a":1_000}"#, K::Syntax),
        (br#"{"a":0e400,"b":1e400,"c":01}"#, K::Number),
        (b"{\"a\":\"\n\"}", K::ControlCharacter),
        (b"{\"a\":\"\0\"}", K::ControlCharacter),
        (
            b"{\"a\":\"0123456789012345678901234567890123456789\x1F\"}",
            K::ControlCharacter,
        ),
        (b"{\"a\tb\":1}", K::ControlCharacter),
        (br#"{"a":"\a"}"#, K::Escape),
        (br#"{"a":"\x41"}"#, K::Escape),
        (br#"{"a":"\'"}"#, K::Escape),
        (br#"{"a":"\U0041"}"#, K::Escape),
        (br#"{"a":"\u004"}"#, K::Escape),
        (br#"{"a":"\u00g0"}"#, K::Escape),
        (br#"{"a":"\u+041"}"#, K::Escape),
        (b"{\"a\":\"\\\n\"}", K::Escape),
        (b"{\"a\":\"\\\xC3\xA9\"}", K::Escape),
        (br#"{"\q":1}"#, K::Escape),
        (br#"{"a":"\ud800"}"#, K::LoneSurrogate),
        (br#"{"a":"\udc00"}"#, K::LoneSurrogate),
        (br#"{"a":"\uDBFF\uDBFF"}"#, K::LoneSurrogate),
        (br#"{"a":"\ud800\n"}"#, K::LoneSurrogate),
        (br#"{"a":"\ud800x"}"#, K::LoneSurrogate),
        (br#"{"a":"\ud800\u0041"}"#, K::LoneSurrogate),
        (br#"{"a":"\udc00\ud800"}"#, K::LoneSurrogate),
        (br#"{"\ud800":1}"#, K::LoneSurrogate),
        (br#"{"a":1e400,"b":"\ud800"}"#, K::LoneSurrogate),
        (b"{\"a\":\"\xFF\"}", K::Utf8),
        (b"{\"a\":\"\x80\"}", K::Utf8),
        (b"{\"a\":\"\xC3\"}", K::Utf8),
        (b"{\"a\":\"\xC3", K::Utf8),
        (b"{\"a\":\"\xF0\x9F\x98", K::Utf8),
        (b"{\"a\":\"\xC0\x80\"}", K::Utf8),
        (b"{\"a\":\"\xE0\x80\x80\"}", K::Utf8),
        (b"{\"a\":\"\xED\xA0\x80\"}", K::Utf8),
        (b"{\"a\":\"\xF4\x90\x80\x80\"}", K::Utf8),
        (b"{\"a\":\"\xF8\x88\x80\x80\x80\"}", K::Utf8),
        (b"{\"\xFF\":1}", K::Utf8),
        (b"\xFE\xFF\0{\0}", K::Utf8),
        (b"{}\xFF", K::Utf8),
        // The first error counts.
        (b"{]\xFF", K::Syntax),
        (b"{\xFF]", K::Utf8),
        (br#"{"a":1,"a":2}"#, K::Duplicate),
        (br#"{"a":1,"\u0061":2}"#, K::Duplicate),
        (br#"{"\ud83d\ude00":1,"\uD83D\uDE00":2}"#, K::Duplicate),
        (b"{\"\\ud83d\\ude00\":1,\"\xF0\x9F\x98\x80\":2}", K::Duplicate),
        (br#"{"":1,"":2}"#, K::Duplicate),
        (br#"{"\/":1,"/":2}"#, K::Duplicate),
    ];
    for (text, expected) in cases {
        assert_eq!(kind_of(text), Some(*expected), "{:?}", String::from_utf8_lossy(text));
        // An error at the top level is one in nested values, too, except for repeated names.
        if text.starts_with(b"{") && !matches!(expected, K::Duplicate | K::TrailingBytes | K::Truncated) {
            for (before, after) in [(&b"{\"x\":[0,"[..], &b",1]}"[..]), (b"{\"x\":{\"y\":", b",\"z\":1}}")] {
                let nested = [before, text, after].concat();
                assert_eq!(
                    kind_of(&nested),
                    Some(*expected),
                    "{:?}",
                    String::from_utf8_lossy(&nested)
                );
            }
        }
    }
}

#[test]
fn nests_as_deep_as_serde_json() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"b":"#, "}]")] {
        let levels = 126 / open.matches(['[', '{']).count();
        assert_eq!(kind_of(nested(levels, open, close)), None);
        assert_eq!(kind_of(nested(levels + 1, open, close)), Some(ScanErrorKind::TooDeep));
    }
    let many = r#"{"a":"#.repeat(100_000);
    assert_eq!(
        Scanner::new().scan(many.as_bytes()).unwrap_err().kind(),
        ScanErrorKind::TooDeep
    );
}

#[test]
fn says_where_and_why_without_quoting() {
    let say = |text: &[u8]| scan(text).unwrap_err().to_string();
    assert_eq!(say(br#"{"key":"sk-secret"x}"#), "unexpected character, at byte 18");
    assert_eq!(say(b"{\"key\":\"\xFF\"}"), "invalid UTF-8, at byte 8");
    let name = "\\n".repeat(100);
    let text = format!(r#"{{"{name}":1,"{name}":2}}"#);
    let shown = "\\n".repeat(64);
    assert_eq!(
        say(text.as_bytes()),
        format!(r#"the name "{shown}" occurs twice at the top level, at byte 409"#)
    );
}

#[test]
fn an_error_stays() {
    let mut scanner = Scanner::new();
    let error = scanner.feed(b"{]").unwrap_err();
    assert_eq!(scanner.feed(b"{}"), Err(error.clone()));
    assert_eq!(scanner.finish(), Err(error));
    scanner.scan(b"{}").unwrap();
}

fn object(members: usize) -> String {
    let members: Vec<_> = (0..members).map(|number| format!(r#""{number}":{number}"#)).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn takes_a_thousand_members_and_no_more() {
    let mut scanner = Scanner::new();
    let text = object(1_000);
    scanner.scan(text.as_bytes()).unwrap();
    for number in 0..1_000 {
        let value = scanner.get(&number.to_string()).unwrap().value();
        assert_eq!(text[value], number.to_string());
    }
    assert_eq!(scanner.get("1000"), None);

    let error = scanner.scan(object(1_001).as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("more than 1000 members at the top level"));
    assert_eq!(scanner.members().len(), 1_000);
    // Only those at the top level count.
    let nested = format!(r#"{{"a":{},"b":[{}0]}}"#, object(5_000), "0,".repeat(5_000));
    scanner.scan(nested.as_bytes()).unwrap();
}

#[test]
fn finds_every_duplicate_among_few_and_many() {
    let mut scanner = Scanner::new();
    for count in (1..40).chain([999]) {
        for again in (0..count).step_by(1 + count / 50) {
            let names = (0..count).chain([again]);
            let members: Vec<_> = names.map(|number| format!(r#""{number}":[]"#)).collect();
            let outcome = scanner.scan(format!("{{{}}}", members.join(",")).as_bytes());
            assert_eq!(
                outcome.map_err(|error| error.kind()),
                Err(ScanErrorKind::Duplicate),
                "{again} of {count}"
            );
            assert!(scanner.get(&again.to_string()).is_some());
            assert_eq!(scanner.get(&count.to_string()), None);
        }
    }
}

#[test]
fn keeps_its_buffers_up_to_a_limit() {
    let mut scanner = Scanner::new();
    scanner.scan(object(500).as_bytes()).unwrap();
    let kept = scanner.members.capacity();
    scanner.scan(object(500).as_bytes()).unwrap();
    assert_eq!(scanner.members.capacity(), kept);
    let name = "n".repeat(200_000);
    scanner.scan(format!(r#"{{"{name}":1}}"#).as_bytes()).unwrap();
    let huge = scanner.members.capacity();
    scanner.reset();
    assert!(scanner.members.capacity() < huge / 10);
}

/// Names are kept in addition to the document, so they count as members do.
#[test]
fn the_names_have_a_limit_together() {
    let names = |count: usize, length: usize| {
        let members = (0..count).map(|number| format!(r#""{}{number:03}":1"#, "n".repeat(length - 3)));
        let members: Vec<_> = members.collect();
        format!("{{{}}}", members.join(","))
    };
    let limit = 256 << 10;
    for (document, is_taken) in [
        (names(1, limit), true),
        (names(1, limit + 1), false),
        (names(1, 31 << 20), false),
        (names(512, 512), true),
        (names(513, 512), false),
    ] {
        for chunk in [1 << 16, document.len()] {
            for mut scanner in [Scanner::new(), Scanner::lenient()] {
                let refused = document
                    .as_bytes()
                    .chunks(chunk)
                    .find_map(|part| scanner.feed(part).err());
                assert_eq!(refused.is_none(), is_taken, "{} bytes", document.len());
                assert!(refused.is_none_or(|error| error.kind() == ScanErrorKind::LongNames));
                assert!(scanner.members.capacity() < 2 * limit + 2_000);
            }
        }
    }
}
