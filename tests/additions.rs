//! Our additions to a request: a provider that refuses one gets the caller's own request.

mod support;

use std::time::Duration;

use serde_json::json;
use support::*;
use tokio::time::advance;
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::Tools;

fn layer(pool: &KeyPool) -> BridgeLayer {
    BridgeLayer::new().pool(pool.clone())
}

/// A provider that refuses requests with `member`, with this message.
fn refusing(member: &'static str, status: u16, words: &'static str, stream: bool) -> Provider {
    Provider::answering(move |seen| match seen.json().get(member) {
        Some(_) => Reply::json(status, words),
        None if stream => Reply::events(format!("{CHUNK}data: [DONE]\n\n")),
        None => Reply::ok(completion("hello")),
    })
}

#[tokio::test(start_paused = true)]
async fn d_an_addition_that_is_refused_is_taken_back_and_remembered() {
    let table = [
        (
            "parallel_tool_calls",
            400,
            r#"{"error":{"message":"Unsupported parameter: 'parallel_tool_calls' is not supported with this model.","param":"parallel_tool_calls","code":"unsupported_parameter"}}"#,
            "{}",
        ),
        (
            "tools",
            400,
            r#"{"error":{"message":"registry.ollama.ai/library/gemma does not support tools"}}"#,
            "{}",
        ),
        (
            "tools",
            400,
            r#"{"error":{"message":"json mode cannot be combined with tool/function calling","type":"invalid_request_error"}}"#,
            r#"{"response_format":{"type":"json_object"}}"#,
        ),
        (
            "tools",
            404,
            r#"{"error":{"message":"No endpoints found that support tool use.","code":404}}"#,
            "{}",
        ),
    ];
    for (member, status, words, extra) in table {
        let (pool, provider) = (pool(2), refusing(member, status, words, false));
        let (recorder, mut events) = Recorder::channel(64);
        let layer = layer(&pool)
            .tools(Tools::new([echo()]))
            .parallel_tool_calls(false)
            .recorder(recorder);
        let stack = bridge(&layer, &provider);
        let mut body = json!({"model": "o3-mini", "messages": [{"role": "user", "content": "hi"}]});
        let extra: serde_json::Value = serde_json::from_str(extra).unwrap();
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let plain = body.to_string();

        assert_eq!(send(&stack, chat(plain.clone())).await.status, 200, "{words}");
        assert_eq!(provider.calls(), 2, "{words}");
        assert_eq!(provider.last().text(), plain, "the caller's own bytes");
        assert_eq!(provider.keys(), [KEYS[0]; 2], "with the same key");
        let attempts: Vec<_> = provider.seen().iter().map(Seen::attempt).collect();
        assert_eq!(attempts, [Some((1, 1)), Some((1, 2))]);
        let records = drain(&mut events);
        assert_eq!(ended(&records)["injection"], "refused");

        assert_eq!(send(&stack, chat(plain.clone())).await.status, 200);
        assert_eq!(provider.calls(), 3, "remembered: {words}");
        assert!(provider.last().json().get(member).is_none());
        let tools = provider.last().json().get("tools").is_some();
        assert_eq!(tools, member == "parallel_tool_calls", "nothing else is taken back");

        // Nothing changes for another model, or after ten minutes.
        let other = plain.replace("o3-mini", "gpt-4o");
        send(&stack, chat(other)).await;
        assert_eq!(provider.calls(), 5, "{words}");
        advance(Duration::from_secs(601)).await;
        send(&stack, chat(plain)).await;
        assert_eq!(provider.calls(), 7, "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn d4_a_stream_option_that_is_refused_is_taken_back() {
    let words = r#"{"error":{"message":"Extra inputs are not permitted","param":"stream_options","type":"invalid_request_error"}}"#;
    let (pool, provider) = (pool(1), refusing("stream_options", 422, words, true));
    let stack = bridge(&layer(&pool), &provider);
    for calls in [2, 3] {
        let answer = send(&stack, ask_streamed("hi")).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("\"x\""));
        assert_eq!(provider.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_caller_s_own_members_goes_back_at_once() {
    let words = r#"{"error":{"message":"Unsupported value: 'temperature'","param":"temperature"}}"#;
    let provider = Provider::answering(move |_| Reply::json(400, words));
    let stack = bridge(&layer(&pool(2)).tools(Tools::new([echo()])), &provider);
    let answer = send(&stack, ask("hi")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text(), provider.calls()),
        (400, words, 1)
    );
    // If the request is refused without our tools as well, the caller gets the answer to its own request.
    let provider = Provider::queue([
        Reply::json(400, r#"{"error":{"message":"bad tools"}}"#),
        Reply::json(400, words),
        Reply::json(400, r#"{"error":{"message":"bad tools"}}"#),
        Reply::json(400, words),
    ]);
    let stack = bridge(&layer(&pool(2)).tools(Tools::new([echo()])), &provider);
    for calls in [2, 4] {
        assert_eq!(send(&stack, ask("hi")).await.text(), words);
        assert_eq!(provider.calls(), calls, "not remembered");
    }
}

/// A model that accepts tools unless it must answer in a format.
fn no_tools_in_a_format() -> Provider {
    Provider::answering(|seen| {
        let body = seen.json();
        match body.get("tools").is_some() && body.get("response_format").is_some() {
            true => Reply::json(
                400,
                r#"{"error":{"message":"json mode cannot be combined with tool calling"}}"#,
            ),
            false => Reply::ok(completion("hello")),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn what_one_refusal_is_about_stays_offered_to_all_others() {
    let with_format = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "json_object"}});
    let plain = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let has_tools = |provider: &Provider| provider.last().json().get("tools").is_some();

    let provider = no_tools_in_a_format();
    let layer = layer(&pool(1)).tools(Tools::new([echo()]));
    let stack = bridge(&layer, &provider);
    for calls in [2, 3] {
        assert_eq!(send(&stack, chat(with_format.to_string())).await.status, 200);
        assert_eq!((provider.calls(), has_tools(&provider)), (calls, false));
    }
    send(&stack, chat(plain.to_string())).await;
    assert!(has_tools(&provider), "without a format");

    // A changed layer may lead to another provider.
    let other = Provider::answering(|_| Reply::ok(completion("hello")));
    let stack = bridge(&layer.clone().provider("other"), &other);
    send(&stack, chat(with_format.to_string())).await;
    assert!(has_tools(&other), "of another provider");
}

#[tokio::test(start_paused = true)]
async fn tools_that_stay_offered_are_not_recorded_as_refused() {
    let words = r#"{"error":{"message":"Unknown parameter: 'stream_options'.","param":"stream_options"}}"#;
    for tools in [Tools::default(), Tools::new([echo()])] {
        let offered = if tools.is_empty() { "none" } else { "offered" };
        let (recorder, mut events) = Recorder::channel(64);
        let provider = refusing("stream_options", 400, words, true);
        let stack = bridge(&layer(&pool(1)).tools(tools).recorder(recorder), &provider);
        send(&stack, ask_streamed("hi")).await;
        drain(&mut events);
        send(&stack, ask_streamed("hi")).await;
        assert_eq!(provider.calls(), 3);
        let records = drain(&mut events);
        assert_eq!(ended(&records)["injection"], offered);
        assert_eq!(provider.last().json().get("tools").is_some(), offered == "offered");
    }
}

/// Model names come from callers.
#[tokio::test(start_paused = true)]
async fn the_refusals_of_256_models_are_remembered() {
    let words = r#"{"error":{"message":"this model does not support tools"}}"#;
    let provider = refusing("tools", 400, words, false);
    let stack = bridge(&layer(&pool(1)).tools(Tools::new([echo()])), &provider);
    let model = |number: usize| {
        chat(json!({"model": format!("m-{number}"), "messages": [{"role": "user", "content": "hi"}]}).to_string())
    };
    for number in 0..=256 {
        advance(Duration::from_millis(1)).await;
        assert_eq!(send(&stack, model(number)).await.status, 200);
    }
    let calls = provider.calls();
    send(&stack, model(1)).await;
    assert_eq!(provider.calls(), calls + 1, "remembered");
    send(&stack, model(0)).await;
    assert_eq!(provider.calls(), calls + 3, "forgotten");
}
