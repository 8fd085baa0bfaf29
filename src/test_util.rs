//! A scripted provider for tests: no socket, no paid key, and no waiting while tokio's clock is paused.
//!
//! Needs the feature `test-util`.
//!
//! # Example
//!
//! ```
//! use http::Request;
//! use http_body_util::{BodyExt, Full};
//! use hyper::body::Bytes;
//! use serde_json::json;
//! use tower::{Layer, ServiceExt};
//! use tower_llm_bridge::{BridgeLayer, pool::KeyPool, test_util::Provider};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let provider = Provider::new()
//!     .reply(429, json!({ "error": { "message": "Slow down", "code": "rate_limit_exceeded" } }))
//!     .header("retry-after", "20")
//!     .stream([
//!         r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"}}]}"#,
//!         r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
//!         "[DONE]",
//!     ]);
//! let stack = BridgeLayer::new()
//!     .pool(KeyPool::from_secrets(["sk-first-key", "sk-second-key"])?)
//!     .layer(provider.clone());
//!
//! let request = json!({ "model": "m", "stream": true, "messages": [{ "role": "user", "content": "Hello" }] });
//! let request = Request::post("/v1/chat/completions").body(Full::<Bytes>::from(request.to_string()))?;
//! let response = stack.oneshot(request).await?;
//! let body = response.into_body().collect().await?.to_bytes();
//! assert!(body.ends_with(b"data: [DONE]\n\n"));
//!
//! let keys: Vec<_> = provider.requests().iter().map(|sent| sent.headers()["authorization"].clone()).collect();
//! assert_eq!(keys, ["Bearer sk-first-key", "Bearer sk-second-key"]);
//! # Ok(())
//! # }
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::time::{Sleep, sleep};
use tower::Service;

/// A provider that answers from a list: each answer once, in order, then the last one again and again.
///
/// Clones share the script and the recorded requests.
#[derive(Clone, Default)]
pub struct Provider {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    script: VecDeque<Answer>,
    requests: Vec<Request<Bytes>>,
}

#[derive(Clone)]
struct Answer {
    /// The status, or the message of a failed connection.
    status: Result<StatusCode, String>,
    headers: HeaderMap,
    frames: VecDeque<Bytes>,
    delay: Duration,
    pace: Duration,
}

/// The body of a [`Provider`]'s answer.
pub struct ProviderBody {
    frames: VecDeque<Bytes>,
    pace: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

/// A call of a [`Provider`] that got no answer: the script said so, or the request's body could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderError(String);

// === impl Provider ===

impl Provider {
    /// A provider without answers: each request fails with a [`ProviderError`] until the script has one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Next, an answer with this status and JSON body. A status that HTTP does not have becomes 500.
    #[must_use]
    pub fn reply(self, status: u16, json: impl fmt::Display) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.push(Ok(status), "application/json", [Bytes::from(json.to_string())].into())
    }

    /// Next, a 200 with these server-sent events, one frame each.
    ///
    /// An item is an event's data: a JSON value, a text, `[DONE]`. One that begins with `event:`, `data:` or `:` is taken
    /// as whole lines.
    #[must_use]
    pub fn stream<I>(self, events: I) -> Self
    where
        I: IntoIterator,
        I::Item: fmt::Display,
    {
        let frame = |event: I::Item| {
            let event = event.to_string();
            let has_fields = ["event:", "data:", ":"].iter().any(|field| event.starts_with(field));
            let prefix = if has_fields { "" } else { "data: " };
            Bytes::from(format!("{prefix}{}\n\n", event.trim_end_matches('\n')))
        };
        let frames = events.into_iter().map(frame).collect();
        self.push(Ok(StatusCode::OK), "text/event-stream", frames)
    }

    /// Next, a connection that fails with this message.
    #[must_use]
    pub fn fail(self, words: &str) -> Self {
        self.push(Err(words.to_owned()), "", VecDeque::new())
    }

    /// Adds a header to the answer that was added last. One that HTTP does not allow is left out.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.change(|answer| {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                answer.headers.append(name, value);
            }
        })
    }

    /// Lets the head of the answer that was added last come after `delay` (tokio's clock).
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        self.change(|answer| answer.delay = delay)
    }

    /// Lets each frame of the answer that was added last come after a pause (tokio's clock).
    #[must_use]
    pub fn pace(self, pause: Duration) -> Self {
        self.change(|answer| answer.pace = pause)
    }

    /// Every request so far, in the order in which they were read to their end.
    #[must_use]
    pub fn requests(&self) -> Vec<Request<Bytes>> {
        self.lock().requests.clone()
    }

    fn push(self, status: Result<StatusCode, String>, content_type: &'static str, frames: VecDeque<Bytes>) -> Self {
        self.lock().script.push_back(Answer {
            status,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]),
            frames,
            delay: Duration::ZERO,
            pace: Duration::ZERO,
        });
        self
    }

    fn change(self, change: impl FnOnce(&mut Answer)) -> Self {
        if let Some(answer) = self.lock().script.back_mut() {
            change(answer);
        }
        self
    }

    /// Records the request and takes its answer.
    fn take(&self, request: Request<Bytes>) -> Option<Answer> {
        let mut shared = self.lock();
        shared.requests.push(request);
        match shared.script.len() {
            0 | 1 => shared.script.front().cloned(),
            _ => shared.script.pop_front(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic of another test thread leaves nothing half done here.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows no requests: they hold keys.
impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        f.debug_struct("Provider")
            .field("answers", &shared.script.len())
            .field("requests", &shared.requests.len())
            .finish()
    }
}

impl<B> Service<Request<B>> for Provider
where
    B: Body<Data = Bytes, Error: fmt::Display> + Send + 'static,
{
    type Response = Response<ProviderBody>;
    type Error = ProviderError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ProviderBody>, ProviderError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ProviderError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let provider = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(|error| ProviderError(error.to_string()))?;
            let request = Request::from_parts(parts, body.to_bytes());
            let answer = provider
                .take(request)
                .ok_or_else(|| ProviderError("the script has no answer".into()))?;
            if !answer.delay.is_zero() {
                sleep(answer.delay).await;
            }
            let mut response = Response::new(ProviderBody {
                frames: answer.frames,
                pace: answer.pace,
                pause: None,
            });
            *response.status_mut() = answer.status.map_err(ProviderError)?;
            *response.headers_mut() = answer.headers;
            Ok(response)
        })
    }
}

// === impl ProviderBody ===

impl Body for ProviderBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.pace.is_zero() && !self.frames.is_empty() {
            let pace = self.pace;
            ready!(
                self.pause
                    .get_or_insert_with(|| Box::pin(sleep(pace)))
                    .as_mut()
                    .poll(cx)
            );
            self.pause = None;
        }
        Poll::Ready(self.frames.pop_front().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }
}

impl fmt::Debug for ProviderBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderBody")
            .field("frames", &self.frames.len())
            .finish()
    }
}

// === impl ProviderError ===

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProviderError {}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use serde_json::json;
    use tokio::time::Instant;
    use tower::ServiceExt;

    use super::*;

    async fn ask(provider: &Provider) -> Result<(u16, String), ProviderError> {
        let response = provider.clone().oneshot(Request::new(Empty::new())).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok((status, String::from_utf8(body.to_vec()).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn answers_come_in_order_and_the_last_one_stays() {
        let provider = Provider::new()
            .fail("reset")
            .reply(429, json!({}))
            .after(Duration::from_secs(3))
            .stream(["one", "event: x\ndata: two\n", ": three"])
            .pace(Duration::from_secs(5));
        assert_eq!(ask(&provider).await.unwrap_err().to_string(), "reset");
        let start = Instant::now();
        assert_eq!(ask(&provider).await.unwrap(), (429, "{}".into()));
        assert_eq!(Instant::now().saturating_duration_since(start), Duration::from_secs(3));
        let events = "data: one\n\nevent: x\ndata: two\n\n: three\n\n";
        for _ in 0..2 {
            let start = Instant::now();
            assert_eq!(ask(&provider).await.unwrap(), (200, events.into()));
            assert_eq!(Instant::now().saturating_duration_since(start), Duration::from_secs(15));
        }
        assert_eq!(provider.requests().len(), 4);
        assert_eq!(format!("{provider:?}"), "Provider { answers: 1, requests: 4 }");
    }

    #[tokio::test]
    async fn without_a_script_there_is_no_answer() {
        assert!(ask(&Provider::new()).await.is_err());
    }
}
