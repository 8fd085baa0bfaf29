//! The reference of every measurement: a bare reverse proxy of hyper-util, which reads no JSON and buffers nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, Error, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::{Failure, roles};

struct Proxy {
    client: Client<HttpConnector, Incoming>,
    authority: Authority,
}

pub(crate) async fn serve(upstream: SocketAddr) -> Result<(), Failure> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let proxy = Arc::new(Proxy {
        client: Client::builder(TokioExecutor::new()).build(connector),
        authority: upstream.to_string().parse()?,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    roles::announce(&listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let proxy = Arc::clone(&proxy);
        let service = service_fn(move |request| {
            let proxy = Arc::clone(&proxy);
            async move { proxy.forward(request).await }
        });
        // A broken connection shows at the load's end of it.
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

// === impl Proxy ===

impl Proxy {
    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Error> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        // A URI without a path, which no server passes on, fails in the client.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        self.client.request(request).await
    }
}
