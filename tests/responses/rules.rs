//! The known faults of other bridges that show only with keys, headers and HTTP.

use http::{HeaderValue, Method, Request};
use serde_json::{Value, json};
use tower_llm_bridge::BridgeLayer;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::Tools;

use crate::support::*;
use crate::words::*;

fn injecting() -> BridgeLayer {
    BridgeLayer::new().pool(pool(2)).tools(Tools::new([echo()]))
}

/// R3, R20, R25: a hidden round leaves no trace, and the caller's usage is the last round's, whole and streamed.
#[tokio::test(start_paused = true)]
async fn r3_a_hidden_round_leaves_no_trace() {
    for streams in [false, true] {
        let (recorder, mut recorded) = Recorder::channel(4);
        let rounds = [
            round(streams, "resp_1", &[call(ECHO)]),
            round(streams, "resp_2", &[words("there")]),
        ];
        let (seen, answer) = converse(&injecting().recorder(recorder), responses(&question(streams)), rounds).await;
        assert_eq!(answer.status, 200);
        let last = if streams {
            let events = read(&answer);
            let expected = [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.output_item.done",
                "response.completed",
            ];
            assert_eq!(types(&events), expected);
            events[4]["response"].clone()
        } else {
            answer.json()
        };
        assert_eq!(
            (&last["id"], &last["usage"]["total_tokens"]),
            (&json!("resp_2"), &json!(35))
        );
        assert_eq!(last["output"], json!([words("there")]));
        assert!(!answer.text().contains("bmcp_"));
        let asked: Value = serde_json::from_slice(&seen[1].body).unwrap();
        assert_eq!(asked["input"][2]["call_id"], "call_1");
        let events = drain(&mut recorded);
        let expected = [
            "started",
            "prompt_usage",
            "token_usage",
            "tool_usage",
            "token_usage",
            "ended completed",
        ];
        assert_eq!(kinds(&events), expected, "streams: {streams}");
        assert_eq!(events[0]["dialect"], "responses");
        assert_eq!(
            (&events[2]["input"], &events[2]["msg_id"]),
            (&json!(20), &json!("resp_1"))
        );
    }
}

/// R6: content that another organisation's key has encrypted or stored is not this key's fault.
#[tokio::test(start_paused = true)]
async fn r6_foreign_content_costs_no_key() {
    for code in ["invalid_encrypted_content", "previous_response_not_found"] {
        let stack_layer = injecting();
        let replies = [
            refusal(400, code, "no"),
            Reply::from(reply("r", "completed", &[]).to_string()),
        ];
        let provider = Provider::queue(replies);
        let stack = bridge(&stack_layer, &provider);
        let answer = send(&stack, responses(&question(false))).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].as_str()),
            (400, Some(code))
        );
        send(&stack, responses(&question(false))).await;
        assert_eq!(provider.keys(), [KEYS[0], KEYS[0]]);
    }
}

/// R14, R15: unreadable requests get an error that tells the client to do otherwise.
#[tokio::test(start_paused = true)]
async fn r14_r15_encodings_and_websockets_are_refused_at_once() {
    let mut request = responses(&question(true));
    request
        .headers_mut()
        .insert("content-encoding", HeaderValue::from_static("zstd"));
    let (_, answer) = converse::<Reply>(&injecting(), request, []).await;
    assert_eq!(answer.status, 415);
    assert_eq!(answer.json()["error"]["code"], "unsupported_content_encoding");
    assert!(answer.text().contains("RequestDecompressionLayer"));

    let knock = Request::builder()
        .method(Method::GET)
        .uri("/v1/responses")
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .body(MockBody::new())
        .unwrap();
    let (seen, answer) = converse::<Reply>(&injecting(), knock, []).await;
    assert_eq!((answer.status.as_u16(), seen.len()), (426, 0));
    assert_eq!(answer.json()["error"]["code"], "websocket_unsupported");
}

/// R18, R19: the caller's organisation header is not sent, and a key without a scope stays usable.
#[tokio::test(start_paused = true)]
async fn r18_r19_no_caller_costs_a_key() {
    let mut request = responses(&question(false));
    request
        .headers_mut()
        .insert("openai-organization", HeaderValue::from_static("org-evil"));
    let done = || Reply::from(reply("r", "completed", &[]).to_string());
    let provider = Provider::queue([
        refusal(401, "mismatched_organization", "no"),
        refusal(401, "mismatched_organization", "no"),
        Reply::new(
            401,
            r#"{"error":{"message":"Missing scopes: api.model.read","type":"invalid_request_error","param":null,"code":null}}"#,
        ),
        Reply::new(
            401,
            r#"{"error":{"message":"Missing scopes: api.model.read","type":"invalid_request_error","param":null,"code":null}}"#,
        ),
        done(),
    ]);
    let stack = bridge(&injecting(), &provider);
    assert_eq!(send(&stack, request).await.status, 401);
    assert!(
        provider
            .seen()
            .iter()
            .all(|seen| seen.header("openai-organization").is_none())
    );
    let models = Request::get("/v1/models").body(MockBody::new()).unwrap();
    assert_eq!(send(&stack, models).await.status, 401);
    assert_eq!(send(&stack, responses(&question(false))).await.status, 200);
    assert_eq!(provider.keys()[4], KEYS[0]);
}

/// R24: the turn's opaque state reaches the caller, and is sent back with the same key.
#[tokio::test(start_paused = true)]
async fn r24_the_turn_state_goes_both_ways() {
    for streams in [false, true] {
        let state = "opaque-1";
        let rounds = [
            round(streams, "resp_1", &[words("so"), call(ECHO)]).header("x-codex-turn-state", state),
            Reply::new(
                429,
                r#"{"error":{"message":"slow","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
            ),
            round(streams, "resp_2", &[words("there")]),
        ];
        let (seen, answer) = converse(&injecting(), responses(&question(streams)), rounds).await;
        assert_eq!(answer.status, 200);
        if streams {
            assert_eq!(answer.header("x-codex-turn-state"), Some(state));
        }
        let states: Vec<_> = seen.iter().map(|seen| seen.header("x-codex-turn-state")).collect();
        assert_eq!(
            states,
            [None, Some(state), None],
            "another key's account does not know it"
        );
    }
}

/// Errors of ours have the API's shape, and the interception's id where Codex looks for it.
#[tokio::test(start_paused = true)]
async fn errors_of_ours_name_the_interception() {
    let limited = || {
        Reply::new(
            429,
            r#"{"error":{"message":"slow","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
        )
        .header("retry-after", "7")
    };
    let (_, answer) = converse(&injecting(), responses(&question(true)), [limited(), limited()]).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, Some("7")));
    assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(answer.header("x-request-id").map(str::len), Some(36));
    for (body, param) in [
        (json!({"input": "x"}), "model"),
        (json!({"model": "m", "input": 1}), "input"),
    ] {
        let (seen, answer) = converse::<Reply>(&injecting(), responses(&body), []).await;
        assert_eq!((answer.status.as_u16(), seen.len()), (400, 0));
        assert_eq!(answer.json()["error"]["param"], param);
    }
}
