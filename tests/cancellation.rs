//! A caller may leave at any point. Wherever it does: one `ended`, no place lost, no key blamed, nothing left running.

mod support;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use serde_json::Value;
use support::*;
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceExt};
use tower_llm_bridge::pool::{KeyPool, KeyState};
use tower_llm_bridge::record::{Events, Recorder};
use tower_llm_bridge::tools::{ToolCall, ToolDefinition, Tools, tool_fn};

/// Polls a future up to its `left`-th `Pending`, and drops it there.
struct Leaving<F> {
    future: Option<Pin<Box<F>>>,
    left: usize,
}

impl<F> Leaving<F> {
    fn after(left: usize, future: F) -> Self {
        Self {
            future: Some(Box::pin(future)),
            left,
        }
    }
}

impl<F: Future> Future for Leaving<F> {
    /// None if it was dropped.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(None);
        };
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.left == 0 => {
                self.future = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.left -= 1;
                Poll::Pending
            }
        }
    }
}

/// A service whose readiness is pending once before each call.
#[derive(Debug)]
struct Reluctant<S> {
    inner: S,
    asked: bool,
}

impl<S: Clone> Clone for Reluctant<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            asked: false,
        }
    }
}

impl<S, T> Service<T> for Reluctant<S>
where
    S: Service<T>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if !std::mem::replace(&mut self.asked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: T) -> S::Future {
        self.asked = false;
        self.inner.call(request)
    }
}

/// One bridge with everything that a request can wait for.
struct Scene {
    pool: KeyPool,
    provider: Provider,
    probe: Probe<Provider>,
    tools: Alive,
    events: Events,
    layer: BridgeLayer,
}

/// `text` in three frames, with a wait before each and at the end.
fn hesitant(text: &str) -> MockBody {
    let text = text.to_owned();
    let third = text.len() / 3;
    [&text[..third], &text[third..2 * third], &text[2 * third..]]
        .into_iter()
        .fold(MockBody::new(), |body, part| body.pending().data(part.to_owned()))
        .sleep(Duration::from_millis(1))
}

/// Refuses the first attempt of each round without an effect on the key; then two rounds of two tools; then an answer.
fn script(seen: &Seen) -> Reply {
    let wait = "bmcp_local_wait";
    let reply = match seen.attempt() {
        Some((_, 1)) => Reply::new(403, hesitant(r#"{"error":{"code":"model_not_found"}}"#)),
        Some((1 | 2, _)) if seen.uri.path().ends_with("completions") => Reply::ok(hesitant(&tool_calls(&[
            ("a", wait, r#"{"ms":20}"#),
            ("b", wait, r#"{"ms":5}"#),
        ]))),
        _ => Reply::ok(hesitant(&completion("hello"))),
    };
    reply.after(Duration::from_millis(1))
}

fn scene() -> Scene {
    let tools = Alive::default();
    let alive = tools.clone();
    let wait = tool_fn(ToolDefinition::new("wait"), move |call: ToolCall| {
        let token = alive.token();
        async move {
            let time = Duration::from_millis(call.arguments()["ms"].as_u64().unwrap_or_default());
            tokio::time::sleep(time).await;
            drop(token);
            Ok::<_, Infallible>("done")
        }
    });
    let (recorder, events) = Recorder::channel(1);
    let (pool, provider) = (pool(2), Provider::answering(script));
    Scene {
        layer: BridgeLayer::new()
            .base("/v1")
            .expect("a path")
            .pool(pool.clone())
            .recorder(recorder)
            .tools(Tools::new([wait])),
        probe: Probe::new(provider.clone()),
        pool,
        provider,
        tools,
        events,
    }
}

impl Scene {
    /// Sends `request` and leaves after `left` waits. Returns whether the request had ended by then, and the records.
    async fn leave_after(&mut self, left: usize, request: Request<MockBody>) -> (bool, Vec<Value>) {
        let inner = Reluctant {
            inner: self.probe.clone(),
            asked: false,
        };
        let response = Leaving::after(left, self.layer.layer(inner).oneshot(request)).await;
        // The response's body is not read: dropping it is leaving as well.
        let done = response.is_some();
        drop(response);
        assert_eq!(
            (self.provider.busy(), self.probe.reserved()),
            (0, 0),
            "after {left} waits"
        );
        // The runtime drops an aborted task at its next turn.
        tokio::task::yield_now().await;
        assert_eq!(self.tools.count(), 0, "after {left} waits");
        assert!(self.pool.snapshot().iter().all(|key| key.state == KeyState::Usable));
        (done, drain(&mut self.events))
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_at_any_point_leaves_one_end_and_nothing_else() {
    let mut scene = scene();
    let mut tools_cancelled = 0;
    let mut unstarted = 0;
    for left in 0.. {
        assert!(left < 1000, "it never comes to its end");
        let (done, events) = scene.leave_after(left, chat(hesitant(&asked("hi")))).await;
        let kinds = kinds(&events);
        if done {
            assert_eq!(kinds.last().unwrap(), "ended completed");
            assert_eq!(events.last().unwrap()["key_attempts"], 6);
            assert!(left > 40, "there is more to wait for than {left}");
            break;
        }
        if kinds.is_empty() {
            unstarted += 1;
            assert_eq!(unstarted, left + 1, "before the start, and not after it");
        } else {
            assert_eq!(
                kinds.last().unwrap(),
                "ended cancelled",
                "after {left} waits: {kinds:?}"
            );
            assert_eq!(events.last().unwrap()["status"], Value::Null);
        }
        // All known facts are recorded: a turn with its calls, and each call, ended or not.
        let count = |kind: &str| kinds.iter().filter(|name| *name == kind).count();
        assert_eq!(
            count("tool_usage"),
            2 * count("token_usage"),
            "after {left} waits: {kinds:?}"
        );
        let cancelled = |event: &&Value| {
            let error = event["invocation_error"].as_str();
            error.is_some_and(|error| error.starts_with("cancelled"))
        };
        tools_cancelled += events.iter().filter(cancelled).count();
        // The place is free again, and the next request is served as if nothing had happened.
        let start = Instant::now();
        let (done, _) = scene.leave_after(usize::MAX, ask("next")).await;
        assert!(done && Instant::now().saturating_duration_since(start) < Duration::from_secs(1));
    }
    assert!(unstarted > 3 && tools_cancelled > 4, "{unstarted} {tools_cancelled}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_a_listed_path_may_leave_at_any_point_too() {
    let mut scene = scene();
    for left in 0.. {
        assert!(left < 1000, "it never comes to its end");
        let request = Request::get("/v1/models")
            .body(hesitant("a body that nobody asked for"))
            .unwrap();
        let (done, events) = scene.leave_after(left, request).await;
        assert!(events.is_empty());
        if done {
            assert!(left > 4, "there is more to wait for than {left}");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_it_waits_for_a_place_takes_none() {
    let mut scene = scene();
    let stack = scene.layer.layer(scene.probe.clone());
    assert_eq!(send(&stack, ask("first")).await.status, 200);
    for _ in 0..3 {
        assert!(
            timeout(Duration::from_secs(1), send(&stack, ask("second")))
                .await
                .is_err()
        );
    }
    assert_eq!(kinds(&drain(&mut scene.events)).last().unwrap(), "ended completed");
    assert_eq!(send(&stack, ask("third")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_revoked_keys_that_is_cancelled_revokes_and_restores_nothing() {
    let pool = pool(2);
    let gate = Gate::new();
    let replies = [
        Reply::error(401, "invalid_api_key"),
        Reply::error(401, "invalid_api_key"),
        Reply::from(completion("late")).gate(&gate),
        completion("hello").into(),
    ];
    let stack = bridge(&BridgeLayer::new().pool(pool.clone()), &Provider::queue(replies));
    assert_eq!(send(&stack, ask("hi")).await.status, 502);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(timeout(Duration::from_secs(1), send(&stack, ask("hi"))).await.is_err());
    assert!(pool.snapshot().iter().all(|key| key.state == KeyState::Revoked));
    // A caller that leaves does not use up the minute's probe for the others.
    assert_eq!(send(&stack, ask("hi")).await.status, 200);
}

/// Panics where it is told to.
#[derive(Clone)]
struct Panicking {
    in_ready: bool,
    provider: Provider,
}

impl Service<Request<tower_llm_bridge::RequestBody<MockBody>>> for Panicking {
    type Response = http::Response<MockBody>;
    type Error = MockError;
    type Future = <Provider as Service<Request<MockBody>>>::Future;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), MockError>> {
        assert!(!self.in_ready, "in poll_ready");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tower_llm_bridge::RequestBody<MockBody>>) -> Self::Future {
        assert!(request.headers().get("x-panic").is_none(), "in call");
        self.provider.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_below_leaves_one_end_that_says_so_and_its_place() {
    let (recorder, mut events) = Recorder::channel(1);
    let layer = BridgeLayer::new().pool(pool(1)).recorder(recorder);
    let layer = layer.forward_headers(["x-panic"]).unwrap();
    let provider = Provider::queue([Reply::panics(), completion("hello").into()]);
    let in_call = {
        let mut request = ask("hi");
        request.headers_mut().insert("x-panic", "1".parse().unwrap());
        request
    };
    let mut inner = Panicking {
        in_ready: false,
        provider: provider.clone(),
    };
    for request in [in_call, ask("in its future")] {
        let stack = layer.layer(inner.clone());
        assert!(tokio::spawn(stack.oneshot(request)).await.unwrap_err().is_panic());
        assert_eq!(kinds(&drain(&mut events)), ["started", "ended bridge_error"]);
        assert_eq!(provider.busy(), 0);
    }
    let mut stack = layer.layer(inner.clone());
    let answering = stack.ready().await.unwrap().call(ask("hi"));
    let response = tokio::spawn(answering).await.unwrap().unwrap();
    assert_eq!(response.status(), 200, "the next request works");
    assert_eq!(kinds(&drain(&mut events)).last().unwrap(), "ended completed");
    // Panics in `poll_ready`, when the bridge asks for readiness.
    inner.in_ready = true;
    let answering = layer.layer(inner).call(ask("hi"));
    assert!(tokio::spawn(answering).await.unwrap_err().is_panic());
    assert_eq!(kinds(&drain(&mut events)), ["started", "ended bridge_error"]);
}
