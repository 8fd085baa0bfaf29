//! Recognises a chunk that differs from the one before it only inside of some strings, so that it need not be parsed. Nearly
//! all chunks of an answer are like that, and parsing was half of their cost.

use std::ops::Range;

use crate::json::{self, walk::RawName};

/// The longest chunk that is kept, in bytes: no budget counts it.
const MAX_CHUNK: usize = 16 << 10;

/// The last chunk that was parsed, if it did nothing but add to one text of the answer.
#[derive(Debug, Default)]
pub(super) struct Template {
    chunk: Vec<u8>,
    /// The strings that may differ, without their quotes, in order. Empty if there is nothing to compare with.
    varying: Vec<Range<usize>>,
    /// Which of them is the delta's.
    delta: usize,
    /// The name of the delta's, without its quotes.
    name: Range<usize>,
    id: Option<Range<usize>>,
}

/// The only member of a delta, a string, by its place in the chunk.
#[derive(Clone, Debug)]
pub(super) struct OnlyText {
    /// The name, with its quotes.
    pub(super) name: Range<usize>,
    /// The value, with its quotes.
    pub(super) value: Range<usize>,
}

/// What a chunk like the template adds, by the places in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addition {
    /// The delta's string, with its quotes.
    pub(super) text: Range<usize>,
    /// The value of `id`.
    pub(super) id: Option<Range<usize>>,
}

// === impl Template ===

impl Template {
    pub(super) fn forget(&mut self) {
        self.varying.clear();
    }

    /// Takes a chunk that is valid JSON. `others` are the other strings that may differ, with their quotes.
    pub(super) fn learn(
        &mut self,
        chunk: &[u8],
        text: &OnlyText,
        others: impl Iterator<Item = Range<usize>>,
        id: Option<Range<usize>>,
    ) {
        self.varying.clear();
        if chunk.len() > MAX_CHUNK {
            return;
        }
        self.chunk.clear();
        self.chunk.extend_from_slice(chunk);
        self.varying.extend(others.chain([text.value.clone()]).map(inner));
        self.varying.sort_unstable_by_key(|string| string.start);
        let start = text.value.start + 1;
        self.delta = self.varying.partition_point(|string| string.start < start);
        self.name = inner(text.name.clone());
        self.id = id;
    }

    /// What a chunk adds; none if it has to be parsed.
    pub(super) fn read(&self, chunk: &[u8]) -> Option<Addition> {
        let (mut at, mut known, mut id, mut text) = (0, 0, None, 0..0);
        let mut same = |at: usize, fixed: Range<usize>| {
            if let Some(place) = self.id.as_ref().filter(|place| fixed.contains(&place.start)) {
                let start = at + place.start - fixed.start;
                id = Some(start..start + place.len());
            }
            let fixed = &self.chunk[fixed];
            chunk[at..].starts_with(fixed).then_some(at + fixed.len())
        };
        for (number, string) in self.varying.iter().enumerate() {
            at = same(at, known..string.start)?;
            known = string.end;
            let end = at + json::string_len(&chunk[at..])?;
            if number == self.delta {
                text = at - 1..end + 1;
            }
            at = end;
        }
        // A delta without text is treated differently.
        let adds = text.len() > r#""""#.len();
        let is_same = adds && same(at, known..self.chunk.len()) == Some(chunk.len());
        is_same.then_some(Addition { text, id })
    }

    /// The name of the delta's string.
    pub(super) fn name(&self) -> RawName<'_> {
        RawName::new(&self.chunk[self.name.clone()])
    }
}

/// A string without its quotes.
fn inner(string: Range<usize>) -> Range<usize> {
    string.start + 1..string.end - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(content: &str, padding: &str) -> String {
        format!(
            r#"{{"x":"{padding}","id":"c","choices":[{{"delta":{{"content" : "{content}"}},"finish_reason":null}}],"model":"m"}}"#
        )
    }

    fn learnt(chunk: &str, content: &str, padding: &str) -> Template {
        let place = |text: &str| {
            let start = chunk.find(text).unwrap();
            start..start + text.len()
        };
        let text = OnlyText {
            name: place(r#""content""#),
            value: place(&format!(r#""{content}""#)),
        };
        let mut template = Template::default();
        let padding = place(&format!(r#""{padding}""#));
        template.learn(chunk.as_bytes(), &text, [padding].into_iter(), Some(place(r#""c""#)));
        template
    }

    #[test]
    fn a_chunk_that_differs_inside_of_strings_is_read() {
        let template = learnt(&chunk("Hello", "abc"), "Hello", "abc");
        for (content, padding) in [
            ("x", ""),
            (r#" \"world\"\n"#, "x"),
            ("é😀", r"\\"),
            (r"\u00e9\ud83d\ude00\ud83d", "\u{7f}"),
            (&"long ".repeat(100), ""),
        ] {
            let like = chunk(content, padding);
            let Addition { text, id } = template.read(like.as_bytes()).unwrap();
            assert_eq!(&like[text], &format!("\"{content}\""));
            assert_eq!(&like[id.unwrap()], "\"c\"");
        }
        assert!(template.name() == "content");
    }

    #[test]
    fn any_other_chunk_is_not() {
        let like = chunk("Hello", "abc");
        let template = learnt(&like, "Hello", "abc");
        for (from, to) in [
            ("\"c\"", "\"d\""),
            ("\"m\"", "\"n\""),
            ("\"Hello\"", "\"\""),
            ("\"Hello\"", "null"),
            ("Hello", "a\"b"),
            ("Hello", r"\x"),
            ("Hello", "\n"),
            ("Hello", r"a\"),
            ("Hello", r"\u12"),
            ("abc", "a\",\"error\":\"b"),
            ("null}]", "\"stop\"}]"),
            ("content", "refusal"),
            ("\"}", "\"} "),
            ("\"}", "\""),
            ("{\"x\"", " {\"x\""),
            ("\"m\"}", "\"m\"} "),
            ("\"m\"}", "\"m\"}x"),
        ] {
            let other = like.replacen(from, to, 1);
            assert_ne!(other, like);
            assert_eq!(template.read(other.as_bytes()), None, "{other}");
        }
        let mut broken = like.clone().into_bytes();
        let place = broken.windows(5).position(|part| part == b"Hello").unwrap();
        broken[place] = 0xFF;
        assert_eq!(template.read(&broken), None);
        for end in 0..like.len() {
            assert_eq!(template.read(&like.as_bytes()[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_long_chunk_is_not_kept() {
        let like = chunk("Hello", &"x".repeat(MAX_CHUNK));
        let template = learnt(&like, "Hello", &"x".repeat(MAX_CHUNK));
        assert!(template.chunk.capacity() == 0 && template.read(like.as_bytes()).is_none());
    }

    #[test]
    fn nothing_is_like_what_was_forgotten() {
        let like = chunk("Hello", "abc");
        let mut template = learnt(&like, "Hello", "abc");
        assert!(template.read(like.as_bytes()).is_some());
        template.forget();
        for chunk in [like.as_bytes(), b""] {
            assert_eq!(template.read(chunk), None);
        }
    }
}
