//! The settings of a sink, and the setters that both sinks have.

use std::{path::PathBuf, time::Duration};

/// The settings that both sinks have.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) spool: Option<PathBuf>,
    pub(super) max_backlog: u64,
    pub(super) batch: usize,
    pub(super) batch_wait: Duration,
    pub(super) drain: Duration,
}

/// The setters that both sinks have.
macro_rules! setters {
    () => {
        /// Keeps events in this file and in `<path>.2` until the database has them. Without a spool they are kept in
        /// memory. See the [module docs](super#delivery) for what it guarantees.
        #[must_use]
        pub fn spool(mut self, path: impl Into<std::path::PathBuf>) -> Self {
            self.settings.spool = Some(path.into());
            self
        }

        /// How many bytes of events may wait for the database, in the spool or else in memory; 1 GiB or else 64 MiB by
        /// default. Beyond it no events are received, which slows the admission of new requests. Stored events are
        /// removed many at a time, so the files or the memory may take up to twice as much.
        #[must_use]
        pub fn max_backlog(mut self, bytes: u64) -> Self {
            self.settings.max_backlog = bytes.max(1);
            self
        }

        /// Writes a batch once it has this many events, or once the oldest has waited this long; 500 and 200 ms by
        /// default.
        #[must_use]
        pub fn batch(mut self, events: usize, wait: std::time::Duration) -> Self {
            self.settings.batch = events.max(1);
            self.settings.batch_wait = wait;
            self
        }

        /// How long to go on trying, after the last event came, with a database that is down; 10 s by default.
        #[must_use]
        pub fn drain_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.drain = timeout;
            self
        }
    };
}
pub(super) use setters;

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            spool: None,
            max_backlog: 0,
            batch: 500,
            batch_wait: Duration::from_millis(200),
            drain: Duration::from_secs(10),
        }
    }
}

impl Settings {
    pub(super) fn max_backlog(&self) -> u64 {
        match (self.max_backlog, &self.spool) {
            (0, Some(_)) => 1 << 30,
            (0, None) => 64 << 20,
            (bytes, _) => bytes,
        }
    }
}
