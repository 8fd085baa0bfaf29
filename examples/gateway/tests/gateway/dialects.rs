//! The three APIs side by side: whole and streamed with the demo provider, and one provider without the other.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Gateway, Provider, bytes};

const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

fn post(body: &Value) -> crate::harness::Body {
    bytes(body.to_string())
}

#[tokio::test]
async fn the_demo_speaks_messages_and_responses_with_its_tool_hidden() {
    let gateway = Gateway::start(&[]).await;
    let messages = json!([{"role": "user", "content": "What time is it?"}]);
    let ask = json!({"model": "demo", "max_tokens": 99, "messages": messages});
    for path in ["/v1/messages", "/messages?beta=true"] {
        let (status, message) = gateway.send(Method::POST, path, &[VERSION], post(&ask)).await;
        assert_eq!(
            (status, &message["type"]),
            (StatusCode::OK, &json!("message")),
            "{message}"
        );
        let content = message["content"].as_array().unwrap();
        assert_eq!(content.len(), 1, "{message}");
        assert!(content[0]["text"].as_str().unwrap().starts_with("The clock says 2"));
    }
    let count = "/v1/messages/count_tokens";
    let (status, tokens) = gateway.send(Method::POST, count, &[VERSION], post(&ask)).await;
    assert_eq!((status, &tokens["input_tokens"]), (StatusCode::OK, &json!(4)));
    let (status, models) = gateway.send(Method::GET, "/v1/models", &[VERSION], bytes("")).await;
    assert_eq!((status, &models["data"][0]["id"]), (StatusCode::OK, &json!("demo")));

    let ask = json!({"model": "demo", "input": "What time is it?", "store": false});
    let (status, response) = gateway.send(Method::POST, "/v1/responses", &[], post(&ask)).await;
    assert_eq!(
        (status, &response["status"]),
        (StatusCode::OK, &json!("completed")),
        "{response}"
    );
    assert_eq!(response["output"].as_array().unwrap().len(), 1, "{response}");
    let text = &response["output"][0]["content"][0]["text"];
    assert!(text.as_str().unwrap().starts_with("The clock says 2"));
    assert_eq!(response["tools"], json!([]), "nothing of ours shows");

    gateway.signal().await;
    let (_, _, records) = gateway.end().await;
    let mut dialects = records
        .started()
        .map(|started| started["dialect"].clone())
        .collect::<Vec<_>>();
    dialects.dedup();
    assert_eq!(dialects, ["messages", "responses"]);
}

#[tokio::test]
async fn one_provider_alone_is_enough_and_the_other_s_routes_are_404() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&[
        "--anthropic-upstream",
        &provider.url,
        "--anthropic-key",
        "sk-ant-0123456789abcdef",
    ])
    .await;
    let (status, error) = gateway
        .send(Method::POST, "/v1/chat/completions", &[], bytes("{}"))
        .await;
    assert_eq!(
        (status, &error["error"]["type"]),
        (StatusCode::NOT_FOUND, &json!("invalid_request_error"))
    );
    let (status, _) = gateway.send(Method::GET, "/v1/models", &[], bytes("")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    drop(gateway);

    let gateway = Gateway::start(&["--upstream", &provider.url, "--key", "sk-0123456789abcdefghij"]).await;
    let (status, error) = gateway.send(Method::POST, "/v1/messages", &[], bytes("{}")).await;
    assert_eq!(
        (status, &error["error"]["type"]),
        (StatusCode::NOT_FOUND, &json!("not_found_error"))
    );
    assert_eq!(error["type"], "error");
}

#[tokio::test]
async fn a_websocket_is_refused_at_once() {
    let gateway = Gateway::start(&[]).await;
    let answer = gateway
        .send_raw("GET /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
}
