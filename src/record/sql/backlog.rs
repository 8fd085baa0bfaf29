//! Events between receiving and storing, as JSON lines: in the two files of the spool if there is one, else in memory.
//!
//! There are two halves. New lines go to the tail, stored ones are read from the head. When the head is empty, it and
//! the tail change places, so no line is moved or copied, and a file is emptied at once: a process that is killed
//! leaves each line in one of the files.

use std::{
    fs::TryLockError,
    io, mem,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    error::{SqlError, SqlErrorKind},
    half::{Half, count},
    line,
    private::private,
    settings::Settings,
};
use crate::record::{Event, events::Journal};

const RETRY: Duration = Duration::from_millis(500);

/// Any thread appends; one thread reads the oldest lines and forgets them once they are stored.
pub(super) struct Backlog {
    /// Locked before `state` by the thread that needs both.
    head: Mutex<Head>,
    state: Mutex<State>,
    changed: Condvar,
    /// For the receiving task, which waits for events and not for changes here.
    abandoned: Notify,
    max: u64,
    batch: usize,
}

struct Head {
    half: Half,
    /// Where the oldest line that is not stored begins.
    start: u64,
}

struct State {
    tail: Half,
    /// How much of the head is not stored, in bytes and in lines.
    unstored: u64,
    unstored_lines: u64,
    /// Nothing more is appended.
    is_closed: bool,
    /// Nothing more is read: the writer gave up.
    is_abandoned: bool,
    /// Since when the tail holds something.
    since: Option<Instant>,
}

/// Runs a function when it is dropped, also by a panic, so that no thread waits for another that is gone.
pub(super) struct AtEnd<'a>(pub(super) &'a Backlog, pub(super) fn(&Backlog));

/// The oldest lines, if there are any.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Whole lines, at least one.
    Lines(Vec<u8>),
    /// Everything is stored, and nothing more will come.
    End,
}

// === impl Backlog ===

impl Backlog {
    /// Takes over the lines that an earlier process left.
    pub(super) fn open(settings: &Settings) -> Result<Self, SqlError> {
        let (first, second) = match &settings.spool {
            None => (Half::in_memory(), Half::in_memory()),
            Some(path) => open_files(path)?,
        };
        // The first file may be the younger one. Rows are stored by their keys, so the order does not matter.
        let (head, tail) = if first.length() > 0 {
            (first, second)
        } else {
            (second, first)
        };
        Ok(Self {
            state: Mutex::new(State {
                unstored: head.length(),
                unstored_lines: head.lines(),
                since: (tail.length() > 0).then(Instant::now),
                tail,
                is_closed: false,
                is_abandoned: false,
            }),
            head: Mutex::new(Head { half: head, start: 0 }),
            changed: Condvar::new(),
            abandoned: Notify::new(),
            max: settings.max_backlog(),
            batch: settings.batch,
        })
    }

    /// Appends whole lines, waiting while there is no room for more. Returns false if nobody will read them.
    pub(super) fn append(&self, lines: &[u8]) -> bool {
        let mut state = lock(&self.state);
        let mut failures = 0_u32;
        loop {
            if state.is_abandoned {
                // For the next run, if there is a spool.
                let _ = state.tail.append(lines);
                return false;
            }
            if state.held() >= self.max {
                state = self.wait(state, None);
                continue;
            }
            let error = match self.put(&mut state, lines) {
                Ok(()) => return true,
                Err(error) => error,
            };
            if failures.is_multiple_of(120) {
                tracing::error!(%error, "cannot write to the spool; no records are received until it can be written");
            }
            failures = failures.saturating_add(1);
            state = self.wait(state, Some(RETRY));
        }
    }

    /// Tells that no more lines will be appended.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// Tells that no more lines will be read.
    pub(super) fn abandon(&self) {
        lock(&self.state).is_abandoned = true;
        self.changed.notify_all();
        self.abandoned.notify_one();
    }

    /// Completes once nothing more is read.
    pub(super) async fn abandoned(&self) {
        self.abandoned.notified().await;
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).is_closed
    }

    /// At most a batch of the oldest lines. Waits for a whole batch, or until the oldest has waited for `wait`.
    pub(super) fn next(&self, wait: Duration) -> io::Result<Next> {
        let mut head = lock(&self.head);
        if head.start == head.half.length() {
            let mut state = lock(&self.state);
            loop {
                let is_empty = state.tail.length() == 0;
                if is_empty && state.is_closed {
                    return Ok(Next::End);
                }
                let waited = state.since.map(|since| Instant::now().saturating_duration_since(since));
                let rest = match waited {
                    None => None,
                    Some(waited) if state.is_closed || waited >= wait => break,
                    Some(_) if state.tail.lines() >= self.batch as u64 => break,
                    Some(waited) => Some(wait - waited),
                };
                state = self.wait(state, rest);
            }
            // The head is empty: `forget` has cleared it.
            mem::swap(&mut head.half, &mut state.tail);
            head.start = 0;
            (state.unstored, state.unstored_lines) = (head.half.length(), head.half.lines());
            state.since = None;
        }
        let start = head.start;
        head.half.read(start, self.batch).map(Next::Lines)
    }

    /// Forgets the oldest `lines`, as read: they are stored.
    pub(super) fn forget(&self, lines: &[u8]) -> io::Result<()> {
        let mut head = lock(&self.head);
        head.start += lines.len() as u64;
        if head.start == head.half.length() {
            head.half.clear()?;
            head.start = 0;
        }
        let mut state = lock(&self.state);
        state.unstored = head.half.length() - head.start;
        state.unstored_lines = state.unstored_lines.saturating_sub(count(lines));
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for `pause`, or until nothing more comes.
    pub(super) fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = lock(&self.state);
        let was_closed = state.is_closed;
        while state.is_closed == was_closed {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            state = self.wait(state, Some(rest));
        }
    }

    /// How many lines are not stored.
    pub(super) fn waiting(&self) -> u64 {
        let state = lock(&self.state);
        state.unstored_lines + state.tail.lines()
    }

    /// Whether the lines outlive the process.
    pub(super) fn is_in_files(&self) -> bool {
        lock(&self.state).tail.is_file()
    }

    fn put(&self, state: &mut State, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let before = state.tail.lines();
        state.tail.append(lines)?;
        let is_due = before < self.batch as u64 && state.tail.lines() >= self.batch as u64;
        if state.since.is_none() || is_due {
            state.since.get_or_insert_with(Instant::now);
            self.changed.notify_all();
        }
        Ok(())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Option<Duration>) -> MutexGuard<'a, State> {
        match time {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                self.changed
                    .wait_timeout(state, time)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }
}

/// Events reach the spool on the thread that emits them: a caller has the end of its answer only after the events that
/// come before it are written.
impl Journal for Backlog {
    fn write(&self, event: &Event) -> bool {
        let mut lines = Vec::with_capacity(1024);
        line::push(&mut lines, event);
        let mut state = lock(&self.state);
        // The receiving thread waits for room, and tries again after an error.
        state.held() < self.max && self.put(&mut state, &lines).is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl AtEnd ===

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        (self.1)(self.0);
    }
}

// === impl State ===

impl State {
    fn held(&self) -> u64 {
        self.unstored + self.tail.length()
    }
}

// === files ===

/// Opens `<path>` and `<path>.2`. The lock on the first holds for both.
fn open_files(path: &Path) -> Result<(Half, Half), SqlError> {
    let failed = |error| SqlError::spool("the spool cannot be opened", error);
    let open = |path: &Path| {
        private()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)
    };
    let first = open(path)?;
    // Two writers would write over each other.
    first.try_lock().map_err(not_locked)?;
    let second = open(&second_path(path))?;
    Ok((
        Half::in_file(first).map_err(failed)?,
        Half::in_file(second).map_err(failed)?,
    ))
}

pub(super) fn second_path(path: &Path) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(".2");
    path.into()
}

pub(super) fn not_locked(error: TryLockError) -> SqlError {
    match error {
        TryLockError::WouldBlock => SqlError::new(SqlErrorKind::Spool, "the spool is in use by another sink"),
        TryLockError::Error(error) => SqlError::spool("the spool cannot be locked", error),
    }
}
