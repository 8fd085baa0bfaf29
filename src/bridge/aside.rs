//! Runs long work that cannot yield on another thread, so that one large body holds up no other request.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::available_parallelism;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

/// The least work for another thread, in bytes. Below it, changing threads costs more than it saves.
const LARGE: usize = 1 << 20;

/// Limits the threads that do such work to half of the cores.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    places: Arc<Semaphore>,
}

/// A place for one piece of work.
#[must_use = "a place that is not used is given back"]
pub(crate) struct Place {
    /// None if the semaphore were closed, which it never is.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Work on another thread. Dropping it cancels work that no thread has begun.
///
/// # Panics
///
/// If the work does.
#[must_use = "work that nobody waits for may never be done"]
pub(crate) struct Working<T>(JoinHandle<T>);

// === impl Aside ===

impl Default for Aside {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new((cores / 2).max(1))
    }
}

impl Aside {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Whether work over `bytes` bytes is done on another thread.
    pub(crate) fn takes(bytes: usize) -> bool {
        bytes >= LARGE
    }

    /// Waits for a place.
    pub(crate) async fn place(&self) -> Place {
        Place {
            _permit: Arc::clone(&self.places).acquire_owned().await.ok(),
        }
    }

    /// Does `work` on another thread. Boxed: requests that never need this keep no room for it.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub(crate) fn run<'a, T: Send + 'static>(
        &'a self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
        Box::pin(async move { self.place().await.begin(work).await })
    }
}

// === impl Place ===

impl Place {
    /// Begins `work`, which owns the place: a request that is cancelled does not stop work that has begun.
    pub(crate) fn begin<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Working<T> {
        Working(spawn_blocking(move || {
            let _place = self;
            work()
        }))
    }
}

// === impl Working ===

impl<T> Future for Working<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(done) => Poll::Ready(done),
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
}

impl<T> Drop for Working<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::current;

    use super::*;

    #[tokio::test]
    async fn much_work_changes_threads() {
        assert!(Aside::takes(LARGE) && !Aside::takes(LARGE - 1));
        let here = current().id();
        assert_ne!(Aside::default().run(|| current().id()).await, here);
    }

    #[tokio::test]
    async fn work_keeps_its_place_when_its_request_is_gone() {
        let aside = Aside::new(1);
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (end, ends) = mpsc::channel::<()>();
        let mut work = aside.run(move || {
            let _ = begun.send(());
            let _ = ends.recv();
        });
        tokio::select! {
            () = &mut work => unreachable!("it waits for the end"),
            _ = has_begun => {}
        }
        drop(work);
        assert_eq!(aside.places.available_permits(), 0, "it is still at work");
        drop(end);
        aside.run(|| ()).await;
    }

    #[tokio::test]
    #[should_panic(expected = "in the middle")]
    async fn a_panic_is_the_request_s_own() {
        Aside::default().run(|| panic!("in the middle")).await;
    }
}
