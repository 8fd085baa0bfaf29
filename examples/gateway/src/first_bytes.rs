//! Ends a connection whose first bytes never come.
//!
//! hyper's time-out for a request's head begins once it is known whether the connection speaks HTTP/1 or HTTP/2. Until then
//! it waits for ever: for the first byte, or for the rest of HTTP/2's preface.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::time::{Sleep, sleep};

/// The first bytes of an HTTP/2 connection (RFC 9113 §3.4). A request of HTTP/1 differs from them within these bytes.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its protocol is not known after a time.
pub struct FirstBytes<T> {
    io: T,
    /// `None` once the protocol is known.
    deadline: Option<Pin<Box<Sleep>>>,
    /// How many bytes of [`PREFACE`] have come.
    matched: usize,
}

// === impl FirstBytes ===

impl<T> FirstBytes<T> {
    pub fn new(io: T, time: Duration) -> Self {
        Self {
            io,
            deadline: Some(Box::pin(sleep(time))),
            matched: 0,
        }
    }
}

impl<T: Read + Unpin> Read for FirstBytes<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(deadline) = &mut this.deadline else {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        };
        let expected = &PREFACE[this.matched..];
        // The bytes in hyper's buffer cannot be looked at, so the few bytes that show the protocol are read separately.
        let mut space = [0; PREFACE.len()];
        let room = expected.len().min(buffer.remaining());
        let mut own = ReadBuf::new(&mut space[..room]);
        if Pin::new(&mut this.io).poll_read(cx, own.unfilled())?.is_pending() {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let bytes = own.filled();
        buffer.put_slice(bytes);
        this.matched += bytes.len();
        if bytes.is_empty() || bytes != &expected[..bytes.len()] || this.matched == PREFACE.len() {
            this.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for FirstBytes<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
