//! Lines one after another, in a file or in memory: one half of the backlog.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};

/// How much is read at a time, in bytes.
const READ: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Half {
    medium: Medium,
    /// In bytes, up to the end of the last whole line.
    length: u64,
    lines: u64,
}

#[derive(Debug)]
enum Medium {
    /// Its cursor is at the end of the last whole line while lines are appended.
    File(File),
    Memory(Vec<u8>),
}

// === impl Half ===

impl Half {
    pub(super) fn in_memory() -> Self {
        Self {
            medium: Medium::Memory(Vec::new()),
            length: 0,
            lines: 0,
        }
    }

    /// The whole lines of `file`.
    pub(super) fn in_file(mut file: File) -> io::Result<Self> {
        let (mut length, mut lines, mut place) = (0, 0, 0);
        let mut piece = vec![0; READ];
        file.seek(SeekFrom::Start(0))?;
        loop {
            let read = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            lines += count(&piece[..read]);
            if let Some(last) = memchr::memrchr(b'\n', &piece[..read]) {
                length = place + last as u64 + 1;
            }
            place += read as u64;
        }
        // A line without an end was cut off while it was written.
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        Ok(Self {
            medium: Medium::File(file),
            length,
            lines,
        })
    }

    /// In bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.medium, Medium::File(_))
    }

    /// Appends whole lines: all, or none and an error.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.medium {
            Medium::Memory(held) => held.extend_from_slice(lines),
            Medium::File(file) => {
                if let Err(error) = file.write_all(lines) {
                    // The written part would stand before the next lines.
                    let _ = file.set_len(self.length);
                    let _ = file.seek(SeekFrom::Start(self.length));
                    return Err(error);
                }
            }
        }
        self.length += lines.len() as u64;
        self.lines += count(lines);
        Ok(())
    }

    /// Whole lines from `start` on: at most `most`, at least one. Nothing is appended until [`clear`](Self::clear).
    pub(super) fn read(&mut self, start: u64, most: usize) -> io::Result<Vec<u8>> {
        let held = self.length - start;
        let mut length = READ as u64;
        loop {
            let mut lines = vec![0; to_size(held.min(length))];
            match &mut self.medium {
                Medium::Memory(held) => {
                    let length = lines.len();
                    lines.copy_from_slice(&held[to_size(start)..][..length]);
                }
                Medium::File(file) => {
                    file.seek(SeekFrom::Start(start))?;
                    file.read_exact(&mut lines)?;
                }
            }
            let ends = memchr::memchr_iter(b'\n', &lines).take(most);
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

    /// Forgets all lines.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        match &mut self.medium {
            Medium::Memory(held) => {
                held.clear();
                held.shrink_to(READ);
            }
            Medium::File(file) => {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
            }
        }
        (self.length, self.lines) = (0, 0);
        Ok(())
    }
}

pub(super) fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

fn to_size(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
