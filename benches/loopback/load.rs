//! The callers: keep-alive connections that each ask again as soon as they are answered.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::words::Api;
use crate::{Failure, provider};

/// The callers' requests, and the number of callers.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) api: Api,
    pub(crate) body: Bytes,
    pub(crate) connections: usize,
    /// Asks for a stream, with this pause between two chunks in µs.
    pub(crate) stream: Option<u32>,
}

/// Connections to one server.
pub(crate) struct Load {
    connections: Vec<Connection>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    work: Work,
    last: Heads,
}

/// The provider's headers in its last answer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Heads {
    pub(crate) received: u64,
    pub(crate) refused: u64,
}

// === impl Load ===

impl Load {
    pub(crate) async fn connect(address: SocketAddr, work: &Work) -> Result<Self, Failure> {
        let mut connections = Vec::new();
        for _ in 0..work.connections {
            connections.push(Connection {
                sender: connect(address).await?,
                address,
                work: work.clone(),
                last: Heads::default(),
            });
        }
        Ok(Self { connections })
    }

    /// Keeps all connections busy for `time`, and lets each end its last request. Returns the duration of each request.
    ///
    /// # Errors
    ///
    /// When an answer is wrong.
    pub(crate) async fn run(&mut self, time: Duration) -> Result<Vec<Duration>, Failure> {
        let until = Instant::now() + time;
        let mut running = JoinSet::new();
        for connection in self.connections.drain(..) {
            running.spawn(connection.run(until));
        }
        let mut latencies = Vec::new();
        while let Some(ended) = running.join_next().await {
            let (connection, own) = ended??;
            latencies.extend(own);
            self.connections.push(connection);
        }
        Ok(latencies)
    }

    pub(crate) fn heads(&self) -> impl Iterator<Item = Heads> {
        self.connections.iter().map(|connection| connection.last)
    }
}

// === impl Connection ===

impl Connection {
    async fn run(mut self, until: Instant) -> Result<(Self, Vec<Duration>), Failure> {
        let mut latencies = Vec::with_capacity(1024);
        let mut now = Instant::now();
        while latencies.is_empty() || now < until {
            let request = self.work.request(self.address, Full::new(self.work.body.clone()))?;
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            self.last = self.work.check(response).await?;
            let answered = Instant::now();
            latencies.push(answered.saturating_duration_since(now));
            now = answered;
        }
        Ok((self, latencies))
    }
}

// === impl Work ===

impl Work {
    pub(crate) fn request<B>(&self, address: SocketAddr, body: B) -> Result<Request<B>, http::Error> {
        let mut request = Request::post(self.api.path())
            .header("host", address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .header("accept", "application/json")
            .header("user-agent", "OpenAI/Python 1.109.1")
            .header("x-stainless-lang", "python")
            .header("x-stainless-runtime-version", "3.12.7")
            .header("authorization", "Bearer caller-0123456789");
        if self.api == Api::Messages {
            request = request.header("anthropic-version", "2023-06-01");
        }
        if let Some(pause) = self.stream {
            request = request.header(provider::STREAM, pause);
        }
        request.body(body)
    }

    /// Reads an answer to its end, and checks that it is the provider's whole answer.
    pub(crate) async fn check(&self, response: Response<Incoming>) -> Result<Heads, Failure> {
        let (parts, mut body) = response.into_parts();
        let mut last = Bytes::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len();
                last = data;
            }
        }
        let is_whole = match self.stream {
            // A frame may begin or end anywhere.
            Some(_) => last.ends_with(self.api.end()) || self.api.end().ends_with(&last),
            None => last.ends_with(b"}"),
        };
        if parts.status != StatusCode::OK || !is_whole {
            return Err(format!("a wrong answer: {}, {length} bytes that end in {last:?}", parts.status).into());
        }
        Ok(Heads {
            received: number(&parts.headers, &provider::RECEIVED),
            refused: number(&parts.headers, &provider::REFUSED),
        })
    }
}

pub(crate) async fn connect<B>(address: SocketAddr) -> Result<SendRequest<B>, Failure>
where
    B: Body<Data = Bytes, Error: Into<Failure>> + Send + 'static,
{
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // A failure shows in the request that it breaks.
    tokio::spawn(connection);
    Ok(sender)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> u64 {
    let value = headers.get(name).map(HeaderValue::to_str);
    value.and_then(|text| text.ok()?.parse().ok()).unwrap_or(0)
}
