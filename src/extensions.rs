//! Typed request and response extensions: layers above tell the bridge who calls, and the bridge tells other layers
//! what it did.
//!
//! The bridge removes [`Actor`] and [`Credential`] before it calls the inner service, so that no inner layer and no
//! later round sees them.

use std::collections::BTreeMap;
use std::fmt;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use uuid::Uuid;

use crate::redact::{self, Secret};
use crate::types::{CredentialHeader, KeyHint};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Who sends the request, as the user's auth layer knows it.
///
/// Insert it in the request's extensions above the bridge. It shows in the `started` record and, if
/// [`BridgeLayer::actor_headers`](crate::BridgeLayer::actor_headers) is on, in the headers that the provider sees.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::Actor;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Actor::new("u-17").metadata("team", "search"));
///
/// // A layer between the auth layer and the bridge reads it.
/// let actor = request.extensions().get::<Actor>();
/// assert_eq!(actor.and_then(|actor| actor.get("team")), Some("search"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    id: String,
    metadata: BTreeMap<String, String>,
}

/// The caller's own key for this request: one attempt with it, and no key of the pool.
///
/// Insert it in the request's extensions above the bridge. Neither `Debug` nor any record shows more than its hint.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::Credential;
///
/// let credential = Credential::bearer("sk-0123456789abcdefghij")?;
/// assert_eq!(format!("{credential:?}"), r#"Credential("sk-0...ghij")"#);
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[derive(Clone)]
pub struct Credential {
    name: HeaderName,
    value: HeaderValue,
    /// Where the key begins in the value, after a scheme such as `Bearer`.
    start: usize,
    hint: KeyHint,
}

/// Facts about an intercepted request for the layers above, in the response's extensions.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::Intercepted;
///
/// fn log(response: &http::Response<()>) {
///     if let Some(intercepted) = response.extensions().get::<Intercepted>() {
///         println!("{} took {} attempts", intercepted.id(), intercepted.key_attempts());
///     }
/// }
/// # log(&http::Response::new(()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intercepted {
    pub(crate) id: Uuid,
    pub(crate) key_attempts: u32,
}

/// The number of a provider call for the layers below the bridge, in the request's extensions.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::UpstreamAttempt;
///
/// fn is_failover(request: &http::Request<()>) -> bool {
///     request.extensions().get::<UpstreamAttempt>().is_some_and(|call| call.attempt() > 1)
/// }
/// # assert!(!is_failover(&http::Request::new(())));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamAttempt {
    pub(crate) round: u32,
    pub(crate) attempt: u32,
}

// === impl Actor ===

impl Actor {
    /// An actor with the id that the company knows it by.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// Sets one name and value; a later value of the same name replaces it.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// The actor's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The value of the metadata `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }

    /// All metadata as names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn into_parts(self) -> (String, BTreeMap<String, String>) {
        (self.id, self.metadata)
    }
}

// === impl Credential ===

impl Credential {
    /// A key that is sent as `Authorization: Bearer <key>`
    /// ([RFC 6750, 2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)).
    ///
    /// # Errors
    ///
    /// The key has bytes that no header value may have. The error does not show them.
    pub fn bearer(key: &str) -> Result<Self, InvalidHeaderValue> {
        Ok(Self::new(
            AUTHORIZATION,
            HeaderValue::try_from(format!("Bearer {key}"))?,
        ))
    }

    /// A key that is sent alone in the header `name`, for example `x-api-key` or Azure's `api-key`.
    ///
    /// # Errors
    ///
    /// As [`bearer`](Self::bearer).
    ///
    /// # Examples
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_llm_bridge::Credential;
    ///
    /// let credential = Credential::header(HeaderName::from_static("x-api-key"), "sk-ant-0123456789abcdef")?;
    /// assert_eq!(*credential.hint(), *"sk-a...cdef");
    /// # Ok::<(), http::header::InvalidHeaderValue>(())
    /// ```
    pub fn header(name: HeaderName, key: &str) -> Result<Self, InvalidHeaderValue> {
        Ok(Self::new(name, HeaderValue::from_str(key)?))
    }

    /// The key that the caller itself sent, kept in the header that it came in. If there are several, the header that
    /// is `usual` for the dialect comes first, then `authorization`, `x-api-key`, `api-key`.
    pub(crate) fn from_headers(headers: &HeaderMap, usual: &CredentialHeader) -> Option<Self> {
        let names = usual
            .name()
            .cloned()
            .into_iter()
            .chain([AUTHORIZATION, X_API_KEY, API_KEY]);
        let mut sent = names.filter_map(|name| {
            let value = headers.get(&name)?.clone();
            let credential = Self::new(name, value);
            (!credential.key().is_empty()).then_some(credential)
        });
        sent.next()
    }

    /// The masked key.
    #[must_use]
    pub fn hint(&self) -> &KeyHint {
        &self.hint
    }

    pub(crate) fn as_header(&self) -> (&HeaderName, &HeaderValue) {
        (&self.name, &self.value)
    }

    fn new(name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        let bytes = value.as_bytes();
        let start = match memchr::memchr(b' ', bytes) {
            Some(space) if name == AUTHORIZATION => bytes.len() - bytes[space..].trim_ascii_start().len(),
            // A client with an empty key: HTTP trims the space after the scheme.
            None if name == AUTHORIZATION && bytes.eq_ignore_ascii_case(b"bearer") => bytes.len(),
            _ => 0,
        };
        let hint = KeyHint::of(&String::from_utf8_lossy(&bytes[start..]));
        Self {
            name,
            value,
            start,
            hint,
        }
    }

    /// Whether the key occurs in `text`.
    pub(crate) fn occurs_in(&self, text: &[u8]) -> bool {
        redact::occurs_in(text, self)
    }

    /// `text` with the key masked; `None` if it does not occur.
    pub(crate) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        redact::redact(text, self)
    }

    /// The key's own bytes, without the scheme before it.
    fn key(&self) -> &[u8] {
        &self.value.as_bytes()[self.start..]
    }
}

impl Secret for Credential {
    fn secret(&self) -> &[u8] {
        redact::searched(self.key())
    }

    fn mask(&self) -> &str {
        self.hint.as_str()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.hint).finish()
    }
}

// === impl Intercepted ===

impl Intercepted {
    /// The interception's id, the same as in its records and, for a success, in the answer's `id`.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// How many calls of the provider were made by the time the response's head was ready.
    #[must_use]
    pub fn key_attempts(&self) -> u32 {
        self.key_attempts
    }
}

// === impl UpstreamAttempt ===

impl UpstreamAttempt {
    /// The round, from 1.
    #[must_use]
    pub fn round(&self) -> u32 {
        self.round
    }

    /// The attempt within the round, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(headers: &[(&'static str, &'static str)], usual: &CredentialHeader) -> Option<(String, String)> {
        let pairs = headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let credential = Credential::from_headers(&pairs.collect(), usual)?;
        let (name, value) = credential.as_header();
        assert!(value.is_sensitive());
        let sent = format!("{name}: {}", value.to_str().unwrap());
        Some((sent, credential.hint().to_string()))
    }

    #[test]
    fn a_caller_s_key_stays_in_its_header() {
        let (bearer, x_api_key) = (CredentialHeader::bearer(), CredentialHeader::header(X_API_KEY));
        let both = [
            ("authorization", "Bearer gateway-0123456789"),
            ("x-api-key", "sk-ant-0123456789abcdef"),
        ];
        let gateway = (
            "authorization: Bearer gateway-0123456789".to_owned(),
            "ga...89".to_owned(),
        );
        let anthropic = (
            "x-api-key: sk-ant-0123456789abcdef".to_owned(),
            "sk-a...cdef".to_owned(),
        );
        assert_eq!(sent(&both, &bearer), Some(gateway.clone()));
        assert_eq!(sent(&both, &x_api_key), Some(anthropic.clone()));
        assert_eq!(sent(&both[..1], &x_api_key), Some(gateway));
        assert_eq!(sent(&both[1..], &bearer), Some(anthropic));
        let azure = ("api-key: 0123456789 abcdef".to_owned(), "01...ef".to_owned());
        assert_eq!(sent(&[("api-key", "0123456789 abcdef")], &bearer), Some(azure));
        for empty in ["", "Bearer ", "Bearer"] {
            assert_eq!(sent(&[("authorization", empty)], &bearer), None, "{empty:?}");
        }
        assert_eq!(sent(&[("x-api-key", "")], &x_api_key), None);
    }

    #[test]
    fn a_key_too_short_to_be_one_is_not_looked_for() {
        let short = Credential::bearer("1234567").unwrap();
        assert!(!short.occurs_in(b"1234567"));
        let long = Credential::bearer("12345678").unwrap();
        assert_eq!(long.redact(b"Bearer 12345678").unwrap(), b"Bearer 1...8");
    }

    #[test]
    fn an_actor_can_be_read() {
        let actor = Actor::new("u-1")
            .metadata("team", "b")
            .metadata("team", "a")
            .metadata("cost", "7");
        assert_eq!(actor.get("team"), Some("a"));
        assert_eq!(actor.get("nothing"), None);
        assert_eq!(actor.iter().collect::<Vec<_>>(), [("cost", "7"), ("team", "a")]);
    }
}
