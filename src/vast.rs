//! Frees vast memory on another thread. Giving mebibytes back to the system takes milliseconds, in which no other request
//! of the thread goes on.

use std::ops::{Deref, DerefMut};

use tokio::runtime::Handle;

/// The least size that is freed on another thread, in bytes. Below it, changing threads costs more than it saves.
const VAST: usize = 1 << 20;

/// Frees its value with [`free`].
#[derive(Debug)]
pub(crate) struct Vast<T: Default + Send + 'static> {
    value: T,
    size: fn(&T) -> usize,
}

/// Drops a value of about `size` bytes; outside of a runtime on this thread, however large it is.
pub(crate) fn free<T: Send + 'static>(size: usize, value: T) {
    if size >= VAST
        && let Ok(runtime) = Handle::try_current()
    {
        // Nobody waits for it.
        drop(runtime.spawn_blocking(move || drop(value)));
    }
}

/// Keeps the first bytes of a text.
///
/// # Panics
///
/// If a character would be cut.
pub(crate) fn truncate(text: &mut String, kept: usize, room: usize) {
    if text.capacity() < VAST {
        text.truncate(kept);
        return text.shrink_to(kept + room);
    }
    let mut short = String::with_capacity(kept + room);
    short.push_str(&text[..kept]);
    let long = std::mem::replace(text, short);
    free(long.capacity(), long);
}

// === impl Vast ===

impl<T: Default + Send + 'static> Vast<T> {
    pub(crate) fn new(value: T, size: fn(&T) -> usize) -> Self {
        Self { value, size }
    }
}

impl<T: Default + Send + 'static> Deref for Vast<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default + Send + 'static> DerefMut for Vast<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Default + Send + 'static> Drop for Vast<T> {
    fn drop(&mut self) {
        free((self.size)(&self.value), std::mem::take(&mut self.value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::{ThreadId, current};

    use super::*;

    /// Tells on which thread it is dropped.
    #[derive(Default)]
    struct Told {
        size: usize,
        tell: Option<mpsc::Sender<ThreadId>>,
    }

    impl Drop for Told {
        fn drop(&mut self) {
            if let Some(tell) = &self.tell {
                let _ = tell.send(current().id());
            }
        }
    }

    fn freed_here(size: usize) -> bool {
        let (tell, told) = mpsc::channel();
        drop(Vast::new(Told { size, tell: Some(tell) }, |told| told.size));
        told.recv().unwrap() == current().id()
    }

    #[tokio::test]
    async fn only_vast_memory_is_freed_on_another_thread() {
        assert!(!freed_here(VAST));
        assert!(freed_here(VAST - 1));
    }

    #[test]
    fn without_a_runtime_memory_is_freed_here() {
        assert!(freed_here(VAST));
    }

    #[test]
    fn a_short_text_keeps_no_more_memory_than_it_may_need() {
        for length in [100, 2 * VAST] {
            let mut text = "x".repeat(length);
            truncate(&mut text, 10, 5);
            assert_eq!(text, "x".repeat(10));
            assert!(text.capacity() <= 15, "{}", text.capacity());
        }
    }
}
