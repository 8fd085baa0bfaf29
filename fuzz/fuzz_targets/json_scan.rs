//! The scanner accepts what `serde_json` accepts, and finds the same members, wherever the document is cut into chunks.

#![no_main]

use std::collections::HashSet;
use std::fmt;

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use tower_llm_bridge::__fuzzing as bridge;

/// How many members the scanner accepts at the top level.
const MAX_MEMBERS: usize = 1_000;

/// The names of an object, in order; no other value will do.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// Whether the scanner must accept the document. `None` if `serde_json` refuses a number's magnitude: then it has not read
/// the rest.
fn is_accepted(text: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(text) {
        Err(error) if error.to_string().contains("number out of range") => None,
        Err(_) => Some(false),
        Ok(_) => Some(serde_json::from_slice::<Names>(text).is_ok_and(|Names(names)| {
            let mut seen = HashSet::new();
            names.len() <= MAX_MEMBERS && names.into_iter().all(|name| seen.insert(name))
        })),
    }
}

// The first byte is the length of the chunks.
fuzz_target!(|input: &[u8]| {
    bridge::walk(input);
    bridge::items(input);
    let Some((&len, text)) = input.split_first() else {
        return;
    };
    let found = bridge::scan([text]);
    assert_eq!(found, bridge::scan(text.chunks(1 + usize::from(len) % 64)));
    assert_eq!(found, bridge::scan(text.chunks(1)));
    if let Some(expected) = is_accepted(text) {
        assert_eq!(found.is_ok(), expected, "{found:?}");
    }

    let Ok(members) = found else { return };
    let Names(names) = serde_json::from_slice(text).unwrap();
    assert!(names.iter().eq(members.iter().map(|(name, ..)| name)));
    let walked = bridge::walk(text);
    assert!(
        walked
            .iter()
            .map(|(name, value)| (name.as_ref(), value))
            .eq(members.iter().map(|(name, value, _)| (Some(name), value)))
    );
    for (_, value, last_item) in &members {
        let item = bridge::items(&text[value.clone()])
            .pop()
            .map(|item| value.start + item.start..value.start + item.end);
        assert_eq!(&item, last_item);
        assert!(serde_json::from_slice::<IgnoredAny>(&text[value.clone()]).is_ok());
    }
});
