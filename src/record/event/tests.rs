//! The exact text of every fact: it is what people parse.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::record::tests::{prompt, started};

fn json(fact: Fact) -> String {
    let event = Event {
        interception_id: Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001),
        sequence: 3,
        at: UNIX_EPOCH + Duration::from_micros(1_767_323_045_123_456),
        fact,
    };
    let text = serde_json::to_string(&event).unwrap();
    let mut written = Vec::from(*b"before{");
    event.write_json(&mut written).unwrap();
    assert_eq!(String::from_utf8(written).unwrap(), format!("before{{{text}"));
    // The fact alone is the end of it.
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
    let expected = r#""event":"started","provider":"openai","model":"gpt-4o","path":"/v1/chat/completions","streaming":true,"initiator_id":"u1","metadata":{"team":"a\nb"},"client":"codex","client_session_id":"s1","user_agent":"codex/1","correlating_tool_call_id":"call_0","credential_kind":"byok","credential_hint":"sk-0...ghij"}"#;
    assert_eq!(json(full), format!("{HEAD}{expected}"));
    let expected = r#""event":"started","provider":"openai","model":"gpt-4o","path":"/v1/chat/completions","streaming":false,"initiator_id":null,"metadata":{},"client":"unknown","client_session_id":null,"user_agent":null,"correlating_tool_call_id":null,"credential_kind":"centralized","credential_hint":null}"#;
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
fn token_usage_as_json() {
    let usage = TokenUsage {
        input: u64::MAX,
        output: 2,
        cache_read_input_tokens: 3,
        cache_write_input_tokens: 4,
    };
    let extra = TokenDetails {
        prompt_audio: 5,
        completion_audio: 6,
        completion_reasoning: 7,
        completion_accepted_prediction: 8,
        completion_rejected_prediction: 9,
    };
    let fact = Fact::TokenUsage {
        msg_id: "chatcmpl-1".into(),
        model: "gpt-4o-2024-08-06".into(),
        service_tier: Some("default".into()),
        usage,
        extra,
    };
    let expected = r#""event":"token_usage","msg_id":"chatcmpl-1","model":"gpt-4o-2024-08-06","service_tier":"default","input":18446744073709551615,"output":2,"cache_read_input_tokens":3,"cache_write_input_tokens":4,"extra":{"prompt_audio":5,"completion_audio":6,"completion_reasoning":7,"completion_accepted_prediction":8,"completion_rejected_prediction":9}}"#;
    assert_eq!(json(fact), format!("{HEAD}{expected}"));
}

#[test]
fn tool_usage_as_json() {
    let fact = Fact::ToolUsage {
        msg_id: "chatcmpl-1".into(),
        tool_call_id: "call_1".into(),
        tool: "get_weather".into(),
        server_url: Some("https://mcp.example.com".into()),
        args: json!({ "city": "Oslo" }),
        injected: true,
        invocation_error: Some("no such city".into()),
        duration_ms: Some(12),
    };
    let expected = r#""event":"tool_usage","msg_id":"chatcmpl-1","tool_call_id":"call_1","tool":"get_weather","server_url":"https://mcp.example.com","args":{"city":"Oslo"},"injected":true,"invocation_error":"no such city","duration_ms":12}"#;
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
        usage: TokenUsage::default(),
        duration_ms: 900,
        time_to_first_token_ms: Some(100),
    };
    let expected = r#""event":"ended","outcome":"upstream_error","status":502,"error_type":"api_error","credential_hint":"sk-0...ghij","key_attempts":3,"rounds":2,"usage":{"input":0,"output":0,"cache_read_input_tokens":0,"cache_write_input_tokens":0},"duration_ms":900,"time_to_first_token_ms":100}"#;
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
    assert!(event.write_json(&mut Vec::new()).is_err());
}

#[test]
fn every_time_is_told_to_the_microsecond_whatever_was_told_before() {
    let second = 1_000_000;
    let last = 253_402_300_799 * second;
    let mut times = vec![
        0,
        1,
        42,
        second - 1,
        second,
        second + 1,
        951_782_400 * second + 7,
        last + second - 1,
        last,
    ];
    times.extend(times.clone().into_iter().rev());
    for micros in times {
        let at = UNIX_EPOCH + Duration::from_micros(micros);
        let event = Event {
            interception_id: Uuid::nil(),
            sequence: 0,
            at,
            fact: prompt(),
        };
        let expected = humantime::format_rfc3339_micros(at).to_string();
        assert_eq!(serde_json::to_value(&event).unwrap()["at"], expected);
        let beyond = Event {
            at: UNIX_EPOCH + Duration::from_micros(last + second),
            ..event
        };
        assert!(beyond.write_json(&mut Vec::new()).is_err());
    }
}

/// [`json`] holds the two ways to write an event against each other.
#[test]
fn special_characters_are_escaped_wherever_they_are() {
    for special in ['\0', '\n', '\u{1F}', '"', '\\'] {
        for length in 0..70 {
            for at in 0..=length {
                let mut prompt = "x".repeat(length);
                prompt.insert(at, special);
                json(Fact::PromptUsage {
                    msg_id: String::new(),
                    prompt,
                });
            }
        }
    }
}
