//! A scripted provider: its answers are a list or a closure, and it keeps every request that it saw.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Body;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::Service;
use tower_llm_bridge::UpstreamAttempt;

use super::body::{Alive, Gate, MockBody, MockError, Piece, Pulled, pieces};
use super::chat::text;
use super::logs::listen;

/// A provider that follows a script. Clones share it.
#[derive(Clone)]
pub(crate) struct Provider {
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    busy: Alive,
    pulled: Pulled,
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

/// A request as the provider saw it, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) body: Bytes,
    /// When it came, in virtual time.
    pub(crate) at: Instant,
}

/// The provider's reaction to one request.
#[derive(Debug)]
pub(crate) struct Reply {
    result: Result<Response<MockBody>, MockError>,
    gate: Option<Gate>,
    delay: Duration,
    panics: bool,
}

// === impl Provider ===

impl Provider {
    /// Answers each request with what `script` makes of it.
    pub(crate) fn answering(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        listen();
        Self {
            shared: Arc::new(Shared {
                script: Mutex::new(Box::new(script)),
                seen: Mutex::default(),
                busy: Alive::default(),
                pulled: Pulled::default(),
            }),
        }
    }

    /// Answers one request after the other with `replies`; a further request is a mistake of the test.
    pub(crate) fn queue<R: Into<Reply>>(replies: impl IntoIterator<Item = R>) -> Self {
        let mut replies: VecDeque<Reply> = replies.into_iter().map(Into::into).collect();
        Self::answering(move |seen| match replies.pop_front() {
            Some(reply) => reply,
            None => panic!("one request too many: {seen:?}"),
        })
    }

    /// Answers one request after the other with `replies`; after that the connection fails, with a secret in the error.
    pub(crate) fn queue_and_fail<R: Into<Reply>>(replies: impl IntoIterator<Item = R>) -> Self {
        let mut replies: VecDeque<Reply> = replies.into_iter().map(Into::into).collect();
        Self::answering(move |_| {
            let reply = replies.pop_front();
            reply.unwrap_or_else(|| Reply::fails("sk-secret of 10.1.2.3: nothing left in the script"))
        })
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    pub(crate) fn calls(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        lock(&self.shared.seen)
            .last()
            .cloned()
            .expect("the provider was called")
    }

    /// The keys that came, one for each request.
    pub(crate) fn keys(&self) -> Vec<String> {
        let key = |seen: &Seen| seen.key().unwrap_or_default().to_owned();
        lock(&self.shared.seen).iter().map(key).collect()
    }

    /// The bytes read of all answers' bodies.
    pub(crate) fn pulled(&self) -> &Pulled {
        &self.shared.pulled
    }

    /// Calls and answers' bodies that are neither over nor dropped.
    pub(crate) fn busy(&self) -> usize {
        self.shared.busy.count()
    }
}

impl<B> Service<Request<B>> for Provider
where
    B: Body<Data = Bytes, Error: fmt::Display> + Send + 'static,
{
    type Response = Response<MockBody>;
    type Error = MockError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<MockBody>, MockError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), MockError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let running = shared.busy.token();
        Box::pin(async move {
            let seen = Seen::read(request).await;
            let reply = lock(&shared.script)(&seen);
            lock(&shared.seen).push(seen);
            let response = reply.give().await?;
            drop(running);
            Ok(response.map(|body| body.watched(&shared.busy).counted(&shared.pulled)))
        })
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({} calls)", self.calls())
    }
}

/// A panic of a test's script is that test's failure already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Seen ===

impl Seen {
    async fn read<B>(request: Request<B>) -> Self
    where
        B: Body<Data = Bytes, Error: fmt::Display>,
    {
        let (parts, body) = request.into_parts();
        let pieces = pieces(body).await;
        Self {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            headers: parts.headers,
            extensions: parts.extensions,
            body: Piece::join(&pieces),
            pieces,
            at: Instant::now(),
        }
    }

    /// The bearer token.
    pub(crate) fn key(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the request is text")
    }

    /// The chat completion's messages.
    pub(crate) fn messages(&self) -> Vec<Value> {
        self.json()["messages"]
            .as_array()
            .expect("messages are an array")
            .clone()
    }

    /// The content of the last message, which is a tool's.
    pub(crate) fn last_content(&self) -> String {
        let messages = self.messages();
        let message = messages.last().expect("a message");
        assert_eq!(message["role"], "tool");
        text(&message["content"])
    }

    /// Round and attempt.
    pub(crate) fn attempt(&self) -> Option<(u32, u32)> {
        let attempt = self.extensions.get::<UpstreamAttempt>()?;
        Some((attempt.round(), attempt.attempt()))
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<MockBody>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        Self {
            result: Ok(response),
            gate: None,
            delay: Duration::ZERO,
            panics: false,
        }
    }

    /// This status and JSON.
    pub(crate) fn json(status: u16, body: impl Into<MockBody>) -> Self {
        Self::new(status, body).header("content-type", "application/json")
    }

    /// 200 and JSON.
    pub(crate) fn ok(body: impl Into<MockBody>) -> Self {
        Self::json(200, body)
    }

    /// An error in the API's shape.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = json!({"error": {"message": "no", "type": "test_error", "param": null, "code": code}});
        Self::json(status, body.to_string())
    }

    /// A 429 with `retry-after`, if there is one.
    pub(crate) fn rate_limited(retry_after: Option<&'static str>) -> Self {
        let reply = Self::error(429, "rate_limit_exceeded");
        match retry_after {
            Some(value) => reply.header("retry-after", value),
            None => reply,
        }
    }

    /// 200 and server-sent events.
    pub(crate) fn events(body: impl Into<MockBody>) -> Self {
        Self::new(200, body).header("content-type", "text/event-stream; charset=utf-8")
    }

    /// No answer: the connection fails.
    pub(crate) fn fails(words: &'static str) -> Self {
        Self {
            result: Err(MockError(words)),
            ..Self::new(500, MockBody::new())
        }
    }

    /// No answer: the inner service panics.
    pub(crate) fn panics() -> Self {
        Self {
            panics: true,
            ..Self::new(500, MockBody::new())
        }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Ok(response) = &mut self.result {
            let name: HeaderName = name.parse().expect("a header's name");
            let value = HeaderValue::from_str(value).expect("a header's value");
            response.headers_mut().append(name, value);
        }
        self
    }

    /// Adds an extension.
    pub(crate) fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        if let Ok(response) = &mut self.result {
            response.extensions_mut().insert(value);
        }
        self
    }

    /// Comes when `gate` is open.
    pub(crate) fn gate(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Comes after this time.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    async fn give(self) -> Result<Response<MockBody>, MockError> {
        if let Some(gate) = &self.gate {
            gate.wait().await;
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        if self.panics {
            // Without the process's panic hook, which would print a panic that is intended.
            std::panic::resume_unwind(Box::new("the inner service panics"));
        }
        self.result
    }
}

impl From<String> for Reply {
    fn from(body: String) -> Self {
        Self::ok(body)
    }
}

impl From<&'static str> for Reply {
    fn from(body: &'static str) -> Self {
        Self::ok(body)
    }
}
