//! One strict pass over a document, whole or in chunks: is it one JSON object, and where are its members? An accepted
//! document can be edited by offsets.

use std::fmt;

use super::error::{ScanError, ScanErrorKind};
use super::grammar::Grammar;
use super::members::{Member, Members};
use super::string::MAX_ESCAPE;

#[cfg(test)]
mod tests;

/// The most bytes that a chunk's end cuts off: an escape without its last byte, and a character without its last.
const MAX_CUT: usize = (MAX_ESCAPE - 1) + 3;
/// How many bytes of a chunk are certain to complete a token that was cut before it.
const COMPLETES: usize = 2 * MAX_ESCAPE;

/// Scans one document after another. It keeps its buffers, so that in the long run scanning allocates nothing.
///
/// The document must be one JSON object ([RFC 8259]) with at most white space around it. The scanner accepts what
/// `serde_json` reads as a `Value`, with three differences: numbers may have any magnitude; no two top-level members may
/// have the same name, for two parsers could then see two documents; and there may be 1,000 top-level members at most.
///
/// A call of [`feed`](Self::feed) never waits: in async code, feed a large body in chunks of some 64 KiB and yield between
/// them. Where the chunks end changes nothing in the outcome.
///
/// [RFC 8259]: https://www.rfc-editor.org/rfc/rfc8259
#[derive(Default)]
pub(crate) struct Scanner {
    allow_duplicates: bool,
    grammar: Grammar,
    members: Members,
    /// How many bytes the grammar has taken.
    offset: usize,
    cut: Cut,
    failed: Option<ScanError>,
}

/// The bytes after those that the grammar has taken: a character, an escape or a word whose rest is in a later chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    bytes: [u8; MAX_CUT],
    len: usize,
}

// === impl Scanner ===

impl Scanner {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A scanner for a provider's answers, which SDKs read leniently: of a repeated name the last member counts, and half
    /// of a surrogate pair may stand alone in a value, since some providers split a character between two deltas.
    pub(crate) fn lenient() -> Self {
        Self {
            grammar: Grammar::new(true),
            allow_duplicates: true,
            ..Self::default()
        }
    }

    /// Forgets the document.
    pub(crate) fn reset(&mut self) {
        self.grammar.reset();
        self.members.clear();
        self.offset = 0;
        self.cut = Cut::default();
        self.failed = None;
    }

    /// Scans a whole document.
    ///
    /// # Errors
    ///
    /// Why the document is refused.
    pub(crate) fn scan(&mut self, document: &[u8]) -> Result<(), ScanError> {
        self.reset();
        self.feed(document)?;
        self.finish()
    }

    /// Takes the next bytes of the document.
    ///
    /// # Errors
    ///
    /// The first reason to refuse the document, again on every further call.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<(), ScanError> {
        self.failed.clone().map_or(Ok(()), Err)?;
        self.take(chunk)
            .map_err(|kind| self.fail(ScanError::new(kind, self.offset)))
    }

    /// Tells that the document ends here.
    ///
    /// # Errors
    ///
    /// As of [`Self::feed`], or that the document is not complete, or that two of its members have the same name.
    pub(crate) fn finish(&mut self) -> Result<(), ScanError> {
        self.failed.clone().map_or(Ok(()), Err)?;
        if std::str::from_utf8(self.cut.as_bytes()).is_err() {
            return Err(self.fail(ScanError::new(ScanErrorKind::Utf8, self.offset)));
        }
        if !self.grammar.is_done() {
            let end = self.offset + self.cut.len;
            return Err(self.fail(ScanError::new(ScanErrorKind::Truncated, end)));
        }
        if self.allow_duplicates {
            return Ok(());
        }
        match self.members.find_duplicate() {
            Some(member) => {
                let error = ScanError::duplicate(self.name(member), member.value().start);
                Err(self.fail(error))
            }
            None => Ok(()),
        }
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
    pub(crate) fn name(&self, member: &Member) -> &str {
        // Names are cut from checked text at ASCII bytes.
        std::str::from_utf8(self.members.name(member)).unwrap_or_default()
    }

    /// Where the object's closing brace is, before which new members go. 0 as long as it has not come.
    pub(crate) fn end(&self) -> usize {
        self.members.object_end()
    }

    fn take(&mut self, mut chunk: &[u8]) -> Result<(), ScanErrorKind> {
        let before = self.cut.len;
        if before > 0 {
            let first = &chunk[..chunk.len().min(COMPLETES)];
            let mut joined = [0; MAX_CUT + COMPLETES];
            joined[..before].copy_from_slice(self.cut.as_bytes());
            joined[before..][..first.len()].copy_from_slice(first);
            let joined = &joined[..before + first.len()];
            let taken = self.read(joined)?;
            if first.len() == chunk.len() {
                self.cut.set(&joined[taken..]);
                return Ok(());
            }
            chunk = &chunk[taken - before..];
        }
        let taken = self.read(chunk)?;
        self.cut.set(&chunk[taken..]);
        Ok(())
    }

    /// Reads as much of the next bytes as can be understood without those after them, and returns how many.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, ScanErrorKind> {
        let (text, is_utf8) = match simdutf8::compat::from_utf8(bytes) {
            Ok(_) => (bytes, true),
            // A character without its last bytes is no error yet.
            Err(error) => (&bytes[..error.valid_up_to()], error.error_len().is_none()),
        };
        let (taken, outcome) = self.grammar.read(text, self.offset, &mut self.members);
        self.offset += taken;
        // Only the first error counts: if the grammar refuses the text, what comes after it does not matter.
        outcome?;
        if is_utf8 { Ok(taken) } else { Err(ScanErrorKind::Utf8) }
    }

    #[cold]
    fn fail(&mut self, error: ScanError) -> ScanError {
        self.failed = Some(error.clone());
        error
    }
}

/// Prints only sizes: documents hold private text.
impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("offset", &self.offset)
            .field("members", &self.members().len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

// === impl Cut ===

impl Cut {
    fn set(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len();
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
