//! Decides which headers cross the bridge, in both directions.
//!
//! A request's headers are cleaned once and only added to afterwards, so that no later attempt can reveal a removed
//! header.

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

/// Headers of the caller that the provider must not see, or that we set ourselves. `expect` has been answered by our
/// server.
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

/// Headers of the provider that are about its account, or about its connection with us.
fn is_private_response(name: &str) -> bool {
    matches!(
        name,
        "set-cookie"
            | "alt-svc"
            | "openai-organization"
            | "openai-project"
            | "anthropic-organization-id"
            | "anthropic-workspace-id"
    )
}

/// Headers that may be sent together with a key of the pool. Any other could act on the operator's account: choose an
/// organisation, change the method, be a second credential.
fn is_harmless(name: &str) -> bool {
    const PREFIXES: [&str; 3] = ["x-stainless-", "x-claude-code-", "x-codex-"];
    matches!(
        name,
        "accept"
            | "content-type"
            // Describes the content of a keyed path, which goes out as it came.
            | "content-encoding"
            | "user-agent"
            | "x-request-id"
            | "x-client-request-id"
            | "traceparent"
            | "tracestate"
            | "anthropic-version"
            | "anthropic-beta"
            | "anthropic-dangerous-direct-browser-access"
            | "openai-beta"
            | "x-app"
            | "originator"
            | "session-id"
            | "session_id"
            | "thread-id"
            | "x-session-id"
            | "x-session-affinity"
            | "x-initiator"
            | "x-interaction-id"
            | "x-title"
            | "http-referer"
    ) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a body is encoded, RFC 9110 §8.4.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers
        .get_all(header::CONTENT_ENCODING)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// A header that the operator lets through together with a key of the pool: a name, or a prefix of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedHeader {
    name: String,
    /// Whether `name` is a prefix.
    open: bool,
}

/// A text that [`BridgeLayer::forward_headers`](crate::BridgeLayer::forward_headers) does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPatternError {
    text: String,
}

/// Cleans the caller's headers for a provider that gets a key of the pool.
pub(crate) fn keep_allowed(headers: &mut HeaderMap, forwarded: &[ForwardedHeader]) {
    remove(headers, |name, _| {
        is_private_request(name) || !(is_harmless(name) || forwarded.iter().any(|header| header.matches(name)))
    });
}

/// Cleans the caller's headers for a provider that gets the caller's own key.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    remove(headers, |name, _| is_private_request(name));
}

/// Tells the provider who calls. A value that is invalid in a header is left out: the request matters more.
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

/// Removes hop-by-hop headers, and headers with at least one `unwanted` value.
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

// === impl ForwardedHeader ===

impl ForwardedHeader {
    /// Reads a name, or a prefix followed by `*`.
    pub(crate) fn parse(text: &str) -> Result<Self, HeaderPatternError> {
        let (name, open) = match text.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (text, false),
        };
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(Self {
                name: name.as_str().to_owned(),
                open,
            }),
            Err(_) => Err(HeaderPatternError { text: text.to_owned() }),
        }
    }

    fn matches(&self, name: &str) -> bool {
        if self.open {
            name.starts_with(&self.name)
        } else {
            name == self.name
        }
    }
}

impl std::fmt::Display for HeaderPatternError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "not the name of a header, or the beginning of one and a *: {:?}",
            self.text
        )
    }
}

impl std::error::Error for HeaderPatternError {}

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
    fn beside_a_pool_key_only_the_list_passes() {
        let mut headers = map(&[
            ("accept", "*/*"),
            ("content-type", "application/json"),
            ("user-agent", "x"),
            ("traceparent", "00"),
            ("anthropic-beta", "b"),
            ("x-stainless-lang", "rust"),
            ("x-claude-code-session-id", "s"),
            ("x-codex-window", "1"),
            ("session_id", "s"),
            ("x-team", "search"),
            ("x-acme-trace", "1"),
            // They choose an account, a method or a path, claim an origin, or are a second credential.
            ("openai-organization", "org-of-the-caller"),
            ("openai-project", "p"),
            ("anthropic-workspace-id", "w"),
            ("origin", "https://example.org"),
            ("referer", "https://example.org"),
            ("x-http-method-override", "DELETE"),
            ("x-original-url", "/v1/files"),
            ("x-real-ip", "1.2.3.4"),
            ("cf-connecting-ip", "1.2.3.4"),
            ("idempotency-key", "k"),
            ("x-goog-api-key", "k"),
            ("anything-new", "x"),
            ("connection", "x-app"),
            ("x-app", "cli"),
            ("authorization", "Bearer x"),
        ]);
        let forwarded = ["X-Team", "x-acme-*", "authorization", "*"]
            .iter()
            .filter_map(|text| ForwardedHeader::parse(text).ok());
        keep_allowed(&mut headers, &forwarded.collect::<Vec<_>>());
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let expected = [
            "accept",
            "anthropic-beta",
            "content-type",
            "session_id",
            "traceparent",
            "user-agent",
            "x-acme-trace",
            "x-claude-code-session-id",
            "x-codex-window",
            "x-stainless-lang",
            "x-team",
        ];
        assert_eq!(left, expected);
        for bad in ["", "*", "a b", "ü", "a*b"] {
            let parsed = ForwardedHeader::parse(bad);
            assert_eq!(parsed.is_ok(), bad == "a*b", "`*` is a letter of a name: {bad:?}");
        }
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
            ("alt-svc", "h3=\":443\""),
            ("openai-organization", "org"),
            ("openai-project", "p"),
            ("anthropic-organization-id", "org"),
            ("anthropic-workspace-id", "w"),
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
