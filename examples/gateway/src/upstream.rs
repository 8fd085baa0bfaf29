//! The innermost service: sends what the bridge made of a request to the provider.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpStream;
use tower::{BoxError, Service, util::MapResponse};

use crate::late::LateWrites;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the idle limit of the usual load balancers (60 s), so that a pooled connection is rarely a dead one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Finds a dead HTTP/2 connection while a model is thinking and nothing else is on the wire.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The provider's API base: what an OpenAI SDK calls `base_url`.
#[derive(Debug, Clone)]
pub struct BaseUrl {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end.
    path: String,
}

/// A pooled HTTP client bound to one [`BaseUrl`].
///
/// Each layer above takes clones, and a client by value has hundreds of bytes to copy.
pub struct Upstream<B>(Arc<Shared<B>>);

struct Shared<B> {
    client: Client<HttpsConnector<Connector>, B>,
    base: BaseUrl,
}

type Tcp = TokioIo<TcpStream>;
/// Requests go out together, as answers do.
type Connector = MapResponse<HttpConnector, fn(Tcp) -> LateWrites<Tcp>>;

/// Why the provider could not be asked, told to the root: a log that says only "client error (Connect)" helps nobody.
#[derive(Debug)]
pub struct Explained(pub legacy::Error);

// === impl BaseUrl ===

impl BaseUrl {
    /// A bare host means its `/v1`.
    ///
    /// # Errors
    ///
    /// Says what is wrong, without the URL: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let parts = uri.into_parts();
        let scheme = parts
            .scheme
            .filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        let (Some(scheme), Some(authority)) = (scheme, parts.authority) else {
            return Err("needs http:// or https:// and a host".into());
        };
        if authority.as_str().contains('@') {
            return Err("a user or password in the URL is not sent to anybody; use --key".into());
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err("a query cannot be part of the base".into());
        }
        let path = match path.path().trim_end_matches('/') {
            "" => "/v1",
            path if path.ends_with("/chat/completions") => {
                return Err("leave /chat/completions out: the base ends before it".into());
            }
            path => path,
        };
        Ok(Self {
            scheme,
            authority,
            path: path.to_owned(),
        })
    }

    /// Where a request for `uri` goes; the caller's own `/v1` stands for the base's path.
    ///
    /// `None` if the result is longer than a URI may be.
    fn locate(&self, uri: &Uri) -> Option<Uri> {
        let asked = uri.path_and_query()?;
        let resource = asked.as_str().strip_prefix("/v1").filter(|rest| rest.starts_with('/'));
        let path = if resource.is_some() && self.path == "/v1" {
            asked.clone()
        } else {
            let path = [&self.path, resource.unwrap_or(asked.as_str())].concat();
            PathAndQuery::from_maybe_shared(Bytes::from(path)).ok()?
        };
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone());
        uri.path_and_query(path).build().ok()
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

// === impl Upstream ===

impl<B> Upstream<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    /// A client that trusts Mozilla's root certificates; one's own authority is a matter of another `with_…_roots`.
    ///
    /// # Errors
    ///
    /// Says why TLS cannot be set up.
    pub fn new(base: BaseUrl) -> Result<Self, String> {
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
            .wrap_connector(Connector::new(tcp, LateWrites::new));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .build(tls);
        Ok(Self(Arc::new(Shared { client, base })))
    }
}

// Derived, it would ask for `B: Clone`.
impl<B> Clone for Upstream<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Service<Request<B>> for Upstream<B>
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Shared { client, base } = &*self.0;
        // Left as it is, a URI without a host becomes the client's own error.
        if let Some(uri) = base.locate(request.uri()) {
            *request.uri_mut() = uri;
        }
        // The version that the caller spoke says nothing about this hop: ALPN decides.
        *request.version_mut() = Version::HTTP_11;
        client.request(request)
    }
}

// === impl Explained ===

impl fmt::Display for Explained {
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

impl Error for Explained {}
