//! `count_tokens`: a whole request is counted with the injected tools, a piece of one without.

use serde_json::json;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::Tools;

use crate::support::*;
use crate::words::*;

/// M26: a count includes the tools that the answer would have.
#[tokio::test(start_paused = true)]
async fn m26_a_count_has_the_tools_that_the_answer_has() {
    let (recorder, mut recorded) = Recorder::channel(4);
    let layer = BridgeLayer::new()
        .pool(pool(2))
        .tools(Tools::new([echo()]))
        .recorder(recorder);
    let body = json!({"model": "m", "system": "s", "messages": [{"role": "user", "content": "x"}], "tools": [{"name": "mine"}]});
    let count = || post("/v1/messages/count_tokens?beta=true", body.to_string());
    let (seen, answer) = converse(&layer, count(), [r#"{"input_tokens":7}"#]).await;
    assert_eq!(answer.text(), r#"{"input_tokens":7}"#);
    assert_eq!(seen[0].header("x-api-key"), Some(KEYS[0]));
    assert!(drain(&mut recorded).is_empty(), "a count is no answer");
    let (asked, _) = converse(&layer, messages(&body), [words("x").to_string()]).await;
    assert_eq!(seen[0].text(), asked[0].text());
    assert!(seen[0].text().contains(ECHO));
    drain(&mut recorded);

    let piece = question(false).to_string();
    let count = post("/v1/messages/count_tokens", piece.clone());
    let (seen, _) = converse(&layer, count, [r#"{"input_tokens":7}"#]).await;
    assert_eq!(seen[0].text(), piece);

    let mut threaded = body.clone();
    threaded["thread"] = json!({"type": "create"});
    let (asked, _) = converse(&layer, messages(&threaded), [words("x").to_string()]).await;
    assert_eq!(asked[0].text(), threaded.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_refused_count_fails_over_and_rests_no_key_for_answers() {
    let layer = BridgeLayer::new().pool(pool(2));
    let provider = Provider::queue([
        refusal(429, "rate_limit_error"),
        Reply::from(r#"{"input_tokens":7}"#),
        Reply::from(words("x").to_string()),
    ]);
    let stack = bridge(&layer, &provider);
    let body = question(false).to_string();
    let answer = send(&stack, post("/v1/messages/count_tokens", body)).await;
    assert_eq!(answer.text(), r#"{"input_tokens":7}"#);
    assert_eq!(send(&stack, messages(&question(false))).await.status, 200);
    assert_eq!(keys(&provider.seen()), [KEYS[0], KEYS[1], KEYS[0]]);
}
