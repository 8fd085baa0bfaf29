//! Freezes the bridge's behaviour: whole conversations as files, replayed and compared byte for byte.
//!
//! Each folder `tests/fixtures/<dialect>/<case>/` is one case, a single request of a caller. Written by hand:
//!
//! | file | holds |
//! |---|---|
//! | `case.json` | what the case shows, the caller's path and headers, the layer's settings ([`case::Case`]) |
//! | `request.json` | the body of the caller's request |
//! | `provider-1.json`, `provider-2.sse`, … | the bodies of the provider's answers, in order |
//!
//! Written by the program, to be read before they are committed:
//!
//! | file | holds |
//! |---|---|
//! | `answer.json` or `answer.sse` | the body that the caller gets, with the interception's id as `$ID` |
//! | `upstream-1.json`, … | the bodies of the requests that the provider gets |
//! | `heads.json` | the head of the answer, then the heads of the requests that the provider gets, with keys as `$KEY_1` |
//! | `records.json` | the events, without `interception_id` and `at` |
//!
//! Time is virtual, so durations are exact. Each case also runs with the provider's bodies in frames of one byte, and
//! in longer frames so that each byte begins one of them in some run: none of these files may depend on it.
//!
//! - `cargo test --test golden` runs every case, `cargo test --test golden -- streamed` those with that in their name;
//! - `cargo test --test golden -- --bless [NAME]` writes the files again.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails a test, and this test writes its own report"
)]

mod case;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use case::{Files, Folder};
use support::{Cut, block_on};

struct Arguments {
    bless: bool,
    list: bool,
    only_ignored: bool,
    filters: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::read(std::env::args().skip(1));
    let folders = cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    assert!(folders.len() > 20, "the fixtures were not found");
    let chosen = folders.iter().filter(|(name, _)| arguments.choose(name));
    if arguments.list {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<_> = chosen.collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some((name, path)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A separate thread, so that a panic fails this case alone.
                    let outcome = thread::scope(|scope| scope.spawn(|| run(path, arguments.bless)).join());
                    if let Err(why) = outcome.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                        println!("{name}: FAILED\n{why}\n");
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("golden: {} cases, {} failed {failed:?}", chosen.len(), failed.len());
    ExitCode::from(u8::from(!failed.is_empty()))
}

/// All cases below `root`, by name.
fn cases(root: &Path) -> Vec<(String, PathBuf)> {
    let mut cases = Vec::new();
    for dialect in folders(root) {
        for path in folders(&dialect) {
            if path.join("case.json").exists() {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                cases.push((name.replace('\\', "/"), path.clone()));
            }
        }
    }
    cases.sort();
    cases
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

/// Compares one case with its files, or writes them.
fn run(path: &Path, bless: bool) -> Result<(), String> {
    let folder = Folder::read(path)?;
    let mut actual = block_on(folder.play(Cut::Whole))?;
    if bless {
        for name in folder.written().keys().filter(|name| !actual.contains_key(*name)) {
            fs::remove_file(path.join(name)).unwrap();
        }
        for (name, bytes) in &actual {
            fs::write(path.join(name), bytes).unwrap();
        }
        return Ok(());
    }
    compare(&folder.written(), &actual)?;
    if folder.waits_for_a_timeout() {
        // The time-out may last up to twice its period, depending on when the last frame came.
        actual.remove("records.json");
    }
    // Frames that are shorter than most events.
    for cut in Cut::every_place(61) {
        let mut pieces = block_on(folder.play(cut))?;
        pieces.retain(|name, _| actual.contains_key(name));
        compare(&actual, &pieces).map_err(|why| format!("with the provider's bodies cut as {cut:?}, {why}"))?;
    }
    Ok(())
}

fn compare(expected: &Files, actual: &Files) -> Result<(), String> {
    let names: BTreeSet<&String> = expected.keys().chain(actual.keys()).collect();
    for name in names {
        let show = |files: &Files| match files.get(name) {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => "(no such file)".to_owned(),
        };
        if expected.get(name) != actual.get(name) {
            return Err(format!(
                "{name} should be:\n{}\nbut is:\n{}",
                show(expected),
                show(actual)
            ));
        }
    }
    Ok(())
}

// === impl Arguments ===

impl Arguments {
    /// Accepts the arguments of the standard test program, and ignores those without a meaning here.
    fn read(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut read = Self {
            bless: false,
            list: false,
            only_ignored: false,
            filters: Vec::new(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bless" => read.bless = true,
                "--list" => read.list = true,
                "--ignored" => read.only_ignored = true,
                "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => {
                    arguments.next();
                }
                option if option.starts_with('-') => {}
                _ => read.filters.push(argument),
            }
        }
        read
    }

    fn choose(&self, name: &str) -> bool {
        let named = self.filters.iter().any(|filter| name.contains(filter.as_str()));
        !self.only_ignored && (self.filters.is_empty() || named)
    }
}
