//! Rounds: the requests after the model called tools of ours, and what the caller sees.

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use support::*;
use tokio::time::Instant;
use tower::BoxError;
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, Tools, tool_fn};
use tower_llm_bridge::{Actor, BridgeError, BridgeErrorKind, Intercepted};

fn layer(tools: impl IntoIterator<Item = Tool>) -> BridgeLayer {
    BridgeLayer::new().pool(pool(1)).tools(Tools::new(tools))
}

/// The ids of the calls in replayed messages, and those of the results: they have to be the same.
fn assert_every_call_has_its_result(seen: &Seen) -> Vec<String> {
    let (mut called, mut answered) = (Vec::new(), Vec::new());
    for message in seen.messages() {
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        called.extend(calls.map(|call| text(&call["id"])));
        answered.extend(message["tool_call_id"].as_str().map(str::to_owned));
    }
    assert_eq!(called, answered);
    called
}

#[tokio::test(start_paused = true)]
async fn the_caller_sees_one_answer_with_the_usage_of_all_rounds() {
    let usage = |scale: u64| {
        json!({
            "prompt_tokens": 10 * scale, "completion_tokens": scale, "total_tokens": 11 * scale,
            "prompt_tokens_details": {"cached_tokens": 3 * scale, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 2 * scale}, "cost": 0.5,
        })
    };
    let call = tool_call(ECHO, "{}");
    let replies = [
        with_usage(&call, usage(1)),
        with_usage(&call, usage(10)),
        with_usage(&completion("hi"), usage(100)),
    ];
    let (seen, answer) = converse(&layer([echo()]), ask("hi"), replies).await;
    assert_eq!(seen.len(), 3);
    let mut sum = usage(111);
    sum["cost"] = json!(1.5);
    let reply = answer.json();
    assert_eq!(reply["usage"], sum);
    assert_eq!(
        reply["id"],
        answer.extensions.get::<Intercepted>().unwrap().id().to_string()
    );
    assert_eq!(reply["choices"][0]["message"]["content"], "hi");
    assert!(!answer.text().contains("bmcp_"));
}

#[tokio::test(start_paused = true)]
async fn rounds_that_report_no_usage_add_none() {
    let bare = |reply: &str| reply.replace("\"usage\":", "\"not\":");
    let call = tool_call(ECHO, "{}");
    for (first, second, expected) in [
        (bare(&call), completion("hi"), Some(15)),
        (call.clone(), bare(&completion("hi")), Some(15)),
        (bare(&call), bare(&completion("hi")), None),
    ] {
        let (_, answer) = converse(&layer([echo()]), ask("hi"), [first, second]).await;
        assert_eq!(answer.json()["usage"]["total_tokens"].as_u64(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn several_calls_run_side_by_side_and_their_results_keep_the_calls_order() {
    let wait = tool_fn(ToolDefinition::new("wait"), |call: ToolCall| async move {
        let seconds = call.arguments()["seconds"].as_u64().unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok::<_, Infallible>(format!("{} slept {seconds}", call.id()))
    });
    let name = "bmcp_local_wait";
    for seconds in [[30, 10, 20], [10, 20, 30], [30, 20, 10]] {
        let arguments = seconds.map(|seconds| format!("{{\"seconds\":{seconds}}}"));
        let calls = [
            ("a", name, &*arguments[0]),
            ("b", name, &*arguments[1]),
            ("c", name, &*arguments[2]),
        ];
        let start = Instant::now();
        let replies = [tool_calls(&calls), completion("hi")];
        let (seen, _) = converse(&layer([wait.clone()]), ask("hi"), replies).await;
        assert_eq!(Instant::now().saturating_duration_since(start).as_secs(), 30);
        assert_eq!(assert_every_call_has_its_result(&seen[1]), ["a", "b", "c"]);
        let messages = seen[1].messages().split_off(2);
        for ((message, id), seconds) in messages.iter().zip(["a", "b", "c"]).zip(seconds) {
            let expected = json!({"role": "tool", "tool_call_id": id, "content": format!("{id} slept {seconds}")});
            assert_eq!(*message, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_mixed_turn_that_is_ours_every_call_is_replayed() {
    let (ours, theirs) = (("o1", ECHO, "{\"a\":1}"), ("t1", "theirs", "{}"));
    for calls in [
        &[ours, theirs][..],
        &[ours, theirs, ("t2", "theirs", "{}"), ("o2", ECHO, "{}")],
    ] {
        let replies = [tool_calls(calls), tool_calls(&[theirs])];
        let (seen, answer) = converse(&layer([echo()]), ask("hi"), replies).await;
        let replayed: Vec<&str> = calls.iter().map(|call| call.0).collect();
        assert_eq!(assert_every_call_has_its_result(&seen[1]), replayed);
        let calls = &answer.json()["choices"][0]["message"]["tool_calls"];
        assert_eq!(calls.as_array().unwrap().len(), 1);
        assert_eq!(calls[0]["id"], "t1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_the_callers_tool_is_the_callers_to_run() {
    let reply = tool_calls(&[("t1", "theirs", "{not json"), ("t2", "theirs", "{}")]);
    let (seen, answer) = converse(&layer([echo()]), ask("hi"), [reply.clone()]).await;
    assert_eq!(seen.len(), 1);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.text(), reply.replace("chatcmpl-1", &id));
}

#[tokio::test(start_paused = true)]
async fn a_429_in_round_three_sends_round_three_again_and_runs_no_tool_twice() {
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let tool = tool_fn(ToolDefinition::new("count"), move |_| {
        let run = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok::<_, Infallible>(run.to_string()) }
    });
    let call = |id| Reply::from(tool_calls(&[(id, "bmcp_local_count", "{}")]));
    let provider = Provider::queue([call("a"), call("b"), Reply::rate_limited(None), completion("hi").into()]);
    let layer = BridgeLayer::new().pool(pool(2)).tools(Tools::new([tool]));
    let answer = send(&bridge(&layer, &provider), ask("hi")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    let seen = provider.seen();
    assert_eq!(seen[2].body, seen[3].body);
    assert_eq!(provider.keys(), [KEYS[0], KEYS[0], KEYS[0], KEYS[1]]);
    assert_eq!(assert_every_call_has_its_result(&seen[3]), ["a", "b"]);
    assert_eq!(answer.json()["usage"]["total_tokens"], 45);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_round_the_model_is_told_to_answer() {
    let script = |seen: &Seen| {
        let told = seen.json()["tool_choice"] == "none";
        Reply::from(if told {
            completion("so be it")
        } else {
            tool_call(ECHO, "{}")
        })
    };
    for (rounds, request) in [
        (None, asked("hi")),
        (Some(3), asked("hi").replacen('{', r#"{"tool_choice":"auto","#, 1)),
        (Some(3), asked("hi").replacen('{', r#"{"tool_choice" : null,"#, 1)),
        (Some(0), asked("hi")),
    ] {
        let layer = rounds.map_or(layer([echo()]), |rounds| layer([echo()]).max_rounds(rounds));
        let provider = Provider::answering(move |seen| {
            if rounds == Some(0) {
                completion("so be it").into()
            } else {
                script(seen)
            }
        });
        let answer = send(&bridge(&layer, &provider), chat(request)).await;
        let rounds = rounds.unwrap_or(32);
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "so be it");
        assert_eq!(provider.calls(), rounds as usize + 1);
        assert_eq!(
            assert_every_call_has_its_result(&provider.last()).len(),
            rounds as usize
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_rounds_no_tool_is_offered() {
    let (seen, answer) = converse(&layer([echo()]).max_rounds(0), ask("hi"), [completion("hi")]).await;
    assert_eq!((answer.status.as_u16(), &seen[0].body), (200, &asked("hi").into()));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_will_not_stop_is_a_502() {
    let provider = Provider::answering(|_| tool_call(ECHO, "{}").into());
    let answer = send(&bridge(&layer([echo()]).max_rounds(3), &provider), ask("hi")).await;
    assert_eq!(answer.status, 502);
    assert_eq!(
        answer.extensions.get().map(BridgeError::kind),
        Some(BridgeErrorKind::TooManyRounds)
    );
    assert_eq!(provider.calls(), 4);
}

// === calls that fail ===

/// The result that the model is told after it calls `name` with `arguments`, and the seconds that it took.
async fn told(layer: &BridgeLayer, name: &str, arguments: &str) -> (String, u64) {
    let start = Instant::now();
    let (seen, answer) = converse(layer, ask("hi"), [tool_call(name, arguments), completion("hi")]).await;
    assert_eq!(answer.status, 200, "the loop goes on");
    let took = Instant::now().saturating_duration_since(start).as_secs();
    (seen[1].last_content(), took)
}

fn error(message: &str) -> String {
    json!({"error": true, "message": message}).to_string()
}

#[tokio::test(start_paused = true)]
async fn the_model_is_told_how_a_call_failed() {
    let strict = ToolDefinition::new("strict").parameters(json!({"type": "object", "required": ["city", "day"]}));
    let tools = [
        echo(),
        tool_fn(ToolDefinition::new("fails"), |_| async {
            Err::<&str, BoxError>("no \"such\" city".into())
        }),
        tool_fn(ToolDefinition::new("refuses"), |_| async {
            Ok::<_, Infallible>(ToolOutput::error("not today"))
        }),
        tool_fn(ToolDefinition::new("panics"), |_| async {
            panic!("with a secret") as Result<&str, Infallible>
        }),
        tool_fn(ToolDefinition::new("hangs"), |_| {
            std::future::pending::<Result<&str, Infallible>>()
        }),
        tool_fn(strict, |_| async {
            panic!("it was called") as Result<&str, Infallible>
        }),
    ];
    let layer = layer(tools);
    for (name, arguments, message, seconds) in [
        ("fails", "{}", "no \"such\" city", 0),
        ("refuses", "{}", "not today", 0),
        ("panics", "{}", "the tool crashed", 0),
        ("hangs", "{}", "the tool did not answer within 60 seconds", 60),
        ("echo", "[1]", "the arguments must be a JSON object, not an array", 0),
        ("echo", "null", "the arguments must be a JSON object, not null", 0),
        (
            "strict",
            "{\"day\":1}",
            "the arguments lack required properties: city",
            0,
        ),
        ("strict", "", "the arguments lack required properties: city, day", 0),
        ("unknown", "{}", "there is no tool named bmcp_local_unknown", 0),
    ] {
        let name = format!("bmcp_local_{name}");
        assert_eq!(
            told(&layer, &name, arguments).await,
            (error(message), seconds),
            "{name} {arguments}"
        );
    }
    let (not_json, _) = told(&layer, ECHO, "{\"a\":").await;
    assert!(
        not_json.starts_with(r#"{"error":true,"message":"the arguments are not JSON: "#),
        "{not_json}"
    );
    assert_eq!(
        told(&layer, ECHO, "").await.0,
        "{}",
        "models write nothing where there is nothing to say"
    );
    let quick = layer.tool_timeout(Duration::from_millis(1500));
    let message = error("the tool did not answer within 1.5 seconds");
    assert_eq!(told(&quick, "bmcp_local_hangs", "{}").await.0, message);
}

#[tokio::test(start_paused = true)]
async fn one_call_that_fails_takes_no_other_with_it() {
    let panics = tool_fn(ToolDefinition::new("panics"), |_| async {
        panic!("alone") as Result<&str, Infallible>
    });
    let calls = [
        ("a", ECHO, "{\"a\":1}"),
        ("b", "bmcp_local_panics", "{}"),
        ("c", "bmcp_x", "{}"),
        ("d", ECHO, "{\"d\":4}"),
    ];
    let replies = [tool_calls(&calls), completion("hi")];
    let (seen, _) = converse(&layer([echo(), panics]), ask("hi"), replies).await;
    assert_eq!(assert_every_call_has_its_result(&seen[1]), ["a", "b", "c", "d"]);
    let messages = seen[1].messages().split_off(2);
    let contents: Vec<_> = messages.iter().map(|message| text(&message["content"])).collect();
    let expected = [
        "{\"a\":1}",
        &error("the tool crashed"),
        &error("there is no tool named bmcp_x"),
        "{\"d\":4}",
    ];
    assert_eq!(contents, expected);
}

#[tokio::test(start_paused = true)]
async fn an_oversized_result_is_cut_and_says_so() {
    let long = tool_fn(ToolDefinition::new("long"), |call: ToolCall| async move {
        let length = call.arguments()["length"].as_u64().unwrap_or_default();
        Ok::<_, Infallible>("é".repeat(length as usize))
    });
    let layer = layer([long]);
    let name = "bmcp_local_long";
    let mib = 1 << 20;
    let (whole, _) = told(&layer, name, &format!("{{\"length\":{}}}", mib / 2)).await;
    assert_eq!(whole.len(), mib);
    let (cut, _) = told(&layer, name, &format!("{{\"length\":{mib}}}")).await;
    assert_eq!(cut[mib..], format!("\n[cut: the first {mib} of {} bytes]", 2 * mib));
    let (cut, _) = told(&layer.max_tool_result(3), name, r#"{"length":9}"#).await;
    assert_eq!(cut, "é\n[cut: the first 2 of 18 bytes]");
}

#[tokio::test(start_paused = true)]
async fn a_tool_knows_the_caller_s_request_and_its_actor() {
    #[derive(Clone)]
    struct Tenant(&'static str);

    let tool = tool_fn(
        ToolDefinition::new("whoami").server("staff"),
        |call: ToolCall| async move {
            let actor = call.extensions().get::<Actor>().map_or("nobody", Actor::id);
            let tenant = call.extensions().get::<Tenant>().map_or("none", |tenant| tenant.0);
            Ok::<_, Infallible>(format!("{actor} of {tenant} at {}", call.server()))
        },
    );
    let mut request = ask("hi");
    request.extensions_mut().insert(Actor::new("ada"));
    request.extensions_mut().insert(Tenant("blue"));
    let replies = [tool_calls(&[("a", "bmcp_staff_whoami", "{}")]), completion("hello")];
    let (seen, _) = converse(&layer([tool]), request, replies).await;
    assert_eq!(seen[1].last_content(), "ada of blue at staff");
}
