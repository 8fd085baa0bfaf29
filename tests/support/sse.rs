//! A scripted provider whose bodies can be cut, held up, broken off and watched, and a bridge in front of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::record::{Events, Recorder};
use tower_llm_bridge::tools::{ToolCall, ToolDefinition, Tools, tool_fn};
use tower_llm_bridge::{BridgeLayer, Intercepted, RequestBody, ResponseBody};

pub(crate) const FIRST_KEY: &str = "sk-first-0123456789abcdef";
pub(crate) const SECOND_KEY: &str = "sk-second-0123456789abcdef";

pub(crate) type Reply = Response<ResponseBody<ScriptedBody>>;

/// What a provider's body does next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Data(Bytes),
    /// Not ready at once, like a socket.
    Yield,
    Wait(Duration),
    Hang,
    Reset,
    /// The same frame for ever.
    Endless(Bytes),
}

/// One answer of the provider.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    steps: Vec<Step>,
    delay: Duration,
}

/// How a scripted stream is cut into frames.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    Whole,
    EveryByte,
    At(usize),
}

/// A request as the provider got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// The provider's side: its script, what it saw, and what of it is still alive.
#[derive(Clone, Default)]
pub(crate) struct Provider {
    script: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) gauge: Arc<Gauge>,
}

/// Counts of a provider's bodies and of tool runs.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    pulled: AtomicUsize,
    bodies: AtomicUsize,
    tools: AtomicUsize,
}

/// A body that follows its script.
pub(crate) struct ScriptedBody {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    gauge: Arc<Gauge>,
}

/// Counts as running while it lives.
struct Running(Arc<Gauge>);

/// A bridge with two keys, a recorder and some tools, before a scripted provider.
pub(crate) struct Bench {
    pub(crate) provider: Provider,
    pub(crate) events: Events,
    layer: BridgeLayer,
}

/// All that one conversation did, with the interception's id written as `$ID`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) requests: Vec<String>,
    pub(crate) records: Vec<Value>,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn stream(text: impl Into<Bytes>) -> Self {
        Self::steps([Step::Data(text.into())])
    }

    pub(crate) fn steps(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "text/event-stream; charset=utf-8")],
            steps: steps.into_iter().collect(),
            delay: Duration::ZERO,
        }
    }

    pub(crate) fn json(status: u16, text: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json")],
            ..Self::stream(text)
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.retain(|(known, _)| *known != name || name == "set-cookie");
        self.headers.push((name, value));
        self
    }

    pub(crate) fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(crate) fn cut(mut self, cut: Cut) -> Self {
        let cut = |step: &Step| match step {
            Step::Data(data) => cut.apply(data),
            other => vec![other.clone()],
        };
        self.steps = self.steps.iter().flat_map(cut).collect();
        self
    }
}

// === impl Cut ===

impl Cut {
    /// As one piece, byte by byte, and in two pieces at every `step`th place of the longest of `streams`.
    pub(crate) fn all(streams: &[String], step: usize) -> impl Iterator<Item = Self> {
        let longest = streams.iter().map(String::len).max().unwrap_or_default();
        [Self::Whole, Self::EveryByte]
            .into_iter()
            .chain((1..longest).step_by(step).map(Self::At))
    }

    fn apply(self, data: &Bytes) -> Vec<Step> {
        match self {
            Self::At(place) if place < data.len() => {
                vec![
                    Step::Data(data.slice(..place)),
                    Step::Yield,
                    Step::Data(data.slice(place..)),
                ]
            }
            Self::Whole | Self::At(_) => vec![Step::Data(data.clone())],
            Self::EveryByte => (0..data.len())
                .flat_map(|place| [Step::Data(data.slice(place..=place)), Step::Yield])
                .collect(),
        }
    }
}

// === impl Provider ===

impl Provider {
    pub(crate) fn push(&self, answer: Answer) {
        self.script.lock().unwrap().push_back(answer);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn answer(self, request: Request<RequestBody<Full<Bytes>>>) -> Result<Response<ScriptedBody>, String> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.seen.lock().unwrap().push(Seen {
            headers: parts.headers,
            body: String::from_utf8(body.into()).unwrap(),
        });
        let answer = self.script.lock().unwrap().pop_front();
        let answer = answer.ok_or("sk-secret of the inner service: nothing left in the script")?;
        sleep(answer.delay).await;
        let mut response = Response::builder().status(answer.status);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        self.gauge.bodies.fetch_add(1, Ordering::SeqCst);
        let body = ScriptedBody {
            steps: answer.steps.into(),
            sleep: None,
            gauge: self.gauge,
        };
        Ok(response.body(body).unwrap())
    }
}

// === impl Gauge ===

impl Gauge {
    /// Frames that were read of all bodies.
    pub(crate) fn pulled(&self) -> usize {
        self.pulled.load(Ordering::SeqCst)
    }

    /// Bodies that were not dropped yet.
    pub(crate) fn bodies(&self) -> usize {
        self.bodies.load(Ordering::SeqCst)
    }

    /// Tool calls that run.
    pub(crate) fn tools(&self) -> usize {
        self.tools.load(Ordering::SeqCst)
    }
}

// === impl ScriptedBody ===

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            let Some(step) = self.steps.pop_front() else {
                return Poll::Ready(None);
            };
            match step {
                Step::Data(data) => {
                    self.gauge.pulled.fetch_add(1, Ordering::SeqCst);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Step::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Wait(time) => self.sleep = Some(Box::pin(sleep(time))),
                Step::Hang => {
                    self.steps.push_front(Step::Hang);
                    return Poll::Pending;
                }
                Step::Reset => return Poll::Ready(Some(Err("connection reset by 10.1.2.3".to_owned()))),
                Step::Endless(data) => {
                    self.steps.push_front(Step::Endless(data.clone()));
                    self.gauge.pulled.fetch_add(1, Ordering::SeqCst);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }
}

impl Drop for ScriptedBody {
    fn drop(&mut self) {
        self.gauge.bodies.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Running ===

impl Running {
    fn new(gauge: &Arc<Gauge>) -> Self {
        gauge.tools.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(gauge))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.tools.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Bench ===

impl Bench {
    /// `answers` are the provider's, in the order of its calls.
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::with(answers, |layer| layer)
    }

    pub(crate) fn with(
        answers: impl IntoIterator<Item = Answer>,
        configure: impl FnOnce(BridgeLayer) -> BridgeLayer,
    ) -> Self {
        let provider = Provider::default();
        answers.into_iter().for_each(|answer| provider.push(answer));
        let (recorder, events) = Recorder::channel(16);
        let layer = BridgeLayer::new()
            .pool(KeyPool::from_secrets([FIRST_KEY, SECOND_KEY]).unwrap())
            .recorder(recorder)
            .tools(tools(&provider.gauge));
        Self {
            provider,
            events,
            layer: configure(layer),
        }
    }

    pub(crate) async fn call(&self, body: impl Into<Bytes>) -> Reply {
        let provider = self.provider.clone();
        let inner = service_fn(move |request| provider.clone().answer(request));
        let request = Request::post("/v1/chat/completions")
            .header("content-type", "application/json")
            .header("user-agent", "OpenAI/Python 2.0")
            .body(Full::new(body.into()))
            .unwrap();
        self.layer.layer(inner).oneshot(request).await.unwrap()
    }

    /// A conversation that the caller reads to its end.
    pub(crate) async fn run(mut self, body: impl Into<Bytes>) -> Outcome {
        let response = self.call(body).await;
        self.finish(response).await
    }

    /// Reads the rest.
    pub(crate) async fn finish(&mut self, response: Reply) -> Outcome {
        let id = response
            .extensions()
            .get::<Intercepted>()
            .map(|known| known.id().to_string());
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.into()).unwrap();
        Outcome {
            status: parts.status.as_u16(),
            body: id.map_or(body.clone(), |id| body.replace(&id, "$ID")),
            requests: self.provider.seen().into_iter().map(|seen| seen.body).collect(),
            records: self.records(),
        }
    }

    /// The records so far, without what differs from run to run.
    pub(crate) fn records(&mut self) -> Vec<Value> {
        let mut records = Vec::new();
        while let Some(event) = self.events.try_recv() {
            assert_eq!(event.sequence, records.len() as u64);
            let mut record = serde_json::to_value(event).unwrap();
            let members = record.as_object_mut().unwrap();
            for name in ["interception_id", "at", "sequence"] {
                assert!(members.remove(name).is_some());
            }
            records.push(record);
        }
        records
    }

    /// Runs everything that is ready, as a server would between two events.
    pub(crate) async fn settle(&self) {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// The records of one kind.
    pub(crate) fn records_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        of_kind(&self.records, kind)
    }

    /// The one end.
    pub(crate) fn ended(&self) -> &Value {
        ended(&self.records)
    }
}

pub(crate) fn of_kind<'a>(records: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["event"] == kind)
}

/// The one `ended`, which is the last of `records`.
pub(crate) fn ended(records: &[Value]) -> &Value {
    assert_eq!(of_kind(records, "ended").count(), 1, "{records:#?}");
    let last = records.last().unwrap();
    assert_eq!(last["event"], "ended");
    last
}

/// The next frame of a body; `None` at its end.
pub(crate) async fn frame(response: &mut Reply) -> Option<String> {
    let frame = response.body_mut().frame().await?;
    let data = frame.unwrap().into_data().ok().unwrap();
    Some(String::from_utf8(data.into()).unwrap())
}

/// Milliseconds of virtual time since `start`.
pub(crate) fn since(start: Instant) -> u128 {
    Instant::now().saturating_duration_since(start).as_millis()
}

fn tools(gauge: &Arc<Gauge>) -> Tools {
    let tool = |name: &str, time: Duration| {
        let gauge = Arc::clone(gauge);
        let definition = ToolDefinition::new(name).server_url("https://tools.example");
        tool_fn(definition, move |call: ToolCall| {
            let running = Running::new(&gauge);
            async move {
                sleep(time).await;
                drop(running);
                Ok::<_, std::convert::Infallible>(format!("{} of {}", call.name(), call.arguments()))
            }
        })
    };
    Tools::new([
        tool("clock", Duration::ZERO),
        tool("echo", Duration::ZERO),
        tool("slow", Duration::from_secs(25)),
    ])
}
