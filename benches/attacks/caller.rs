//! One connection to the gateway, and what attackers send over it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;
use crate::provider::HARM;

pub(crate) const CHAT: &str = "/v1/chat/completions";

pub(crate) struct Caller {
    sender: http1::SendRequest<Full<Bytes>>,
    gateway: SocketAddr,
    actor: &'static str,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A question; the model's name tells the provider what to answer.
pub(crate) fn question(model: &str, stream: bool, more: &str) -> Bytes {
    format!(r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"hi{more}"}}]}}"#).into()
}

pub(crate) fn post(gateway: SocketAddr, actor: &str, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
    request(gateway, actor, Method::POST, CHAT, body)
}

pub(crate) fn request(
    gateway: SocketAddr,
    actor: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, http::Error> {
    Request::builder()
        .method(method)
        .uri(format!("http://{gateway}{path}"))
        .header(HOST, gateway.to_string())
        .header(CONTENT_TYPE, "application/json")
        .header("x-user-id", actor)
        .body(Full::new(body))
}

// === impl Caller ===

impl Caller {
    pub(crate) async fn connect(gateway: SocketAddr, actor: &'static str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // A failure shows in the request that it breaks.
        tokio::spawn(connection);
        Ok(Self { sender, gateway, actor })
    }

    pub(crate) async fn ask(&mut self, model: &str, stream: bool) -> Result<Answer, Failure> {
        self.send(post(self.gateway, self.actor, question(model, stream, ""))?)
            .await
    }

    /// As the bystander asks: over an API that has a provider of its own.
    pub(crate) async fn ask_messages(&mut self) -> Result<Answer, Failure> {
        let body =
            Bytes::from_static(br#"{"model":"small","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}"#);
        let request = request(self.gateway, self.actor, Method::POST, "/v1/messages", body)?;
        self.send(request).await
    }

    /// What the provider, if this is a connection to one, was asked and must not be.
    pub(crate) async fn harm(&mut self) -> Result<u64, Failure> {
        let answer = self.ask("small", false).await?;
        let harm = answer
            .headers
            .get(HARM)
            .ok_or("the provider does not say what it was asked")?;
        Ok(harm.to_str()?.parse()?)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }
}

/// An HTTP/2 connection whose streams are never read.
pub(crate) async fn unread(gateway: SocketAddr) -> Result<http2::SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(gateway).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends these bytes on a new connection, which stays open.
pub(crate) async fn raw(gateway: SocketAddr, bytes: &[u8]) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(gateway).await?;
    stream.write_all(bytes).await?;
    Ok(stream)
}

/// Like [`raw`], and returns the first line of the answer.
pub(crate) async fn raw_status(gateway: SocketAddr, bytes: &[u8]) -> Result<String, Failure> {
    let mut stream = raw(gateway, bytes).await?;
    let mut head = [0; 64];
    let length = stream.read(&mut head).await?;
    let line = String::from_utf8_lossy(&head[..length]).into_owned();
    Ok(line.lines().next().unwrap_or_default().to_owned())
}
