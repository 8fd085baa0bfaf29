//! A caller with small requests, on a separate thread: measures how long each takes during an attack.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::caller::Caller;
use crate::priority;

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(4);
/// A request that takes longer was refused.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    result: oneshot::Receiver<Result<Latencies, Failure>>,
}

/// The bystander's results.
#[derive(Default)]
pub(crate) struct Latencies {
    /// Sorted.
    answered: Vec<Duration>,
    pub(crate) refused: usize,
}

// === impl Bystander ===

impl Bystander {
    pub(crate) fn start(gateway: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (send, result) = oneshot::channel();
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            priority::raise_own();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let seen = match runtime {
                Ok(runtime) => runtime.block_on(watch(gateway, &stopped)),
                Err(error) => Err(error.into()),
            };
            let _ = send.send(seen);
        });
        Self { stop, result }
    }

    /// Waits for `work`. Returns its result, and the bystander's meanwhile.
    pub(crate) async fn during<T>(self, work: impl Future<Output = T>) -> Result<(T, Latencies), Failure> {
        let ended = work.await;
        self.stop.store(true, Ordering::Relaxed);
        Ok((ended, self.result.await??))
    }
}

async fn watch(gateway: SocketAddr, stopped: &AtomicBool) -> Result<Latencies, Failure> {
    let mut seen = Latencies::default();
    let mut caller = Caller::connect(gateway, "bystander").await?;
    while !stopped.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let asked = timeout(PATIENCE, caller.ask_messages()).await;
        match asked {
            Ok(Ok(answer)) if answer.status == StatusCode::OK => {
                seen.answered.push(Instant::now().saturating_duration_since(begun));
            }
            Ok(Ok(_)) => seen.refused += 1,
            Ok(Err(_)) | Err(_) => {
                seen.refused += 1;
                if let Ok(again) = Caller::connect(gateway, "bystander").await {
                    caller = again;
                }
            }
        }
        sleep(PAUSE).await;
    }
    seen.answered.sort_unstable();
    Ok(seen)
}

// === impl Latencies ===

impl Latencies {
    pub(crate) fn count(&self) -> usize {
        self.answered.len() + self.refused
    }

    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let place = self.answered.len() * percent / 100;
        let place = place.min(self.answered.len().saturating_sub(1));
        self.answered.get(place).copied().unwrap_or(PATIENCE)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [50, 99].map(|percent| self.percentile(percent));
        write!(f, "{} asked, p50 {p50:.1?}, p99 {p99:.1?}", self.count())
    }
}
