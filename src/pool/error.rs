//! Why a list of keys cannot be a pool.

use std::fmt;

use crate::types::KeyHint;

/// Why a key, or a list of keys, was refused. It names a key by its hint only.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::{KeyPool, KeyPoolError};
///
/// let error = KeyPool::from_secrets(["sk-0123456789abcdefghij", "sk-0123456789abcdefghij"]).unwrap_err();
/// assert!(matches!(error, KeyPoolError::Duplicate(_)));
/// assert_eq!(error.to_string(), r#"the key "sk-0...ghij" is listed twice"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyPoolError {
    /// The list has no key.
    Empty,
    /// The list has this key twice, so its order says two things.
    Duplicate(KeyHint),
    /// The key is empty, begins or ends with a space, or has characters other than visible ASCII and the space, so
    /// that it cannot be sent in a header field ([RFC 9110, 5.5](https://www.rfc-editor.org/rfc/rfc9110#section-5.5)).
    NotAHeaderValue(KeyHint),
}

// === impl KeyPoolError ===

impl fmt::Display for KeyPoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Hints are quoted: that of a key which is no header value may hold a line break.
        match self {
            Self::Empty => f.write_str("a key pool needs at least one key"),
            Self::Duplicate(hint) => write!(f, "the key {hint:?} is listed twice"),
            Self::NotAHeaderValue(hint) => write!(
                f,
                "the key {hint:?} cannot be a header value: it is empty, has a space at an end, \
                 or has characters other than visible ASCII"
            ),
        }
    }
}

impl std::error::Error for KeyPoolError {}
