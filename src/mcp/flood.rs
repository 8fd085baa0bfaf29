//! Ends the session of a server that floods us: with messages that nobody asked for, or with lines that are not
//! messages.
//!
//! The SDK starts a task for each request of a server and reads on, whatever comes; so the bound is around its transport.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rmcp::{
    RoleClient,
    model::{ClientNotification, JsonRpcMessage, RequestId, ServerNotification},
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::Transport,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
    time::Instant,
};

use crate::metrics::{self, Limit};

#[cfg(test)]
mod tests;

/// Requests and notifications of a server, and answers to requests that were never sent.
const MAX_UNSOLICITED: u32 = 100;
/// Bytes of such messages, and of progress notifications: each is parsed, however large.
const MAX_UNSOLICITED_BYTES: usize = 4 << 20;
/// Progress notifications, which belong to a call of ours and are discarded.
const MAX_PROGRESS: u32 = 1_000;
/// Lines in which no message was found. The reader is ahead of the messages by a few kilobytes of lines.
const MAX_IDLE_LINES: u32 = 1_000;
/// Bytes in which no message was found: more than the longest line that the SDK takes.
const MAX_IDLE_BYTES: usize = 20 << 20;
/// Requests of ours that were given up and may be answered all the same.
const MAX_GIVEN_UP: usize = 256;
const WINDOW: Duration = Duration::from_secs(1);

/// The counters of one session. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Flood(Arc<Inner>);

#[derive(Default)]
struct Inner {
    counts: Mutex<Counts>,
    reason: OnceLock<&'static str>,
    noticed: Notify,
}

#[derive(Default)]
struct Counts {
    since: Option<Instant>,
    unsolicited: u32,
    unsolicited_bytes: usize,
    progress: u32,
    idle_lines: u32,
    /// Since the last message.
    idle_bytes: usize,
    asked: Asked,
}

/// The requests of ours to which an answer may come, each once.
#[derive(Default)]
struct Asked {
    /// By id, whether an event with the answer has come.
    open: HashMap<RequestId, bool>,
    given_up: VecDeque<RequestId>,
}

/// The beginning of what a message is.
#[cfg(feature = "mcp-http")]
#[derive(serde::Deserialize)]
struct Head {
    id: Option<RequestId>,
    method: Option<serde::de::IgnoredAny>,
}

/// A transport that ends when its server floods it.
pub(super) struct Guarded<T> {
    transport: T,
    flood: Flood,
}

/// A reader that ends when lines without messages flood it.
pub(super) struct GuardedRead<R> {
    reader: R,
    flood: Flood,
}

// === impl Flood ===

impl Flood {
    /// Why the session has to end, once it has.
    pub(super) fn reason(&self) -> Option<String> {
        self.0.reason.get().map(|&reason| reason.to_owned())
    }

    /// Waits until the server floods us, and says how.
    pub(super) async fn noticed(&self) -> String {
        loop {
            let noticed = self.0.noticed.notified();
            if let Some(reason) = self.reason() {
                return reason;
            }
            noticed.await;
        }
    }

    /// Counts a message. `None` for one that is discarded.
    fn pass(&self, message: RxJsonRpcMessage<RoleClient>) -> Option<RxJsonRpcMessage<RoleClient>> {
        let is_progress = matches!(
            &message,
            JsonRpcMessage::Notification(notification)
                if matches!(notification.notification, ServerNotification::ProgressNotification(_))
        );
        let answered = match &message {
            JsonRpcMessage::Response(response) => Some(&response.id),
            JsonRpcMessage::Error(error) => error.id.as_ref(),
            _ => None,
        };
        self.count(|counts| {
            let bytes = std::mem::take(&mut counts.idle_bytes);
            let is_unsolicited = !answered.is_some_and(|id| counts.asked.answer(id));
            if is_unsolicited {
                counts.unsolicited_bytes = counts.unsolicited_bytes.saturating_add(bytes);
            }
            counts.idle_lines = counts.idle_lines.saturating_sub(1);
            if is_progress {
                counts.progress += 1;
            } else if is_unsolicited {
                counts.unsolicited += 1;
            }
        });
        (!is_progress && self.0.reason.get().is_none()).then_some(message)
    }

    /// Notes a request of ours, whose answer is expected.
    fn ask(&self, id: RequestId) {
        self.count(|counts| {
            counts.asked.open.insert(id, false);
        });
    }

    /// Notes that nobody waits for the answer any more.
    fn give_up(&self, id: RequestId) {
        self.count(|counts| counts.asked.give_up(id));
    }

    /// Counts one event of an HTTP stream. By its own words, since streams side by side do not tell in which order their
    /// events are read as messages.
    #[cfg(feature = "mcp-http")]
    pub(super) fn count_event(&self, data: &str) {
        let head = serde_json::from_str(data).unwrap_or(Head { id: None, method: None });
        self.count(|counts| match head {
            Head { id: None, method: None } => {
                counts.idle_lines += 1;
                counts.idle_bytes = counts.idle_bytes.saturating_add(data.len());
            }
            Head {
                id: Some(id),
                method: None,
            } if counts.asked.arrive(&id) => {}
            _ => counts.unsolicited_bytes = counts.unsolicited_bytes.saturating_add(data.len()),
        });
    }

    fn count_read(&self, bytes: &[u8]) {
        let lines = memchr::memchr_iter(b'\n', bytes).count();
        self.count(|counts| {
            counts.idle_lines = counts
                .idle_lines
                .saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
            counts.idle_bytes = counts.idle_bytes.saturating_add(bytes.len());
        });
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let now = Instant::now();
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= WINDOW)
        {
            *counts = Counts {
                since: Some(now),
                idle_bytes: counts.idle_bytes,
                asked: std::mem::take(&mut counts.asked),
                ..Counts::default()
            };
        }
        change(&mut counts);
        let reason = counts.reason();
        drop(counts);
        if let Some(reason) = reason
            && self.0.reason.set(reason).is_ok()
        {
            metrics::refused(Limit::ServerMessages);
            self.0.noticed.notify_waiters();
        }
    }
}

impl fmt::Debug for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flood").field(&self.0.reason.get()).finish()
    }
}

// === impl Counts ===

impl Counts {
    fn reason(&self) -> Option<&'static str> {
        if self.unsolicited > MAX_UNSOLICITED || self.unsolicited_bytes > MAX_UNSOLICITED_BYTES {
            Some("it sent more than 100 messages in a second, or 4 MiB of them, that nobody asked for")
        } else if self.progress > MAX_PROGRESS {
            Some("it reported progress more than 1,000 times in a second")
        } else if self.idle_lines > MAX_IDLE_LINES || self.idle_bytes > MAX_IDLE_BYTES {
            Some("it sent too much that is no message")
        } else {
            None
        }
    }
}

// === impl Asked ===

impl Asked {
    /// Takes the answer to `id` in; whether it was expected.
    fn answer(&mut self, id: &RequestId) -> bool {
        self.open.remove(id).is_some() || self.forget(id)
    }

    /// Notes an event with the answer to `id`, before it is read as a message; whether it was expected.
    #[cfg(feature = "mcp-http")]
    fn arrive(&mut self, id: &RequestId) -> bool {
        let is_expected = match self.open.get(id) {
            Some(has_come) => !has_come,
            None => self.forget(id),
        };
        if is_expected {
            self.open.insert(id.clone(), true);
        }
        is_expected
    }

    fn give_up(&mut self, id: RequestId) {
        if self.open.remove(&id).is_some() {
            self.given_up.truncate(MAX_GIVEN_UP - 1);
            self.given_up.push_front(id);
        }
    }

    /// Whether `id` was among those given up.
    fn forget(&mut self, id: &RequestId) -> bool {
        let place = self.given_up.iter().position(|given_up| given_up == id);
        place.and_then(|place| self.given_up.remove(place)).is_some()
    }
}

// === impl Guarded ===

impl<T> Guarded<T> {
    pub(super) fn new(transport: T, flood: Flood) -> Self {
        Self { transport, flood }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Guarded<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
        let mut asked = None;
        match &item {
            JsonRpcMessage::Request(request) => {
                asked = Some(request.id.clone());
                self.flood.ask(request.id.clone());
            }
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.flood.give_up(id.clone());
                }
            }
            _ => {}
        }
        let (sending, flood) = (self.transport.send(item), self.flood.clone());
        async move {
            let sent = sending.await;
            if let (Err(_), Some(id)) = (&sent, asked) {
                flood.give_up(id);
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        while self.flood.0.reason.get().is_none() {
            let message = self.transport.receive().await?;
            if let Some(message) = self.flood.pass(message) {
                return Some(message);
            }
        }
        None
    }

    fn close(&mut self) -> impl Future<Output = Result<(), T::Error>> + Send {
        self.transport.close()
    }
}

// === impl GuardedRead ===

impl<R> GuardedRead<R> {
    pub(super) fn new(reader: R, flood: Flood) -> Self {
        Self { reader, flood }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for GuardedRead<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.flood.0.reason.get().is_some() {
            // Read as the end of the stream.
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled {
            self.flood.count_read(&buf.filled()[before..]);
        }
        polled
    }
}
