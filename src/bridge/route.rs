//! Which requests are the bridge's business: a pure function of method, path and headers.
//!
//! The operator's keys are powerful, so a path that may carry one is matched narrowly: below a declared base only, and
//! only in a spelling that every server reads alike.

use std::fmt;
use std::ops::Range;

use http::header::{self, HeaderMap};
use http::{Method, Request};

use super::Config;
use crate::dialect::{self, Api, Purpose};
use crate::types::Dialect;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// It speaks a model API.
    Api(Dialect, Purpose),
    /// It gets a key of the pool, and its body is not read.
    Keyed,
    /// It asks for a websocket, which its client replaces by HTTP once it is refused.
    Websocket(Dialect),
    /// It reaches the inner service untouched.
    Untouched,
}

/// A method and a path below the base that get a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    method: Method,
    path: String,
    /// Whether one or more segments may follow `path`.
    open: bool,
}

/// The place of the model API in the callers' URL space: a path without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base(String);

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

/// Decides by the request's extensions, then by its path.
pub(crate) fn route<B>(config: &Config, request: &Request<B>) -> Route {
    if let Some(dialect) = request.extensions().get::<Dialect>() {
        return Route::Api(*dialect, Purpose::Answer);
    }
    let (method, path) = (request.method(), request.uri().path());
    let below = below(config, path);
    for dialect in &config.dialects {
        let paths = dialect::api(*dialect).paths();
        if *method == Method::POST {
            let is_answer = below == Some(paths.answer) || (paths.below_any_base && path.ends_with(paths.answer));
            if is_answer {
                return Route::Api(*dialect, Purpose::Answer);
            }
            if below.is_some() && below == paths.count {
                return Route::Api(*dialect, Purpose::Count);
            }
        }
        if paths.refuses_websocket && below == Some(paths.answer) && asks_for_websocket(method, request.headers()) {
            return Route::Websocket(*dialect);
        }
    }
    match below {
        Some(below) if is_plain(path) && config.keyed_paths.iter().any(|pattern| pattern.matches(method, below)) => {
            Route::Keyed
        }
        _ => Route::Untouched,
    }
}

/// What follows a declared base in `path`, from its slash on.
pub(super) fn below<'a>(config: &Config, path: &'a str) -> Option<&'a str> {
    let below = config.bases.iter().filter_map(|base| base.below(path));
    // Of several bases the longest: `/v1` before `/`.
    below.min_by_key(|below| below.len())
}

/// How a request on a keyed path names a stored answer.
pub(super) enum StoredName {
    /// By this part of its path.
    Segment(Range<usize>),
    /// By this member of its body.
    Member(&'static str),
}

/// How a request on a keyed path names a stored answer, and of which API; `None` if it does not.
pub(super) fn names_stored(config: &Config, path: &str) -> Option<(&'static dyn Api, StoredName)> {
    let below = below(config, path)?;
    let start = path.len() - below.len();
    Dialect::ALL.into_iter().map(dialect::api).find_map(|api| {
        let segment = api.stored_id(below);
        let named = segment.map(|place| StoredName::Segment(start + place.start..start + place.end));
        Some((api, named.or_else(|| api.stored_member(below).map(StoredName::Member))?))
    })
}

/// RFC 6455 §4.1.
fn asks_for_websocket(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET
        && headers
            .get(header::UPGRADE)
            .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether every server reads `path` alike: plain segments between single slashes, none of them a dot segment.
fn is_plain(path: &str) -> bool {
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

    /// What follows the base in `path`, from its slash on.
    fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
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

    fn config(bases: &[&str]) -> Config {
        Config {
            bases: bases.iter().map(|base| Base::parse(base).unwrap()).collect(),
            ..Config::default()
        }
    }

    fn routed(config: &Config, method: &Method, path: &str) -> Route {
        let mut request = Request::new(());
        request.method_mut().clone_from(method);
        *request.uri_mut() = path.parse().unwrap_or_default();
        route(config, &request)
    }

    const CHAT: Route = Route::Api(Dialect::ChatCompletions, Purpose::Answer);

    #[test]
    fn chat_completions_are_found_below_any_base() {
        for config in [config(&[]), config(&["/v1"])] {
            for path in [
                "/chat/completions",
                "/v1/chat/completions",
                "/openai/deployments/x/chat/completions",
            ] {
                assert_eq!(routed(&config, &Method::POST, path), CHAT, "{path}");
            }
            for path in [
                "/v1/chat/completions/",
                "/v1/chat/completions/x",
                "/chatcompletions",
                "/xchat/completions",
            ] {
                assert_eq!(routed(&config, &Method::POST, path), Route::Untouched, "{path}");
            }
            assert_eq!(routed(&config, &Method::GET, "/v1/chat/completions"), Route::Untouched);
        }
    }

    #[test]
    fn other_apis_are_found_exactly_below_a_declared_base() {
        let below = config(&["/v1", "/openai/v1/"]);
        for (path, route) in [
            ("/v1/messages", Route::Api(Dialect::Messages, Purpose::Answer)),
            ("/openai/v1/messages", Route::Api(Dialect::Messages, Purpose::Answer)),
            (
                "/v1/messages/count_tokens",
                Route::Api(Dialect::Messages, Purpose::Count),
            ),
            ("/v1/responses", Route::Api(Dialect::Responses, Purpose::Answer)),
            ("/messages", Route::Untouched),
            ("/v1/messages/", Route::Untouched),
            ("/v1/rooms/7/messages", Route::Untouched),
            ("/v1/threads/t/messages", Route::Untouched),
            ("/v1x/messages", Route::Untouched),
            ("/surveys/5/responses", Route::Untouched),
        ] {
            assert_eq!(routed(&below, &Method::POST, path), route, "{path}");
            assert_eq!(routed(&config(&[]), &Method::POST, path), Route::Untouched, "{path}");
        }
        let messages = Route::Api(Dialect::Messages, Purpose::Answer);
        assert_eq!(routed(&config(&["/"]), &Method::POST, "/messages"), messages);
        let narrowed = Config {
            dialects: vec![Dialect::ChatCompletions],
            ..config(&["/v1"])
        };
        assert_eq!(routed(&narrowed, &Method::POST, "/v1/messages"), Route::Untouched);
    }

    #[test]
    fn of_several_bases_the_longest_counts() {
        let messages = Route::Api(Dialect::Messages, Purpose::Answer);
        for bases in [["/", "/v1"], ["/v1", "/"]] {
            for path in ["/v1/messages", "/messages"] {
                assert_eq!(
                    routed(&config(&bases), &Method::POST, path),
                    messages,
                    "{bases:?} {path}"
                );
            }
        }
    }

    #[test]
    fn a_dialect_in_the_extensions_decides_whatever_the_path() {
        let mut request = Request::new(());
        request.extensions_mut().insert(Dialect::Messages);
        let messages = Route::Api(Dialect::Messages, Purpose::Answer);
        assert_eq!(route(&config(&[]), &request), messages);
    }

    #[test]
    fn a_websocket_is_refused_where_its_client_then_uses_http() {
        let mut request = Request::get("/v1/responses")
            .header("upgrade", "WebSocket")
            .body(())
            .unwrap();
        assert_eq!(route(&config(&["/v1"]), &request), Route::Websocket(Dialect::Responses));
        assert_eq!(route(&config(&[]), &request), Route::Untouched);
        request.headers_mut().clear();
        assert_eq!(route(&config(&["/v1"]), &request), Route::Untouched);
    }

    #[test]
    fn only_reads_of_models_below_the_base_get_a_key() {
        let declared = config(&["/v1", "/openai/v1"]);
        for path in [
            "/v1/models",
            "/openai/v1/models",
            "/v1/models/gpt-4o",
            "/v1/models/ft:gpt:org::id",
            "/v1/models/meta/llama",
        ] {
            assert_eq!(routed(&declared, &Method::GET, path), Route::Keyed, "{path}");
            assert_eq!(routed(&declared, &Method::HEAD, path), Route::Keyed, "{path}");
            assert_eq!(routed(&declared, &Method::DELETE, path), Route::Untouched, "{path}");
            assert_eq!(routed(&config(&[]), &Method::GET, path), Route::Untouched, "{path}");
        }
        for path in [
            "/models",
            "/v1/models/",
            "/v1/modelsx",
            "/v1/files",
            "/v1/files/models",
            "/v1/files/models/x",
            "/v1/models/../files",
            "/v1/models/%2e%2E/files",
            "/v1/models/x%2f..%2ffiles",
            "/v1/models/meta%2Fllama",
            "/v1/models/..;/files",
            "/v1/models/..%00",
            "/v1/models//x",
            "/v1/../admin/v1/models",
        ] {
            assert_eq!(routed(&declared, &Method::GET, path), Route::Untouched, "{path}");
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
        for text in ["v1", "", "//", "/v1?", "/a/../b"] {
            assert!(Base::parse(text).is_err(), "{text}");
        }
    }
}
