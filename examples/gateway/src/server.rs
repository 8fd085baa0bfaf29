//! The connections of one worker: served, and ended in order, so that requests under way are answered and nobody waits
//! for ever.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tower::{BoxError, Service};
use tracing::{debug, error, warn};

use crate::late::LateWrites;

/// How long requests may go on after the first signal.
const DRAIN: Duration = Duration::from_secs(30);
/// For a request's head; it also ends a kept-alive connection that stays silent.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// Finds a caller that vanished without a word.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Serves the connections that come, until their sender is gone; then drains, until `cut` turns true.
pub async fn serve<S, B>(
    mut incoming: mpsc::UnboundedReceiver<std::net::TcpStream>,
    app: S,
    mut cut: watch::Receiver<bool>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = TowerToHyperService::new(app);
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();

    loop {
        let stream = tokio::select! {
            stream = incoming.recv() => match stream {
                Some(stream) => stream,
                None => break,
            },
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
        };
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                error!(%error, "a connection is lost");
                continue;
            }
        };
        let connection = http
            .serve_connection(LateWrites::new(TokioIo::new(stream)), service.clone())
            .into_owned();
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                // A caller that leaves in the middle is daily business.
                debug!(error, "connection ended early");
            }
        });
    }

    tokio::select! {
        drained = timeout(DRAIN, graceful.shutdown()) => if drained.is_err() {
            warn!(seconds = DRAIN.as_secs(), "still busy, cutting what is left");
        },
        _ = cut.wait_for(|cut| *cut) => {}
    }
    // Dropping a connection drops its requests, which is how the bridge learns that they are cancelled.
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection panicked");
    }
}
