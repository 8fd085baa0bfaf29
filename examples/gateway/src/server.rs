//! Serves the connections of one worker and ends them in order, so that requests under way are answered and nobody
//! waits for ever.
//!
//! No connection stays silent for longer than 75 s, or twice that where its protocol came late: until the protocol is
//! known [`FirstBytes`] waits, then hyper for a request's head, also between two requests of HTTP/1; on HTTP/2, pings
//! detect a caller that is gone.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{self, Body};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc, watch},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tower::{BoxError, Service};
use tracing::{debug, error, warn};

use crate::{deferred_writes::DeferredWrites, first_bytes::FirstBytes};

/// How long a connection may be silent: before its protocol is known, before a request's head is whole, between
/// requests.
const SILENCE: Duration = Duration::from_secs(75);
/// The buffer of one HTTP/1 connection for reads and for writes, and of one HTTP/2 stream for writes: thousands of
/// callers that do not read fill theirs. It also bounds the head of a request.
const BUFFER: usize = 64 * 1024;
/// Detects a caller that vanished without closing its connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// An accepted connection.
pub struct Incoming {
    pub stream: std::net::TcpStream,
    /// Its place among all connections, free again when the connection has ended.
    pub place: OwnedSemaphorePermit,
}

/// Serves the connections that come, until their sender is gone; then drains for up to `drain`, or until `cut` turns true.
pub async fn serve<S, B>(
    mut incoming: mpsc::UnboundedReceiver<Incoming>,
    app: S,
    drain: Duration,
    mut cut: watch::Receiver<bool>,
) where
    S: Service<Request<body::Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = TowerToHyperService::new(app);
    let http = http();
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();

    loop {
        let Incoming { stream, place } = tokio::select! {
            accepted = incoming.recv() => match accepted {
                Some(accepted) => accepted,
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
            .serve_connection(stage(TokioIo::new(stream)), service.clone())
            .into_owned();
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                // Callers often leave in the middle.
                debug!(error, "connection ended early");
            }
            drop(place);
        });
    }

    tokio::select! {
        drained = timeout(drain, graceful.shutdown()) => if drained.is_err() {
            warn!(seconds = drain.as_secs(), "still busy, ending the remaining connections");
        },
        _ = cut.wait_for(|cut| *cut) => {}
    }
    // Dropping a connection drops its requests, which is how the bridge learns that they are cancelled.
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// The settings of both versions of HTTP.
fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .max_buf_size(BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_send_buf_size(BUFFER);
    http
}

/// The wrappers between hyper and a connection.
fn stage<T>(io: T) -> FirstBytes<DeferredWrites<T>> {
    FirstBytes::new(DeferredWrites::new(io), SILENCE)
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection panicked");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };
    use tower::service_fn;

    use super::*;

    /// Seconds after which the server closes a connection on which only this is sent.
    async fn seconds_open(sent: &[u8]) -> u64 {
        let (mut caller, io) = duplex(64 * 1024);
        let app = service_fn(|_: Request<body::Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("answered"))))
        });
        let start = Instant::now();
        let connection = tokio::spawn(
            http()
                .serve_connection(stage(TokioIo::new(io)), TowerToHyperService::new(app))
                .into_owned(),
        );
        caller.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        // It does not matter how the server closes it.
        let _ = caller.read_to_end(&mut answer).await;
        assert_eq!(
            answer.windows(8).filter(|window| window == b"answered").count(),
            sent.windows(4).filter(|window| window == b"\r\n\r\n").count() * usize::from(!sent.starts_with(b"PRI"))
        );
        drop(connection.await.unwrap());
        Instant::now().saturating_duration_since(start).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed_however_it_began() {
        for (sent, seconds) in [
            ("", 75),
            ("P", 75),
            ("PRI * HTTP/2.0\r\n", 75),
            ("GE", 75),
            ("GET / HTTP/1.1\r\nhost: x\r\n", 75),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", 75),
            (
                "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\nPOST /",
                75,
            ),
            // Its ping stays unanswered.
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 40),
        ] {
            assert_eq!(seconds_open(sent.as_bytes()).await, seconds, "{sent:?}");
        }
    }
}
