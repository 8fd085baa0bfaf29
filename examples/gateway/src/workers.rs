//! One thread per core, each with its own runtime and client: a quarter less CPU time per small request than on tokio's
//! multi-threaded runtime.
//!
//! Connections are handed out in turn, and all work of a request stays on one thread: no task is stolen, no lock is
//! waited for, and the code that many connections run next is still in the cache (see also [`crate::deferred_writes`]).
//! The price: one connection never uses more than one core.

use std::{
    convert::Infallible,
    env, io,
    num::NonZero,
    sync::Arc,
    thread::{self, available_parallelism},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{self, Body};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};
use tower::{BoxError, Service};
use tracing::{debug, error, info, warn};

use crate::{
    server::{self, Incoming},
    signals::Signals,
};

/// More threads than any machine has cores are a mistake.
const MOST: usize = 256;
/// Tasks that a worker polls before it asks the system for events, unless it runs out of tasks. With tokio's 61 a busy
/// worker asks in the middle of its queue; with 512 others wait 2 ms for a stream that keeps it busy with tiny events.
const EVENT_INTERVAL: u32 = 128;

/// How many bytes of a connection may wait in the kernel, besides those that are on their way.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 128 << 10;

/// Lines of the log about refused connections: at most one in this time.
const REFUSAL_LINES: Duration = Duration::from_secs(10);

/// The workers, at work. The first shares its thread with the caller of [`Workers::start`].
pub struct Workers {
    /// Each worker's connections. Closed, they tell it to drain.
    connections: Vec<mpsc::UnboundedSender<Incoming>>,
    /// Tells a draining worker to stop at once.
    cut: watch::Sender<bool>,
    running: JoinSet<Result<(), String>>,
}

/// As many as there are cores for us, or as `TOKIO_WORKER_THREADS` says.
///
/// # Errors
///
/// The error in the variable.
pub fn count() -> Result<usize, String> {
    match env::var("TOKIO_WORKER_THREADS") {
        Ok(count) => match count.parse::<NonZero<usize>>() {
            Ok(count) if count.get() > MOST => Err(format!("TOKIO_WORKER_THREADS: at most {MOST} are possible")),
            Ok(count) => Ok(count.get()),
            Err(error) => Err(format!("TOKIO_WORKER_THREADS: {error}")),
        },
        Err(_) => Ok(available_parallelism().map_or(1, NonZero::get).min(MOST)),
    }
}

/// How many connections a listener has at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) most: usize,
    /// The listener's value of the label `limit`, by which refused connections are counted.
    pub(crate) limit: &'static str,
}

/// A runtime for one worker.
///
/// # Errors
///
/// What the system said.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build()
}

// === impl Workers ===

impl Workers {
    /// Starts `count` workers, each with an application that `app` makes. `drain` is how long requests may go on after
    /// the first signal.
    ///
    /// # Errors
    ///
    /// The error of `app`, or that there is no runtime or thread to be had.
    pub fn start<S, B>(count: usize, drain: Duration, app: impl Fn() -> Result<S, String>) -> Result<Self, String>
    where
        S: Service<Request<body::Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let mut workers = Self {
            connections: Vec::with_capacity(count),
            cut: watch::Sender::new(false),
            running: JoinSet::new(),
        };
        for number in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            workers.connections.push(sender);
            let serving = server::serve(receiver, app()?, drain, workers.cut.subscribe());
            if number == 0 {
                workers.running.spawn(async {
                    serving.await;
                    Ok(())
                });
                continue;
            }
            let cannot = |error| format!("cannot start worker {number}: {error}");
            let runtime = runtime().map_err(cannot)?;
            // Not one of tokio's blocking threads: if the system has no thread left, those wait silently for one.
            let (ended, end) = oneshot::channel();
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    runtime.block_on(serving);
                    // Fails if another worker broke.
                    let _ = ended.send(());
                })
                .map_err(cannot)?;
            workers
                .running
                .spawn(async { end.await.map_err(|_| "a worker panicked".into()) });
        }
        Ok(workers)
    }

    /// Serves at most `most` connections at once until a signal; then calls `drains`, stops accepting and drains. When
    /// it returns every connection and with it every `app` is gone; the signals are returned for the rest of the
    /// shutdown.
    ///
    /// # Errors
    ///
    /// The first failure of a worker. Connections were drained then as well.
    pub async fn serve(
        mut self,
        listener: std::net::TcpListener,
        most: usize,
        mut signals: Signals,
        drains: impl FnOnce(),
    ) -> (Signals, Result<(), String>) {
        let places = Places {
            most,
            limit: "connections",
        };
        let mut acceptor = match Acceptor::start(listener, places, self.connections.clone()) {
            Ok(acceptor) => acceptor,
            Err(error) => return (signals, Err(format!("cannot start accepting: {error}"))),
        };
        let (reason, served) = tokio::select! {
            _ = &mut acceptor.ended => ("the end of accepting", Err("accepting ended by itself".into())),
            signal = signals.next() => (signal, Ok(())),
            // The others may break for the same reason: end, so that the supervisor restarts the gateway.
            Some(ended) = self.running.join_next() => ("a worker's end", Err(match flatten(ended) {
                Ok(()) => "a worker ended by itself".into(),
                Err(problem) => problem,
            })),
        };
        drains();
        acceptor.stop().await;
        self.connections.clear();
        info!(reason, "draining; a second signal ends it");
        loop {
            tokio::select! {
                ended = self.running.join_next() => match ended.map(flatten) {
                    Some(Ok(())) => {}
                    Some(Err(problem)) => error!(problem, "a worker failed"),
                    None => return (signals, served),
                },
                signal = signals.next(), if !*self.cut.borrow() => {
                    warn!(signal, "ending the remaining connections");
                    self.cut.send_replace(true);
                }
            }
        }
    }
}

fn flatten(ended: Result<Result<(), String>, JoinError>) -> Result<(), String> {
    ended.unwrap_or_else(|error| Err(format!("a worker failed: {error}")))
}

// === impl Acceptor ===

/// A thread that accepts connections and does nothing else, so that no request's work delays a new caller.
struct Acceptor {
    /// Dropped to make it stop.
    stop: oneshot::Sender<Infallible>,
    /// Completes when the listener is closed.
    ended: oneshot::Receiver<()>,
}

impl Acceptor {
    fn start(
        listener: std::net::TcpListener,
        places: Places,
        workers: Vec<mpsc::UnboundedSender<Incoming>>,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("accept".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept_into(listener, places, workers) => {}
                    _ = stopped => {}
                }
            });
            let _ = end.send(());
        })?;
        Ok(Self { stop, ended })
    }

    /// Closes the listener.
    async fn stop(self) {
        drop(self.stop);
        // An error: it had ended before.
        let _ = self.ended.await;
    }
}

/// Accepts connections for `workers`, as many at once as there are `places`; returns only if it cannot begin.
pub(crate) async fn accept_into(
    listener: std::net::TcpListener,
    places: Places,
    workers: Vec<mpsc::UnboundedSender<Incoming>>,
) {
    match TcpListener::from_std(listener) {
        Ok(listener) => match hand_out(&listener, places, &workers).await {},
        Err(error) => error!(%error, "cannot accept connections"),
    }
}

/// Accepts connections and hands them to the workers in turn.
async fn hand_out(listener: &TcpListener, places: Places, workers: &[mpsc::UnboundedSender<Incoming>]) -> Infallible {
    let Places { most, limit } = places;
    let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let mut refused = 0_u64;
    let mut last_line = None;
    for worker in workers.iter().cycle() {
        let (stream, place) = loop {
            let stream = accept(listener).await;
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                break (stream, place);
            }
            // Closed at once: waiting in vain would be worse for the caller.
            drop(stream);
            refused += 1;
            metrics::counter!("llm_bridge.refusals", "limit" => limit).increment(1);
            let now = Instant::now();
            if last_line.is_none_or(|last| now.saturating_duration_since(last) >= REFUSAL_LINES) {
                warn!(limit, most, refused, "too many connections, new ones are closed");
                last_line = Some(now);
            }
        };
        // Removed from this runtime, so that the worker's runtime can have it.
        match stream.into_std() {
            // `serve` notices a worker that is gone.
            Ok(stream) => drop(worker.send(Incoming { stream, place })),
            Err(error) => error!(%error, "a connection is lost"),
        }
    }
    // Without workers there is nothing to hand out.
    std::future::pending().await
}

/// The next connection. Failures are this machine's (for example no descriptors left) or the peer's, and never a reason
/// to stop.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                for set in [stream.set_nodelay(true), bound_unsent(&stream)] {
                    if let Err(error) = set {
                        debug!(%error, "cannot set a socket option");
                    }
                }
                return stream;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => debug!(%error, "peer left early"),
            Err(error) => {
                error!(%error, "cannot accept a connection, waiting a second");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Bounds how many bytes the kernel takes of an answer that cannot be sent yet. Without it an answer that nobody reads fills
/// four megabytes of the kernel's memory, and producing them keeps the worker from other requests.
#[cfg(target_os = "linux")]
fn bound_unsent(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT)
}

#[cfg(not(target_os = "linux"))]
fn bound_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use http_body_util::Full;
    use nix::sys::signal::{Signal, raise};
    use tower::service_fn;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_keeps_few_unsent_bytes_in_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = accept(&listener).await;
        let answer = vec![0; 16 << 10];
        let mut taken = 0;
        stream.writable().await.unwrap();
        while let Ok(length) = stream.try_write(&answer) {
            taken += length;
        }
        // The caller's side takes some as well.
        assert!((100 << 10..1 << 20).contains(&taken), "{taken}");
    }

    /// A load balancer that still sends requests must not meet a closed port while it is told that all is well.
    #[tokio::test]
    async fn readiness_turns_before_accepting_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let app = service_fn(|_: Request<body::Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        });
        let workers = Workers::start(1, Duration::ZERO, || Ok(app)).unwrap();
        let signals = Signals::install().unwrap();
        raise(Signal::SIGTERM).unwrap();
        let mut accepted = None;
        let drains = || accepted = Some(std::net::TcpStream::connect(address).is_ok());
        let (_, served) = workers.serve(listener, 8, signals, drains).await;
        assert_eq!((served, accepted), (Ok(()), Some(true)));
        assert!(std::net::TcpStream::connect(address).is_err(), "it is closed now");
    }
}
