//! Checks which module may import which: unchecked rules decay.
//!
//! Reads the sources, finds every path that leads from one module into another, and compares the edges with the table
//! below. For the modules that must stay pure, their outer crates are checked as well. Further rules: no circle of
//! imports between files, no file without a sentence that says why it exists, no production code that behaves otherwise
//! under test.
//!
//! Known exceptions are in lists. Such a list only shrinks: an entry that is no longer needed fails its test, too.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails the test that called it")]

#[path = "layering/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Paths, Source, library, modules, path, paths, sources};

/// The parts of the crate that a module may use: a whole module, or only the names after the colon.
///
/// - The folders of [`APIS`] count as separate modules, `dialect::<api>`: `bridge` and the rest see what all dialects
///   share.
/// - `error` is a leaf that `dialect` may use: it owns kind, status and message; the dialect gives them their JSON
///   shape.
/// - `dialect` sees the tools' definitions and names, never a service that runs one.
/// - `layer` names the parts, since users configure them there; `service` and `future` do not.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("rope", &["vast"]),
    ("json", &[]),
    ("error", &[]),
    ("vast", &[]),
    ("excerpt", &["vast"]),
    ("base_uri", &[]),
    ("redact", &["types"]),
    ("response_ids", &[]),
    ("metrics", &["types"]),
    ("pool", &["types", "redact", "metrics"]),
    ("tools", &["types", "metrics", "vast"]),
    ("record", &["types", "metrics", "excerpt"]),
    ("extensions", &["types", "redact"]),
    ("mcp", &["types", "tools", "redact", "extensions:Actor", "metrics"]),
    ("body", &["rope", "types:Dialect", "vast"]),
    ("upstream", &["rope", "body:RequestBody"]),
    (
        "dialect",
        &[
            "types",
            "error",
            "excerpt",
            "json",
            "rope",
            "tools:Tools,Registered,ToolDefinition,PREFIX",
            "metrics:refused,Limit",
        ],
    ),
    (
        "dialect::<api>",
        &[
            "dialect",
            "types",
            "error",
            "excerpt",
            "json",
            "rope",
            "tools:Tools,Registered,ToolDefinition,PREFIX",
            "metrics:refused,Limit",
        ],
    ),
    (
        "bridge",
        &[
            "types",
            "error",
            "excerpt",
            "extensions",
            "redact",
            "json",
            "rope",
            "vast",
            "body",
            "pool",
            "tools",
            "record",
            "response_ids",
            "dialect",
            "upstream",
            "metrics",
        ],
    ),
    // Exists under `cfg(fuzzing)` alone.
    ("fuzzing", &["dialect", "dialect::<api>", "json"]),
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
            "response_ids:ResponseIds",
            "tools:ToolSource",
            "types:Dialect,ReportedUsage",
        ],
    ),
];

/// The folders of `dialect` with one API's code each.
const APIS: &[&str] = &["chat_completions", "messages", "responses"];

/// The one file of `dialect` that may name the APIs: it chooses among them.
const CHOOSES_API: &str = "src/dialect/mod.rs";

/// Imports that the table forbids and that exist: the file, and the module that it may not use.
const KNOWN_IMPORTS: &[(&str, &str)] = &[];

/// Imports against the reading order that close a circle: the file, and the file that it imports.
const KNOWN_CIRCLES: &[(&str, &str)] = &[];

/// Files with production code that differs under test.
const KNOWN_TEST_BRANCHES: &[&str] = &[];

/// Files of more than [`MAX_LINES`].
const KNOWN_LONG: &[&str] = &[];

/// Crates that a module must not use: the pure core has no runtime and no HTTP body, and tools, keys and records know
/// no HTTP stack.
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

// === judging ===

/// The name of a path's module in the table.
fn node(path: &[String]) -> String {
    match path {
        [first, second, ..] if first == "dialect" && APIS.contains(&second.as_str()) => format!("{first}::{second}"),
        [first, ..] => first.clone(),
        [] => FACADE.to_owned(),
    }
}

/// Why `from` may not use `path`: the forbidden module, and the message.
fn violation(from: &str, path: &[String]) -> Option<(String, String)> {
    let to = node(path);
    if to == from || from == FACADE || path.is_empty() {
        return None;
    }
    let entry = |name: &str| {
        if name.contains("::") {
            "dialect::<api>".to_owned()
        } else {
            name.to_owned()
        }
    };
    let (_, allowed) = ALLOWED.iter().find(|(module, _)| *module == entry(from))?;
    // A name that the façade re-exports hides where it comes from.
    let edge = allowed.iter().find_map(|listed| {
        let (module, only) = split_names(listed);
        // One API may not use another, though both have one entry.
        let is_other_api = from.contains("::") && to.contains("::");
        (module == entry(&to) && !is_other_api).then_some(only)
    });
    match edge {
        None => Some((to.clone(), format!("`{from}` may not use `{to}`"))),
        Some("") => None,
        Some(only) => {
            let name = path.get(1).map_or("*", String::as_str);
            let is_listed = only.split(',').any(|allowed| allowed == name);
            (!is_listed).then(|| {
                (
                    to.clone(),
                    format!("`{from}` may use of `{to}` only {only}, and not `{name}`"),
                )
            })
        }
    }
}

/// `module:Name,Name`, where the module may be `dialect::<api>`.
fn split_names(entry: &str) -> (&str, &str) {
    match entry.rsplit_once(':') {
        Some((module, names)) if !module.ends_with(':') => (module, names),
        _ => (entry, ""),
    }
}

/// The file in which `path` ends, through re-exports; as its module path.
fn resolve(
    path: &[String],
    modules: &BTreeSet<Vec<String>>,
    names: &BTreeMap<Vec<String>, Vec<String>>,
) -> Vec<String> {
    let mut path = path.to_vec();
    // Names may lead to names; a circle of them would not compile.
    for _ in 0..8 {
        let length = (0..=path.len()).rev().find(|length| modules.contains(&path[..*length]));
        let length = length.unwrap_or(0);
        let Some(meant) = path.get(..=length).and_then(|name| names.get(name)) else {
            path.truncate(length);
            break;
        };
        path = meant.iter().chain(&path[length + 1..]).cloned().collect();
    }
    path
}

/// Who imports whom, by file.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The imports among those files that import each other in a circle.
fn circles(imports: &Imports) -> BTreeSet<(String, String)> {
    let reachable = |start: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(file) = next.pop() {
            let to = imports.get(file).into_iter().flatten();
            next.extend(to.filter(|to| seen.insert((*to).clone())));
        }
        seen
    };
    let pairs = imports
        .iter()
        .flat_map(|(file, to)| to.iter().map(move |to| (file, to)));
    let closing = pairs.filter(|(file, to)| reachable(to).contains(*file));
    closing.map(|(file, to)| (file.clone(), to.clone())).collect()
}

fn known_pairs(known: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    known
        .iter()
        .map(|(file, to)| ((*file).to_owned(), (*to).to_owned()))
        .collect()
}

/// Fails when `found` has an entry that `known` lacks, or the other way round.
fn assert_known<T: Ord + std::fmt::Debug>(found: &BTreeSet<T>, known: &BTreeSet<T>) {
    let new: Vec<_> = found.difference(known).collect();
    assert!(new.is_empty(), "not allowed: {new:#?}");
    let gone: Vec<_> = known.difference(found).collect();
    assert!(
        gone.is_empty(),
        "no longer needed, to be deleted from the list: {gone:#?}"
    );
}

#[test]
fn every_import_is_in_the_table() {
    let sources = library();
    let modules = modules(&sources);
    let all: Vec<Paths> = sources.iter().map(|source| paths(source, &modules)).collect();
    let names = all.iter().flat_map(|paths| paths.names.clone()).collect();
    let mut found = BTreeSet::new();
    let mut outer = Vec::new();
    for (source, paths) in sources.iter().zip(&all) {
        let from = node(&source.module);
        let is_listed = |name: &str| ALLOWED.iter().any(|(module, _)| *module == name);
        assert!(
            from == FACADE || is_listed(&from) || from.contains("::"),
            "{from} is not in the table"
        );
        // Re-exports count here: they would open a way around the table.
        for path in paths.ours.iter().chain(paths.names.values()) {
            let resolved = resolve(path, &modules, &names);
            let is_hidden = node(path) == "dialect" && node(&resolved).starts_with("dialect::");
            let hidden = is_hidden.then(|| violation(&from, &resolved)).flatten();
            for (to, why) in violation(&from, path).into_iter().chain(hidden) {
                let is_choice = source.path == CHOOSES_API && to.starts_with("dialect::");
                if !is_choice && found.insert((source.path.clone(), to)) {
                    eprintln!("{}: {why}", source.path);
                }
            }
        }
        for (modules, banned) in BANNED_CRATES {
            for name in banned.iter().filter(|_| modules.contains(&&*source.module[0])) {
                if paths.outer.contains(*name) {
                    outer.push(format!("{}: `{from}` must do without `{name}`", source.path));
                }
            }
        }
    }
    assert_known(&found, &known_pairs(KNOWN_IMPORTS));
    assert!(outer.is_empty(), "{outer:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = library();
    let modules = modules(&sources);
    let all: Vec<Paths> = sources.iter().map(|source| paths(source, &modules)).collect();
    let names = all.iter().flat_map(|paths| paths.names.clone()).collect();
    let files: BTreeMap<&Vec<String>, &String> = sources.iter().map(|source| (&source.module, &source.path)).collect();
    let mut imports = Imports::new();
    for (source, paths) in sources.iter().zip(&all).filter(|(source, _)| !source.is_root()) {
        let to = paths.ours.iter().map(|path| resolve(path, &modules, &names));
        let to = to.filter_map(|module| files.get(&module).copied());
        // The choice among the APIs is in the same file as the traits that they implement.
        let is_choice = |path: &str| source.path == CHOOSES_API && APIS.iter().any(|api| path.contains(api));
        let to = to.filter(|path| **path != source.path && !is_choice(path));
        imports.insert(source.path.clone(), to.cloned().collect());
    }
    // An import that is no longer there, or does not close a circle, needs no entry.
    let known = known_pairs(KNOWN_CIRCLES);
    let needed = known.intersection(&circles(&imports)).cloned().collect();
    assert_known(&needed, &known);
    for (file, to) in &known {
        imports.entry(file.clone()).or_default().remove(to);
    }
    assert_known(&circles(&imports), &BTreeSet::new());
}

#[test]
fn production_code_does_not_know_that_it_is_tested() {
    let sources = library();
    let modules = modules(&sources);
    let found = sources.iter().filter(|source| paths(source, &modules).branches_on_test);
    let known = KNOWN_TEST_BRANCHES.iter().map(|file| (*file).to_owned());
    assert_known(&found.map(|source| source.path.clone()).collect(), &known.collect());
}

/// The first paragraph, if it is a sentence of five words at least.
fn purpose(text: &str) -> Option<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let paragraph: Vec<&str> = lines.map(str::trim).take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    let begins = paragraph.starts_with(|first: char| first.is_uppercase() || "`[".contains(first));
    let ends = paragraph.ends_with(['.', ':']);
    (begins && ends && paragraph.split(' ').count() >= 5).then_some(paragraph)
}

#[test]
fn every_file_says_why_it_exists() {
    let mut purposes: BTreeMap<String, String> = BTreeMap::new();
    let all = ["src", "tests", "benches", "examples", "fuzz"]
        .into_iter()
        .flat_map(sources);
    for Source { path, text, .. } in all {
        let purpose = purpose(&text).unwrap_or_else(|| panic!("{path} does not begin with a sentence after `//!`"));
        if let Some(other) = purposes.insert(purpose, path.clone()) {
            panic!("{path} and {other} say the same");
        }
    }
}

#[test]
fn no_file_wants_to_be_two() {
    let all = ["src", "tests", "benches", "examples"].into_iter().flat_map(sources);
    let all = all.filter(|source| !source.path.starts_with("src") || !source.module.contains(&"tests".to_owned()));
    let long = all.filter(|source| source.text.lines().count() > MAX_LINES);
    let known = KNOWN_LONG.iter().map(|file| (*file).to_owned());
    assert_known(&long.map(|source| source.path).collect(), &known.collect());
}

#[test]
fn the_judge_knows_the_table() {
    assert!(violation("pool", &path("types::KeyHint")).is_none());
    assert!(violation("pool", &path("record::Fact")).is_some());
    assert!(violation("layer", &path("pool::state::Lease")).is_some());
    assert!(violation("dialect", &path("tools::ToolCall")).is_some());
    assert!(violation("dialect::messages", &path("tools::ToolCall")).is_some());
    assert!(violation("dialect::messages", &path("tools::Tools")).is_none());
    assert!(violation("bridge", &path("dialect::Api")).is_none());
    assert!(violation("bridge", &path("dialect::messages::Relay")).is_some());
    assert!(violation("dialect::messages", &path("dialect::Turn")).is_none());
    assert!(violation("dialect::messages", &path("dialect::responses::Relay")).is_some());
    assert!(violation("dialect", &path("dialect::responses::Relay")).is_some());
    assert!(violation("fuzzing", &path("dialect::responses::Relay")).is_none());
    // Through the façade: the name's own module is the one to import from.
    assert!(violation("bridge", &path("Actor")).is_some());
    // Through a re-exported name.
    let modules = ["dialect", "dialect::messages"].map(path).into();
    let names = [(path("dialect::Relay"), path("dialect::messages::Relay"))].into();
    assert_eq!(
        resolve(&path("dialect::Relay::new"), &modules, &names),
        path("dialect::messages")
    );
    assert_eq!(resolve(&path("dialect::Other"), &modules, &names), path("dialect"));
    let imports = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")];
    let imports = imports.map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])));
    assert_eq!(circles(&imports.into()), known_pairs(&[("b", "c"), ("c", "b")]));
}
