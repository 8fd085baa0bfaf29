//! Rounds: what the model is asked again after it called tools of ours, and what the caller sees of it.

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::*;
use tokio::time::Instant;
use tower::BoxError;
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, Tools, tool_fn};
use tower_llm_bridge::{BridgeError, BridgeErrorKind, Intercepted};

const ECHO: &str = "bmcp_local_echo";

fn layer(tools: impl IntoIterator<Item = Tool>) -> BridgeLayer {
    BridgeLayer::new().pool(pool(1)).tools(Tools::new(tools))
}

/// Sends `request` to a provider that says these one after the other; what it saw, and the answer.
async fn converse<R: Into<Reply>>(
    layer: &BridgeLayer,
    request: http::Request<MockBody>,
    replies: impl IntoIterator<Item = R>,
) -> (Vec<Seen>, Answer) {
    let provider = Provider::queue(replies);
    let answer = send(&bridge(layer, &provider), request).await;
    (provider.seen(), answer)
}

/// The last message's content.
fn last_content(seen: &Seen) -> String {
    let message = &seen.json()["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(message["role"], "tool");
    message["content"].as_str().unwrap().to_owned()
}

/// The ids of the calls in replayed messages, and those of the results: they have to be the same.
fn assert_every_call_has_its_result(seen: &Seen) -> Vec<String> {
    let request = seen.json();
    let (mut called, mut answered) = (Vec::new(), Vec::new());
    for message in request["messages"].as_array().unwrap() {
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        called.extend(calls.map(|call| call["id"].as_str().unwrap().to_owned()));
        answered.extend(message["tool_call_id"].as_str().map(str::to_owned));
    }
    assert_eq!(called, answered);
    called
}

fn names(seen: &Seen) -> Vec<String> {
    let request = seen.json();
    let tools = request["tools"].as_array().into_iter().flatten();
    tools
        .map(|tool| tool["function"]["name"].as_str().unwrap().to_owned())
        .collect()
}

// === injection ===

const D: &str = r#"{"type":"function","function":{"name":"bmcp_local_echo","parameters":{"properties":{},"type":"object"},"strict":false}}"#;
const X: &str = r#"{ "type":"function", "function":{"name":"theirs","parameters":{}} }"#;

#[tokio::test(start_paused = true)]
async fn tools_are_injected_where_the_caller_leaves_room_for_them() {
    // In these, D and X stand for the definitions, M for model and messages.
    let table = [
        ("{M}", "{M,'tools':[D],'parallel_tool_calls':false}"),
        ("{M }", "{M ,'tools':[D],'parallel_tool_calls':false}"),
        ("{'tools':null,M}", "{'tools':[D],M,'parallel_tool_calls':false}"),
        ("{'tools':[],M}", "{'tools':[D],M,'parallel_tool_calls':false}"),
        ("{'tools': [ ] ,M}", "{'tools': [ D] ,M,'parallel_tool_calls':false}"),
        ("{'tools':[X],M}", "{'tools':[X,D],M,'parallel_tool_calls':false}"),
        (
            "{M,'tool_choice':'auto'}",
            "{M,'tool_choice':'auto','tools':[D],'parallel_tool_calls':false}",
        ),
        (
            "{M,'tool_choice':null}",
            "{M,'tool_choice':null,'tools':[D],'parallel_tool_calls':false}",
        ),
        ("{M,'n':1}", "{M,'n':1,'tools':[D],'parallel_tool_calls':false}"),
        ("{M,'n':1.0}", "{M,'n':1.0,'tools':[D],'parallel_tool_calls':false}"),
        ("{M,'n':null}", "{M,'n':null,'tools':[D],'parallel_tool_calls':false}"),
        (
            "{'parallel_tool_calls':true,M}",
            "{'parallel_tool_calls':false,M,'tools':[D]}",
        ),
        (
            "{'parallel_tool_calls':null,M}",
            "{'parallel_tool_calls':false,M,'tools':[D]}",
        ),
        (
            "{'parallel_tool_calls':false,M}",
            "{'parallel_tool_calls':false,M,'tools':[D]}",
        ),
    ];
    let untouched = [
        "{M,'tool_choice':'none'}",
        "{M,'tool_choice':'required','tools':[X]}",
        "{M,'tool_choice':{'type':'function','function':{'name':'theirs'}},'tools':[X]}",
        "{M,'n':2}",
        "{M,'n':0}",
        "{M,'functions':[]}",
        "{M,'function_call':'auto'}",
        "{M,'tools':{}}",
    ];
    let expand = |text: &str| {
        text.replace('\'', "\"")
            .replace('D', D)
            .replace('X', X)
            .replace('M', r#""model":"m","messages":[]"#)
    };
    let table = table.into_iter().chain(untouched.map(|text| (text, text)));
    for (sent, expected) in table {
        let (seen, answer) = converse(&layer([echo()]), chat(expand(sent)), [completion("hi")]).await;
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(seen[0].text(), expand(expected), "{sent}");
    }
    let allowed = layer([echo()]).parallel_tool_calls(true);
    for (sent, expected) in [
        ("{M}", "{M,'tools':[D]}"),
        (
            "{'parallel_tool_calls':true,M}",
            "{'parallel_tool_calls':true,M,'tools':[D]}",
        ),
    ] {
        let (seen, _) = converse(&allowed, chat(expand(sent)), [completion("hi")]).await;
        assert_eq!(seen[0].text(), expand(expected), "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_named_keeps_its_bytes() {
    let (head, tail) = (
        "\t{ \"z\" : 1.0, \"messages\"\r\n:[ {\"role\":\"user\",\"content\":\"\\u00e9\\/\\ud83d\\ude00 é\"} ,{\"role\":\"user\",\"content\":\"\"}",
        " ],\"seed\":1234567890123456789012345, \"a\": [1e400,-0.0,1E+2, {} ] ,\"model\":\"\\u006d\" ,\"\":null",
    );
    let message = "{\"role\":\"assistant\" ,\"content\":null,\"x\":1.0,\"tool_calls\":[{\"id\":\"c\\u0031\",\"function\":{\"name\":\"bmcp_local_echo\",\"arguments\":\"{\\\"a\\\":1.0}\"}}]}";
    let reply = format!("{{\"id\":\"p\",\"choices\":[ {{\"message\": {message} }} ]}}");
    let added = format!(",\"tools\":[{D}],\"parallel_tool_calls\":false");
    let request = chat(MockBody::bytewise(format!("{head}{tail}}} \n")));
    let (seen, answer) = converse(&layer([echo()]), request, [reply, completion("hi")]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(seen[0].text(), format!("{head}{tail}{added}}} \n"));
    let result = r#"{"role":"tool","tool_call_id":"c1","content":"{\"a\":1.0}"}"#;
    // An edit goes right before the bracket that ends the list.
    let space = &tail[..1];
    assert_eq!(
        seen[1].text(),
        format!("{head}{space},{message},{result}{}{added}}} \n", &tail[1..])
    );
}

#[tokio::test(start_paused = true)]
async fn without_tools_the_body_is_the_callers_own_without_a_copy() {
    let body = bytes::Bytes::from(asked("hi"));
    let provider = Provider::queue([completion("hi")]);
    send(&bridge(&layer([]), &provider), chat(body.clone())).await;
    let [Piece::Data(data)] = &provider.last().pieces[..] else {
        panic!("in one piece, as it came")
    };
    assert_eq!(data.as_ptr(), body.as_ptr());
}

#[tokio::test(start_paused = true)]
async fn a_callers_tool_of_the_same_name_wins() {
    let other = tool_fn(ToolDefinition::new("other"), |_| async { Ok::<_, Infallible>("x") });
    let request =
        r#"{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"bmcp_local_\u0065cho"}}]}"#;
    let call = tool_call(ECHO, "{}");
    for (tools, expected) in [
        (vec![echo()], vec![ECHO]),
        (vec![echo(), other], vec![ECHO, "bmcp_local_other"]),
    ] {
        let (seen, answer) = converse(&layer(tools), chat(request), [&*call].map(str::to_owned)).await;
        assert_eq!(names(&seen[0]), expected);
        assert_eq!(
            answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
            ECHO
        );
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_128_tools_ours_are_cut_from_the_end_with_one_warning() {
    let tools: Vec<Tool> = (0..5)
        .map(|index| {
            tool_fn(ToolDefinition::new(format!("t{index}")), |_| async {
                Ok::<_, Infallible>("ran")
            })
        })
        .collect();
    for (theirs, ours) in [(0, 5), (123, 5), (124, 4), (127, 1), (128, 0), (130, 0)] {
        let logs = Logs::capture();
        let list: Vec<Value> = (0..theirs)
            .map(|index| json!({"type": "function", "function": {"name": format!("u{index}")}}))
            .collect();
        let request = chat(json!({"model": "m", "messages": [], "tools": list}).to_string());
        let replies = if ours == 4 {
            // The model makes up the one that was cut.
            vec![tool_call("bmcp_local_t4", "{}"), completion("hi")]
        } else {
            vec![completion("hi")]
        };
        let (seen, _) = converse(&layer(tools.clone()), request, replies).await;
        let expected: Vec<String> = (0..ours).map(|index| format!("bmcp_local_t{index}")).collect();
        assert_eq!(names(&seen[0])[theirs..], expected);
        assert_eq!(
            logs.text().matches("more tools than the provider takes").count(),
            usize::from(ours < 5)
        );
        if ours == 4 {
            assert_eq!(
                last_content(&seen[1]),
                r#"{"error":true,"message":"there is no tool named bmcp_local_t4"}"#
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tools_whose_names_collide_can_both_be_called() {
    let long = "n".repeat(80);
    let tools = ["first", "second"].map(|suffix| {
        tool_fn(
            ToolDefinition::new(format!("{long}{suffix}")).server("s.1/x"),
            move |_| async move { Ok::<_, Infallible>(suffix) },
        )
    });
    let layer = layer(tools);
    let (seen, _) = converse(&layer, ask("hi"), [completion("hi")]).await;
    let names = names(&seen[0]);
    assert_eq!(names.len(), 2);
    let calls: Vec<_> = names.iter().map(|name| (&**name, &**name, "{}")).collect();
    let (seen, _) = converse(&layer, ask("hi"), [tool_calls(&calls), completion("hi")]).await;
    let mut results: Vec<_> = seen[1].json()["messages"].as_array().unwrap()[2..]
        .iter()
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect();
    results.sort();
    assert_eq!(results, ["first", "second"]);
    for name in names {
        assert!(name.starts_with("bmcp_s_1_x_nnn") && name.len() == 64, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_requests_own_tools_take_the_place_of_the_layers() {
    let mine = tool_fn(ToolDefinition::new("mine").server("user"), |_| async {
        Ok::<_, Infallible>("mine ran")
    });
    let mut request = ask("hi");
    request.extensions_mut().insert(Tools::new([mine]));
    let (seen, _) = converse(
        &layer([echo()]),
        request,
        [tool_call("bmcp_user_mine", "{}"), completion("hi")],
    )
    .await;
    assert_eq!(names(&seen[0]), ["bmcp_user_mine"]);
    assert_eq!(last_content(&seen[1]), "mine ran");
    assert!(seen[0].extensions.get::<Tools>().is_none());

    let mut request = ask("hi");
    request.extensions_mut().insert(Tools::default());
    let (seen, _) = converse(&layer([echo()]), request, [completion("hi")]).await;
    assert_eq!(seen[0].body, asked("hi"));
}

// === rounds ===

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
        let messages = seen[1].json()["messages"].as_array().unwrap()[2..].to_vec();
        for ((message, id), seconds) in messages.iter().zip(["a", "b", "c"]).zip(seconds) {
            let expected = json!({"role": "tool", "tool_call_id": id, "content": format!("{id} slept {seconds}")});
            assert_eq!(*message, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_mixed_turn_only_our_calls_are_replayed() {
    let (ours, theirs) = (("o1", ECHO, "{\"a\":1}"), ("t1", "theirs", "{}"));
    for calls in [
        &[ours, theirs][..],
        &[theirs, ours],
        &[theirs, ours, ("t2", "theirs", "{}"), ("o2", ECHO, "{}")],
    ] {
        let replies = [tool_calls(calls), tool_calls(&[theirs])];
        let (seen, answer) = converse(&layer([echo()]), ask("hi"), replies).await;
        let replayed: Vec<&str> = calls
            .iter()
            .map(|call| call.0)
            .filter(|id| id.starts_with('o'))
            .collect();
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

/// What the model is told after it calls `name` like this, and after how many seconds.
async fn told(layer: &BridgeLayer, name: &str, arguments: &str) -> (String, u64) {
    let start = Instant::now();
    let (seen, answer) = converse(layer, ask("hi"), [tool_call(name, arguments), completion("hi")]).await;
    assert_eq!(answer.status, 200, "the loop goes on");
    let took = Instant::now().saturating_duration_since(start).as_secs();
    (last_content(&seen[1]), took)
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
    let messages = seen[1].json()["messages"].as_array().unwrap()[2..].to_vec();
    let contents: Vec<_> = messages
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
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
