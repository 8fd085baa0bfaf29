//! What consecutive chunks of a stream have in common. Nearly all of them are the same text around a few strings, the
//! delta's content among them, so a chunk is compared with the one before it, and parsed only if it has another shape.

use std::ops::Range;

use crate::json::{Kind, Member, Scanner, walk};

/// The last chunk that was parsed, if it did nothing but add to one text of the answer.
///
/// A chunk that differs from it only inside of strings is one and the same JSON document but for what these say: they
/// are checked to be nothing else than strings.
#[derive(Default)]
pub(super) struct Template {
    /// The parts between the strings that may differ, one after the other, each string's quotes included.
    fixed: Vec<u8>,
    /// Where each part ends. None if there is nothing to compare with.
    ends: Vec<usize>,
    /// Which of the strings is the delta's.
    content: usize,
    /// The delta's name for it, without quotes, in `fixed`.
    name: Range<usize>,
    /// The chunk's `id`, in `fixed`.
    id: Option<Range<usize>>,
    /// The strings of the chunk at hand; kept for its memory.
    strings: Vec<Range<usize>>,
}

/// What a chunk says that has the shape of the template.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addition<'a> {
    /// What it adds, as a string literal with the quotes.
    pub(super) text: &'a [u8],
    /// Where its `id` is.
    pub(super) id: Option<Range<usize>>,
}

// === impl Template ===

impl Template {
    pub(super) fn forget(&mut self) {
        self.ends.clear();
    }

    /// Takes a chunk that `scanner` has read. `fixed` are the names of top-level strings that must not differ.
    pub(super) fn learn(&mut self, data: &[u8], scanner: &Scanner, fixed: &[&str]) {
        self.forget();
        let Some((name, content)) = only_text(data, scanner) else {
            return;
        };
        let may_differ = |member: &&Member| {
            member.kind() == Kind::String && !fixed.iter().any(|name| scanner.get(name) == Some(*member))
        };
        let others = scanner.members().iter().filter(may_differ);
        self.strings.clear();
        self.strings.extend(others.map(Member::value));
        self.strings.push(content.clone());
        self.strings.sort_unstable_by_key(|string| string.start);
        self.fixed.clear();
        self.id = None;
        let id = scanner.get("id").map(Member::value);
        let mut at = 0;
        for number in 0..=self.strings.len() {
            let string = self.strings.get(number);
            let part = at..string.map_or(data.len(), |string| string.start + 1);
            let offset = self.fixed.len();
            let moved = |range: &Range<usize>| offset + range.start - part.start..offset + range.end - part.start;
            if string == Some(&content) {
                self.content = number;
                // The name of a string is in the part before it.
                self.name = moved(&name);
            }
            if let Some(id) = id.as_ref().filter(|id| part.contains(&id.start)) {
                self.id = Some(moved(id));
            }
            self.fixed.extend_from_slice(&data[part]);
            self.ends.push(self.fixed.len());
            at = string.map_or(data.len(), |string| string.end - 1);
        }
    }

    /// What a chunk of the same shape says. `None` if it has to be parsed.
    pub(super) fn read<'a>(&self, data: &'a [u8]) -> Option<Addition<'a>> {
        let (mut at, mut start, mut text, mut id) = (0, 0, None, None);
        for (number, end) in self.ends.iter().enumerate() {
            let part = &self.fixed[start..*end];
            if !data[at..].starts_with(part) {
                return None;
            }
            if let Some(range) = self.id.as_ref().filter(|id| (start..*end).contains(&id.start)) {
                id = Some(at + range.start - start..at + range.end - start);
            }
            start = *end;
            at += part.len();
            if start == self.fixed.len() {
                break;
            }
            let text_end = walk::simple_text_end(data, at)?;
            if number == self.content {
                text = Some(&data[at - 1..text_end + 1]);
            }
            at = text_end;
        }
        text.filter(|_| at == data.len()).map(|text| Addition { text, id })
    }

    /// The name of what is added.
    pub(super) fn name(&self) -> walk::RawName<'_> {
        walk::RawName::new(&self.fixed[self.name.clone()])
    }
}

/// The only string of the first choice's delta, with the place of its name, if there is nothing else to it.
fn only_text(data: &[u8], scanner: &Scanner) -> Option<(Range<usize>, Range<usize>)> {
    let choices = scanner
        .get("choices")
        .filter(|member| member.kind() == Kind::Array)?
        .value();
    let first = choices.start + walk::first_item(&data[choices])?;
    let mut choice = walk::members_at(data, first);
    let mut found = None;
    while let Some(name) = choice.next_name() {
        let start = choice.at();
        if name != "delta" {
            let value = choice.pass_value();
            let unremarkable = if name == "index" {
                &data[value] == b"0"
            } else {
                name != "finish_reason" || &data[value] == b"null"
            };
            if !unremarkable {
                return None;
            }
        } else if found.is_some() || data.get(start) != Some(&b'{') {
            return None;
        } else {
            let mut delta = walk::members_at(data, start);
            while let Some((entry, name, value)) = delta.next_entry() {
                let text = &data[value.clone()];
                if name == "role" || name == "tool_calls" || (text != b"null" && found.is_some()) {
                    return None;
                }
                if text != b"null" {
                    let name_end = entry.start + 1 + name.len();
                    found = Some((entry.start + 1..name_end, value)).filter(|_| text.starts_with(b"\""));
                    found.as_ref()?;
                }
            }
            choice.resume(delta.at());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(data: &str) -> Template {
        let (mut scanner, mut template) = (Scanner::of_pieces(), Template::default());
        scanner.scan(data.as_bytes()).unwrap();
        template.learn(data.as_bytes(), &scanner, &["id", "model"]);
        template
    }

    fn chunk(content: &str, padding: &str) -> String {
        format!(
            r#"{{"id":"c","object":"x","model":"m","choices":[{{"index":0,"delta":{{"refusal":null,"content" : "{content}"}},"finish_reason":null}}],"usage":null,"obfuscation":"{padding}"}}"#
        )
    }

    #[test]
    fn what_differs_only_inside_of_strings_is_read() {
        let template = learnt(&chunk("Hello", "abc"));
        for (content, padding) in [
            ("", ""),
            (r#" \"world\"\n"#, "x"),
            ("é😀", r"\\"),
            (&"long ".repeat(100), ""),
        ] {
            let like = chunk(content, padding);
            let text = format!("\"{content}\"");
            let expected = Addition {
                text: text.as_bytes(),
                id: Some(6..9),
            };
            assert_eq!(template.read(like.as_bytes()), Some(expected), "{like}");
        }
        assert!(*"content" == *template.name().to_str().unwrap());
    }

    #[test]
    fn an_id_that_comes_last_is_found_behind_the_text() {
        let chunk =
            |text: &str| format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}],"object":"x","id" : "c"}}"#);
        let template = learnt(&chunk("a"));
        for text in ["", "b", r"longer \n"] {
            let like = chunk(text);
            let id = template.read(like.as_bytes()).unwrap().id.unwrap();
            assert_eq!(&like[id.clone()], "\"c\"");
            assert_eq!(id.end, like.len() - 1);
        }
    }

    #[test]
    fn what_differs_in_anything_else_is_not() {
        let like = chunk("Hello", "abc");
        let template = learnt(&like);
        for (from, to) in [
            ("\"c\"", "\"d\""),
            ("\"m\"", "\"n\""),
            ("Hello", "a\"b"),
            ("Hello", r"\u0041"),
            ("Hello", r"\x"),
            ("Hello", "\n"),
            ("Hello", r"a\"),
            ("abc", "a\",\"error\":\"b"),
            ("null}],", "\"stop\"}],"),
            ("null,\"content", "\"no\",\"content"),
            ("\"}", "\"} "),
            ("\"}", "\""),
        ] {
            let other = like.replacen(from, to, 1);
            assert_ne!(other, like);
            assert_eq!(template.read(other.as_bytes()), None, "{other}");
        }
        let mut broken = like.into_bytes();
        let place = broken.windows(5).position(|part| part == b"Hello").unwrap();
        broken[place] = 0xFF;
        assert_eq!(template.read(&broken), None);
    }

    #[test]
    fn only_chunks_that_add_to_one_text_are_learnt() {
        for delta in [
            r#""role":"assistant","content":"""#,
            r#""content":"a","reasoning":"b""#,
            r#""tool_calls":[]"#,
            r#""content":["a"]"#,
            r#""content":null"#,
            "",
        ] {
            let other = format!(r#"{{"choices":[{{"delta":{{{delta}}}}}]}}"#);
            assert_eq!(learnt(&other).read(other.as_bytes()), None, "{other}");
        }
        for (from, to) in [
            ("index\":0", "index\":1"),
            ("\"finish_reason\":null", "\"finish_reason\":\"stop\""),
        ] {
            let other = chunk("Hello", "").replacen(from, to, 1);
            assert_eq!(learnt(&other).read(other.as_bytes()), None, "{other}");
        }
    }
}
