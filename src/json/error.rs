//! Why a document is refused.

use std::fmt;

use super::members::{MAX_MEMBERS, MAX_NAMES};

/// How many characters of a duplicate name an error shows.
const SHOWN_NAME: usize = 64;

/// Why a document was refused, and at which byte. It quotes no value; of a duplicate name it shows the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanError {
    kind: ScanErrorKind,
    /// Where the wrong character or token begins.
    offset: usize,
    name: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanErrorKind {
    /// The document ends before its object does.
    Truncated,
    NotAnObject,
    /// A character that the grammar does not allow at its place.
    Syntax,
    /// A malformed number, such as `01` or `1.`.
    Number,
    /// A control character inside a string.
    ControlCharacter,
    /// A `\` that begins no known escape.
    Escape,
    /// Half of a UTF-16 surrogate pair.
    LoneSurrogate,
    Utf8,
    TooDeep,
    TooManyMembers,
    LongNames,
    /// Two top-level members with the same name.
    Duplicate,
    /// A character other than white space after the object.
    TrailingBytes,
}

// === impl ScanError ===

impl ScanError {
    pub(super) fn new(kind: ScanErrorKind, offset: usize) -> Self {
        Self {
            kind,
            offset,
            name: None,
        }
    }

    /// The top-level name `name` occurs again; its second value is at `offset`.
    pub(super) fn duplicate(name: &str, offset: usize) -> Self {
        Self {
            kind: ScanErrorKind::Duplicate,
            offset,
            name: Some(name.chars().take(SHOWN_NAME).collect()),
        }
    }

    #[cfg(test)]
    pub(super) fn kind(&self) -> ScanErrorKind {
        self.kind
    }
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ScanErrorKind::Truncated => f.write_str("the document ends too early"),
            ScanErrorKind::NotAnObject => f.write_str("the document is not a JSON object"),
            ScanErrorKind::Syntax => f.write_str("unexpected character"),
            ScanErrorKind::Number => f.write_str("malformed number"),
            ScanErrorKind::ControlCharacter => f.write_str("unescaped control character in a string"),
            ScanErrorKind::Escape => f.write_str("unknown escape in a string"),
            ScanErrorKind::LoneSurrogate => f.write_str("half of a surrogate pair in a string"),
            ScanErrorKind::Utf8 => f.write_str("invalid UTF-8"),
            ScanErrorKind::TooDeep => f.write_str("arrays and objects are nested too deeply"),
            ScanErrorKind::TooManyMembers => write!(f, "more than {MAX_MEMBERS} members at the top level"),
            ScanErrorKind::LongNames => {
                write!(
                    f,
                    "the names at the top level have more than {MAX_NAMES} bytes together"
                )
            }
            ScanErrorKind::Duplicate => {
                let name = self.name.as_deref().unwrap_or_default();
                write!(f, "the name {name:?} occurs twice at the top level")
            }
            ScanErrorKind::TrailingBytes => f.write_str("unexpected character after the object"),
        }?;
        write!(f, ", at byte {}", self.offset)
    }
}

impl std::error::Error for ScanError {}
