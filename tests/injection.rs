//! Which tools are offered to the model, and that nothing else of a request changes.

mod support;

use std::convert::Infallible;

use serde_json::{Value, json};
use support::*;
use tower_llm_bridge::tools::{Tool, ToolDefinition, Tools, tool_fn};

fn layer(tools: impl IntoIterator<Item = Tool>) -> BridgeLayer {
    BridgeLayer::new().pool(pool(1)).tools(Tools::new(tools))
}

fn names(seen: &Seen) -> Vec<String> {
    let request = seen.json();
    let tools = request["tools"].as_array().into_iter().flatten();
    tools.map(|tool| text(&tool["function"]["name"])).collect()
}

const D: &str = r#"{"type":"function","function":{"name":"bmcp_local_echo","parameters":{"properties":{},"type":"object"},"strict":false}}"#;
const X: &str = r#"{ "type":"function", "function":{"name":"theirs","parameters":{}} }"#;

#[tokio::test(start_paused = true)]
async fn tools_are_injected_where_the_caller_leaves_room_for_them() {
    // D and X stand for definitions, M for model and messages.
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
        let forbidden = layer([echo()]).parallel_tool_calls(false);
        let (seen, answer) = converse(&forbidden, chat(expand(sent)), [completion("hi")]).await;
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(seen[0].text(), expand(expected), "{sent}");
    }
    // By default the caller's own choice stays.
    let allowed = layer([echo()]);
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
    let added = format!(",\"tools\":[{D}]");
    let request = chat(MockBody::bytewise(format!("{head}{tail}}} \n")));
    let (seen, answer) = converse(&layer([echo()]), request, [reply, completion("hi")]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(seen[0].text(), format!("{head}{tail}{added}}} \n"));
    let result = r#"{"role":"tool","tool_call_id":"c1","content":"{\"a\":1.0}"}"#;
    // An edit is written right before the bracket that ends the list.
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
                seen[1].last_content(),
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
    let mut results: Vec<_> = seen[1].messages()[2..]
        .iter()
        .map(|message| text(&message["content"]))
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
    assert_eq!(seen[1].last_content(), "mine ran");
    assert!(seen[0].extensions.get::<Tools>().is_none());

    let mut request = ask("hi");
    request.extensions_mut().insert(Tools::default());
    let (seen, _) = converse(&layer([echo()]), request, [completion("hi")]).await;
    assert_eq!(seen[0].body, asked("hi"));
}
