//! A write comes after all other runnable tasks, and is deferred once.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use hyper::rt::Write;
use tokio_test::{assert_pending, assert_ready, task};

use super::DeferredWrites;

type Log = Arc<Mutex<Vec<String>>>;

/// Takes a write only when asked for the second time, like a socket whose buffer is full.
struct Full {
    log: Log,
    name: usize,
    is_full: bool,
}

impl Full {
    fn take(&mut self, count: usize) -> Poll<io::Result<usize>> {
        self.is_full = !self.is_full;
        if self.is_full {
            return Poll::Pending;
        }
        self.log
            .lock()
            .expect("nobody panicked")
            .push(format!("{} wrote {count}", self.name));
        Poll::Ready(Ok(count))
    }
}

impl Write for Full {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.take(slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_write_is_deferred_once_and_then_waits_for_the_socket() {
    let log = Log::default();
    let mut stream = DeferredWrites::new(Full {
        log: Arc::clone(&log),
        name: 0,
        is_full: false,
    });
    assert!(stream.is_write_vectored());
    for round in 1..=2 {
        let mut write = task::spawn(poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"abc")));
        assert_pending!(write.poll());
        assert!(write.is_woken(), "it goes on without any event");
        assert_pending!(write.poll());
        assert_eq!(assert_ready!(write.poll()).unwrap(), 3);
        drop(write);
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b"cde")];
        let mut write = task::spawn(poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &slices)));
        assert_pending!(write.poll());
        assert!(write.is_woken());
        assert_pending!(write.poll());
        assert_eq!(assert_ready!(write.poll()).unwrap(), 5);
        assert_eq!(log.lock().unwrap().len(), 2 * round);
    }
}

#[tokio::test]
async fn other_tasks_are_polled_first() {
    let log = Log::default();
    let tasks: Vec<_> = (0..3)
        .map(|name| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                log.lock().unwrap().push(format!("{name} works"));
                let mut stream = pin!(DeferredWrites::new(Full {
                    log,
                    name,
                    // Takes the write at once.
                    is_full: true,
                }));
                poll_fn(|cx| stream.as_mut().poll_write(cx, b"x")).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let expected = ["0 works", "1 works", "2 works", "0 wrote 1", "1 wrote 1", "2 wrote 1"];
    assert_eq!(*log.lock().unwrap(), expected);
}
