//! Work over many bytes that cannot yield half-way, done on a thread of its own: whoever sends them holds up no other request.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// From so many bytes on. Below it the work takes less than what a change of threads is worth.
const LARGE: usize = 1 << 20;

/// Where such work is done: half of the cores are left to the others.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    places: Arc<Semaphore>,
}

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
    /// Whether work over so many bytes belongs here.
    pub(crate) fn takes(bytes: usize) -> bool {
        bytes >= LARGE
    }

    /// Does `work` here. Boxed: a request that never needs it keeps no room for it.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub(crate) fn run<'a, T: Send + 'static>(
        &'a self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
        Box::pin(async move {
            // Never closed, so there is always a place to come.
            let _place = self.places.acquire().await;
            match spawn_blocking(work).await {
                Ok(done) => done,
                Err(error) => resume_unwind(error.into_panic()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::thread::current;

    use super::*;

    #[tokio::test]
    async fn much_work_changes_threads() {
        assert!(Aside::takes(LARGE) && !Aside::takes(LARGE - 1));
        let here = current().id();
        assert_ne!(Aside::default().run(|| current().id()).await, here);
    }

    #[tokio::test]
    #[should_panic(expected = "in the middle")]
    async fn a_panic_is_the_request_s_own() {
        Aside::default().run(|| panic!("in the middle")).await;
    }
}
