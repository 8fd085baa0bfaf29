//! Finds secrets in a text and masks them: one search for API keys, callers' credentials and tool servers' secrets.
//!
//! [`occurs_in`] and [`redact`] look for one secret. [`Secrets`] looks for many, in one pass per provider and not per
//! key.

use std::{cmp::Reverse, collections::HashMap, fmt, ops::Range};

use memchr::memmem::{self, Finder};
use zeroize::Zeroizing;

/// How many leading bytes group secrets. Keys of one provider begin alike (`sk-…`).
const HEAD: usize = 4;

/// Shorter keys are dummies for servers that want some key, such as `none`; any text may contain one.
const SHORTEST_KEY: usize = 8;

/// A secret, and the text that replaces it.
pub(crate) trait Secret {
    /// The bytes to look for. An empty secret is never found.
    fn secret(&self) -> &[u8];

    /// The text that people see instead.
    fn mask(&self) -> &str;
}

/// Secrets that are looked for together.
pub(crate) struct Secrets<S> {
    secrets: Box<[S]>,
    groups: Box<[Group]>,
    /// The length of the shortest secret.
    shortest: usize,
}

/// The secrets that begin with the same [`HEAD`] bytes: a text is searched once per group.
struct Group {
    head: Finder<'static>,
    /// The length of the shortest secret. Most header values are shorter.
    shortest: usize,
    /// Positions in [`Secrets::secrets`].
    members: Vec<usize>,
}

/// The bytes of `key` to look for: none if it is too short to be a secret.
pub(crate) fn searched(key: &[u8]) -> &[u8] {
    if key.len() < SHORTEST_KEY { &[] } else { key }
}

/// Whether `secret` occurs in `text`.
pub(crate) fn occurs_in(text: &[u8], secret: &impl Secret) -> bool {
    let needle = secret.secret();
    !needle.is_empty() && needle.len() <= text.len() && memmem::find(text, needle).is_some()
}

/// `text` with each occurrence of `secret` masked; `None` if there is none.
pub(crate) fn redact(text: &[u8], secret: &impl Secret) -> Option<Vec<u8>> {
    if !occurs_in(text, secret) {
        return None;
    }
    let length = secret.secret().len();
    let found = occurrences(&Finder::new(secret.secret()), text)
        .map(|start| (start..start + length, secret.mask()))
        .collect();
    replace(text, found)
}

/// `text` with each found range replaced by its mask; `None` if nothing was found.
fn replace(text: &[u8], mut found: Vec<(Range<usize>, &str)>) -> Option<Vec<u8>> {
    if found.is_empty() {
        return None;
    }
    // Of secrets that begin at the same byte, the longest one is masked.
    found.sort_unstable_by_key(|(range, _)| (range.start, Reverse(range.end)));
    let mut redacted = Vec::with_capacity(text.len());
    let mut copied = 0;
    for (range, mask) in found {
        // An overlapping occurrence is removed as well: the rest of a secret reveals much of it.
        if range.start >= copied {
            redacted.extend_from_slice(&text[copied..range.start]);
            redacted.extend_from_slice(mask.as_bytes());
        }
        copied = copied.max(range.end);
    }
    redacted.extend_from_slice(&text[copied..]);
    Some(redacted)
}

/// Every position of the finder's needle, overlapping ones too: a secret may begin inside a partial match of itself.
fn occurrences<'a>(needle: &'a Finder<'_>, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + needle.find(text.get(from..)?)?;
        from = at + 1;
        Some(at)
    })
}

// === impl Secrets ===

impl<S: Secret> Secrets<S> {
    /// Prepares the search. Empty secrets are ignored.
    pub(crate) fn new(secrets: impl IntoIterator<Item = S>) -> Self {
        let secrets: Box<[S]> = secrets
            .into_iter()
            .filter(|secret| !secret.secret().is_empty())
            .collect();
        let groups = Group::all(&secrets);
        Self {
            shortest: groups.iter().map(|group| group.shortest).min().unwrap_or(usize::MAX),
            groups,
            secrets,
        }
    }

    /// Whether a secret occurs in `text`.
    pub(crate) fn occur_in(&self, text: &[u8]) -> bool {
        // Most texts are header values that are too short.
        self.shortest <= text.len() && self.occurrences(text).next().is_some()
    }

    /// `text` with each secret masked; `None` if none occurs.
    pub(crate) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        if self.shortest > text.len() {
            return None;
        }
        let found = self
            .occurrences(text)
            .map(|(range, position)| (range, self.secrets[position].mask()));
        replace(text, found.collect())
    }

    /// Where secrets occur in `text`, and which.
    fn occurrences<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (Range<usize>, usize)> + 'a {
        let groups = self.groups.iter().filter(|group| group.shortest <= text.len());
        groups.flat_map(move |group| {
            occurrences(&group.head, text).flat_map(move |start| {
                group.members.iter().filter_map(move |&position| {
                    let secret = self.secrets[position].secret();
                    text[start..]
                        .starts_with(secret)
                        .then_some((start..start + secret.len(), position))
                })
            })
        })
    }
}

/// Prints only the number of secrets.
impl<S> fmt::Debug for Secrets<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("len", &self.secrets.len()).finish()
    }
}

// === impl Group ===

impl Group {
    fn all<S: Secret>(secrets: &[S]) -> Box<[Self]> {
        let mut groups: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (position, secret) in secrets.iter().enumerate() {
            let secret = secret.secret();
            groups
                .entry(secret.get(..HEAD).unwrap_or(secret))
                .or_default()
                .push(position);
        }
        let group = |(head, members): (&[u8], Vec<usize>)| Self {
            head: Finder::new(head).into_owned(),
            shortest: members
                .iter()
                .map(|&position| secrets[position].secret().len())
                .min()
                .unwrap_or(usize::MAX),
            members,
        };
        groups.into_iter().map(group).collect()
    }
}

// === impl Secret ===

/// A secret without a hint. Its memory is wiped on drop.
impl Secret for Zeroizing<String> {
    fn secret(&self) -> &[u8] {
        self.as_bytes()
    }

    fn mask(&self) -> &str {
        "..."
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::KeyHint;

    struct Key(&'static str, KeyHint);

    impl Secret for Key {
        fn secret(&self) -> &[u8] {
            self.0.as_bytes()
        }

        fn mask(&self) -> &str {
            self.1.as_str()
        }
    }

    fn key(secret: &'static str) -> Key {
        Key(secret, KeyHint::of(secret))
    }

    fn keys(secrets: &[&'static str]) -> Secrets<Key> {
        Secrets::new(secrets.iter().map(|&secret| key(secret)))
    }

    #[test]
    fn secrets_in_a_text_are_masked() {
        let keys = keys(&[
            "sk-0123456789abcdefghij",
            "sk-ABCDEFGHIJabcdefghij",
            "other-0123456789012",
            "other-01",
            "",
        ]);
        for (text, redacted) in [
            (
                "a sk-0123456789abcdefghij, sk-0123456789abcdefghij; other-0123456789012",
                Some("a sk-0...ghij, sk-0...ghij; ot...12"),
            ),
            ("sk-ABCDEFGHIJabcdefghij", Some("sk-A...ghij")),
            // The head of a key, then the key.
            ("sk-sk-sk-0123456789abcdefghij", Some("sk-sk-sk-0...ghij")),
            ("sk-0123456789abcdefghi", None),
            ("SK-0123456789ABCDEFGHIJ", None),
            ("", None),
            // As long as the shortest secret.
            ("other-01", Some("o...1")),
        ] {
            let got = keys.redact(text.as_bytes());
            assert_eq!(got.as_deref(), redacted.map(str::as_bytes), "{text}");
            assert_eq!(keys.occur_in(text.as_bytes()), redacted.is_some(), "{text}");
        }
    }

    #[test]
    fn an_overlapping_secret_leaves_no_rest() {
        let found = keys(&["abcabX", "abX-0123456789012345", "abc"]);
        assert_eq!(found.redact(b"<abcabX-0123456789012345>").unwrap(), b"<a...X>");
        let found = keys(&["x-abcabX-x", "abcabX"]);
        assert_eq!(found.redact(b"<x-abcabX-x>").unwrap(), b"<x-...-x>");
        let found = keys(&["aaaab"]);
        assert_eq!(found.redact(b"aaaaaab").unwrap(), b"aaa...b");
        assert_eq!(redact(b"aaaaaab", &key("aaaab")).unwrap(), b"aaa...b");
    }

    #[test]
    fn one_secret_is_masked_wherever_it_occurs() {
        let token = Zeroizing::new("token-17".to_owned());
        assert_eq!(
            redact(b"token-17token-17, token-1", &token).unwrap(),
            b"......, token-1"
        );
        assert_eq!(redact(b"token-1", &token), None);
        assert!(occurs_in(b"a token-17", &token));
        assert!(!occurs_in(b"anything", &Zeroizing::new(String::new())));
        assert_eq!(redact(b"anything", &Zeroizing::new(String::new())), None);
    }

    #[test]
    fn no_secret_is_found_where_there_is_none() {
        let none = keys(&[]);
        assert!(!none.occur_in(b"") && !none.occur_in(b"text"));
        assert_eq!(none.redact(b""), None);
        assert_eq!(format!("{:?}", keys(&["sk-secret"])), "Secrets { len: 1 }");
    }

    proptest! {
        /// Against the obvious search, on texts dense with parts of secrets.
        #[test]
        fn no_occurrence_is_missed(
            secrets in proptest::collection::hash_set("[ab]{1,7}", 1..6),
            text in "[abc]{0,40}",
        ) {
            let keys = Secrets::new(secrets.iter().cloned().map(Zeroizing::new));
            let mut expected: Vec<(usize, usize)> = Vec::new();
            for secret in &secrets {
                for start in 0..text.len() {
                    if text[start..].starts_with(secret) {
                        expected.push((start, start + secret.len()));
                    }
                }
            }
            expected.sort_unstable();
            let found = keys.occurrences(text.as_bytes()).map(|(range, _)| (range.start, range.end));
            let mut found: Vec<_> = found.collect();
            found.sort_unstable();
            prop_assert_eq!(&found, &expected);

            // Only text that no secret covers is kept.
            let kept = |at: &usize| !expected.iter().any(|(start, end)| (start..end).contains(&at));
            let kept = (0..text.len()).filter(kept).filter(|&at| text.as_bytes()[at] == b'c').count();
            let redacted = keys.redact(text.as_bytes()).unwrap_or_else(|| text.clone().into_bytes());
            prop_assert_eq!(redacted.iter().filter(|&&byte| byte == b'c').count(), kept);
        }
    }
}
