//! One thread per core, each with a runtime and a client of its own, and connections dealt out among them.
//!
//! All that a request does stays on one thread: no task is stolen, no lock is waited for, and what many connections do
//! next is done in one go, by code that is still in the cache (see also [`crate::late`]). A small request takes a quarter
//! less CPU time than on tokio's multi-threaded runtime. The price: one connection never has more than one core.

use std::{convert::Infallible, env, io, num::NonZero, thread::available_parallelism, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tower::{BoxError, Service};
use tracing::{debug, error, info, warn};

use crate::{server, signals::Signals};

/// Their threads are those that tokio lends for what blocks, of which it has 512.
const MOST: usize = 256;
/// Tasks that a worker polls before it asks for news, unless none is left. With tokio's 61 a busy worker asks in the middle
/// of what it has.
const TURN: u32 = 512;

/// The workers, at work. The first shares its thread with whoever starts them.
pub struct Workers {
    /// Each worker's connections, as many as there are descriptors. Closed, they tell it to drain.
    connections: Vec<mpsc::UnboundedSender<std::net::TcpStream>>,
    /// Tells a worker that drains to leave it at that.
    cut: watch::Sender<bool>,
    running: JoinSet<()>,
}

/// As many as there are cores for us, or as `TOKIO_WORKER_THREADS` says.
///
/// # Errors
///
/// Says what is wrong with the variable.
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

/// A runtime for one worker.
///
/// # Errors
///
/// What the system said.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().event_interval(TURN).build()
}

// === impl Workers ===

impl Workers {
    /// Starts `count` of them, each with what `app` makes.
    ///
    /// # Errors
    ///
    /// Says what `app` said, or that there is no runtime to be had.
    pub fn start<S, B>(count: usize, app: impl Fn() -> Result<S, String>) -> Result<Self, String>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
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
            let serving = server::serve(receiver, app()?, workers.cut.subscribe());
            if number == 0 {
                workers.running.spawn(serving);
            } else {
                let runtime = runtime().map_err(|error| format!("cannot start worker {number}: {error}"))?;
                workers.running.spawn_blocking(move || runtime.block_on(serving));
            }
        }
        Ok(workers)
    }

    /// Serves until a signal, then drains. When it returns every connection and with it every `app` is gone; the signals
    /// are for what is left to end.
    pub async fn serve(mut self, listener: TcpListener, mut signals: Signals) -> (Signals, Result<(), String>) {
        let (reason, served) = tokio::select! {
            never = deal(&listener, &self.connections) => match never {},
            signal = signals.next() => (signal, Ok(())),
            // Whatever broke it may break the next one: whoever watches over us starts us anew.
            Some(ended) = self.running.join_next() => ("a worker's end", Err(match ended {
                Ok(()) => "a worker ended by itself".into(),
                Err(error) => format!("a worker broke: {error}"),
            })),
        };
        drop(listener);
        self.connections.clear();
        info!(reason, "draining; a second signal ends it");
        loop {
            tokio::select! {
                ended = self.running.join_next() => match ended {
                    Some(Ok(())) => {}
                    Some(Err(error)) => error!(%error, "a worker broke"),
                    None => return (signals, served),
                },
                signal = signals.next(), if !*self.cut.borrow() => {
                    warn!(signal, "cutting what is left");
                    self.cut.send_replace(true);
                }
            }
        }
    }
}

/// Accepts connections and hands them out in turn.
async fn deal(listener: &TcpListener, workers: &[mpsc::UnboundedSender<std::net::TcpStream>]) -> Infallible {
    loop {
        for worker in workers {
            let stream = accept(listener).await;
            // This runtime lets go of it, so that the worker's may have it.
            match stream.into_std() {
                // `serve` notices a worker that is gone.
                Ok(stream) => drop(worker.send(stream)),
                Err(error) => error!(%error, "a connection is lost"),
            }
        }
    }
}

/// The next connection. Failures are this machine's (out of descriptors, say) or the peer's, never a reason to stop.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "no TCP_NODELAY");
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
