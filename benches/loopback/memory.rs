//! Measures the memory that large requests take while all uploads are in flight.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::load::{Load, Work, connect};
use crate::process::Process;
use crate::{Failure, provider};

/// How often all connections upload: repeated bursts show an allocator that frees memory late.
const BURSTS: usize = 3;

/// How long the last uploads take to arrive after they were sent.
const SETTLE: Duration = Duration::from_millis(300);

/// A body whose last bytes come late.
struct Late {
    first: Option<Bytes>,
    gate: Pin<Box<dyn Future<Output = ()> + Send>>,
    last: Option<Bytes>,
}

/// The peak memory minus that of an idle process, in bytes per connection.
pub(crate) async fn peak_per_connection(process: &Process, work: &Work) -> Result<f64, Failure> {
    let small = Work {
        body: crate::support::request(1024, false),
        ..work.clone()
    };
    let mut load = Load::connect(process.address, &small).await?;
    load.run(Duration::from_millis(50)).await?;
    drop(load);
    let idle = process.resident()?;
    for _ in 0..BURSTS {
        burst(process, work).await?;
    }
    Ok(process.peak()?.saturating_sub(idle) as f64 / work.connections as f64)
}

async fn burst(process: &Process, work: &Work) -> Result<(), Failure> {
    let sent = Arc::new(Barrier::new(work.connections));
    let mut running = JoinSet::new();
    for _ in 0..work.connections {
        let mut sender = connect(process.address).await?;
        let (work, sent, address) = (work.clone(), Arc::clone(&sent), process.address);
        running.spawn(async move {
            let body = Late::new(&work.body, async move {
                sent.wait().await;
                sleep(SETTLE).await;
            });
            let mut request = work.request(address, body)?;
            request.headers_mut().insert(provider::HOLD, 1.into());
            let heads = work.check(sender.send_request(request).await?).await?;
            if heads.received < work.body.len() as u64 {
                return Err(format!("the provider got only {} bytes", heads.received).into());
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

// === impl Late ===

impl Late {
    fn new(whole: &Bytes, gate: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut first = whole.clone();
        let last = first.split_off(whole.len() - 64);
        Self {
            first: Some(first),
            gate: Box::pin(gate),
            last: Some(last),
        }
    }
}

impl Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = match self.first.take() {
            None if self.last.is_some() => {
                ready!(self.gate.as_mut().poll(cx));
                self.last.take()
            }
            first => first,
        };
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = [&self.first, &self.last]
            .into_iter()
            .flatten()
            .map(Bytes::len)
            .sum::<usize>();
        SizeHint::with_exact(left as u64)
    }
}
