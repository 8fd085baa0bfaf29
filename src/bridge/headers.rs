//! Which headers cross the bridge, in both directions.
//!
//! The request's are cleaned once and only added to afterwards, so that what one attempt may not show, no later one can.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::extensions::Actor;

const ACTOR_ID: HeaderName = HeaderName::from_static("x-ai-bridge-actor-id");
const ACTOR_PREFIX: &str = "x-ai-bridge-actor-";
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Headers about one connection, RFC 9110 §7.6.1 and what older software still sends.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What the provider must not see of the caller, or must see of us instead. `expect` has been answered by our server.
fn is_private_request(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "accept-encoding"
            | "content-length"
            | "authorization"
            | "x-api-key"
            | "api-key"
            | "cookie"
            | "forwarded"
            | "expect"
    ) || name.starts_with(FORWARDED_PREFIX)
        || name.starts_with(ACTOR_PREFIX)
}

/// What the caller must not see of the provider's account.
fn is_private_response(name: &str) -> bool {
    matches!(name, "set-cookie" | "openai-organization")
}

/// Cleans the caller's headers for the provider.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    remove(headers, |name, _| is_private_request(name));
}

/// Tells the provider who calls. A value that no header may have is left out: the request matters more.
pub(crate) fn add_actor(headers: &mut HeaderMap, actor: &Actor) {
    if let Ok(id) = HeaderValue::from_str(actor.id()) {
        headers.insert(ACTOR_ID, id);
    }
    for (name, value) in actor.iter() {
        let name = HeaderName::try_from(format!("{ACTOR_PREFIX}metadata-{name}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

/// Cleans the provider's headers for the caller; `leaks` tells whether a value holds a key.
pub(crate) fn clean_response(headers: &mut HeaderMap, leaks: impl Fn(&[u8]) -> bool) {
    remove(headers, |name, value| is_private_response(name) || leaks(value));
}

/// Removes what is about the connection, and each header of which one value is `unwanted`.
fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&str, &[u8]) -> bool) {
    let mut names: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        let named = value.as_bytes().split(|byte| *byte == b',');
        names.extend(named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
    }
    let found = headers
        .iter()
        .filter(|(name, value)| is_hop_by_hop(name.as_str()) || unwanted(name.as_str(), value.as_bytes()));
    names.extend(found.map(|(name, _)| name.clone()));
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn a_request_keeps_only_what_is_the_providers_business() {
        let mut headers = map(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("host", "bridge"),
            ("accept-encoding", "gzip"),
            ("content-length", "3"),
            ("authorization", "Bearer x"),
            ("x-api-key", "x"),
            ("api-key", "x"),
            ("cookie", "a=b"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-anything", "1"),
            ("x-ai-bridge-actor-id", "root"),
            ("x-ai-bridge-actor-metadata-team", "admin"),
            ("content-type", "application/json"),
            ("openai-beta", "x"),
            ("x-stainless-lang", "rust"),
        ]);
        clean_request(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "openai-beta", "x-stainless-lang"]);
    }

    #[test]
    fn the_actor_is_told_as_headers() {
        let mut headers = HeaderMap::new();
        add_actor(
            &mut headers,
            &Actor::new("u-1").metadata("team", "search").metadata("bad name", "x"),
        );
        assert_eq!(
            headers,
            map(&[
                ("x-ai-bridge-actor-id", "u-1"),
                ("x-ai-bridge-actor-metadata-team", "search")
            ])
        );
    }

    #[test]
    fn a_response_loses_what_is_about_the_account() {
        let mut headers = map(&[
            ("connection", "close"),
            ("set-cookie", "a=b"),
            ("openai-organization", "org"),
            ("x-debug", "key=sk-secret"),
            ("x-request-id", "req-1"),
            ("content-type", "application/json"),
        ]);
        clean_response(&mut headers, |value| value.windows(9).any(|part| part == b"sk-secret"));
        assert_eq!(
            headers,
            map(&[("x-request-id", "req-1"), ("content-type", "application/json")])
        );
    }
}
