//! A stream that writes only when every other task that can go on has gone on.
//!
//! A write wakes its reader. Under load the reader is done with one message just before the next one is written, and to
//! wake it again costs as much as to send. With the writes of many connections back to back it is woken once for all, the
//! kernel's code for sending stays in the cache, and the parts of a stream that come close together go out as one.
//! Nothing waits for a time to pass: where no other task can go on, a write comes one poll later.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// See the module docs. For a runtime of one thread; others do not wake tasks in turn.
pub struct LateWrites<T> {
    io: T,
    /// Since the last write, the others had their turn.
    is_late: bool,
}

// === impl LateWrites ===

impl<T> LateWrites<T> {
    pub fn new(io: T) -> Self {
        Self { io, is_late: false }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_late {
            self.is_late = true;
            // Puts this task behind all that are ready now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<T: Connection> Connection for LateWrites<T> {
    fn connected(&self) -> Connected {
        self.io.connected()
    }
}

impl<T: Read + Unpin> Read for LateWrites<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: Write + Unpin> Write for LateWrites<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_late(cx));
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.is_late = false;
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_late(cx));
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        self.is_late = false;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
