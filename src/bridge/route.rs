//! Which requests are the bridge's business: a pure function of method and path.
//!
//! The operator's keys are often powerful, so what may carry one is matched narrowly: anything that a provider could
//! read as another path than we do is left alone.

use std::fmt;

use http::Method;

use super::Config;
use crate::types::Dialect;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// It speaks a model API.
    Api(Dialect),
    /// It is listed: it gets a key, and nothing of it is read.
    Listed,
    /// It reaches the inner service untouched.
    Other,
}

/// A listed pass-through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    method: Method,
    path: String,
    /// Whether one or more segments may follow `path`.
    open: bool,
}

/// A pattern that [`BridgeLayer::passthrough`](crate::BridgeLayer::passthrough) does not understand.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::BridgeLayer;
///
/// let error = BridgeLayer::new().passthrough(["models"]).unwrap_err();
/// assert_eq!(error.to_string(), r#"not a pass-through pattern: "models""#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPattern(String);

pub(crate) fn route(config: &Config, method: &Method, path: &str) -> Route {
    if *method == Method::POST && path.ends_with("/chat/completions") {
        return Route::Api(Dialect::ChatCompletions);
    }
    let below = below_base(path);
    if config.passthrough.iter().any(|pattern| pattern.matches(method, below)) && !climbs(path) {
        Route::Listed
    } else {
        Route::Other
    }
}

// === impl Pattern ===

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = || InvalidPattern(text.to_owned());
        let (method, path) = match text.split_once(' ') {
            Some((method, path)) => (method.parse().map_err(|_| invalid())?, path),
            None => (Method::GET, text),
        };
        let (path, open) = path.strip_suffix("/*").map_or((path, false), |path| (path, true));
        if path.len() < 2 || !path.starts_with('/') || path.contains('*') || climbs(path) {
            return Err(invalid());
        }
        Ok(Self {
            method,
            path: path.to_owned(),
            open,
        })
    }

    /// Whether it is a request's method, and what follows the base in its path.
    fn matches(&self, method: &Method, below: &str) -> bool {
        let matches_path = below
            .strip_prefix(self.path.as_str())
            .is_some_and(|rest| match rest.strip_prefix('/') {
                Some(rest) => self.open && !rest.is_empty(),
                None => rest.is_empty() && !self.open,
            });
        matches_path && (*method == self.method || (*method == Method::HEAD && self.method == Method::GET))
    }
}

/// What follows the API's base: everything up to the first segment that names a version (`v1`, `v1beta`).
fn below_base(path: &str) -> &str {
    let mut start = 0;
    for segment in path.split('/') {
        let end = start + segment.len();
        if segment
            .strip_prefix('v')
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        {
            return &path[end..];
        }
        start = end + 1;
    }
    path
}

/// Whether a server may read `path` as another path: dot segments, encoded or not, and empty segments.
fn climbs(path: &str) -> bool {
    path.split(['/', '\\']).skip(1).any(|segment| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        // An encoded separator may hide a dot segment behind it; `%25` may hide either.
        let hidden = plain
            .split("%2f")
            .flat_map(|part| part.split("%5c"))
            .any(|part| part == "." || part == "..");
        plain.is_empty() || hidden || plain.contains("%25")
    }) || path.contains('\\')
}

// === impl InvalidPattern ===

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a pass-through pattern: {:?}", self.0)
    }
}

impl std::error::Error for InvalidPattern {}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: &Method, path: &str) -> Route {
        route(&Config::default(), method, path)
    }

    #[test]
    fn chat_completions_are_found_below_any_base() {
        for path in [
            "/chat/completions",
            "/v1/chat/completions",
            "/openai/deployments/x/chat/completions",
        ] {
            assert_eq!(
                routed(&Method::POST, path),
                Route::Api(Dialect::ChatCompletions),
                "{path}"
            );
        }
        for path in [
            "/v1/chat/completions/",
            "/v1/chat/completions/x",
            "/chatcompletions",
            "/xchat/completions",
        ] {
            assert_eq!(routed(&Method::POST, path), Route::Other, "{path}");
        }
        assert_eq!(routed(&Method::GET, "/v1/chat/completions"), Route::Other);
    }

    #[test]
    fn only_listed_reads_of_models_get_a_key() {
        for path in [
            "/models",
            "/v1/models",
            "/openai/v1/models",
            "/v1/models/gpt-4o",
            "/v1/models/ft:gpt:org::id",
            "/v1/models/meta/llama",
            "/v1/models/meta%2Fllama",
        ] {
            assert_eq!(routed(&Method::GET, path), Route::Listed, "{path}");
            assert_eq!(routed(&Method::HEAD, path), Route::Listed, "{path}");
            assert_eq!(routed(&Method::DELETE, path), Route::Other, "{path}");
        }
        for path in [
            "/v1/models/",
            "/v1/modelsx",
            "/v1/files",
            "/v1/files/models",
            "/v1/files/models/x",
            "/v1/models/../files",
            "/v1/models/%2e%2E/files",
            "/v1/models/x%2f..%2ffiles",
            "/v1/models/x%5c..%5cfiles",
            "/v1/models/%252e%252e/files",
            "/v1/models/..\\files",
            "/v1/models//x",
            "/v1/../admin/v1/models",
            "*",
            "",
        ] {
            assert_eq!(routed(&Method::GET, path), Route::Other, "{path}");
        }
    }

    #[test]
    fn patterns_name_their_method() {
        let pattern = Pattern::parse("POST /embeddings").unwrap();
        assert!(pattern.matches(&Method::POST, "/embeddings"));
        assert!(!pattern.matches(&Method::GET, "/embeddings"));
        for text in ["models", "", "/", "/*", "/a/*/b", "GE T /x", "/a/../b"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
