//! Server-sent events for all open pages: one task looks once a second, writes once, and sends the same bytes to each.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    lock,
    view::{Told, Viewer},
};

const TICK: Duration = Duration::from_secs(1);
/// Ticks without a change after which a comment shows that both ends are there.
const SILENCE: u32 = 10;
const PING: Bytes = Bytes::from_static(b":\n\n");
/// Pages open at once.
pub(super) const MAX_PAGES: usize = 32;
/// The messages by which a page may be behind. One that is further behind is disconnected, and reconnects for a full
/// message.
const BEHIND: usize = 8;

/// The open pages.
#[derive(Default)]
pub(super) struct Feed(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    pages: Vec<mpsc::Sender<Bytes>>,
    /// Whether the task runs.
    is_fed: bool,
}

/// The messages for one page.
pub(super) struct Messages(mpsc::Receiver<Bytes>);

// === impl Feed ===

impl Feed {
    /// The messages for one more page, a full one first; `None` if too many are open.
    pub(super) fn open(self: &Arc<Self>, viewer: &Arc<Viewer>) -> Option<Messages> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        let mut open = lock(&self.0);
        open.pages.retain(|page| !page.is_closed());
        if open.pages.len() >= MAX_PAGES {
            return None;
        }
        let mut told = Told::default();
        let all = viewer.changes(&mut told).unwrap_or_default();
        // There is room: it is the channel's first message.
        let _ = sender.try_send(event(&all));
        open.pages.push(sender);
        if !open.is_fed {
            open.is_fed = true;
            tokio::spawn(Arc::clone(self).run(Arc::clone(viewer), told));
        }
        Some(Messages(receiver))
    }

    /// Feeds the pages until none is open. `told` is the state that the first one was sent.
    async fn run(self: Arc<Self>, viewer: Arc<Viewer>, mut told: Told) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut silent = 0;
        loop {
            ticks.tick().await;
            let message = match viewer.changes(&mut told) {
                Some(message) => event(&message),
                None if silent + 1 < SILENCE => {
                    silent += 1;
                    continue;
                }
                None => PING,
            };
            silent = 0;
            let mut open = lock(&self.0);
            open.pages.retain(|page| page.try_send(message.clone()).is_ok());
            if open.pages.is_empty() {
                open.is_fed = false;
                return;
            }
        }
    }
}

/// JSON has no line break outside of texts, and writes those in texts as `\n`.
fn event(message: &str) -> Bytes {
    Bytes::from(format!("retry: 1000\ndata: {message}\n\n"))
}

// === impl Messages ===

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}
