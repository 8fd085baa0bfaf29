//! Reads Rust sources for `tests/layering.rs`: the paths that a file names, and whether its production code depends on
//! tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One source file: its path below the package's root, and its module path.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) module: Vec<String>,
    pub(crate) text: String,
}

/// The names that one file uses of others.
#[derive(Default)]
pub(crate) struct Paths {
    /// Absolute, from the crate's root.
    pub(crate) ours: BTreeSet<Vec<String>>,
    /// Outer crates, by name.
    pub(crate) outer: BTreeSet<String>,
    /// Re-exports: the module with the new name, and the path that it stands for.
    pub(crate) names: BTreeMap<Vec<String>, Vec<String>>,
    /// Whether it has `#[cfg(test)]` before something other than an item, `cfg!(test)`, or `cfg(not(test))`.
    pub(crate) branches_on_test: bool,
}

/// Reads tokens into [`Paths`].
struct Reader<'a> {
    modules: &'a BTreeSet<Vec<String>>,
    paths: Paths,
}

// === reading ===

/// The files of the library.
pub(crate) fn library() -> Vec<Source> {
    let sources = sources("src");
    assert!(sources.len() > 30, "the sources were not found");
    sources
}

/// The Rust files below `folder`.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join(folder), &mut files);
    files.sort();
    let source = |path: PathBuf| {
        let below = path.strip_prefix(root.join(folder)).unwrap().with_extension("");
        let mut module: Vec<String> = below.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        module.pop_if(|last| last == "mod");
        Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"),
            module,
        }
    };
    files.into_iter().map(source).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    // A published package has no `fuzz`.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

pub(crate) fn modules(sources: &[Source]) -> BTreeSet<Vec<String>> {
    sources.iter().map(|source| source.module.clone()).collect()
}

/// The paths of one file. Its tests may use anything: they are not shipped.
pub(crate) fn paths(source: &Source, modules: &BTreeSet<Vec<String>>) -> Paths {
    let mut reader = Reader {
        modules,
        paths: Paths::default(),
    };
    if !source.module.iter().any(|name| name == "tests") {
        let tokens: TokenStream = source
            .text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", source.path));
        reader.read(tokens, if source.is_root() { &[] } else { &source.module });
    }
    reader.paths
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(word)) => Some(word.to_string()),
        _ => None,
    }
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<TokenStream> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group.stream()),
        _ => None,
    }
}

// === impl Source ===

impl Source {
    /// Whether it is `lib.rs`, whose module is the crate itself.
    pub(crate) fn is_root(&self) -> bool {
        self.module == ["lib"]
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn read(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let attribute = is_punct(tokens.get(at), '#').then(|| group(tokens.get(at + 1), Delimiter::Bracket));
            if let Some(attribute) = attribute.flatten() {
                let attribute = attribute.to_string().replace(' ', "");
                self.paths.branches_on_test |= attribute.contains("not(test)");
                at += 2;
                if attribute == "cfg(test)" {
                    at += self.skip_test_item(&tokens[at..]);
                }
                continue;
            }
            let name = word(tokens.get(at));
            if name.as_deref() == Some("cfg")
                && is_punct(tokens.get(at + 1), '!')
                && let Some(condition) = group(tokens.get(at + 2), Delimiter::Parenthesis)
            {
                self.paths.branches_on_test |= words(condition).contains("test");
            }
            if name.as_deref() == Some("mod")
                && let Some(name) = word(tokens.get(at + 1))
                && let Some(content) = group(tokens.get(at + 2), Delimiter::Brace)
            {
                let inner: Vec<String> = module.iter().cloned().chain([name]).collect();
                self.read(content, &inner);
                at += 3;
            } else if name.as_deref() == Some("use") {
                let is_public = tokens[..at].iter().rev().map_while(|token| match token {
                    TokenTree::Punct(_) => None,
                    TokenTree::Group(group) if group.delimiter() != Delimiter::Parenthesis => None,
                    token => Some(token.to_string()),
                });
                let is_public = is_public.into_iter().any(|word| word == "pub");
                at += 1 + self.tree(&tokens[at + 1..], &[], module, Some(is_public));
            } else if name.is_some() && is_colons(&tokens, at + 1) && !(at > 0 && is_punct(tokens.get(at - 1), ':')) {
                at += self.tree(&tokens[at..], &[], module, None);
            } else {
                if let TokenTree::Group(group) = &tokens[at] {
                    self.read(group.stream(), module);
                }
                at += 1;
            }
        }
    }

    /// How many tokens belong to the item after `#[cfg(test)]`.
    fn skip_test_item(&mut self, tokens: &[TokenTree]) -> usize {
        const ITEMS: [&str; 10] = [
            "mod", "use", "fn", "pub", "const", "static", "impl", "struct", "enum", "async",
        ];
        let first = tokens.iter().position(|token| matches!(token, TokenTree::Ident(_)));
        let is_item = word(first.and_then(|at| tokens.get(at))).is_some_and(|word| ITEMS.contains(&word.as_str()));
        self.paths.branches_on_test |= !is_item;
        let is_last = |token: &TokenTree| is_punct(Some(token), ';') || group(Some(token), Delimiter::Brace).is_some();
        tokens.iter().position(is_last).map_or(tokens.len(), |at| at + 1)
    }

    /// Takes a path or a use tree below `base`; `import` says that it is a `use`, and whether that is public. Returns how
    /// many tokens it took.
    fn tree(&mut self, tokens: &[TokenTree], base: &[String], module: &[String], import: Option<bool>) -> usize {
        let mut path = base.to_vec();
        let mut at = 0;
        loop {
            if let Some(word) = word(tokens.get(at)) {
                path.push(word);
                at += 1;
            } else if let Some(parts) = group(tokens.get(at), Delimiter::Brace).filter(|_| import.is_some()) {
                let parts: Vec<TokenTree> = parts.into_iter().collect();
                for part in parts.split(|token| is_punct(Some(token), ',')) {
                    self.tree(part, &path, module, import);
                }
                return at + 1;
            } else {
                break;
            }
            if !is_colons(tokens, at) {
                break;
            }
            at += 2;
        }
        let alias = word(tokens.get(at))
            .filter(|word| word == "as")
            .and_then(|_| word(tokens.get(at + 1)));
        self.add(&path, alias, module, import);
        at
    }

    fn add(&mut self, path: &[String], alias: Option<String>, module: &[String], import: Option<bool>) {
        let ([first, rest @ ..], mut at) = (path, module.to_vec()) else {
            return;
        };
        let mut rest = rest;
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
                while let [next, after @ ..] = rest
                    && next == "super"
                {
                    at.pop();
                    rest = after;
                }
            }
            _ => {
                at.push(first.clone());
                if !self.modules.contains(&at) {
                    self.paths.outer.insert(first.clone());
                    return;
                }
            }
        }
        at.extend(rest.iter().filter(|part| *part != "self").cloned());
        if let Some(name) = alias.or_else(|| at.last().cloned()).filter(|_| import.is_some()) {
            let name: Vec<String> = module.iter().cloned().chain([name]).collect();
            if name != at {
                self.paths.names.insert(name, at.clone());
            }
        }
        // A re-export is not a use by the module.
        if import != Some(true) {
            self.paths.ours.insert(at);
        }
    }
}

/// All words of a condition.
fn words(tokens: TokenStream) -> BTreeSet<String> {
    let words = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => words(group.stream()),
        token => BTreeSet::from([token.to_string()]),
    });
    words.collect()
}

/// A path as a list.
pub(crate) fn path(text: &str) -> Vec<String> {
    text.split("::").map(str::to_owned).collect()
}

fn read(module: &str, text: &str) -> Paths {
    let source = Source {
        path: String::new(),
        module: path(module),
        text: text.to_owned(),
    };
    paths(
        &source,
        &["pool", "pool::key", "pool::key::child", "rope"].map(path).into(),
    )
}

#[test]
fn the_reader_sees_every_way_to_write_a_path() {
    let text = r##"
        //! use crate::comment::A;
        use crate::{a::B, c::{D, e::F as G}};
        pub(crate) use super::super::h::I;
        /* crate::block::J */
        fn f<'a>(x: &'a crate::k::L) -> char { let _ = ("crate::m::N", r#"crate::o::"P"#, b'\'', '"'); '\\' }
        mod inline { use super::Q; use super::super::R; fn g() { { super::super::super::s::T } } }
        impl crate::u::V for W {}
        fn tail() { tokio::spawn(::std::future::ready(child::X)); debug!(a = crate::y::Z) }
        #[cfg(test)] mod checks { use crate::tested::A; }
        #[cfg(test)] use crate::tested::B;
    "##;
    let read_key = read("pool::key", text);
    let ours: Vec<String> = read_key.ours.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        ours,
        [
            "a::B",
            "c::D",
            "c::e::F",
            "k::L",
            "pool::R",
            "pool::key::Q",
            "pool::key::child::X",
            "s::T",
            "u::V",
            "y::Z"
        ]
    );
    assert_eq!(read_key.outer.into_iter().collect::<Vec<_>>(), ["tokio"]);
    assert_eq!(
        read_key.names[&path("pool::key::I")],
        path("h::I"),
        "handed on, and not used"
    );
    assert_eq!(read_key.names[&path("pool::key::G")], path("c::e::F"));
    assert!(!read_key.branches_on_test);
    assert!(
        read("rope::tests", "use hyper::body::Body; use crate::types::A;")
            .outer
            .is_empty()
    );
}

#[test]
fn the_reader_sees_code_that_branches_on_test() {
    for text in [
        "fn f() { if cfg!(test) { } }",
        "fn f() { if cfg!(any(test, unix)) { } }",
        "#[cfg(not(test))] const A: usize = 1;",
        "fn f() { #[cfg(test)] count(1); g() }",
        "struct S { #[cfg(test)] count: usize }",
    ] {
        assert!(read("rope", text).branches_on_test, "{text}");
    }
    for text in [
        "#[cfg(test)] mod tests;",
        "#[cfg(test)] #[path = \"x.rs\"] mod tests { fn f() { cfg!(test) } }",
        "impl S { #[cfg(test)] pub(super) fn count(&self) -> usize { 1 } }",
        "fn f() { if cfg!(windows) { } }",
    ] {
        assert!(!read("rope", text).branches_on_test, "{text}");
    }
}
