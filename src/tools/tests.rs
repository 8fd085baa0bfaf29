//! The bytes that providers and caches see, the check of arguments, and the results that models are told.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use serde_json::{Value, json};
use tower::{BoxError, ServiceBuilder, ServiceExt};

use super::{name::tests::tool_sets, *};
use crate::types::Dialect;

pub(super) fn tool(server: &str, name: &str) -> Tool {
    with(ToolDefinition::new(name).server(server))
}

pub(super) fn with(definition: ToolDefinition) -> Tool {
    tool_fn(definition, |_call| async { Ok::<_, Infallible>("done") })
}

fn define(name: &str, tool: &ToolDefinition, out: &mut String) {
    out.push_str(&json!({ "name": name, "description": tool.text() }).to_string());
}

fn registered(schema: Value) -> Registered {
    Tools::new([with(ToolDefinition::new("t").parameters(schema))])
        .get("bmcp_local_t")
        .unwrap()
        .clone()
}

proptest! {
    #[test]
    fn encoded_is_json_whatever_the_words((tools, _) in tool_sets(), text in ".*") {
        let tools: Tools = tools.iter()
            .map(|(server, name)| with(ToolDefinition::new(name).server(server).description(&text)))
            .collect();
        let encoding = tools.encoding(Dialect::Messages, define);
        let array: Vec<Value> = serde_json::from_slice(&[b"[", &*encoding.all(), b"]"].concat()).unwrap();
        prop_assert_eq!(array.len(), tools.len());
        for ((element, name), bytes) in array.iter().zip(tools.names()).zip(encoding.parts()) {
            prop_assert_eq!(&element["name"], name);
            prop_assert_eq!(&element["description"], &text);
            prop_assert_eq!(&serde_json::from_slice::<Value>(&bytes).unwrap(), element);
        }
    }

    #[test]
    fn a_cut_result_is_a_prefix_and_says_so(text in ".{0,40}", limit in 0usize..60) {
        let message = ToolOutput::text(&text).into_text(limit);
        match message.split_once("\n[cut: ") {
            None => prop_assert!(message == text && text.len() <= limit),
            Some((kept, note)) => {
                prop_assert!(text.len() > limit && kept.len() <= limit && text.starts_with(kept));
                // No character that would still fit is lost.
                prop_assert!(kept.len() + text[kept.len()..].chars().next().unwrap().len_utf8() > limit);
                prop_assert_eq!(note, format!("the first {} of {} bytes]", kept.len(), text.len()));
            }
        }
    }

    #[test]
    fn no_arguments_make_the_check_panic(text in ".*") {
        match registered(json!({ "type": "object", "required": ["a"] })).check(&text) {
            Ok(value) => prop_assert!(value.get("a").is_some()),
            Err(message) => prop_assert!(message.len() <= 600),
        }
    }
}

// === encoding ===

#[test]
fn definitions_are_encoded_once_per_dialect_in_name_order() {
    let tools = Tools::new([
        with(ToolDefinition::new("b").description("x")),
        with(ToolDefinition::new("a")),
    ]);
    let all = r#"{"description":null,"name":"bmcp_local_a"},{"description":"x","name":"bmcp_local_b"}"#;
    let first = tools.encoding(Dialect::ChatCompletions, define).all();
    assert_eq!(first, all);
    let again = tools.encoding(Dialect::ChatCompletions, define).all();
    assert_eq!(again.as_ptr(), first.as_ptr(), "shared by all clones of the set");
    let other = tools.encoding(Dialect::Responses, |_, _, out| out.push('1')).all();
    assert_eq!(other, "1,1");
}

#[test]
fn the_empty_set_is_empty() {
    let tools = Tools::default();
    assert!(tools.is_empty() && tools.get("bmcp_local_t").is_none());
    assert!(tools.encoding(Dialect::Messages, define).all().is_empty());
}

#[test]
fn tools_are_found_by_their_injected_name_only() {
    let tools = Tools::new([tool("s", "a"), tool("s", "c"), tool("s", "b")]);
    assert_eq!(tools.len(), 3);
    for name in ["a", "b", "c"] {
        let registered = tools.get(&format!("bmcp_s_{name}")).unwrap();
        assert_eq!(registered.definition().name(), name);
        let call = registered.call("call_1", json!({}));
        assert_eq!((call.name(), call.server()), (name, "s"));
        assert!(tools.get(name).is_none());
    }
}

// === arguments ===

#[test]
fn arguments_must_be_an_object() {
    let registered = registered(json!(null));
    for (arguments, value) in [
        ("", json!({})),
        (" \n", json!({})),
        ("{}", json!({})),
        (r#" {"a":1,"a":2} "#, json!({ "a": 2 })),
        (r#"{"a":"\ud83e\udd80"}"#, json!({ "a": "🦀" })),
    ] {
        assert_eq!(registered.check(arguments), Ok(value));
    }
    for (arguments, message) in [
        ("null", "the arguments must be a JSON object, not null"),
        ("[{}]", "the arguments must be a JSON object, not an array"),
        ("\"{}\"", "the arguments must be a JSON object, not a string"),
        (
            "{\"a\":",
            "the arguments are not JSON: EOF while parsing a value at line 1 column 5",
        ),
        (
            "{} {}",
            "the arguments are not JSON: trailing characters at line 1 column 4",
        ),
    ] {
        assert_eq!(registered.check(arguments), Err(message.to_owned()));
    }
    for arguments in [
        r#"{"a":"\ud800"}"#.to_owned(),
        format!("{{\"a\":{}", "[".repeat(100_000)),
        "{\"a\":1e999}".into(),
    ] {
        assert!(
            registered
                .check(&arguments)
                .unwrap_err()
                .starts_with("the arguments are not JSON: ")
        );
    }
}

#[test]
fn arguments_must_have_what_is_required() {
    let registered = registered(json!({ "type": "object", "required": ["city", "day", 3] }));
    assert!(registered.check(r#"{"city":null,"day":1}"#).is_ok());
    assert_eq!(
        registered.check(r#"{"day":1}"#),
        Err("the arguments lack required properties: city".to_owned())
    );
    assert_eq!(
        registered.check(""),
        Err("the arguments lack required properties: city, day".to_owned())
    );
}

#[test]
fn the_message_for_the_model_is_short() {
    let required: Vec<String> = (0..1000).map(|index| format!("größe{index}")).collect();
    let message = registered(json!({ "required": required })).check("{}").unwrap_err();
    assert!(message.len() <= 512 + '…'.len_utf8(), "{}", message.len());
    assert!(message.ends_with('…'));
}

#[cfg(not(feature = "json-schema"))]
#[test]
fn without_the_feature_only_names_are_checked() {
    let registered = registered(json!({ "properties": { "n": { "type": "integer" } }, "required": ["n"] }));
    assert!(registered.check(r#"{"n":"one"}"#).is_ok());
}

#[cfg(feature = "json-schema")]
mod json_schema {
    use super::*;
    use crate::logs::Logs;

    #[test]
    fn the_whole_schema_is_checked() {
        let registered = registered(json!({
            "type": "object",
            "properties": {
                "n": { "type": "integer", "maximum": 10 },
                "place": { "$ref": "#/$defs/place" },
            },
            "required": ["n"],
            "additionalProperties": false,
            "$defs": { "place": { "type": "object", "required": ["city"], "properties": { "city": { "enum": ["Oslo"] } } } },
        }));
        assert!(registered.check(r#"{"n":1,"place":{"city":"Oslo"}}"#).is_ok());
        for (arguments, message) in [
            (r#"{"n":"one"}"#, r#"/n: the value is not of type "integer""#),
            (r#"{"n":11}"#, "/n: the value is greater than the maximum of 10"),
            (r#"{"n":1,"place":{}}"#, r#"/place: "city" is a required property"#),
            (
                r#"{"n":1,"place":{"city":"Rome"}}"#,
                r#"/place/city: the value is not one of "Oslo""#,
            ),
            (
                r#"{"n":1,"m":2}"#,
                "the arguments: Additional properties are not allowed ('m' was unexpected)",
            ),
        ] {
            assert_eq!(registered.check(arguments), Err(message.to_owned()));
        }
    }

    #[test]
    fn long_values_and_names_do_not_come_back() {
        let long = "x".repeat(10_000);
        let registered =
            registered(json!({ "properties": { "n": { "type": "integer" } }, "additionalProperties": false }));
        let message = registered.check(&json!({ "n": long }).to_string()).unwrap_err();
        assert!(!message.contains("xx"), "{message}");
        let message = registered.check(&format!(r#"{{"{long}":1}}"#)).unwrap_err();
        assert!(message.len() <= 515);
    }

    #[test]
    fn a_schema_that_cannot_be_used_checks_names_only() {
        for schema in [
            json!({ "type": 7, "required": ["n"] }),
            json!({ "$ref": "https://example.com/schema.json", "required": ["n"] }),
            json!({ "$ref": "file:///etc/hostname", "required": ["n"] }),
            json!({ "properties": { "n": { "pattern": "(" } }, "required": ["n"] }),
        ] {
            let registered = registered(schema);
            assert!(registered.check(r#"{"n":"anything"}"#).is_ok());
            assert!(registered.check("{}").is_err());
        }
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_named_once() {
        let logs = Logs::capture();
        let tool = with(ToolDefinition::new("broken").parameters(json!({ "type": "secret" })));
        for _ in 0..3 {
            let tools = Tools::new([tool.clone()]);
            assert!(tools.get("bmcp_local_broken").unwrap().check("{}").is_ok());
        }
        let log = logs.text();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(
            log.contains("WARN") && log.contains("broken") && !log.contains("secret"),
            "{log}"
        );
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let registered = registered(json!({ "properties": { "next": { "$ref": "#" } }, "required": ["v"] }));
        assert!(registered.check(r#"{"v":1,"next":{"v":1,"next":{"v":1}}}"#).is_ok());
        assert!(registered.check(r#"{"v":1,"next":{"v":1,"next":{}}}"#).is_err());
    }
}

// === results ===

#[test]
fn results_are_cut_at_a_character_border() {
    let text = "aé日🦀";
    assert_eq!(text.len(), 10);
    for (limit, kept) in [
        (0, ""),
        (1, "a"),
        (2, "a"),
        (3, "aé"),
        (4, "aé"),
        (5, "aé"),
        (6, "aé日"),
        (9, "aé日"),
    ] {
        let expected = format!("{kept}\n[cut: the first {} of 10 bytes]", kept.len());
        assert_eq!(ToolOutput::text(text).into_text(limit), expected);
    }
    for limit in [10, 11, usize::MAX] {
        assert_eq!(ToolOutput::text(text).into_text(limit), text);
    }
}

#[test]
fn outputs_convert() {
    assert_eq!(
        ToolOutput::json(json!({ "a": [1, null] })).content(),
        r#"{"a":[1,null]}"#
    );
    assert_eq!(ToolOutput::from("a".to_owned()), ToolOutput::from("a"));
    assert_eq!(ToolOutput::from(json!("a")).content(), "\"a\"");
}

// === services ===

#[tokio::test(start_paused = true)]
async fn layers_fit_on_a_tool() {
    let running = Arc::new(AtomicUsize::new(0));
    let service = ServiceBuilder::new()
        .buffer(8)
        .concurrency_limit(2)
        .timeout(Duration::from_secs(5))
        .service_fn({
            let running = Arc::clone(&running);
            move |call: ToolCall| {
                let running = Arc::clone(&running);
                async move {
                    let others = running.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_secs(call.arguments()["seconds"].as_u64().unwrap_or(0))).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, BoxError>(ToolOutput::json(others))
                }
            }
        });
    let tools = Tools::new([Tool::new(ToolDefinition::new("t"), service)]);
    let registered = tools.get("bmcp_local_t").unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for id in 0..6 {
        let call = registered.call(id.to_string(), json!({ "seconds": 1 }));
        calls.spawn(registered.service().oneshot(call));
    }
    let mut most = "0".to_owned();
    for output in calls.join_all().await {
        most = most.max(output.unwrap().content().to_owned());
    }
    assert_eq!(most, "1", "two at a time: at most one other, and at least once one");

    let error = registered
        .service()
        .oneshot(registered.call("slow", json!({ "seconds": 6 })))
        .await
        .unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_keeps_the_definition_and_sees_its_call() {
    let slow = tool_fn(ToolDefinition::new("slow").server("s"), |_call| async {
        tokio::time::sleep(Duration::from_secs(9)).await;
        Ok::<_, Infallible>("done")
    });
    let tools = Tools::new([slow
        .clone()
        .layer(&tower::timeout::TimeoutLayer::new(Duration::from_secs(1)))]);
    let registered = tools.get("bmcp_s_slow").unwrap();
    assert_eq!(registered.definition(), slow.definition());
    let error = registered
        .service()
        .oneshot(registered.call("call_1", json!({})))
        .await
        .unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
}

#[tokio::test]
async fn a_closure_gets_its_call_and_its_errors_come_through() {
    #[derive(serde::Deserialize)]
    struct Arguments {
        n: u8,
    }
    let double = tool_fn(ToolDefinition::new("double"), |call: ToolCall| async move {
        let Arguments { n } = call.parse()?;
        Ok::<_, serde_json::Error>(json!(u16::from(n) * 2))
    });
    let tools = Tools::new([double]);
    let registered = tools.get("bmcp_local_double").unwrap();
    let call = |arguments| registered.service().oneshot(registered.call("call_1", arguments));
    assert_eq!(call(json!({ "n": 21 })).await.unwrap(), ToolOutput::text("42"));
    assert!(call(json!({ "n": -1 })).await.unwrap_err().is::<serde_json::Error>());
}

#[test]
fn snapshots_can_be_shared() {
    fn assert_shared<T: Clone + Send + Sync + 'static>() {}
    assert_shared::<Tools>();
    assert_shared::<Tool>();
    assert_shared::<Registered>();
}

#[test]
fn debug_output_is_short() {
    let tools = Tools::new([tool("s", "b"), tool("s", "a")]);
    assert_eq!(format!("{tools:?}"), r#"Tools {"bmcp_s_a", "bmcp_s_b"}"#);
}
