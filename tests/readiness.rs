//! Tower's contract on every path, and no deadlock where recorder places and service slots are both scarce.

mod support;

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use support::*;
use tokio::time::timeout;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_llm_bridge::RequestBody;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::Tools;
use tower_test::mock;

/// In virtual time; a test that takes this long hangs.
const HANGS: Duration = Duration::from_secs(3600);

const CALL: &str = r#"data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"bmcp_local_echo","arguments":"{}"}}]}}]}

data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

"#;

const WORDS: &str = r#"data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}

data: [DONE]

"#;

/// Refuses the first attempt of every round, calls a tool in the first two rounds, answers in the third. Keys stay
/// usable.
fn script(seen: &Seen) -> Reply {
    let stream = seen.text().contains("\"stream\":true");
    let chat = |whole: String, events: &'static str| if stream { Reply::events(events) } else { whole.into() };
    let reply = match seen.attempt() {
        Some((_, 1)) => Reply::error(403, "model_not_found"),
        Some((1 | 2, _)) => chat(tool_call("bmcp_local_echo", "{}"), CALL),
        _ => chat(completion("hello"), WORDS),
    };
    reply.after(Duration::from_millis(1))
}

fn layer() -> BridgeLayer {
    let layer = BridgeLayer::new().base("/v1").expect("a path");
    layer.pool(pool(2)).tools(Tools::new([echo()]))
}

#[tokio::test(start_paused = true)]
async fn every_attempt_of_every_round_is_readied_on_its_handle() {
    let provider = Provider::answering(script);
    let probe = Probe::new(provider.clone());
    let stack = layer().layer(probe.clone());
    let streamed = asked("hi").replacen('{', r#"{"stream":true,"#, 1);
    for (request, words, calls) in [(ask("hi"), "hello", 6), (chat(streamed), "[DONE]", 6)] {
        let before = probe.calls();
        let answer = send(&stack, request).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(words), "{answer:?}");
        assert_eq!((probe.calls() - before, probe.reserved()), (calls, 0));
    }
    let provider = Provider::queue([Reply::error(401, "invalid_api_key"), Reply::ok("{}")]);
    let probe = Probe::new(provider);
    let request = Request::get("/v1/models").body(MockBody::new()).unwrap();
    assert_eq!(send(&layer().layer(probe.clone()), request).await.status, 200);
    assert_eq!((probe.calls(), probe.reserved()), (2, 0));
    // A request that is passed through uses its caller's readiness.
    let provider = Provider::queue([Reply::ok("{}")]);
    let probe = Probe::new(provider);
    let request = Request::get("/health").body(MockBody::new()).unwrap();
    assert_eq!(send(&layer().layer(probe.clone()), request).await.status, 200);
    assert_eq!((probe.calls(), probe.reserved()), (1, 0));
}

#[test]
#[should_panic(expected = "not polled ready")]
fn the_probe_notices() {
    let mut ready = Probe::new(tower::service_fn(|()| async { Ok::<_, MockError>(()) }));
    assert!(task::spawn(async { ready.ready().await.is_ok() }).poll().is_ready());
    drop(ready.clone().call(()));
    drop(ready);
}

#[tokio::test(start_paused = true)]
async fn no_call_is_made_before_the_inner_service_is_ready() {
    let (service, mut handle) = mock::pair::<Request<RequestBody<MockBody>>, Response<MockBody>>();
    let mut stack = layer().layer(service);
    handle.allow(1);
    let ready = task::spawn(async { stack.ready().await.map(|_| ()) }).poll();
    assert!(assert_ready!(ready).is_ok());
    // The slot that the caller reserved is not used by an attempt.
    handle.allow(0);
    let mut answering = task::spawn(stack.call(ask("hi")));
    for (round, attempt) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)] {
        // The tools run on other tasks.
        for _ in 0..8 {
            assert_pending!(answering.poll());
            tokio::task::yield_now().await;
        }
        assert_pending!(task::spawn(async { handle.next_request().await.is_some() }).poll());
        handle.allow(1);
        assert_pending!(answering.poll());
        let (request, reply) = handle.next_request().await.unwrap();
        let (parts, body) = request.into_parts();
        let called = *parts.extensions.get::<tower_llm_bridge::UpstreamAttempt>().unwrap();
        assert_eq!((called.round(), called.attempt()), (round, attempt));
        let _ = body.collect().await.unwrap();
        let response = match (round, attempt) {
            (_, 1) => Response::builder()
                .status(StatusCode::FORBIDDEN)
                .body(r#"{"error":{"code":"model_not_found"}}"#.into()),
            (3, _) => Response::builder().body(completion("hello").into()),
            _ => Response::builder().body(tool_call("bmcp_local_echo", "{}").into()),
        };
        reply.send_response(response.unwrap());
    }
    let response = assert_ready!(answering.poll()).unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn one_place_and_one_place_serve_everybody() {
    let (recorder, mut events) = Recorder::channel(1);
    let consumer = tokio::spawn(async move {
        let mut ended = 0;
        while let Some(event) = events.recv().await {
            ended += usize::from(serde_json::to_value(&event).unwrap()["event"] == "ended");
        }
        ended
    });
    let provider = Provider::answering(script);
    let layer = layer().recorder(recorder);
    let limited = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(Probe::new(provider.clone()));
    crowd(&layer.layer(limited)).await;
    let limited = ServiceBuilder::new()
        .buffer(1)
        .concurrency_limit(1)
        .service(Probe::new(provider.clone()));
    crowd(&layer.layer(limited)).await;
    assert_eq!(provider.calls(), 2 * 32 * 6);
    drop(layer);
    assert_eq!(timeout(HANGS, consumer).await.unwrap().unwrap(), 2 * 32);
}

/// Sends 32 requests at once.
async fn crowd<S>(stack: &S)
where
    S: Service<Request<MockBody>, Response = Response<tower_llm_bridge::ResponseBody<MockBody>>>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    S::Error: std::fmt::Debug + Send,
{
    let requests: Vec<_> = (0..32)
        .map(|_| tokio::spawn(stack.clone().oneshot(ask("hi"))))
        .collect();
    for request in requests {
        let response = timeout(HANGS, request)
            .await
            .expect("no deadlock")
            .expect("no panic")
            .expect("an answer");
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_not_kept_while_the_caller_uploads_or_waits_for_its_place() {
    let (recorder, mut events) = Recorder::channel(1);
    let gate = Gate::new();
    let provider = Provider::answering(script);
    let probe = Probe::new(provider);
    let limited = ServiceBuilder::new().concurrency_limit(1).service(probe.clone());
    let stack = layer().recorder(recorder).layer(limited);
    let uploading = chat(
        MockBody::new()
            .data("{")
            .gate(&gate)
            .data(asked("slow")[1..].to_owned()),
    );
    let slow = tokio::spawn(stack.clone().oneshot(uploading));
    gate.reached().await;
    assert_eq!(probe.reserved(), 0, "given back");
    let quick = timeout(HANGS, stack.clone().oneshot(ask("quick")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(quick.status(), 200);
    // The place of the quick request is still taken: its last event was not received.
    gate.open();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(probe.reserved(), 0, "not taken before the place");
    assert!(kinds(&drain(&mut events)).ends_with(&["ended completed".to_owned()]));
    assert_eq!(timeout(HANGS, slow).await.unwrap().unwrap().unwrap().status(), 200);
}
