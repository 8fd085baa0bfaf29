//! A key: the secret, which only a header value ever shows, and what the pool counts of it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use zeroize::Zeroizing;

use super::{
    KeyPoolError,
    word::{Stamp, Word},
};
use crate::{
    redact::Secret,
    types::{CredentialHeader, KeyHint},
};

const SCHEME: &[u8] = b"Bearer ";

/// A provider's API key, and how the pool uses it.
///
/// The secret cannot be read back or cloned, and prints as its [hint](KeyHint). Its bytes exist once, in the buffer of
/// the header values that requests share; that buffer is overwritten when the last of them is dropped. The copies that
/// an HTTP client below makes for the wire are out of reach, as is a `&str` that the key was made of.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::ApiKey;
///
/// let key = ApiKey::new("sk-0123456789abcdefghij")?.domain("org-research").rank(0);
/// assert_eq!(format!("{key:?}"), r#"ApiKey("sk-0...ghij")"#);
/// assert!(ApiKey::new("read from a file, line break included\n").is_err());
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[must_use]
pub struct ApiKey {
    pub(super) secret: SecretKey,
    pub(super) hint: KeyHint,
    pub(super) domain: Option<Arc<str>>,
    pub(super) rank: Option<u32>,
    pub(super) sent_as: CredentialHeader,
}

/// The two header values of a key. They share one buffer, `Bearer <key>`, which is wiped on drop.
pub(super) struct SecretKey {
    bearer: HeaderValue,
    bare: HeaderValue,
}

/// Wipes the buffer of header values with the last of them.
struct Buffer(Zeroizing<Vec<u8>>);

/// A key's secret and state. Its word is read by every request and written only when the state changes.
pub(super) struct Key {
    /// Tells keys apart across [`replace`](super::KeyPool::replace), where positions change.
    pub(super) id: KeyId,
    pub(super) word: Word,
    pub(super) hint: KeyHint,
    secret: SecretKey,
    pub(super) accepted: AtomicU64,
    pub(super) cooled_down: AtomicU64,
    pub(super) revoked: AtomicU64,
    pub(super) forbidden: AtomicU64,
    pub(super) unanswered: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyId(u64);

/// A key in a list of keys: the settings of that list, and the state that survives a new list.
pub(super) struct Entry {
    pub(super) key: Arc<Key>,
    pub(super) rank: u32,
    sent_as: CredentialHeader,
}

/// The key of an attempt, kept so that it is masked in the answer even if it has left the pool since.
pub(crate) struct SentKey(pub(super) Arc<Entry>);

// === impl ApiKey ===

impl ApiKey {
    /// A key in a domain of its own, ranked by its place in the list, and sent as the dialect wants it.
    ///
    /// # Errors
    ///
    /// [`NotAHeaderValue`](super::KeyPoolErrorKind::NotAHeaderValue) if it is empty, begins or ends with a space, or
    /// has characters other than visible ASCII and the space.
    pub fn new(secret: impl Into<String>) -> Result<Self, KeyPoolError> {
        let text = Zeroizing::new(secret.into());
        let hint = KeyHint::of(&text);
        let visible = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if text.is_empty() || !visible || text.starts_with(' ') || text.ends_with(' ') {
            return Err(KeyPoolError::not_a_header_value(hint));
        }
        match SecretKey::new(text.as_bytes()) {
            Ok(secret) => Ok(Self {
                secret,
                hint,
                domain: None,
                rank: None,
                sent_as: CredentialHeader::default(),
            }),
            Err(_) => Err(KeyPoolError::not_a_header_value(hint)),
        }
    }

    /// Names the domain: the organisation, project or workspace whose rate limits the key shares. Keys of one domain
    /// rest together. Without a name, the pool learns the domain from the provider's answers.
    pub fn domain(mut self, name: impl Into<Arc<str>>) -> Self {
        self.domain = Some(name.into());
        self
    }

    /// Sets the order of preference: lower ranks are tried first, and load spreads over keys of equal rank. Default:
    /// the key's place in the list, from 0.
    pub fn rank(mut self, rank: u32) -> Self {
        self.rank = Some(rank);
        self
    }

    /// Sets the header that carries the key. It outweighs [`KeyPool::sent_as`](super::KeyPool::sent_as).
    pub fn sent_as(mut self, header: CredentialHeader) -> Self {
        self.sent_as = header;
        self
    }

    /// The masked key.
    #[must_use]
    pub fn hint(&self) -> &KeyHint {
        &self.hint
    }
}

impl Secret for ApiKey {
    fn secret(&self) -> &[u8] {
        self.secret.key()
    }

    fn mask(&self) -> &str {
        self.hint.as_str()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKey").field(&self.hint).finish()
    }
}

// === impl SecretKey ===

impl SecretKey {
    fn new(key: &[u8]) -> Result<Self, http::header::InvalidHeaderValue> {
        // Of its full size from the start: a buffer that grows leaves an unwiped copy behind.
        let mut buffer = Zeroizing::new(Vec::with_capacity(SCHEME.len() + key.len()));
        buffer.extend_from_slice(SCHEME);
        buffer.extend_from_slice(key);
        let buffer = Bytes::from_owner(Buffer(buffer));
        let value = |bytes: Bytes| {
            let mut value = HeaderValue::from_maybe_shared(bytes)?;
            value.set_sensitive(true);
            Ok(value)
        };
        Ok(Self {
            bare: value(buffer.slice(SCHEME.len()..))?,
            bearer: value(buffer)?,
        })
    }

    fn key(&self) -> &[u8] {
        self.bare.as_bytes()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// === impl Key ===

impl Key {
    /// A usable key.
    pub(super) fn new(secret: SecretKey, hint: KeyHint) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: KeyId(NEXT.fetch_add(1, Ordering::Relaxed)),
            word: Word::default(),
            hint,
            secret,
            accepted: AtomicU64::new(0),
            cooled_down: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            forbidden: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        })
    }

    /// Notes that its cool-down is over.
    #[cold]
    pub(super) fn clear_expired(&self, rested: Stamp) {
        if self.word.clear_expired(rested) {
            tracing::info!(credential_hint = %self.hint, "key usable again");
        }
    }

    /// Makes it usable if it still is in the state `from`. Whether it was this call that did.
    pub(super) fn restore(&self, from: Stamp) -> bool {
        let restored = self.word.restore(from);
        if restored {
            tracing::info!(credential_hint = %self.hint, "key restored");
        }
        restored
    }
}

impl Secret for Arc<Key> {
    fn secret(&self) -> &[u8] {
        self.secret.key()
    }

    fn mask(&self) -> &str {
        self.hint.as_str()
    }
}

// === impl Entry ===

impl Entry {
    /// The entry of `key`, which stands at `position`; `staying` is the same key in the list before.
    pub(super) fn new(key: ApiKey, position: usize, staying: Option<&Arc<Key>>) -> Arc<Self> {
        let ApiKey {
            secret,
            hint,
            domain: _,
            rank,
            sent_as,
        } = key;
        Arc::new(Self {
            rank: rank.unwrap_or(u32::try_from(position).unwrap_or(u32::MAX)),
            sent_as,
            key: staying.map_or_else(|| Key::new(secret, hint), Arc::clone),
        })
    }

    /// The header that carries the key, marked sensitive and without a copy of the secret. `usual` is the header of a
    /// key that leaves the choice open.
    #[inline]
    pub(super) fn header(&self, usual: &CredentialHeader) -> (HeaderName, HeaderValue) {
        let secret = &self.key.secret;
        match self.sent_as.or(usual).name() {
            Some(name) => (name.clone(), secret.bare.clone()),
            None => (AUTHORIZATION, secret.bearer.clone()),
        }
    }
}

// === impl SentKey ===

impl Secret for SentKey {
    fn secret(&self) -> &[u8] {
        self.0.key.secret()
    }

    fn mask(&self) -> &str {
        self.0.key.hint.as_str()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pool::KeyPoolErrorKind;

    #[test]
    fn only_visible_ascii_is_a_key() {
        for good in ["k", "sk-0123", "with a space", "~!@#$%^&*()"] {
            assert_eq!(ApiKey::new(good).unwrap().secret(), good.as_bytes());
        }
        for bad in [
            "",
            " ",
            " k",
            "k ",
            "k\n",
            "k\r\nx-evil: 1",
            "\tk",
            "a\tb",
            "k\0",
            "k\u{7f}",
            "schlüssel",
            "🔑",
        ] {
            let error = ApiKey::new(bad).unwrap_err();
            assert_eq!(error.kind(), KeyPoolErrorKind::NotAHeaderValue, "{bad:?}");
        }
    }

    #[test]
    fn header_values_share_the_secret_s_only_buffer() {
        let key = Entry::new(ApiKey::new("sk-0123456789abcdefghij").unwrap(), 0, None);
        let (name, bearer) = key.header(&CredentialHeader::bearer());
        let x_api_key = CredentialHeader::header(HeaderName::from_static("x-api-key"));
        let (other_name, bare) = key.header(&x_api_key);
        assert_eq!((name, other_name.as_str()), (AUTHORIZATION, "x-api-key"));
        assert_eq!(bearer, "Bearer sk-0123456789abcdefghij");
        assert_eq!(bare, "sk-0123456789abcdefghij");
        assert!(bearer.is_sensitive() && bare.is_sensitive());
        assert_eq!(bearer.as_bytes()[SCHEME.len()..].as_ptr(), bare.as_bytes().as_ptr());
    }

    #[test]
    fn a_key_says_how_it_is_sent() {
        let azure = CredentialHeader::header(HeaderName::from_static("api-key"));
        let key = Entry::new(ApiKey::new("sk-0123").unwrap().sent_as(azure), 0, None);
        assert_eq!(key.header(&CredentialHeader::bearer()).0.as_str(), "api-key");
        let key = ApiKey::new("sk-0123").unwrap().sent_as(CredentialHeader::bearer());
        let key = Entry::new(key, 0, None);
        let x_api_key = CredentialHeader::header(HeaderName::from_static("x-api-key"));
        assert_eq!(key.header(&x_api_key).0, AUTHORIZATION);
    }

    proptest! {
        #[test]
        fn an_error_shows_no_more_than_the_hint(secret in "[a-z]{20,40}\n") {
            let error = ApiKey::new(secret.as_str()).unwrap_err();
            let printed = format!("{error} {error:?}");
            prop_assert!(!printed.contains(&secret[4..secret.len() - 4]));
            prop_assert!(!printed.contains('\n'));
        }
    }
}
