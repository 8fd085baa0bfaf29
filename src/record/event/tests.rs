//! The exact text of every fact: it is what people parse.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::record::tests::{prompt, started};

/// The text of an event with this fact, which reads back as the same event.
fn json(fact: Fact) -> String {
    let event = Event {
        interception_id: Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001),
        sequence: 3,
        at: UNIX_EPOCH + Duration::from_micros(1_767_323_045_123_456),
        fact,
    };
    let text = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["event"], event.fact.name());
    assert_eq!(serde_json::from_value::<Event>(value).unwrap(), event, "{text}");
    // The event's JSON ends with the fact's.
    let fact = serde_json::to_string(&event.fact).unwrap();
    assert!(text.ends_with(&fact[1..]), "{fact}");
    text
}

const HEAD: &str =
    r#"{"interception_id":"01980000-0000-7000-8000-000000000001","sequence":3,"at":"2026-01-02T03:04:05.123456Z","#;

#[test]
fn started_as_json() {
    let full = Fact::Started {
        provider: "openai".into(),
        dialect: Dialect::Responses,
        model: "gpt-4o".into(),
        path: "/v1/chat/completions".into(),
        streaming: true,
        initiator_id: Some("u1".into()),
        metadata: [("team".to_owned(), "a\nb".to_owned())].into(),
        client: "codex".into(),
        client_session_id: Some("s1".into()),
        user_agent: Some("codex/1".into()),
        correlating_tool_call_id: Some("call_0".into()),
        credential_kind: CredentialKind::Byok,
        credential_hint: Some(KeyHint::of("sk-0123456789abcdefghij")),
    };
    let expected = r#""event":"started","provider":"openai","dialect":"responses","model":"gpt-4o","path":"/v1/chat/completions","streaming":true,"initiator_id":"u1","metadata":{"team":"a\nb"},"client":"codex","client_session_id":"s1","user_agent":"codex/1","correlating_tool_call_id":"call_0","credential_kind":"byok","credential_hint":"sk-0...ghij"}"#;
    assert_eq!(json(full), format!("{HEAD}{expected}"));
    let expected = r#""event":"started","provider":"openai","dialect":"chat_completions","model":"gpt-4o","path":"/v1/chat/completions","streaming":false,"initiator_id":null,"metadata":{},"client":"unknown","client_session_id":null,"user_agent":null,"correlating_tool_call_id":null,"credential_kind":"centralized","credential_hint":null}"#;
    assert_eq!(json(started()), format!("{HEAD}{expected}"));
}

#[test]
fn prompt_usage_as_json() {
    let fact = Fact::PromptUsage {
        msg_id: "chatcmpl-1".into(),
        prompt: "two\r\nlines, \u{2028} and \"quotes\"".into(),
    };
    let expected = "\"event\":\"prompt_usage\",\"msg_id\":\"chatcmpl-1\",\"prompt\":\"two\\r\\nlines, \u{2028} and \\\"quotes\\\"\"}";
    assert_eq!(json(fact), format!("{HEAD}{expected}"));
}

#[test]
fn model_thought_as_json() {
    let fact = Fact::ModelThought {
        msg_id: "msg_1".into(),
        source: "thinking".into(),
        content: "Hm.".into(),
    };
    let expected = r#""event":"model_thought","msg_id":"msg_1","source":"thinking","content":"Hm."}"#;
    assert_eq!(json(fact), format!("{HEAD}{expected}"));
}

#[test]
fn token_usage_as_json() {
    let usage = TokenUsage {
        input: u64::MAX,
        output: 2,
        cache_read_input_tokens: 3,
        cache_write_input_tokens: 4,
    };
    let extra = TokenDetails::from_iter([("web_search_requests", 5), ("completion_reasoning", u64::MAX)]);
    let cost = Some(Cost::new("0.00123".parse().unwrap(), "USD"));
    let fact = Fact::TokenUsage {
        msg_id: "chatcmpl-1".into(),
        model: "gpt-4o-2024-08-06".into(),
        service_tier: Some("default".into()),
        usage,
        extra,
        cost,
    };
    let expected = r#""event":"token_usage","msg_id":"chatcmpl-1","model":"gpt-4o-2024-08-06","service_tier":"default","input":18446744073709551615,"output":2,"cache_read_input_tokens":3,"cache_write_input_tokens":4,"extra":{"completion_reasoning":18446744073709551615,"web_search_requests":5},"cost":{"amount":"0.00123","currency":"USD"}}"#;
    assert_eq!(json(fact), format!("{HEAD}{expected}"));
    let fact = Fact::TokenUsage {
        msg_id: String::new(),
        model: String::new(),
        service_tier: None,
        usage: TokenUsage::default(),
        extra: TokenDetails::default(),
        cost: None,
    };
    let expected = r#""event":"token_usage","msg_id":"","model":"","service_tier":null,"input":0,"output":0,"cache_read_input_tokens":0,"cache_write_input_tokens":0,"extra":{},"cost":null}"#;
    assert_eq!(json(fact), format!("{HEAD}{expected}"));
}

#[test]
fn tool_usage_as_json() {
    let fact = Fact::ToolUsage {
        msg_id: "chatcmpl-1".into(),
        tool_call_id: "call_1".into(),
        tool: "get_weather".into(),
        server: Some("weather".into()),
        server_url: Some("https://mcp.example.com".into()),
        args: json!({ "city": "Oslo" }),
        injected: true,
        invocation_error: Some("no such city".into()),
        duration_ms: Some(12),
    };
    let expected = r#""event":"tool_usage","msg_id":"chatcmpl-1","tool_call_id":"call_1","tool":"get_weather","server":"weather","server_url":"https://mcp.example.com","args":{"city":"Oslo"},"injected":true,"invocation_error":"no such city","duration_ms":12}"#;
    assert_eq!(json(fact), format!("{HEAD}{expected}"));
}

#[test]
fn ended_as_json() {
    let fact = Fact::Ended {
        outcome: Outcome::UpstreamError,
        status: Some(502),
        error_type: Some("api_error".into()),
        credential_hint: Some(KeyHint::of("sk-0123456789abcdefghij")),
        key_attempts: 3,
        rounds: 2,
        injection: Injection::Offered,
        usage: TokenUsage::default(),
        cost: None,
        duration_ms: 900,
        time_to_first_token_ms: Some(100),
    };
    let expected = r#""event":"ended","outcome":"upstream_error","status":502,"error_type":"api_error","credential_hint":"sk-0...ghij","key_attempts":3,"rounds":2,"injection":"offered","input":0,"output":0,"cache_read_input_tokens":0,"cache_write_input_tokens":0,"cost":null,"duration_ms":900,"time_to_first_token_ms":100}"#;
    assert_eq!(json(fact), format!("{HEAD}{expected}"));
}

#[test]
fn outcomes_have_one_name() {
    for outcome in [
        Outcome::Completed,
        Outcome::UpstreamError,
        Outcome::KeysExhausted,
        Outcome::Cancelled,
        Outcome::BridgeError,
    ] {
        assert_eq!(serde_json::to_value(outcome).unwrap(), Value::from(outcome.as_str()));
    }
}

#[test]
fn every_name_reads_back() {
    for injection in [Injection::None, Injection::Offered, Injection::Refused] {
        assert_eq!(
            serde_json::to_value(injection).unwrap(),
            Value::from(injection.as_str())
        );
    }
    for dialect in [Dialect::ChatCompletions, Dialect::Messages, Dialect::Responses] {
        let name = Value::from(dialect.as_str());
        assert_eq!(serde_json::to_value(dialect).unwrap(), name);
        assert_eq!(serde_json::from_value::<Dialect>(name).unwrap(), dialect);
    }
}

#[test]
fn an_event_needs_only_the_members_that_tell_it_apart() {
    let event = |fact: &str| {
        let text = format!("{HEAD}{fact},\"from the future\":[1.5,null]}}");
        serde_json::from_str::<Event>(&text).map(|event| event.fact.name())
    };
    for fact in [
        r#""event":"started","provider":"p","dialect":"messages","model":"m","path":"/","streaming":true,"client":"c","credential_kind":"byok""#,
        r#""event":"token_usage","msg_id":"1","model":"m""#,
        r#""event":"tool_usage","msg_id":"1","tool_call_id":"2","tool":"t","args":null,"injected":false"#,
        r#""event":"ended","outcome":"cancelled","key_attempts":1,"rounds":1,"injection":"none","duration_ms":5"#,
    ] {
        assert!(event(fact).is_ok(), "{fact}: {:?}", event(fact));
    }
    for fact in [
        r#""event":"party""#,
        r#""msg_id":"1","model":"m""#,
        r#""event":"token_usage","msg_id":"1","model":"m","input":-1"#,
        r#""event":"token_usage","msg_id":"1","model":"m","cost":{"amount":"-1","currency":"USD"}"#,
    ] {
        assert!(event(fact).is_err(), "{fact}");
    }
}

#[test]
fn a_wrong_clock_does_not_panic() {
    let mut event = Event {
        interception_id: Uuid::nil(),
        sequence: 0,
        at: SystemTime::now(),
        fact: prompt(),
    };
    event.at = UNIX_EPOCH - Duration::from_secs(1);
    assert!(
        serde_json::to_string(&event)
            .unwrap()
            .contains(r#""at":"1970-01-01T00:00:00.000000Z""#)
    );
    event.at = UNIX_EPOCH + Duration::from_secs(400_000_000_000);
    assert!(serde_json::to_string(&event).is_err());
}
