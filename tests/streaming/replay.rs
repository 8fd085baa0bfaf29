//! Cuts of a stream into frames change neither the caller's bytes nor the recorded events.

use serde_json::json;

use crate::case::{CLOCK, Case, ECHO, check};
use crate::wire::{DONE, calls, finish, role, say, text, tokens, usage};

#[tokio::test(start_paused = true)]
async fn plain_streams() {
    let plain = say(&["Hel", "lo"]);
    let decorated = plain.replacen("data:", ": comment\nevent: message\nid: 7\nretry: 10\ndata:", 3);
    let no_space = plain.replace("data: ", "data:");
    let no_newline = plain.strip_suffix("\n\n").unwrap().to_owned();
    let one_newline = plain.strip_suffix('\n').unwrap().to_owned();
    let lines = plain
        .replace(r#","object""#, "\ndata: ,\"object\"")
        .replace(r#","delta""#, "\ndata:,\"delta\"");
    check(
        1,
        [
            Case::new("plain", [plain.clone()], "Hello"),
            Case::new("decorated", [decorated], "Hello").sees(|message| message.comments = 3),
            Case::new("heartbeats", [format!(": one\n\n\n: two\n\n{plain}")], "Hello")
                .sees(|message| message.comments = 2),
            Case::new("no space", [no_space], "Hello"),
            Case::new("CRLF", [plain.replace('\n', "\r\n")], "Hello"),
            Case::new("CR", [plain.replace('\n', "\r")], "Hello"),
            Case::new("several lines", [lines.clone()], "Hello"),
            Case::new("several lines, CRLF", [lines.replace('\n', "\r\n")], "Hello"),
            Case::new("byte order mark", [format!("\u{feff}{plain}")], "Hello"),
            Case::new("no final newline", [no_newline], "Hello"),
            Case::new("one final newline", [one_newline], "Hello"),
            Case::new("more after the end", [format!("{plain}: bye\n\n")], "Hello"),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn usage_that_is_asked_for_and_not() {
    let every = |words: &[(&str, u64)]| {
        let chunks: String = words
            .iter()
            .map(|(word, count)| {
                text(word).replace(
                    r#","choices""#,
                    &format!(r#","usage":{},"choices""#, tokens(10, *count)),
                )
            })
            .collect();
        [&role(), &chunks, &finish("stop"), &usage(10, 9), DONE].concat()
    };
    check(
        13,
        [
            Case::new("asked", [say(&["a"])], "a").usage(10, 5),
            Case::new("not asked", [say(&["a"])], "a"),
            Case::new("null", [say(&["a"])], "a")
                .ask(r#"{"model":"m","stream":true,"stream_options":null,"messages":[]}"#),
            Case::new("on every chunk", [every(&[("a", 1), ("b", 2)])], "ab").usage(10, 9),
            Case::new("on every chunk, in two rounds", [calls(CLOCK), every(&[("a", 1)])], "a")
                .usage(17, 12)
                .tool("clock", json!({"a": 1}), true),
            Case::new("one round of two", [calls(CLOCK), say(&["a"])], "a")
                .usage(17, 8)
                .tool("clock", json!({"a": 1}), true),
            Case::new("not asked in two rounds", [calls(CLOCK), say(&["a"])], "a").tool("clock", json!({"a": 1}), true),
            Case::new("three rounds", [calls(CLOCK), calls(ECHO), say(&["a"])], "a")
                .usage(24, 11)
                .tool("clock", json!({"a": 1}), true)
                .tool("echo", json!({"a": 1}), true),
        ],
    )
    .await;
}
