//! Drops vast values on another thread. Giving mebibytes back to the system takes milliseconds, in which no other request
//! of the thread goes on.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use bytes::Bytes;

/// The least size of a value that another thread drops, in bytes. Below it, changing threads costs more than it saves.
const VAST: usize = 1 << 20;

/// Bytes that are dropped with [`drop_elsewhere`].
pub(crate) struct Vast(pub(crate) Bytes);

/// Drops a value of about `size` bytes: on a thread that does nothing else if it is vast, here if not.
pub(crate) fn drop_elsewhere<T: Send + 'static>(size: usize, value: T) {
    if size >= VAST
        && let Some(dropper) = dropper()
    {
        // If that thread is gone, the error drops the value here.
        let _ = dropper.send(Box::new(value));
    }
}

/// That thread. Tokio's for blocking work would not do: tokio panics if the system has no thread left, and a panic while
/// another one drops values ends the process.
fn dropper() -> Option<&'static Sender<Box<dyn Send>>> {
    static DROPPER: OnceLock<Option<Sender<Box<dyn Send>>>> = OnceLock::new();
    let dropper = DROPPER.get_or_init(|| {
        let (sender, values) = channel::<Box<dyn Send>>();
        let started = thread::Builder::new().name("llm-bridge-drop".into()).spawn(move || {
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

impl Deref for Vast {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Vast {
    fn drop(&mut self) {
        drop_elsewhere(self.0.len(), std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use super::*;

    /// Tells on which thread it is dropped.
    struct Told(Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(current().id());
        }
    }

    #[test]
    fn only_vast_values_are_dropped_on_another_thread() {
        for (size, is_here) in [(VAST - 1, true), (VAST, false)] {
            let (tell, thread) = channel();
            drop_elsewhere(size, Told(tell));
            assert_eq!(thread.recv().unwrap() == current().id(), is_here, "{size}");
        }
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
