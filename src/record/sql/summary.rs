//! The counts that a sink returns at its end.

/// The work of a sink that ran to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub(super) stored: u64,
    pub(super) mended: u64,
    pub(super) set_aside: u64,
    pub(super) lost: u64,
    pub(super) left_in_spool: u64,
}

// === impl Summary ===

impl Summary {
    /// Events that the database has, those from an earlier run's spool included.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Stored events in which a text or a count had to be changed.
    #[must_use]
    pub fn mended(&self) -> u64 {
        self.mended
    }

    /// Events that the database refused, now in `<spool>.rejected`.
    #[must_use]
    pub fn set_aside(&self) -> u64 {
        self.set_aside
    }

    /// Events that the database refused and no file could keep: there is no spool, or `<spool>.rejected` is full. Their
    /// ids are in the log.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Events that wait in the spool for the next run.
    #[must_use]
    pub fn left_in_spool(&self) -> u64 {
        self.left_in_spool
    }
}
