//! Runs long work that cannot yield on another thread, so that one large body holds up no other request.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

/// The least work for another thread, in bytes. Below it, changing threads costs more than it saves.
const LARGE: usize = 1 << 20;

/// Limits the threads that do such work to half of the cores.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    places: Arc<Semaphore>,
}

/// Cancels work that no thread has begun when its request is cancelled.
struct Working<T>(JoinHandle<T>);

// === impl Aside ===

impl Default for Aside {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            places: Arc::new(Semaphore::new((cores / 2).max(1))),
        }
    }
}

impl Aside {
    /// Whether work over `bytes` bytes is done on another thread.
    pub(crate) fn takes(bytes: usize) -> bool {
        bytes >= LARGE
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
        Box::pin(async move {
            // Never closed, so a permit always comes. The work owns the permit: it goes on when its request is
            // cancelled.
            let place = Arc::clone(&self.places).acquire_owned().await;
            let mut working = Working(spawn_blocking(move || {
                let _place = place;
                work()
            }));
            match (&mut working.0).await {
                Ok(done) => done,
                Err(error) => resume_unwind(error.into_panic()),
            }
        })
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
        let aside = Aside {
            places: Arc::new(Semaphore::new(1)),
        };
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
