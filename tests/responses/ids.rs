//! The ids of stored responses: which one the provider keeps, and who may use it.

use http::{Method, Request};
use serde_json::{Value, json};
use tower_llm_bridge::Actor;
use tower_llm_bridge::tools::Tools;

use crate::support::*;
use crate::words::*;

/// A bridge whose answers are `replies` in turn, and its provider.
fn service(layer: BridgeLayer, replies: Vec<Reply>) -> (Stack, Provider) {
    let provider = Provider::queue(replies);
    let layer = layer.pool(pool(1)).tools(Tools::new([echo()]));
    (bridge(&layer, &provider), provider)
}

fn by(actor: Option<&str>, mut request: Request<MockBody>) -> Request<MockBody> {
    if let Some(actor) = actor {
        request.extensions_mut().insert(Actor::new(actor));
    }
    request
}

fn get(method: Method, path: &str) -> Request<MockBody> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(MockBody::new())
        .unwrap()
}

/// Two rounds that the caller sees something of.
fn visible() -> [Reply; 2] {
    [
        stream("resp_1", &[words("so"), call(ECHO)]),
        stream("resp_2", &[words("there")]),
    ]
}

/// R5: the shown id is that of the first visible round, and stands for the last round's from then on.
#[tokio::test(start_paused = true)]
async fn r5_a_conversation_goes_on_from_its_last_round() {
    let mut replies = Vec::from(visible());
    replies.push(Reply::from(reply("resp_3", "completed", &[]).to_string()));
    replies.extend((0..4).map(|_| Reply::from("{}")));
    let (stack, provider) = service(BridgeLayer::new(), replies);
    let answer = send(&stack, responses(&question(true))).await;
    let events = read(&answer);
    let ids: Vec<&Value> = events
        .iter()
        .filter_map(|event| event.get("response"))
        .map(|response| &response["id"])
        .collect();
    assert!(ids.iter().all(|id| *id == "resp_1"), "{ids:?}");

    let next = json!({"model": "m", "input": "more", "previous_response_id": "resp_1"});
    send(&stack, responses(&next)).await;
    let asked: Value = serde_json::from_slice(&provider.last().body).unwrap();
    assert_eq!(asked["previous_response_id"], "resp_2");

    for (method, path, expected) in [
        (Method::GET, "/v1/responses/resp_1", "/v1/responses/resp_2"),
        (
            Method::GET,
            "/v1/responses/resp_1/input_items?limit=3",
            "/v1/responses/resp_2/input_items?limit=3",
        ),
        (Method::DELETE, "/v1/responses/resp_1", "/v1/responses/resp_2"),
        (
            Method::POST,
            "/v1/responses/resp_1/cancel",
            "/v1/responses/resp_2/cancel",
        ),
    ] {
        send(&stack, get(method, path)).await;
        assert_eq!(provider.last().uri, expected);
        assert_eq!(provider.last().key(), Some(KEYS[0]));
    }
}

/// A pool's key opens everybody's responses, so the bridge decides who may use which.
#[tokio::test(start_paused = true)]
async fn a_response_is_for_the_actor_who_made_it() {
    for streams in [false, true] {
        let replies = vec![
            round(streams, "resp_1", &[words("hello")]),
            Reply::from("{}"),
            Reply::from(reply("resp_2", "completed", &[]).to_string()),
        ];
        let (stack, provider) = service(BridgeLayer::new(), replies);
        send(&stack, by(Some("ann"), responses(&question(streams)))).await;
        let path = "/v1/responses/resp_1";
        for actor in [Some("bob"), None] {
            let answer = send(&stack, by(actor, get(Method::GET, path))).await;
            assert_eq!(answer.status, 404, "{actor:?}");
            assert_eq!(
                answer.json()["error"]["message"],
                "Response with id 'resp_1' not found."
            );
        }
        let unknown = send(&stack, by(Some("ann"), get(Method::DELETE, "/v1/responses/resp_9"))).await;
        assert_eq!(unknown.status, 404);
        let next = json!({"model": "m", "input": "more", "previous_response_id": "resp_1"});
        let others = send(&stack, by(Some("bob"), responses(&next))).await;
        assert_eq!(others.status, 400);
        assert_eq!(others.json()["error"]["param"], "previous_response_id");
        assert_eq!(provider.calls(), 1);

        let own = send(&stack, by(Some("ann"), get(Method::GET, path))).await;
        assert_eq!((own.status.as_u16(), provider.calls()), (200, 2));
        send(&stack, by(Some("ann"), responses(&next))).await;
        assert_eq!(provider.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_without_an_actor_are_served_as_the_operator_says() {
    for serves in [true, false] {
        let replies = (0..2).map(|_| Reply::from("{}")).collect();
        let (stack, provider) = service(BridgeLayer::new().anonymous_responses(serves), replies);
        let answer = send(&stack, get(Method::GET, "/v1/responses/resp_7")).await;
        assert_eq!(answer.status, if serves { 200 } else { 404 });
        // A request that names no stored response is served to all.
        send(&stack, get(Method::POST, "/v1/responses/compact")).await;
        assert_eq!(provider.calls(), if serves { 2 } else { 1 });
    }
}

/// `POST /v1/responses/compact`, with an `encoding`.
fn compact(body: &str, encoding: Option<&str>) -> Request<MockBody> {
    let mut request = Request::post("/v1/responses/compact");
    if let Some(encoding) = encoding {
        request = request.header("content-encoding", encoding);
    }
    request.body(body.to_owned().into()).unwrap()
}

/// A provider might find an id that we do not, so such a body is not sent with a pool's key.
#[tokio::test(start_paused = true)]
async fn a_body_that_names_a_response_is_read() {
    let mut replies = Vec::from(visible());
    replies.push(Reply::from("{}"));
    let (stack, provider) = service(BridgeLayer::new(), replies);
    send(&stack, by(Some("ann"), responses(&question(true)))).await;
    let own = r#"{"model":"m","previous_response_id":"resp_1"}"#;
    let twice = r#"{"previous_response_id":"x","previous_response_id":"resp_1"}"#;
    let deep = format!(
        r#"{{"input":{}1{},"previous_response_id":"resp_1"}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for (body, encoding, status) in [
        (own, None, 400),
        (twice, None, 400),
        (&*deep, None, 400),
        ("\u{feff}{}", None, 400),
        (own, Some("gzip"), 415),
        (own, Some("identity, br"), 415),
    ] {
        let answer = send(&stack, by(Some("bob"), compact(body, encoding))).await;
        assert_eq!(
            (answer.status.as_u16(), provider.calls()),
            (status, 2),
            "{body} {encoding:?}"
        );
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    send(&stack, by(Some("ann"), compact(own, Some("identity")))).await;
    assert_eq!(provider.last().text(), own.replace("resp_1", "resp_2"));

    // The caller's own key opens the caller's own answers only.
    let provider = Provider::answering(|_| Reply::from("{}"));
    let stack = bridge(&BridgeLayer::new().base("/v1").unwrap(), &provider);
    for (body, encoding) in [(twice, None), (own, Some("gzip"))] {
        let mut request = compact(body, encoding);
        let headers = request.headers_mut();
        headers.insert("authorization", "Bearer sk-of-the-caller".parse().unwrap());
        assert_eq!(send(&stack, request).await.status, 200);
        assert_eq!(provider.last().text(), body);
    }
}
