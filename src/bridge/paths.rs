//! Paths that the operator configures: the base of the model API, and the paths below it that get a key.

use std::fmt;

use http::Method;

/// The place of the model API in the callers' URL space: a path without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base(String);

/// A method and a path below the base that get a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    method: Method,
    path: String,
    /// Whether one or more segments may follow `path`.
    open: bool,
}

/// A path that [`BridgeLayer::base`](crate::BridgeLayer::base) or
/// [`BridgeLayer::keyed_paths`](crate::BridgeLayer::keyed_paths) does not understand.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::BridgeLayer;
///
/// let error = BridgeLayer::new().keyed_paths(["models"]).unwrap_err();
/// assert_eq!(error.to_string(), r#"not a path that can be keyed: "models""#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    path: String,
    reason: &'static str,
}

/// Whether every server reads `path` alike: plain segments between single slashes, none of them a dot segment.
pub(super) fn is_plain(path: &str) -> bool {
    path.strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(is_plain_segment))
}

pub(super) fn is_plain_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
}

// === impl Base ===

impl Base {
    pub(crate) fn parse(text: &str) -> Result<Self, PathError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() && text == "/" || is_plain(path) {
            Ok(Self(path.to_owned()))
        } else {
            Err(PathError {
                path: text.to_owned(),
                reason: "not a path that can be a base",
            })
        }
    }

    /// The rest of `path` after the base, from its slash on.
    pub(super) fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.0.as_str()).filter(|rest| rest.starts_with('/'))
    }
}

// === impl Pattern ===

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PathError> {
        let invalid = || PathError {
            path: text.to_owned(),
            reason: "not a path that can be keyed",
        };
        let (method, path) = match text.split_once(' ') {
            Some((method, path)) => (method.parse().map_err(|_| invalid())?, path),
            None => (Method::GET, text),
        };
        let (path, open) = path.strip_suffix("/*").map_or((path, false), |path| (path, true));
        if !is_plain(path) {
            return Err(invalid());
        }
        Ok(Self {
            method,
            path: path.to_owned(),
            open,
        })
    }

    /// Whether the pattern matches a request's method and its path below the base.
    pub(super) fn matches(&self, method: &Method, below: &str) -> bool {
        let matches_path = below
            .strip_prefix(self.path.as_str())
            .is_some_and(|rest| match rest.strip_prefix('/') {
                Some(rest) => self.open && !rest.is_empty(),
                None => rest.is_empty() && !self.open,
            });
        matches_path && (*method == self.method || (*method == Method::HEAD && self.method == Method::GET))
    }
}

// === impl PathError ===

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.reason, self.path)
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_their_method() {
        let pattern = Pattern::parse("POST /embeddings").unwrap();
        assert!(pattern.matches(&Method::POST, "/embeddings"));
        assert!(!pattern.matches(&Method::GET, "/embeddings"));
        for text in ["models", "", "/", "/*", "/a/*/b", "GE T /x", "/a/../b"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        for text in ["v1", "", "//", "/v1?", "/a/../b"] {
            assert!(Base::parse(text).is_err(), "{text}");
        }
    }
}
