//! Drops vast values on another thread. Giving mebibytes back to the system takes milliseconds, in which no other request
//! of the thread goes on.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// The least size of a value that another thread drops, in bytes. Below it, changing threads costs more than it saves.
const VAST: usize = 1 << 20;

thread_local! {
    static IS_DROPPER: Cell<bool> = const { Cell::new(false) };
}

/// Drops its value with [`drop_elsewhere`].
#[derive(Debug)]
pub(crate) struct Vast<T: Default + Send + 'static> {
    value: T,
    size: fn(&T) -> usize,
}

/// Drops a value of about `size` bytes: if it is vast on the thread that does nothing else, otherwise here.
pub(crate) fn drop_elsewhere<T: Send + 'static>(size: usize, value: T) {
    if size >= VAST
        && !IS_DROPPER.get()
        && let Some(dropper) = dropper()
    {
        // If that thread is gone, the error drops the value here.
        let _ = dropper.send(Box::new(value));
    }
}

/// Not one of tokio's threads: it panics if the system has none left, and a panic while another one drops values ends the
/// process.
fn dropper() -> Option<&'static Sender<Box<dyn Send>>> {
    static DROPPER: OnceLock<Option<Sender<Box<dyn Send>>>> = OnceLock::new();
    let dropper = DROPPER.get_or_init(|| {
        let (sender, values) = channel::<Box<dyn Send>>();
        let started = thread::Builder::new().name("llm-bridge-drop".into()).spawn(move || {
            IS_DROPPER.set(true);
            values.into_iter().for_each(drop);
        });
        started.is_ok().then_some(sender)
    });
    dropper.as_ref()
}

/// Keeps the first `kept` bytes of a text, with room for `more`.
///
/// # Panics
///
/// If a character would be cut.
pub(crate) fn truncate(text: &mut String, kept: usize, more: usize) {
    if text.capacity() < VAST {
        text.truncate(kept);
        return text.shrink_to(kept + more);
    }
    let mut short = String::with_capacity(kept + more);
    short.push_str(&text[..kept]);
    let long = std::mem::replace(text, short);
    drop_elsewhere(long.capacity(), long);
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

impl<T: Default + Send + 'static> Drop for Vast<T> {
    fn drop(&mut self) {
        drop_elsewhere((self.size)(&self.value), std::mem::take(&mut self.value));
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use super::*;

    /// Tells on which thread it is dropped, and then drops what is in it.
    #[derive(Default)]
    struct Told {
        size: usize,
        tell: Option<Sender<ThreadId>>,
        _inner: Option<Box<Vast<Told>>>,
    }

    impl Drop for Told {
        fn drop(&mut self) {
            if let Some(tell) = &self.tell {
                let _ = tell.send(current().id());
            }
        }
    }

    fn told(size: usize, tell: &Sender<ThreadId>, inner: Option<Vast<Told>>) -> Vast<Told> {
        let tell = Some(tell.clone());
        let _inner = inner.map(Box::new);
        Vast::new(Told { size, tell, _inner }, |told| told.size)
    }

    #[test]
    fn only_vast_values_are_dropped_on_another_thread() {
        let (tell, threads) = channel();
        drop(told(VAST - 1, &tell, None));
        assert_eq!(threads.recv().unwrap(), current().id());
        drop(told(VAST, &tell, None));
        assert_ne!(threads.recv().unwrap(), current().id());
    }

    #[test]
    fn a_vast_value_in_another_changes_threads_once() {
        let (tell, threads) = channel();
        let inner = told(VAST, &tell, None);
        drop(told(VAST, &tell, Some(inner)));
        let outer = threads.recv().unwrap();
        assert_ne!(outer, current().id());
        assert_eq!(threads.recv().unwrap(), outer);
    }

    #[test]
    fn a_text_that_was_cut_keeps_no_more_memory_than_it_may_need() {
        for length in [100, 2 * VAST] {
            let mut text = "x".repeat(length);
            truncate(&mut text, 10, 5);
            assert_eq!(text, "x".repeat(10));
            assert!(text.capacity() <= 15, "{}", text.capacity());
        }
    }
}
