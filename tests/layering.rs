//! Who may import whom, as a test: an architecture that nothing checks decays.
//!
//! Reads the sources, finds every path that leads from one top-level module into another, and compares the edges with
//! the table below. What a module may use of the outside is checked as well, where its purity is the point of it.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails the test that called it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a module may use of ours: a whole module, or only the names after the colon.
///
/// - `error` is a leaf that `dialect` may use: it owns kind, status and words; the dialect gives them their JSON shape.
/// - `dialect` sees the tools' definitions and names, never a service that runs one.
/// - `layer` is where users plug their parts in, so it names the parts; `service` and `future` do not.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("rope", &[]),
    ("json", &[]),
    ("error", &[]),
    ("base_uri", &[]),
    ("redact", &["types"]),
    ("pool", &["types", "redact"]),
    ("tools", &["types"]),
    ("record", &["types"]),
    ("extensions", &["types", "redact"]),
    ("mcp", &["types", "tools", "redact", "extensions:Actor"]),
    ("body", &["rope", "types:Dialect"]),
    ("upstream", &["rope", "body:RequestBody"]),
    (
        "dialect",
        &[
            "types",
            "error",
            "json",
            "rope",
            "tools:Tools,Registered,ToolDefinition,PREFIX",
        ],
    ),
    (
        "bridge",
        &[
            "types",
            "error",
            "extensions",
            "redact",
            "json",
            "rope",
            "body",
            "pool",
            "tools",
            "record",
            "dialect",
            "upstream",
        ],
    ),
    // Exists under `cfg(fuzzing)` alone.
    ("fuzzing", &["dialect", "json"]),
    ("error_body", &["types", "error", "dialect"]),
    // Exists with the feature `test-util` alone.
    ("test_util", &[]),
    ("future", &["body:ResponseBody", "bridge:Bridged"]),
    (
        "service",
        &["body:RequestBody,ResponseBody", "bridge", "future", "upstream"],
    ),
    (
        "layer",
        &[
            "bridge",
            "service",
            "pool:KeyPool,VerdictTable",
            "record:Recorder",
            "tools:ToolSource",
            "types:Dialect,ReportedUsage",
        ],
    ),
];

/// Crates that a module must do without: the pure core has no runtime and no HTTP body, and tools, keys and records
/// know no HTTP stack.
const BANNED_CRATES: &[(&[&str], &[&str])] = &[
    (
        &["types", "rope", "json", "error"],
        &["tokio", "hyper", "http_body_util", "tower"],
    ),
    (&["dialect"], &["tokio", "hyper", "http_body_util", "tower"]),
    (&["pool", "record", "tools"], &["hyper", "http_body_util"]),
    (&["bridge"], &["axum", "tonic"]),
];

/// The façade may name everything.
const FACADE: &str = "lib";

const MAX_LINES: usize = 500;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Colons,
    Other(char),
}

/// One source file: its path below `src`, and its module path.
struct Source {
    path: PathBuf,
    module: Vec<String>,
    text: String,
}

// === reading ===

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 30, "the sources were not found");
    let source = |path: PathBuf| {
        let below = path.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Vec<String> = below.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if module.last().unwrap() == "mod" {
            module.pop();
        }
        Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root.parent().unwrap()).unwrap().to_owned(),
            module,
        }
    };
    files.into_iter().map(source).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Words and punctuation; comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first.is_alphabetic() || first == '_' {
            let length = rest
                .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..length].to_owned()));
            length
        } else if rest.starts_with("::") {
            tokens.push(Token::Colons);
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Other(first));
            }
            first.len_utf8()
        };
        rest = &rest[skipped..];
    }
    tokens
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character, or the mark of a lifetime.
fn character(text: &str) -> usize {
    let inner = &text[1..];
    if let Some(escape) = inner.strip_prefix('\\') {
        return 3 + escape[1..].find('\'').map_or(0, |end| end + 1);
    }
    let length = inner.chars().next().map_or(0, char::len_utf8);
    if inner[length..].starts_with('\'') {
        length + 2
    } else {
        1
    }
}

/// `r"…"`, `r#"…"#` and their byte forms.
fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let quoted = body.trim_start_matches('#');
    let end = format!("\"{}", &body[..body.len() - quoted.len()]);
    let inner = quoted.strip_prefix('"')?;
    let start = text.len() - inner.len();
    Some(inner.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

// === paths ===

/// The absolute paths, from the crate's root, that `crate::…` and `super::…` lead to, and the outer crates by name.
fn paths(source: &Source) -> (BTreeSet<Vec<String>>, BTreeSet<String>) {
    let tokens = tokens(&source.text);
    let (mut ours, mut outer) = (BTreeSet::new(), BTreeSet::new());
    // The inline modules that are open, each with the depth of braces around it.
    let (mut inline, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let mut at = 0;
    while at < tokens.len() {
        match (&tokens[at], tokens.get(at + 1), tokens.get(at + 2)) {
            (Token::Word(word), Some(Token::Word(name)), Some(Token::Other('{'))) if word == "mod" => {
                inline.push((name.clone(), depth));
                depth += 1;
                at += 3;
                continue;
            }
            (Token::Other('{'), ..) => depth += 1,
            (Token::Other('}'), ..) => {
                depth -= 1;
                inline.pop_if(|(_, around)| *around == depth);
            }
            (Token::Word(word), Some(Token::Colons), _) if at == 0 || tokens[at - 1] != Token::Colons => {
                let mut base: Vec<String> = source.module.clone();
                base.extend(inline.iter().map(|(name, _)| name.clone()));
                // Tests may use what they like: they are not what is shipped.
                let is_test = base.iter().any(|name| name == "tests");
                let mut from = at + 2;
                if word == "crate" {
                    base.clear();
                } else if word == "super" {
                    base.pop();
                    while tokens[from] == Token::Word("super".to_owned()) {
                        base.pop();
                        from += 2;
                    }
                } else {
                    if !is_test {
                        outer.insert(word.clone());
                    }
                    at += 1;
                    continue;
                }
                let mut found = BTreeSet::new();
                at = from + tree(&tokens[from..], &base, &mut found);
                if !is_test {
                    ours.append(&mut found);
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    (ours, outer)
}

/// The paths of a use tree, or of a plain path, that begins after `::`; returns how many tokens it took.
fn tree(tokens: &[Token], base: &[String], found: &mut BTreeSet<Vec<String>>) -> usize {
    let mut path = base.to_vec();
    let mut at = 0;
    loop {
        match &tokens[at] {
            Token::Word(word) => {
                path.push(word.clone());
                at += 1;
                if tokens[at] != Token::Colons {
                    break;
                }
                at += 1;
            }
            Token::Other('{') => {
                at += 1;
                while tokens[at] != Token::Other('}') {
                    at += tree(&tokens[at..], &path, found);
                    // What stands behind a part, such as `as name`, is no path.
                    while !matches!(tokens[at], Token::Other(',' | '}')) {
                        at += 1;
                    }
                    if tokens[at] == Token::Other(',') {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => break,
        }
    }
    found.insert(path);
    at
}

// === judging ===

fn violation(from: &str, path: &[String]) -> Option<String> {
    let [to, names @ ..] = path else { return None };
    if to == from || from == FACADE {
        return None;
    }
    let (_, allowed) = ALLOWED.iter().find(|(module, _)| module == &from)?;
    // A name that the façade re-exports hides where it comes from.
    let edge = allowed.iter().find_map(|entry| {
        let (module, only) = entry.split_once(':').unwrap_or((entry, ""));
        (module == to).then_some(only)
    });
    match edge {
        None => Some(format!("`{from}` may not use `{to}`")),
        Some("") => None,
        Some(only) => {
            let name = names.first().map_or("*", String::as_str);
            (!only.split(',').any(|allowed| allowed == name))
                .then(|| format!("`{from}` may use of `{to}` only {only}, and not `{name}`"))
        }
    }
}

#[test]
fn every_import_is_in_the_table() {
    let mut violations = Vec::new();
    for source in sources() {
        let from = source.module[0].as_str();
        assert!(
            from == FACADE || ALLOWED.iter().any(|(module, _)| *module == from),
            "{from} is not in the table"
        );
        let (ours, outer) = paths(&source);
        for path in ours {
            violations.extend(violation(from, &path).map(|why| format!("{}: {why}", source.path.display())));
        }
        for (modules, banned) in BANNED_CRATES {
            for name in banned.iter().filter(|_| modules.contains(&from)) {
                if outer.contains(*name) {
                    violations.push(format!("{}: `{from}` must do without `{name}`", source.path.display()));
                }
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn every_file_says_why_it_exists() {
    for Source { path, text, .. } in sources() {
        assert!(text.starts_with("//! "), "{} does not begin with `//!`", path.display());
    }
}

#[test]
fn no_file_wants_to_be_two() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.module.contains(&"tests".to_owned()))
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn the_reader_sees_every_way_to_write_a_path() {
    let source = |module: &[&str], text: &str| Source {
        path: PathBuf::new(),
        module: module.iter().map(|&part| part.to_owned()).collect(),
        text: text.to_owned(),
    };
    let text = r##"
        //! use crate::comment::A;
        use crate::{a::B, c::{D, e::F as G}};
        pub(crate) use super::super::h::I;
        /* crate::block::J */
        fn f<'a>(x: &'a crate::k::L) -> char { let _ = ("crate::m::N", r#"crate::o::"P"#, b'\'', '"'); '\\' }
        mod inline { use super::Q; use super::super::R; fn g() { { super::super::super::s::T } } }
        impl crate::u::V for W {}
        fn tail() { tokio::spawn(::std::future::ready(())) }
    "##;
    let (ours, outer) = paths(&source(&["pool", "key"], text));
    let ours: Vec<String> = ours.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        ours,
        [
            "a::B",
            "c::D",
            "c::e::F",
            "h::I",
            "k::L",
            "pool::R",
            "pool::key::Q",
            "s::T",
            "u::V"
        ]
    );
    assert_eq!(outer.into_iter().collect::<Vec<_>>(), ["tokio"]);
    let (_, outer) = paths(&source(
        &["rope", "tests"],
        "use hyper::body::Body; use crate::types::A;",
    ));
    assert!(outer.is_empty());
    let (ours, _) = paths(&source(
        &["rope"],
        "use crate::a::B; mod tests { use crate::pool::C; } use crate::d::E;",
    ));
    assert_eq!(ours.len(), 2);
    let path = |path: &str| -> Vec<String> { path.split("::").map(str::to_owned).collect() };
    assert!(violation("pool", &path("types::KeyHint")).is_none());
    assert!(violation("pool", &path("record::Fact")).is_some());
    assert!(violation("layer", &path("pool::state::Lease")).is_some());
    assert!(violation("dialect", &path("tools::ToolCall")).is_some());
    // Through the façade: the name's own module is the one to import from.
    assert!(violation("bridge", &path("Actor")).is_some());
}
