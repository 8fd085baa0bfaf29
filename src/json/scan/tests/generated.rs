//! Generated and damaged documents. They are generated as text, so that one value is written in many ways.

use proptest::prelude::*;

use super::super::super::walk;
use super::{Scanner, check, found, scan_in};
use crate::rope::{Edits, Rope};

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\n\t"), 1 => Just("\r\n  ")]
}

fn literal() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-e]{0,3}",
        1 => "[ -!#-\\[\\]-~]{0,40}",
        1 => "[é€😀\u{7f}]{1,3}",
        1 => r#"\\["\\/bfnrt]"#,
        1 => r"\\u00[0-9a-fA-F]{2}",
        1 => r"\\ud[89abAB][0-9a-f]{2}\\uD[c-fC-F][0-9A-F]{2}",
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
        literal(),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec((space(), inner.clone(), space()), 0..4).prop_map(|items| {
                let items: Vec<_> = items
                    .iter()
                    .map(|(left, item, right)| format!("{left}{item}{right}"))
                    .collect();
                format!("[{}]", items.join(","))
            }),
            object_of(inner),
        ]
    })
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (space(), literal(), space(), space(), value, space());
    (space(), prop::collection::vec(member, 0..5)).prop_map(|(empty, members)| {
        let members: Vec<_> = members
            .iter()
            .map(|(a, name, b, c, value, d)| format!("{a}{name}{b}:{c}{value}{d}"))
            .collect();
        format!("{{{empty}{}}}", members.join(","))
    })
}

fn document() -> impl Strategy<Value = String> {
    (space(), object_of(value()), space()).prop_map(|(left, object, right)| format!("{left}{object}{right}"))
}

/// Places and what to write over them, by which a document is damaged.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    let byte = prop_oneof![
        2 => prop::sample::select(&b"{}[]\",:\\ue0129.-+tfn \n\0"[..]),
        1 => any::<u8>(),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), byte, 0_u8..3), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn agrees_on_documents(text in document()) {
        check(text.as_bytes())?;
    }

    #[test]
    fn agrees_on_damaged_documents(text in document(), damage in damage()) {
        let mut text = text.into_bytes();
        for (place, byte, how) in damage {
            let at = place.index(text.len().max(1)).min(text.len());
            match how {
                0 => text.insert(at, byte),
                1 if at < text.len() => text[at] = byte,
                _ => drop(text.drain(at..text.len().min(at + 1))),
            }
        }
        check(&text)?;
    }

    #[test]
    fn any_cuts_will_do(text in document(), mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let text = text.as_bytes();
        let mut cuts: Vec<_> = cuts.drain(..).map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let mut scanner = Scanner::new();
        let outcome = scanner.scan(text);
        let whole = found(&scanner, outcome);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([text.len()]);
        let chunks: Vec<_> = starts.zip(ends).map(|(start, end)| &text[start..end]).collect();
        prop_assert_eq!(scan_in(&mut scanner, &chunks), whole);
    }

    #[test]
    fn replacing_a_value_changes_nothing_else(text in document(), new in value(), place in any::<prop::sample::Index>()) {
        let mut scanner = Scanner::new();
        prop_assume!(scanner.scan(text.as_bytes()).is_ok() && !scanner.members().is_empty());
        let number = place.index(scanner.members().len());
        let member = scanner.members()[number];
        let source = Rope::from(text.clone());
        let whole = |rope: Rope| String::from_utf8(rope.bytes(0..rope.len()).to_vec()).unwrap();

        let mut edits = Edits::default();
        edits.replace(member.value(), new.clone());
        let replaced = whole(edits.apply(&source));
        prop_assert_eq!(&replaced[..member.value().start], &text[..member.value().start]);
        prop_assert!(replaced[member.value().start..].starts_with(&new));
        prop_assert_eq!(&replaced[member.value().start + new.len()..], &text[member.value().end..]);
        prop_assert_eq!(scanner.scan(replaced.as_bytes()), Ok(()));
        let value = member.value().start..member.value().start + new.len();
        prop_assert_eq!(scanner.members()[number].value(), value);
    }

    #[test]
    fn walking_never_hangs_or_panics(text in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\u0 a\xFF"[..]), 0..40)) {
        for (name, value) in walk::members(&text) {
            prop_assert!(value.end <= text.len());
            let _ = name.to_str();
        }
        prop_assert!(walk::items(&text).all(|item| item.end <= text.len()));
        prop_assert!(walk::entries(&text).all(|(entry, ..)| entry.end <= text.len()));
        let _ = (walk::get(&text, "a"), walk::unescape(&text));
    }
}
