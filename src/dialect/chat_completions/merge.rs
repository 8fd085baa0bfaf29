//! Puts a streamed message together from the bytes of its deltas, as the official SDKs do, and drops nothing: whatever
//! a provider adds to a delta, such as a signature of its reasoning, has to come back in the next round.
//!
//! Text is gathered as it is written, escapes included: pieces of a JSON string make the whole string's text.

use std::collections::HashMap;

use crate::json::walk::{self, RawName};

/// An object whose members came in pieces, in the order in which each came first.
#[derive(Clone, Debug, Default)]
pub(super) struct Merged {
    members: Vec<(String, Value)>,
    places: HashMap<String, usize>,
}

/// The memory of a member without its value and the text of its name, in bytes.
const MEMBER_SIZE: usize = 160;

/// A member's value so far.
#[derive(Clone, Debug)]
enum Value {
    Object(Merged),
    /// A string, a list or any other value, as JSON text.
    Text(Vec<u8>),
}

/// Members whose whole string a delta repeats or completes, instead of adding a piece.
const WHOLE: [&str; 4] = ["id", "type", "name", "role"];

// === impl Merged ===

impl Merged {
    /// Adds one member of a delta. Returns the memory of new members beyond the bytes of their values.
    pub(super) fn push(&mut self, name: RawName<'_>, value: &[u8]) -> usize {
        let Some(name) = name.to_str() else { return 0 };
        let Some(place) = self.places.get(&*name) else {
            let (value, inner) = Value::new(value);
            let size = MEMBER_SIZE + 2 * name.len() + inner;
            self.places.insert(name.clone().into_owned(), self.members.len());
            self.members.push((name.into_owned(), value));
            return size;
        };
        let (name, known) = &mut self.members[*place];
        known.push(WHOLE.contains(&name.as_str()), value)
    }

    /// The text of a member so far, as JSON; none if it is an object.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        match &self.members[*self.places.get(name)?].1 {
            Value::Text(text) => Some(text),
            Value::Object(_) => None,
        }
    }

    pub(super) fn object(&self, name: &str) -> Option<&Self> {
        match &self.members[*self.places.get(name)?].1 {
            Value::Object(object) => Some(object),
            Value::Text(_) => None,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Appends the members, with commas between and without braces.
    pub(super) fn write_members(&self, out: &mut Vec<u8>) {
        self.write_members_but(None, out);
    }

    /// Like [`write_members`](Self::write_members), without the member `left_out`.
    pub(super) fn write_members_but(&self, left_out: Option<&str>, out: &mut Vec<u8>) {
        let members = self.members.iter().filter(|(name, _)| Some(name.as_str()) != left_out);
        for (index, (name, value)) in members.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(crate::json::quote(name).as_bytes());
            out.push(b':');
            match value {
                Value::Text(text) => out.extend_from_slice(text),
                Value::Object(object) => {
                    out.push(b'{');
                    object.write_members(out);
                    out.push(b'}');
                }
            }
        }
    }
}

// === impl Value ===

impl Value {
    /// The value, and the memory of its members beyond the bytes of their values.
    fn new(value: &[u8]) -> (Self, usize) {
        match value {
            [b'{', ..] => {
                let mut object = Merged::default();
                let size = object.push_all(value);
                (Self::Object(object), size)
            }
            // Shortened, so that later deltas need not skip white space to see that the list is empty.
            [b'[', inner @ .., b']'] if inner.trim_ascii().is_empty() => (Self::Text(b"[]".to_vec()), 0),
            _ => (Self::Text(value.to_vec()), 0),
        }
    }

    /// Adds another delta's value of the same member. Returns as [`new`](Self::new).
    fn push(&mut self, is_whole: bool, value: &[u8]) -> usize {
        match self {
            Self::Object(object) if value.starts_with(b"{") => return object.push_all(value),
            // An empty value after another one.
            _ if value == b"null" || value == b"\"\"" => {}
            Self::Text(text) if text == b"null" || text == b"\"\"" => {
                let (value, size) = Self::new(value);
                *self = value;
                return size;
            }
            Self::Text(text) => match (text.first(), value) {
                (Some(b'"'), [b'"', inner @ .., b'"']) if !is_whole => {
                    text.pop();
                    text.extend_from_slice(inner);
                    text.push(b'"');
                }
                (Some(b'['), [b'[', inner @ .., b']']) if !inner.trim_ascii().is_empty() => {
                    text.pop();
                    if text.len() > 1 {
                        text.push(b',');
                    }
                    text.extend_from_slice(inner);
                    text.push(b']');
                }
                // A repeated number, flag or name.
                _ => {}
            },
            Self::Object(_) => {}
        }
        0
    }
}

impl Merged {
    fn push_all(&mut self, object: &[u8]) -> usize {
        walk::members(object)
            .map(|(name, value)| self.push(name, &object[value]))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(deltas: &[&str]) -> String {
        let mut merged = Merged::default();
        for delta in deltas {
            merged.push_all(delta.as_bytes());
        }
        let mut out = Vec::new();
        merged.write_members(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_and_lists_grow_and_names_do_not() {
        assert_eq!(
            merged(&[
                r#"{"role":"assistant","content":"a\u00e9"}"#,
                r#"{"role":"assistant","content":"\n b","x":[1]}"#,
                r#"{"content":null,"x":[ ],"n":1.10}"#,
                r#"{"x":[{"y":2}],"n":1.10}"#,
            ]),
            r#""role":"assistant","content":"a\u00e9\n b","x":[1,{"y":2}],"n":1.10"#
        );
    }

    #[test]
    fn an_empty_list_keeps_no_white_space() {
        assert_eq!(
            merged(&[r#"{"x":[   ],"y":[]}"#, r#"{"x":[1],"y":[ 2 ]}"#, r#"{"x":[2]}"#]),
            r#""x":[1,2],"y":[ 2 ]"#
        );
    }

    #[test]
    fn a_new_member_counts_by_more_than_its_value() {
        let mut merged = Merged::default();
        let many: String = (0..100).map(|n| format!("\"name{n}\":{{\"a\":0}},")).collect();
        let object = format!("{{{}}}", many.trim_end_matches(','));
        assert!(merged.push_all(object.as_bytes()) > 200 * MEMBER_SIZE);
        assert_eq!(merged.push_all(object.as_bytes()), 0, "they are known");
    }

    #[test]
    fn objects_merge_member_by_member() {
        assert_eq!(
            merged(&[
                r#"{"extra_content":{"google":{"thought_signature":"c2"}}}"#,
                r#"{"extra_content":{"google":{"thought_signature":"ln"},"other":null}}"#,
                r#"{"extra_content":{"other":{"a":1}}}"#,
            ]),
            r#""extra_content":{"google":{"thought_signature":"c2ln"},"other":{"a":1}}"#
        );
    }

    #[test]
    fn a_member_that_changes_its_type_keeps_the_first() {
        assert_eq!(
            merged(&[r#"{"a":"x"}"#, r#"{"a":{"b":1}}"#, r#"{"a":[2]}"#]),
            r#""a":"x""#
        );
        assert_eq!(
            merged(&[r#"{"a":null}"#, r#"{"a":{"b":1}}"#, r#"{"a":"y"}"#]),
            r#""a":{"b":1}"#
        );
    }
}
