//! Who calls and with whose key: request extensions that the user's own auth layer sets.
//!
//! The bridge takes them out before anything goes inward, so that no inner layer and no later round sees them.

use std::collections::BTreeMap;
use std::fmt;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use uuid::Uuid;

use crate::types::KeyHint;

/// In bytes; no provider's keys are near it.
const SHORTEST_KEY: usize = 8;

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
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    id: String,
    metadata: BTreeMap<String, String>,
}

/// The caller's own key for this request: one attempt with it, and the pool is left alone.
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
    /// Where the key begins in the value, behind the scheme.
    start: usize,
    hint: KeyHint,
}

/// What the bridge tells layers above about an intercepted request, in the response's extensions.
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

/// Which call of the provider a layer below the bridge sees, in the request's extensions.
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

    /// Adds one name and value; the last value of a name stays.
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

    pub(crate) fn into_parts(self) -> (String, BTreeMap<String, String>) {
        (self.id, self.metadata)
    }

    pub(crate) fn pairs(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

// === impl Credential ===

impl Credential {
    /// A key that is sent as `Authorization: Bearer …` (RFC 6750 §2.1).
    ///
    /// # Errors
    ///
    /// When the key has bytes that no header value may have. The error does not show them.
    pub fn bearer(key: &str) -> Result<Self, InvalidHeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {key}"))?;
        value.set_sensitive(true);
        Ok(Self::new(AUTHORIZATION, value, KeyHint::of(key)))
    }

    /// The key that the caller itself sent, in whichever of the usual headers, kept as it came.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        [
            AUTHORIZATION,
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static("api-key"),
        ]
        .into_iter()
        .find_map(|name| {
            let mut value = headers.get(&name)?.clone();
            value.set_sensitive(true);
            let text = String::from_utf8_lossy(value.as_bytes());
            let token = text
                .split_once(' ')
                .map_or(&*text, |(_scheme, token)| token.trim_start());
            let hint = (!token.is_empty()).then(|| KeyHint::of(token))?;
            Some(Self::new(name, value, hint))
        })
    }

    /// The masked key.
    #[must_use]
    pub fn hint(&self) -> &KeyHint {
        &self.hint
    }

    pub(crate) fn header(&self) -> (&HeaderName, &HeaderValue) {
        (&self.name, &self.value)
    }

    /// A key of the pool as it was sent.
    pub(crate) fn pooled(authorization: HeaderValue, hint: KeyHint) -> Self {
        Self::new(AUTHORIZATION, authorization, hint)
    }

    fn new(name: HeaderName, value: HeaderValue, hint: KeyHint) -> Self {
        let bytes = value.as_bytes();
        let start = memchr::memchr(b' ', bytes).map_or(0, |space| {
            let rest = &bytes[space..];
            bytes.len() - rest.trim_ascii_start().len()
        });
        Self {
            name,
            value,
            start,
            hint,
        }
    }

    /// Whether the key stands in `text`. One that is too short to be anybody's key is not looked for: it would be found
    /// everywhere.
    pub(crate) fn occurs_in(&self, text: &[u8]) -> bool {
        let secret = self.secret();
        SHORTEST_KEY <= secret.len() && secret.len() <= text.len() && memchr::memmem::find(text, secret).is_some()
    }

    /// `text` with the key replaced by its hint; `None` if it is not there.
    pub(crate) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        if !self.occurs_in(text) {
            return None;
        }
        let (secret, mut redacted, mut at) = (self.secret(), Vec::with_capacity(text.len()), 0);
        for found in memchr::memmem::find_iter(text, secret) {
            redacted.extend_from_slice(&text[at..found]);
            redacted.extend_from_slice(self.hint.as_str().as_bytes());
            at = found + secret.len();
        }
        redacted.extend_from_slice(&text[at..]);
        Some(redacted)
    }

    /// The key's own bytes, without the scheme before it.
    fn secret(&self) -> &[u8] {
        &self.value.as_bytes()[self.start..]
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
