//! Ends the session of a server that floods us: with messages that nobody asked for, or with lines that are not
//! messages.
//!
//! The SDK starts a task for each request of a server and reads on, whatever comes; so the bound is around its transport.

use std::{
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
    model::{JsonRpcMessage, ServerNotification},
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::Transport,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
    time::Instant,
};

use crate::metrics::{self, Limit};

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
    /// Requests of ours without an answer yet.
    unanswered: u32,
    idle_lines: u32,
    /// Since the last message.
    idle_bytes: usize,
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
        let is_answer = matches!(message, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_));
        self.count(|counts| {
            let bytes = std::mem::take(&mut counts.idle_bytes);
            let is_unsolicited = !is_answer || counts.unanswered == 0;
            if is_answer {
                counts.unanswered = counts.unanswered.saturating_sub(1);
            }
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

    /// Counts a request of ours, whose answer is expected.
    fn ask(&self) {
        self.count(|counts| counts.unanswered = counts.unanswered.saturating_add(1));
    }

    /// Counts one event of an HTTP stream with so many bytes, whether or not a message is found in it.
    #[cfg(feature = "mcp-http")]
    pub(super) fn count_event(&self, bytes: usize) {
        self.count(|counts| {
            counts.idle_lines += 1;
            counts.idle_bytes = counts.idle_bytes.saturating_add(bytes);
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
                unanswered: counts.unanswered,
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
        if matches!(item, JsonRpcMessage::Request(_)) {
            self.flood.ask();
        }
        self.transport.send(item)
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::advance;

    use super::*;

    fn message(value: serde_json::Value) -> RxJsonRpcMessage<RoleClient> {
        serde_json::from_value(value).unwrap()
    }

    fn ping() -> RxJsonRpcMessage<RoleClient> {
        message(json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_messages_a_second_pass_for_ever() {
        let flood = Flood::default();
        for _ in 0..50 {
            for _ in 0..MAX_UNSOLICITED {
                assert!(flood.pass(ping()).is_some());
            }
            advance(WINDOW).await;
        }
        assert_eq!(flood.reason(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn more_end_the_session() {
        let flood = Flood::default();
        for _ in 0..MAX_UNSOLICITED {
            flood.pass(ping());
        }
        assert!(flood.pass(ping()).is_none());
        advance(WINDOW).await;
        assert!(flood.pass(ping()).is_none(), "it does not recover");
        assert!(flood.noticed().await.contains("nobody asked for"));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_not_counted_and_progress_is_thrown_away() {
        let flood = Flood::default();
        for id in 0..5_000 {
            flood.ask();
            let answer = message(json!({ "jsonrpc": "2.0", "id": id, "result": {} }));
            assert!(flood.pass(answer).is_some());
        }
        let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress",
            "params": { "progressToken": 1, "progress": 1 } });
        for _ in 0..MAX_PROGRESS {
            assert!(flood.pass(message(progress.clone())).is_none());
        }
        assert_eq!(flood.reason(), None);
        flood.pass(message(progress));
        assert!(flood.reason().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_asked_for_are_a_flood() {
        let flood = Flood::default();
        let answer = || message(json!({ "jsonrpc": "2.0", "id": 7, "result": {} }));
        flood.ask();
        for _ in 0..=MAX_UNSOLICITED {
            assert!(flood.pass(answer()).is_some());
        }
        assert!(flood.pass(answer()).is_none());
        assert!(flood.noticed().await.contains("nobody asked for"));
    }

    #[tokio::test(start_paused = true)]
    async fn few_messages_of_many_bytes_are_a_flood() {
        let flood = Flood::default();
        for _ in 0..2 {
            flood.count_read(&vec![b'x'; 2 << 20]);
            assert!(flood.pass(ping()).is_some());
        }
        // An expected answer has no limit here.
        flood.ask();
        flood.count_read(&vec![b'x'; 8 << 20]);
        assert!(
            flood
                .pass(message(json!({ "jsonrpc": "2.0", "id": 1, "result": {} })))
                .is_some()
        );
        flood.count_read(b"x");
        assert!(flood.pass(ping()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_counted_unless_they_are_messages() {
        let flood = Flood::default();
        for _ in 0..5 * MAX_IDLE_LINES {
            flood.count_read(b"{}\n");
            flood.ask();
            flood.pass(message(json!({ "jsonrpc": "2.0", "id": 1, "result": {} })));
        }
        assert_eq!(flood.reason(), None);
        for _ in 0..=MAX_IDLE_LINES {
            flood.count_read(b"oops\n");
        }
        assert!(flood.reason().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_without_an_end_is_noticed_however_slow() {
        let flood = Flood::default();
        for _ in 0..=MAX_IDLE_BYTES >> 16 {
            flood.count_read(&[b'x'; 1 << 16]);
            advance(WINDOW).await;
        }
        assert!(flood.reason().is_some());
    }
}
