//! One strict pass over a document, whole or in the pieces in which it arrives: is it one JSON object, and where are its
//! members? What was accepted here can be edited by offsets.

use std::fmt;

use super::machine::Machine;
use super::members::{Member, Members};

#[cfg(test)]
mod tests;

/// How much of a duplicate name an error shows, in characters.
const SHOWN_NAME: usize = 64;

/// Scans one document after another; its buffers stay, so that in the long run scanning allocates nothing.
///
/// The document must be one JSON object ([RFC 8259]) with at most white space around it. Accepted is what `serde_json`
/// reads as a `Value`, with three differences: numbers may have any magnitude; no two top-level members may have the
/// same name, for two parsers could then see two documents; and 4 GiB are too much.
///
/// [RFC 8259]: https://www.rfc-editor.org/rfc/rfc8259
#[derive(Default)]
pub(crate) struct Scanner {
    machine: Machine,
    members: Members,
    split: Split,
    failed: Option<ScanError>,
}

/// Why a document was refused, and at which byte. It quotes no values; of a duplicate name it shows the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanError {
    kind: ScanErrorKind,
    offset: usize,
    name: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanErrorKind {
    /// The document ends before its object does.
    Truncated,
    NotAnObject,
    /// A byte that cannot be where it is.
    Syntax,
    /// A number that JSON does not have, such as `01` or `1.`.
    Number,
    /// A control character inside a string.
    ControlCharacter,
    /// A `\` with what is no escape.
    Escape,
    /// Half of a UTF-16 surrogate pair.
    LoneSurrogate,
    Utf8,
    TooDeep,
    /// A top-level name for the second time.
    Duplicate,
    /// Something other than white space after the object.
    TrailingBytes,
    /// 4 GiB or more.
    TooLong,
}

/// The first bytes of a character whose rest is in a later chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Split {
    bytes: [u8; 4],
    len: usize,
}

// === impl Scanner ===

impl Scanner {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One for a provider's answers, where half of a surrogate pair may stand alone in a value: some providers cut a
    /// character in two between one delta and the next.
    pub(crate) fn of_pieces() -> Self {
        Self {
            machine: Machine::new(true),
            ..Self::default()
        }
    }

    /// Forgets the document.
    pub(crate) fn reset(&mut self) {
        self.machine.reset();
        self.members.clear();
        self.split = Split::default();
        self.failed = None;
    }

    /// Scans a document that is there as a whole.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub(crate) fn scan(&mut self, whole: &[u8]) -> Result<(), ScanError> {
        self.reset();
        self.feed(whole)?;
        self.finish()
    }

    /// Takes the next bytes of the document. Where it is cut into chunks changes neither offsets nor errors.
    ///
    /// # Errors
    ///
    /// The first reason to refuse the document, again on every further call.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<(), ScanError> {
        self.failed.clone().map_or(Ok(()), Err)?;
        self.take(chunk).map_err(|kind| self.fail(kind))
    }

    /// Says that the document ends here.
    ///
    /// # Errors
    ///
    /// As of [`Self::feed`], or that the document is not complete.
    pub(crate) fn finish(&mut self) -> Result<(), ScanError> {
        self.failed.clone().map_or(Ok(()), Err)?;
        if self.split.len > 0 {
            return Err(self.fail(ScanErrorKind::Utf8));
        }
        if !self.machine.is_done() {
            return Err(self.fail(ScanErrorKind::Truncated));
        }
        Ok(())
    }

    /// The object's members, as far as they have come.
    pub(crate) fn members(&self) -> &[Member] {
        self.members.as_slice()
    }

    /// The member of this name, unescaped.
    pub(crate) fn get(&self, name: &str) -> Option<&Member> {
        self.members.find(name.as_bytes())
    }

    /// A member's name, unescaped.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn name(&self, member: &Member) -> &str {
        // Names are cut from checked text at ASCII bytes.
        std::str::from_utf8(self.members.name(member)).unwrap_or_default()
    }

    /// Where the object's closing brace is, before which new members go. 0 as long as it has not come.
    pub(crate) fn end(&self) -> usize {
        self.members.object_end()
    }

    fn take(&mut self, mut chunk: &[u8]) -> Result<(), ScanErrorKind> {
        // The split character counts as well, it will get an offset later.
        if u32::try_from(self.machine.offset() + self.split.len + chunk.len()).is_err() {
            return Err(ScanErrorKind::TooLong);
        }
        while self.split.len > 0 {
            let Some((&byte, rest)) = chunk.split_first() else {
                return Ok(());
            };
            chunk = rest;
            self.split.push(byte);
            match std::str::from_utf8(self.split.as_bytes()) {
                Ok(character) => {
                    self.machine.run(character.as_bytes(), &mut self.members)?;
                    self.split = Split::default();
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(ScanErrorKind::Utf8),
            }
        }
        let (whole, unfinished) = chunk.split_at(chunk.len() - unfinished_len(chunk));
        if simdutf8::basic::from_utf8(whole).is_err() {
            // Only the first error counts, and that may be one of grammar.
            let valid = std::str::from_utf8(whole).map_or_else(|error| error.valid_up_to(), str::len);
            self.machine.run(&whole[..valid], &mut self.members)?;
            return Err(ScanErrorKind::Utf8);
        }
        self.machine.run(whole, &mut self.members)?;
        unfinished.iter().for_each(|&byte| self.split.push(byte));
        Ok(())
    }

    #[cold]
    fn fail(&mut self, kind: ScanErrorKind) -> ScanError {
        let error = match kind {
            ScanErrorKind::Duplicate => {
                let name = String::from_utf8_lossy(self.members.open_name());
                let name = name.chars().take(SHOWN_NAME).collect();
                ScanError {
                    kind,
                    offset: self.members.open_entry(),
                    name: Some(name),
                }
            }
            _ => ScanError {
                kind,
                offset: self.machine.offset(),
                name: None,
            },
        };
        self.failed = Some(error.clone());
        error
    }
}

/// Documents hold what people write: only sizes print.
impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("offset", &self.machine.offset())
            .field("members", &self.members().len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

// === impl ScanError ===

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset;
        if let Some(name) = &self.name {
            return write!(
                f,
                "the name {name:?} occurs twice at the top level, again at byte {offset}"
            );
        }
        let what = match self.kind {
            ScanErrorKind::Truncated => "the document ends too early",
            ScanErrorKind::NotAnObject => "the document is not a JSON object",
            ScanErrorKind::Syntax => "unexpected character",
            ScanErrorKind::Number => "malformed number",
            ScanErrorKind::ControlCharacter => "unescaped control character in a string",
            ScanErrorKind::Escape => "unknown escape in a string",
            ScanErrorKind::LoneSurrogate => "half of a surrogate pair in a string",
            ScanErrorKind::Utf8 => "invalid UTF-8",
            ScanErrorKind::TooDeep => "arrays and objects are nested too deeply",
            ScanErrorKind::Duplicate => "a name occurs twice at the top level",
            ScanErrorKind::TrailingBytes => "unexpected character after the object",
            ScanErrorKind::TooLong => "the document is 4 GiB or longer",
        };
        write!(f, "{what}, at byte {offset}")
    }
}

impl std::error::Error for ScanError {}

// === impl Split ===

impl Split {
    fn push(&mut self, byte: u8) {
        // A prefix that is not an error is shorter than the longest character.
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// How many bytes at the end of `chunk` begin a character without ending it.
fn unfinished_len(chunk: &[u8]) -> usize {
    let tail = &chunk[chunk.len().saturating_sub(3)..];
    let Some(lead) = tail.iter().rposition(|&byte| byte >= 0xC0) else {
        return 0;
    };
    let last = &tail[lead..];
    match std::str::from_utf8(last) {
        Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => last.len(),
        _ => 0,
    }
}
