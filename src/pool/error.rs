//! One error type for keys and lists of keys, so that `?` works throughout an application's set-up.

use std::fmt;

use crate::types::KeyHint;

/// Why a key, or a list of keys, was refused. It shows no more of a key than its hint.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::{KeyPool, KeyPoolErrorKind};
///
/// let error = KeyPool::from_secrets(["sk-0123456789abcdefghij", "sk-0123456789abcdefghij"]).unwrap_err();
/// assert_eq!(error.kind(), KeyPoolErrorKind::Duplicate);
/// assert_eq!(error.to_string(), r#"the key "sk-0...ghij" is listed twice"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPoolError {
    kind: KeyPoolErrorKind,
    hint: Option<KeyHint>,
}

/// The kinds of [`KeyPoolError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyPoolErrorKind {
    /// The list has no key.
    Empty,
    /// The list has a key twice, so its order is ambiguous.
    Duplicate,
    /// The key is empty, begins or ends with a space, or has characters other than visible ASCII and the space, so
    /// that it cannot be sent in a header field ([RFC 9110, 5.5](https://www.rfc-editor.org/rfc/rfc9110#section-5.5)).
    NotAHeaderValue,
}

// === impl KeyPoolError ===

impl KeyPoolError {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> KeyPoolErrorKind {
        self.kind
    }

    /// The key that was refused, masked; `None` for an empty list.
    #[must_use]
    pub fn hint(&self) -> Option<&KeyHint> {
        self.hint.as_ref()
    }

    pub(super) fn empty() -> Self {
        Self {
            kind: KeyPoolErrorKind::Empty,
            hint: None,
        }
    }

    pub(super) fn duplicate(hint: KeyHint) -> Self {
        Self {
            kind: KeyPoolErrorKind::Duplicate,
            hint: Some(hint),
        }
    }

    pub(super) fn not_a_header_value(hint: KeyHint) -> Self {
        Self {
            kind: KeyPoolErrorKind::NotAHeaderValue,
            hint: Some(hint),
        }
    }
}

impl fmt::Display for KeyPoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Debug quotes and escapes: the hint of a refused key may hold a line break.
        let hint = self.hint.as_ref().map(KeyHint::as_str).unwrap_or_default();
        match self.kind {
            KeyPoolErrorKind::Empty => f.write_str("a key pool needs at least one key"),
            KeyPoolErrorKind::Duplicate => write!(f, "the key {hint:?} is listed twice"),
            KeyPoolErrorKind::NotAHeaderValue => write!(
                f,
                "the key {hint:?} cannot be a header value: it is empty, has a space at an end, \
                 or has characters other than visible ASCII"
            ),
        }
    }
}

impl std::error::Error for KeyPoolError {}
