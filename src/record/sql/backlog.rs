//! Events between receiving and storing, as JSON lines: in the spool file if there is one, else in memory.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::private::private;
use super::{Settings, SqlError, SqlErrorKind};

/// How much is read of the spool at a time.
const READ: usize = 1 << 20;
const MANY: u64 = u64::MAX / 2;
const RETRY: Duration = Duration::from_millis(500);

/// One thread appends, another reads the oldest lines and forgets them once they are stored.
pub(super) struct Backlog {
    state: Mutex<State>,
    changed: Condvar,
    /// For the receiving task, which waits for events and not for changes here.
    abandoned: Notify,
    max: u64,
}

struct State {
    medium: Medium,
    /// Where the oldest line that is not stored begins.
    start: u64,
    /// Where the last whole line ends.
    end: u64,
    /// How many lines there are; of those that an earlier process left, only that there are many.
    lines: u64,
    /// Nothing more is appended.
    is_closed: bool,
    /// Nothing more is read: the writer gave up.
    is_abandoned: bool,
    /// Since when something is there.
    since: Option<Instant>,
}

enum Medium {
    File(File),
    Memory(Vec<u8>),
}

/// What the reader finds.
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
        let (medium, end) = match &settings.spool {
            None => (Medium::Memory(Vec::new()), 0),
            Some(path) => {
                let failed = |error| SqlError::spool("the spool cannot be opened", error);
                let mut file = private()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .map_err(failed)?;
                // Two writers would write over each other.
                file.try_lock()
                    .map_err(|_| SqlError::new(SqlErrorKind::Spool, "the spool is in use by another process"))?;
                let end = whole_lines(&mut file).map_err(failed)?;
                // A line without an end was cut off in the middle of its writing.
                file.set_len(end).map_err(failed)?;
                (Medium::File(file), end)
            }
        };
        Ok(Self {
            state: Mutex::new(State {
                medium,
                start: 0,
                end,
                lines: if end > 0 { MANY } else { 0 },
                is_closed: false,
                is_abandoned: false,
                since: (end > 0).then(Instant::now),
            }),
            changed: Condvar::new(),
            abandoned: Notify::new(),
            max: settings.max_backlog(),
        })
    }

    /// Appends whole lines, waiting while there is no room for more. Returns false if nobody will read them.
    pub(super) fn append(&self, lines: &[u8]) -> bool {
        let mut state = self.lock();
        let mut failures = 0_u32;
        loop {
            if state.is_abandoned {
                // For the next run, if there is a spool.
                let _ = state.append(lines);
                return false;
            }
            if state.end - state.start >= self.max {
                state = self.wait(state, None);
                continue;
            }
            let error = match state.append(lines) {
                Ok(()) => break,
                Err(error) => error,
            };
            if failures.is_multiple_of(120) {
                tracing::error!(%error, "cannot write to the spool; no records are received until it can be written");
            }
            failures = failures.saturating_add(1);
            state = self.wait(state, Some(RETRY));
        }
        state.since.get_or_insert_with(Instant::now);
        self.changed.notify_all();
        true
    }

    /// Says that nothing more comes.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Says that nothing more is read.
    pub(super) fn abandon(&self) {
        self.lock().is_abandoned = true;
        self.changed.notify_all();
        self.abandoned.notify_one();
    }

    /// Completes once nothing more is read.
    pub(super) async fn abandoned(&self) {
        self.abandoned.notified().await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// The oldest lines: `batch` or more, or as many as there are once the oldest has waited for `wait`.
    pub(super) fn next(&self, batch: usize, wait: Duration) -> io::Result<Next> {
        let mut state = self.lock();
        loop {
            if state.start == state.end {
                if state.is_closed {
                    return Ok(Next::End);
                }
                state = self.wait(state, None);
                continue;
            }
            let waited = state
                .since
                .map_or(wait, |since| Instant::now().saturating_duration_since(since));
            if state.lines >= batch as u64 || state.is_closed || waited >= wait {
                return state.read(batch).map(Next::Lines);
            }
            state = self.wait(state, Some(wait - waited));
        }
    }

    /// Forgets the oldest `lines`, as read: they are stored.
    pub(super) fn forget(&self, lines: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.lines = state.lines.saturating_sub(count(lines));
        let result = state.forget(lines.len());
        state.since = (state.start < state.end).then(Instant::now);
        self.changed.notify_all();
        result
    }

    /// Waits for `pause`, or until nothing more comes.
    pub(super) fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        let was_closed = state.is_closed;
        while state.is_closed == was_closed {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            state = self.wait(state, Some(rest));
        }
    }

    /// How many lines are left, by the count of their ends.
    pub(super) fn count(&self) -> io::Result<u64> {
        let mut state = self.lock();
        let (start, mut total) = (state.start, 0);
        while state.start < state.end {
            let lines = state.read(usize::MAX)?;
            total += count(&lines);
            state.start += lines.len() as u64;
        }
        state.start = start;
        Ok(total)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

// === impl State ===

impl State {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.medium {
            Medium::Memory(held) => held.extend_from_slice(lines),
            Medium::File(file) => {
                file.seek(SeekFrom::Start(self.end))?;
                if let Err(error) = file.write_all(lines) {
                    // The half that was written would stand behind the next lines.
                    let _ = file.set_len(self.end);
                    return Err(error);
                }
            }
        }
        self.end += lines.len() as u64;
        self.lines = self.lines.saturating_add(count(lines));
        Ok(())
    }

    /// Whole lines from the start on: about `batch` of them, at least one.
    fn read(&mut self, batch: usize) -> io::Result<Vec<u8>> {
        let held = self.end - self.start;
        let mut length = READ as u64;
        loop {
            let mut lines = vec![0; usize::try_from(held.min(length)).unwrap_or(usize::MAX)];
            match &mut self.medium {
                Medium::Memory(held) => {
                    let (start, length) = (usize::try_from(self.start).unwrap_or(usize::MAX), lines.len());
                    lines.copy_from_slice(&held[start..][..length]);
                }
                Medium::File(file) => {
                    file.seek(SeekFrom::Start(self.start))?;
                    file.read_exact(&mut lines)?;
                }
            }
            let ends = memchr::memchr_iter(b'\n', &lines).take(batch);
            if let Some(end) = ends.last() {
                lines.truncate(end + 1);
                return Ok(lines);
            }
            if length >= held {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the spool was changed by somebody else",
                ));
            }
            length = length.saturating_mul(4);
        }
    }

    fn forget(&mut self, bytes: usize) -> io::Result<()> {
        self.start += bytes as u64;
        if self.start == self.end {
            self.lines = 0;
        }
        match &mut self.medium {
            // Not each time, as it moves all that is left.
            Medium::Memory(held) if self.start >= self.end / 2 => {
                held.drain(..usize::try_from(self.start).unwrap_or(usize::MAX));
                held.shrink_to(2 * held.len() + READ);
                self.end -= self.start;
                self.start = 0;
            }
            Medium::File(file) if self.start == self.end => {
                file.set_len(0)?;
                (self.start, self.end) = (0, 0);
            }
            Medium::Memory(_) | Medium::File(_) => {}
        }
        Ok(())
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// The length of the file's whole lines.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut piece = vec![0; 64 << 10];
    while end > 0 {
        let length = end.min(piece.len() as u64);
        file.seek(SeekFrom::Start(end - length))?;
        let piece = &mut piece[..usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact(piece)?;
        if let Some(last) = memchr::memrchr(b'\n', piece) {
            return Ok(end - length + last as u64 + 1);
        }
        end -= length;
    }
    Ok(0)
}
