//! Reading a request, and editing it.

use serde_json::json;

use super::super::Messages;
use super::super::define::{define, input_schema};
use super::conversation::*;
use crate::dialect::turn::{Addition, Call, CallKind, Owner, ToolResult};
use crate::dialect::{Api, OfferSettings, Purpose};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::tools::{ToolDefinition, Tools};

const SETTINGS: OfferSettings = OfferSettings {
    parallel: true,
    reported_usage: None,
};
const INJECTED: &str = r#"{"name":"bmcp_local_clock","input_schema":{"properties":{},"type":"object"}},{"name":"bmcp_local_weather","input_schema":{"properties":{},"type":"object"}}"#;

fn with_tools(body: &str, purpose: Purpose) -> (bool, String) {
    let mut request = read(body, purpose);
    let is_offered = request.offer(tools(), SETTINGS);
    (is_offered, text(request.encode()))
}

#[test]
fn a_tool_has_a_name_a_description_and_an_object_schema() {
    let define = |tool: &ToolDefinition| {
        let mut out = String::new();
        define("bmcp_a_b", tool, &mut out);
        out
    };
    let bare = define(&ToolDefinition::new("b"));
    assert_eq!(
        bare,
        r#"{"name":"bmcp_a_b","input_schema":{"properties":{},"type":"object"}}"#
    );
    let told = define(&ToolDefinition::new("b").description("Says \"b\"."));
    assert!(
        told.contains(r#","description":"Says \"b\".","input_schema""#),
        "{told}"
    );
    let untyped = json!({"properties": {"q": {"type": "string"}}, "required": ["q"]});
    let expected = r#"{"properties":{"q":{"type":"string"}},"required":["q"],"type":"object"}"#;
    assert_eq!(input_schema(Some(&untyped)), expected);
}

#[test]
fn only_what_the_bridge_needs_is_refused() {
    let message = |body: &str| {
        let mut scanner = Scanner::new();
        scanner.scan(body.as_bytes()).unwrap();
        let read = Messages.request(Rope::from(body.to_owned()), &scanner, Purpose::Answer);
        read.err().map(|invalid| invalid.param.unwrap())
    };
    assert_eq!(message(r#"{"messages":[]}"#), Some("model"));
    assert_eq!(message(r#"{"model":1,"messages":[]}"#), Some("model"));
    assert_eq!(message(r#"{"model":"m"}"#), Some("messages"));
    assert_eq!(message(r#"{"model":"m","messages":{}}"#), Some("messages"));
    assert_eq!(
        message(r#"{"model":"m","messages":[],"stream":1,"max_tokens":"x"}"#),
        None
    );
}

#[test]
fn a_request_without_tools_of_ours_is_the_callers_bytes() {
    let body = r#" {"model" : "m", "messages":[{"role":"user","content":"\u00e9"}],"temperature":1.0} "#;
    assert_eq!(text(read(body, Purpose::Answer).encode()), body);
    let mut request = read(body, Purpose::Answer);
    assert!(!request.offer(Tools::new([]), SETTINGS));
    assert_eq!(text(request.encode()), body);
    assert!(request.additions().is_empty());
}

#[test]
fn tools_go_in_front_in_name_order() {
    let body = |tools: &str| format!(r#"{{"model":"m","messages":[]{tools}}}"#);
    let mine = r#"{"name":"mine","cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
    for (before, after) in [
        (String::new(), format!(r#","tools":[{INJECTED}]"#)),
        (r#","tools":[]"#.into(), format!(r#","tools":[{INJECTED}]"#)),
        (r#","tools":null"#.into(), format!(r#","tools":[{INJECTED}]"#)),
        (
            format!(r#","tools": [ {mine}]"#),
            format!(r#","tools": [{INJECTED}, {mine}]"#),
        ),
    ] {
        assert_eq!(with_tools(&body(&before), Purpose::Answer), (true, body(&after)));
    }
    let taken = body(r#","tools":[{"name":"bmcp_local_clock"}]"#);
    let (_, sent) = with_tools(&taken, Purpose::Answer);
    assert_eq!(sent.matches("bmcp_local_clock").count(), 1, "{sent}");
    assert!(sent.contains(r#"[{"name":"bmcp_local_weather""#), "{sent}");
}

#[test]
fn tools_are_injected_only_where_the_caller_leaves_the_choice() {
    let format = r#","output_config":{"format":{"type":"json_schema"}}"#;
    for (rest, is_offered) in [
        ("", true),
        (r#","tool_choice":null"#, true),
        (
            r#","tool_choice":{"type":"auto","disable_parallel_tool_use":true}"#,
            true,
        ),
        (r#","tool_choice":{"type":"none"}"#, true),
        (r#","tool_choice":{"type":"any"}"#, false),
        (r#","tool_choice":{"type":"tool","name":"mine"}"#, false),
        (r#","thread":{"type":"create"}"#, false),
        (r#","thread":null"#, true),
        (format, false),
        (&format!(r#","tools":[]{format}"#), false),
        (&format!(r#","tools":[{{"name":"mine"}}]{format}"#), true),
        (r#","output_config":{"effort":"low","format":null}"#, true),
        (r#","tools":{}"#, false),
    ] {
        let body = format!(r#"{{"model":"m","system":"s","messages":[{{"role":"user","content":"x"}}]{rest}}}"#);
        for purpose in [Purpose::Answer, Purpose::Count] {
            let (offered, sent) = with_tools(&body, purpose);
            assert_eq!(offered, is_offered, "{rest}");
            assert_eq!(sent == body, !is_offered, "{rest}");
        }
    }
    let prefill = r#"{"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","content":"{"}]}"#;
    assert!(!with_tools(prefill, Purpose::Answer).0);
}

#[test]
fn the_operator_may_ask_for_one_call_a_turn() {
    let sent = |choice: &str, purpose: Purpose| {
        let mut request = read(&format!(r#"{{"model":"m","messages":[]{choice}}}"#), purpose);
        request.offer(
            tools(),
            OfferSettings {
                parallel: false,
                ..SETTINGS
            },
        );
        let body: serde_json::Value = serde_json::from_str(&text(request.encode())).unwrap();
        body["tool_choice"].clone()
    };
    let one = json!({"type": "auto", "disable_parallel_tool_use": true});
    assert_eq!(sent("", Purpose::Answer), one);
    assert_eq!(sent(r#","tool_choice":{"type":"auto"}"#, Purpose::Answer), one);
    let asked = r#","tool_choice":{"type":"auto","disable_parallel_tool_use":false}"#;
    assert_eq!(sent(asked, Purpose::Answer), one);
    let none = r#","tool_choice":{"type":"none"}"#;
    assert_eq!(sent(none, Purpose::Answer), json!({"type": "none"}));
    assert_eq!(sent("", Purpose::Count), json!(null), "a count has no parallel calls");
}

#[test]
fn our_additions_can_be_taken_back() {
    let mut request = read(REQUEST, Purpose::Answer);
    assert!(request.offer(tools(), SETTINGS));
    assert_eq!(request.additions(), [Addition::Tools]);
    request.withdraw(&[Addition::Tools]);
    assert_eq!(text(request.encode()), REQUEST);
    assert!(request.additions().is_empty());
}

#[test]
fn tools_can_be_forbidden_for_the_last_round() {
    for choice in ["", r#","tool_choice":{"type":"auto"}"#] {
        let mut request = read(&format!(r#"{{"model":"m","messages":[]{choice}}}"#), Purpose::Answer);
        request.offer(
            tools(),
            OfferSettings {
                parallel: false,
                ..SETTINGS
            },
        );
        request.forbid_tools();
        let body: serde_json::Value = serde_json::from_str(&text(request.encode())).unwrap();
        assert_eq!(body["tool_choice"], json!({"type": "none"}));
        assert_eq!(body["tools"].as_array().unwrap().len(), 2, "the tools stay");
    }
}

#[test]
fn a_round_appends_the_turn_and_one_message_of_results() {
    let call = |id: &str| Call {
        id: id.to_owned(),
        name: CLOCK.to_owned(),
        arguments: "{}".to_owned(),
        owner: Owner::Caller,
        kind: CallKind::Function,
    };
    let (first, second) = (call("a\""), call("b"));
    let results = [(&first, "x\n", false), (&second, "", true)].map(|(call, text, is_error)| ToolResult {
        call,
        text: text.to_owned(),
        is_error,
    });
    for (messages, comma) in [("[]", ""), (r#"[{"role":"user","content":"x"} ]"#, ",")] {
        let body = format!(r#"{{"model":"m","messages":{messages}}}"#);
        let mut request = read(&body, Purpose::Answer);
        request.extend(Rope::from("TURN"), &results);
        let appended = concat!(
            r#"TURN,{"role":"user","content":[{"type":"tool_result","tool_use_id":"a\"","content":"x\n"},"#,
            r#"{"type":"tool_result","tool_use_id":"b","content":"","is_error":true}]}"#
        );
        let messages = messages.strip_suffix(']').unwrap();
        let expected = format!(r#"{{"model":"m","messages":{messages}{comma}{appended}]}}"#);
        assert_eq!(text(request.encode()), expected);
    }
}

#[test]
fn the_prompt_is_the_users_own_words() {
    let prompt = |messages: serde_json::Value| {
        let body = json!({"model": "m", "messages": messages}).to_string();
        read(&body, Purpose::Answer).prompt()
    };
    let reminder = words("<system-reminder>\nbe good</system-reminder>");
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": "r"});
    let user = |content: serde_json::Value| json!({"role": "user", "content": content});
    let system = json!({"role": "system", "content": "env"});
    assert_eq!(prompt(json!([user("hi".into())])).as_deref(), Some("hi"));
    assert_eq!(
        prompt(json!([user(json!([reminder, words("a"), words("b"), reminder]))])).as_deref(),
        Some("b")
    );
    assert_eq!(
        prompt(json!([user("hi".into()), system, system])).as_deref(),
        Some("hi")
    );
    assert_eq!(prompt(json!([user(json!([result, reminder]))])), None);
    assert_eq!(
        prompt(json!([user(json!([result, words("and?")]))])).as_deref(),
        Some("and?")
    );
    assert_eq!(
        prompt(json!([user("hi".into()), {"role": "assistant", "content": "yes"}])),
        None
    );
    assert_eq!(prompt(json!([system])), None);
    assert_eq!(prompt(json!([])), None);
}

#[test]
fn records_learn_the_call_and_the_session() {
    let user = json!({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t1"}, {"type": "tool_result", "tool_use_id": "t2"}, words("x"),
    ]});
    let about = |metadata: serde_json::Value| {
        let body = json!({"model": "m", "messages": [user, {"role": "system", "content": "x"}], "metadata": metadata});
        let request = read(&body.to_string(), Purpose::Answer);
        let about = request.about();
        (about.correlating_tool_call_id.clone(), about.session.clone())
    };
    let (call, session) = about(json!({"user_id": r#"{"device_id":"d","session_id":"s-1"}"#}));
    assert_eq!((call.as_deref(), session.as_deref()), (Some("t2"), Some("s-1")));
    let legacy = json!({"user_id": "user_1_account_2_session_s-2"});
    assert_eq!(about(legacy).1.as_deref(), Some("s-2"));
    for none in [
        json!(null),
        json!({"user_id": "someone"}),
        json!({"user_id": "{\"a\":1}"}),
        json!({"user_id": 3}),
    ] {
        assert_eq!(about(none).1, None);
    }
}
