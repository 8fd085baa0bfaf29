//! Decides which requests the bridge handles: a pure function of method, path, headers and extensions.
//!
//! The operator's keys are powerful, so a path that may carry one is matched narrowly: below a declared base only, and
//! only in a spelling that every server reads alike.

use std::ops::Range;

use http::header::{self, HeaderMap};
use http::{Method, Request};

use super::config::Config;
use super::paths::is_plain;
use crate::dialect::{self, Api, Purpose};
use crate::types::Dialect;

/// How the bridge handles a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// It speaks a model API.
    Api(Dialect, Purpose),
    /// It gets a key of the pool, without rounds or records.
    Keyed,
    /// It asks for a websocket; once refused, its client uses HTTP.
    Websocket(Dialect),
}

/// Decides by the request's extensions, then by its path; `None` for a request that reaches the inner service untouched.
pub(crate) fn route<B>(config: &Config, request: &Request<B>) -> Option<Route> {
    if let Some(dialect) = request.extensions().get::<Dialect>() {
        return Some(Route::Api(*dialect, Purpose::Answer));
    }
    let (method, path) = (request.method(), request.uri().path());
    let below = below(config, path);
    for dialect in &config.dialects {
        let paths = dialect::api(*dialect).paths();
        if *method == Method::POST {
            let is_answer = below == Some(paths.answer) || (paths.below_any_base && path.ends_with(paths.answer));
            if is_answer {
                return Some(Route::Api(*dialect, Purpose::Answer));
            }
            if below.is_some() && below == paths.count {
                return Some(Route::Api(*dialect, Purpose::Count));
            }
        }
        if paths.refuses_websocket && below == Some(paths.answer) && asks_for_websocket(method, request.headers()) {
            return Some(Route::Websocket(*dialect));
        }
    }
    match below {
        Some(below) if is_plain(path) && config.keyed_paths.iter().any(|pattern| pattern.matches(method, below)) => {
            Some(Route::Keyed)
        }
        _ => None,
    }
}

/// The rest of `path` after a declared base, from its slash on.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::paths::Base;

    fn config(bases: &[&str]) -> Config {
        Config {
            bases: bases.iter().map(|base| Base::parse(base).unwrap()).collect(),
            ..Config::default()
        }
    }

    fn routed(config: &Config, method: &Method, path: &str) -> Option<Route> {
        let mut request = Request::new(());
        request.method_mut().clone_from(method);
        *request.uri_mut() = path.parse().unwrap_or_default();
        route(config, &request)
    }

    const CHAT: Option<Route> = Some(Route::Api(Dialect::ChatCompletions, Purpose::Answer));

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
                assert_eq!(routed(&config, &Method::POST, path), None, "{path}");
            }
            assert_eq!(routed(&config, &Method::GET, "/v1/chat/completions"), None);
        }
    }

    #[test]
    fn other_apis_are_found_exactly_below_a_declared_base() {
        let below = config(&["/v1", "/openai/v1/"]);
        for (path, route) in [
            ("/v1/messages", Some(Route::Api(Dialect::Messages, Purpose::Answer))),
            (
                "/openai/v1/messages",
                Some(Route::Api(Dialect::Messages, Purpose::Answer)),
            ),
            (
                "/v1/messages/count_tokens",
                Some(Route::Api(Dialect::Messages, Purpose::Count)),
            ),
            ("/v1/responses", Some(Route::Api(Dialect::Responses, Purpose::Answer))),
            ("/messages", None),
            ("/v1/messages/", None),
            ("/v1/rooms/7/messages", None),
            ("/v1/threads/t/messages", None),
            ("/v1x/messages", None),
            ("/surveys/5/responses", None),
        ] {
            assert_eq!(routed(&below, &Method::POST, path), route, "{path}");
            assert_eq!(routed(&config(&[]), &Method::POST, path), None, "{path}");
        }
        let messages = Some(Route::Api(Dialect::Messages, Purpose::Answer));
        assert_eq!(routed(&config(&["/"]), &Method::POST, "/messages"), messages);
        let narrowed = Config {
            dialects: vec![Dialect::ChatCompletions],
            ..config(&["/v1"])
        };
        assert_eq!(routed(&narrowed, &Method::POST, "/v1/messages"), None);
    }

    #[test]
    fn of_several_bases_the_longest_counts() {
        let messages = Some(Route::Api(Dialect::Messages, Purpose::Answer));
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
        let messages = Some(Route::Api(Dialect::Messages, Purpose::Answer));
        assert_eq!(route(&config(&[]), &request), messages);
    }

    #[test]
    fn a_websocket_is_refused_where_its_client_then_uses_http() {
        let mut request = Request::get("/v1/responses")
            .header("upgrade", "WebSocket")
            .body(())
            .unwrap();
        assert_eq!(
            route(&config(&["/v1"]), &request),
            Some(Route::Websocket(Dialect::Responses))
        );
        assert_eq!(route(&config(&[]), &request), None);
        request.headers_mut().clear();
        assert_eq!(route(&config(&["/v1"]), &request), None);
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
            assert_eq!(routed(&declared, &Method::GET, path), Some(Route::Keyed), "{path}");
            assert_eq!(routed(&declared, &Method::HEAD, path), Some(Route::Keyed), "{path}");
            assert_eq!(routed(&declared, &Method::DELETE, path), None, "{path}");
            assert_eq!(routed(&config(&[]), &Method::GET, path), None, "{path}");
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
            assert_eq!(routed(&declared, &Method::GET, path), None, "{path}");
        }
    }
}
