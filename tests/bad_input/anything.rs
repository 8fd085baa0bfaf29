//! Random bytes from either side: every request is answered, and the next one works.

use super::*;

/// Nearly valid bytes, and as often random ones.
fn nearly(valid: Vec<String>) -> impl Strategy<Value = Vec<u8>> {
    let mutated = (
        proptest::sample::select(valid),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..6),
    )
        .prop_map(|(text, edits)| {
            let mut bytes = text.into_bytes();
            for (place, byte, edit) in edits {
                let at = place.index(bytes.len().max(1)).min(bytes.len());
                match edit {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    2 => bytes.insert(at, byte),
                    _ => bytes.truncate(at),
                }
            }
            bytes
        });
    prop_oneof![4 => mutated, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

fn requests() -> Vec<String> {
    let tool = json!({"type": "function", "function": {"name": "bmcp_local_echo"}});
    vec![
        asked("hi"),
        json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "é😀"}]}], "stream": true})
            .to_string(),
        json!({"model": "m", "messages": [], "tools": [tool], "n": 1, "tool_choice": "auto"}).to_string(),
        json!({"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true, "x": [1.0]}})
            .to_string(),
    ]
}

fn replies() -> Vec<String> {
    let call = "data: {\"id\":\"a\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"tool_calls\":[{\"index\":0,\
                \"id\":\"c\",\"function\":{\"name\":\"bmcp_local_echo\",\"arguments\":\"{}\"}}]}}]}\n\n";
    vec![
        completion("hello"),
        tool_call("bmcp_local_echo", "{}"),
        tool_calls(&[("a", "bmcp_local_echo", "{\"x\":1}"), ("b", "mine", "")]),
        format!("{CHUNK}{CHUNK}data: [DONE]\n\n"),
        format!(": c\r\n\r\n{call}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1}}}}\n\ndata: [DONE]\n\n"),
        "data: {\"error\":{\"message\":\"x\",\"code\":429}}\n\n".to_owned(),
        r#"{"error":{"message":"x","type":"y","code":"invalid_api_key"}}"#.to_owned(),
    ]
}

/// Whether an answer is one that a client can understand.
fn assert_answered(answer: &Answer) -> Result<(), TestCaseError> {
    if let Some(error) = answer.extensions.get::<BridgeError>() {
        prop_assert_eq!(answer.status, error.kind().status());
        let body = answer.json();
        prop_assert_eq!(names(&body["error"]), ["code", "message", "param", "type"]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_answered(body in nearly(requests()), cut in any::<prop::sample::Index>()) {
        let answered = block_on(async {
            let stack = bridge(&with_echo(), &hello());
            let at = cut.index(body.len() + 1);
            let pieces = MockBody::new().data(body[..at].to_vec()).data(body[at..].to_vec());
            let first = send(&stack, chat(pieces)).await;
            (first, send(&stack, ask("hi")).await)
        });
        assert_answered(&answered.0)?;
        assert_works("the next request", &answered.1);
    }

    #[test]
    fn any_reply_is_answered(
        body in nearly(replies()),
        cut in any::<prop::sample::Index>(),
        status in prop_oneof![4 => Just(200_u16), 1 => prop::sample::select(vec![201, 204, 302, 400, 401, 403, 404, 429, 500])],
        events in any::<bool>(),
        stream in any::<bool>(),
    ) {
        let answered = block_on(async {
            let at = cut.index(body.len() + 1);
            let mut first = Some(body);
            let provider = Provider::answering(move |_| match first.take() {
                Some(body) => {
                    let pieces = MockBody::new().data(body[..at].to_vec()).data(body[at..].to_vec());
                    let kind = if events { "text/event-stream" } else { "application/json" };
                    Reply::new(status, pieces).header("content-type", kind)
                }
                None => completion("hello").into(),
            });
            let stack = bridge(&with_echo().pool(pool(4)), &provider);
            let first = send(&stack, if stream { ask_streamed("hi") } else { ask("hi") }).await;
            (first, send(&stack, ask("hi")).await)
        });
        assert_answered(&answered.0)?;
        assert_works("the next request", &answered.1);
    }
}
