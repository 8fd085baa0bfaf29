//! The innermost service: sends requests, as the bridge made them, to the provider.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpStream;
use tower::{BoxError, Layer, Service, util::MapResponse};
use tower_llm_bridge::{BaseUri, SetBaseUri};

use crate::deferred_writes::DeferredWrites;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the usual idle limit of load balancers (60 s), so that a pooled connection is rarely dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// How much the provider may send on one HTTP/2 stream before it is read: the memory of an unread answer. At a round
/// trip of 50 ms this still carries 2.5 MB a second.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The same for a connection of HTTP/1. It also bounds the head of an answer.
const BUFFER: usize = 64 * 1024;
/// The same for a whole connection: as much as HTTP/2 allows, so that only the streams' windows limit it. With hyper's
/// 5 MiB, three unread answers stop every other request on the connection.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Detects a dead HTTP/2 connection while a model is thinking and nothing else is sent.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The service that sends requests to a provider.
pub type Upstream<B> = SetBaseUri<HttpClient<B>>;

/// A pooled HTTP client. Shared: each layer above clones it, and copying the client itself takes hundreds of bytes.
pub struct HttpClient<B>(Arc<Client<HttpsConnector<Connector>, B>>);

type Tcp = TokioIo<TcpStream>;
/// Writes of requests are deferred like those of answers.
type Connector = MapResponse<HttpConnector, fn(Tcp) -> DeferredWrites<Tcp>>;

/// An error that shows its causes as well, since "client error (Connect)" alone does not help.
#[derive(Debug)]
pub struct WithCauses(pub legacy::Error);

/// A client of `base`.
///
/// # Errors
///
/// Says why TLS cannot be set up.
pub fn connect<B>(base: &BaseUri) -> Result<Upstream<B>, String>
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    Ok(base.layer(HttpClient::new()?))
}

// === impl HttpClient ===

impl<B> HttpClient<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    /// A client that trusts Mozilla's root certificates; for your own authority use another `with_…_roots`.
    ///
    /// # Errors
    ///
    /// Says why TLS cannot be set up.
    fn new() -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| format!("cannot set up TLS: {error}"))?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Connector::new(tcp, DeferredWrites::new));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http1_max_buf_size(BUFFER)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .build(tls);
        Ok(Self(Arc::new(client)))
    }
}

// A derived impl would require `B: Clone`.
impl<B> Clone for HttpClient<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Service<Request<B>> for HttpClient<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = legacy::ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The client opens a connection whenever none is idle, so it is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.request(request)
    }
}

// === impl WithCauses ===

impl fmt::Display for WithCauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for WithCauses {}
