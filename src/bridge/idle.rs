//! Tells when a caller has seen nothing for too long, and when a provider has sent nothing for too long. One timer
//! serves both, and no event has to register a timer.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How long a caller may see nothing before a keep-alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The two silences of a stream.
pub(crate) struct Silence {
    sleep: Pin<Box<Sleep>>,
    /// When the caller was last given bytes.
    shown: Instant,
    /// When the provider was last heard, and how long it may then be silent; none while it is not waited for.
    heard: Option<(Instant, Duration)>,
}

/// Whose silence has lasted too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Silent {
    /// The caller's connection needs a keep-alive.
    Caller,
    /// The provider has broken off.
    Provider,
}

// === impl Silence ===

impl Silence {
    pub(crate) fn new() -> Self {
        Self {
            sleep: Box::pin(sleep(KEEP_ALIVE)),
            shown: Instant::now(),
            heard: None,
        }
    }

    /// Notes that the caller was given bytes.
    pub(crate) fn note_shown(&mut self) {
        self.shown = Instant::now();
    }

    /// Begins to wait for the provider, for `limit`.
    pub(crate) fn listen(&mut self, limit: Duration) {
        let now = Instant::now();
        self.heard = Some((now, limit));
        // Moved here only to fire earlier; a timer that fires too early is moved then.
        if let Some(due) = now.checked_add(limit).filter(|due| *due < self.sleep.deadline()) {
            self.sleep.as_mut().reset(due);
        }
    }

    /// Stops waiting for the provider.
    pub(crate) fn stop_listening(&mut self) {
        self.heard = None;
    }

    /// Stops to wait for the provider; how much longer it may be silent once it is waited for again.
    pub(crate) fn pause(&mut self) -> Option<Duration> {
        let (heard, limit) = self.heard.take()?;
        Some(limit.saturating_sub(Instant::now().saturating_duration_since(heard)))
    }

    /// Waits until a silence has lasted too long.
    async fn broken(&mut self) -> Silent {
        loop {
            self.sleep.as_mut().await;
            let now = Instant::now();
            let mut due = self.shown + KEEP_ALIVE;
            if let Some(limit) = self.heard.and_then(|(heard, limit)| heard.checked_add(limit)) {
                if limit <= now {
                    return Silent::Provider;
                }
                due = due.min(limit);
            }
            if self.shown + KEEP_ALIVE <= now {
                return Silent::Caller;
            }
            self.sleep.as_mut().reset(due);
        }
    }

    /// Waits for `work`, or until a silence has lasted too long.
    pub(crate) async fn or<F: Future>(&mut self, work: Pin<&mut F>) -> Result<F::Output, Silent> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            silent = self.broken() => Err(silent),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_s_silence_is_told_every_ten_seconds() {
        let mut silence = Silence::new();
        let begun = Instant::now();
        let mut work = pin!(sleep(Duration::from_secs(35)));
        let mut keep_alives = 0;
        while let Err(silent) = silence.or(work.as_mut()).await {
            assert_eq!(silent, Silent::Caller);
            keep_alives += 1;
            assert_eq!((Instant::now() - begun).as_secs(), keep_alives * 10);
            silence.note_shown();
        }
        assert_eq!(keep_alives, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_put_the_next_keep_alive_off() {
        let mut silence = Silence::new();
        let begun = Instant::now();
        sleep(Duration::from_secs(7)).await;
        silence.note_shown();
        assert_eq!(silence.or(pin!(pending::<()>())).await, Err(Silent::Caller));
        assert_eq!((Instant::now() - begun).as_secs(), 17);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_s_silence_counts_from_when_it_is_waited_for() {
        let mut silence = Silence::new();
        sleep(Duration::from_secs(3)).await;
        let begun = Instant::now();
        silence.listen(Duration::from_secs(2));
        assert_eq!(silence.or(pin!(pending::<()>())).await, Err(Silent::Provider));
        assert_eq!((Instant::now() - begun).as_secs(), 2);
        silence.listen(Duration::from_secs(60));
        let mut keep_alives = 0;
        while silence.or(pin!(pending::<()>())).await == Err(Silent::Caller) {
            keep_alives += 1;
            silence.note_shown();
        }
        assert!((5..=6).contains(&keep_alives), "{keep_alives}");
        assert_eq!((Instant::now() - begun).as_secs(), 62);
    }
}
