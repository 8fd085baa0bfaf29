//! A key: its secret, which is shown only as a header value, and its state and counters.

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
    KeyCounters, KeyPoolError, choice,
    domain::Domain,
    purpose::Purpose,
    suspicion::Suspicion,
    word::{KeyFate, Stamp, Word},
};
use crate::{
    metrics::KeyMeter,
    redact::{self, Secret},
    types::{CredentialHeader, KeyHint},
};

const SCHEME: &[u8] = b"Bearer ";

/// A provider's API key, and how the pool uses it.
///
/// The secret cannot be read back or cloned, and prints as its [hint](KeyHint). Its bytes exist once, in the buffer of
/// the header values that requests share; that buffer is overwritten when the last of them is dropped. The copies that
/// an HTTP client below makes for the wire are not overwritten, nor is a `&str` from which the key was made.
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

/// The buffer of header values; wiped when the last of them is dropped.
struct Buffer(Zeroizing<Vec<u8>>);

/// A key's secret and its own state. The rests of its domain are in [`Domain`].
pub(super) struct Key {
    /// Tells keys apart across [`replace`](super::KeyPool::replace), where positions change.
    pub(super) id: KeyId,
    /// Whether it is revoked, or cools down because it is suspected. Read by every request and written only when that
    /// changes.
    pub(super) word: Word,
    pub(super) suspicion: Suspicion,
    /// Until which millisecond it rests for keyed paths, and for counts of tokens. 0 means it does not rest.
    keyed_rest: AtomicU64,
    counting_rest: AtomicU64,
    pub(super) hint: KeyHint,
    secret: SecretKey,
    pub(super) counters: Counters,
    pub(super) meter: KeyMeter,
}

/// The outcomes of attempts, as [`KeyCounters`] shows them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) cooled_down: AtomicU64,
    pub(super) revoked: AtomicU64,
    pub(super) next_key: AtomicU64,
    pub(super) suspected: AtomicU64,
    pub(super) unanswered: AtomicU64,
}

/// The outcome of an attempt for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Accepted,
    CooledDown,
    Revoked,
    NextKey,
    Suspected,
    Unanswered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyId(u64);

/// A key in a list of keys: the settings of that list, and the state that survives a new list.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: Arc<Key>,
    pub(super) domain: Arc<Domain>,
    pub(super) rank: u32,
    /// See [`choice::seed`].
    pub(super) seed: u64,
    sent_as: CredentialHeader,
}

/// The key of an attempt, kept so that it is masked in the answer even if it has left the pool since.
pub(crate) struct SentKey(pub(super) Arc<Entry>);

// === impl ApiKey ===

impl ApiKey {
    /// A key without a named domain, ranked by its place in the list, and sent in the dialect's usual header.
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

    /// Sets the header that carries the key. It takes precedence over [`KeyPool::sent_as`](super::KeyPool::sent_as).
    pub fn sent_as(mut self, header: CredentialHeader) -> Self {
        self.sent_as = header;
        self
    }

    /// The masked key.
    #[must_use]
    pub fn hint(&self) -> &KeyHint {
        &self.hint
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.secret.key()
    }
}

impl Secret for ApiKey {
    fn secret(&self) -> &[u8] {
        redact::searched(self.bytes())
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
    pub(super) fn bytes(&self) -> &[u8] {
        self.secret.key()
    }

    /// A usable key.
    pub(super) fn new(secret: SecretKey, hint: KeyHint) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: KeyId(NEXT.fetch_add(1, Ordering::Relaxed)),
            word: Word::default(),
            suspicion: Suspicion::default(),
            keyed_rest: AtomicU64::new(0),
            counting_rest: AtomicU64::new(0),
            meter: KeyMeter::new(&hint),
            hint,
            secret,
            counters: Counters::default(),
        })
    }

    /// Counts an attempt.
    #[inline]
    pub(super) fn count(&self, attempt: Attempt) {
        let counters = &self.counters;
        let (counter, outcome) = match attempt {
            Attempt::Accepted => (&counters.accepted, "accepted"),
            Attempt::CooledDown => (&counters.cooled_down, "cooled_down"),
            Attempt::Revoked => (&counters.revoked, "revoked"),
            Attempt::NextKey => (&counters.next_key, "next_key"),
            Attempt::Suspected => (&counters.suspected, "suspected"),
            Attempt::Unanswered => (&counters.unanswered, "unanswered"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.meter.attempt(outcome);
    }

    /// Until which millisecond it rests for keyed paths or counts of tokens; 0 for models, whose rests are the
    /// domain's.
    pub(super) fn rest_of(&self, purpose: Purpose<'_>) -> u64 {
        self.rest_word(purpose).map_or(0, |rest| rest.load(Ordering::Acquire))
    }

    /// Rests for keyed paths or counts of tokens. A deadline is never shortened. Returns whether it served the purpose
    /// until now.
    pub(super) fn begin_rest(&self, purpose: Purpose<'_>, deadline: u64, now: u64) -> bool {
        let before = self
            .rest_word(purpose)
            .map(|rest| rest.fetch_max(deadline, Ordering::AcqRel));
        before.is_some_and(|before| before <= now)
    }

    fn rest_word(&self, purpose: Purpose<'_>) -> Option<&AtomicU64> {
        match purpose {
            Purpose::Model(_) => None,
            Purpose::Keyed => Some(&self.keyed_rest),
            Purpose::Counting => Some(&self.counting_rest),
        }
    }

    /// Forgets the suspicions, and ends a rest that they caused.
    #[cold]
    pub(super) fn forget_suspicion(&self) {
        self.suspicion.forget();
        let stamp = self.word.load();
        if matches!(stamp.fate(|| 0), KeyFate::Cooling(_)) {
            self.clear_expired(stamp);
        }
    }

    /// Notes that its cool-down is over.
    #[cold]
    pub(super) fn clear_expired(&self, rested: Stamp) {
        if self.word.clear_expired(rested) {
            tracing::info!(credential_hint = %self.hint, "key usable again");
            self.meter.transition("key", "usable");
        }
    }

    /// Makes it usable if it is still in the state `from`. Returns whether this call did.
    pub(super) fn restore(&self, from: Stamp) -> bool {
        let restored = self.word.restore(from);
        if restored {
            tracing::info!(credential_hint = %self.hint, "key restored");
            self.meter.transition("key", "usable");
        }
        restored
    }

    /// Makes it usable for everything. Returns whether it was not usable before.
    pub(super) fn restore_all(&self, now: u64) -> bool {
        self.suspicion.forget();
        let rests = [&self.keyed_rest, &self.counting_rest].map(|rest| rest.swap(0, Ordering::AcqRel));
        let rested = rests.into_iter().any(|deadline| deadline > now);
        loop {
            let stamp = self.word.load();
            if matches!(stamp.fate(|| now), KeyFate::Usable | KeyFate::Rested) {
                return rested;
            }
            if self.restore(stamp) {
                return true;
            }
        }
    }
}

impl Secret for Arc<Key> {
    fn secret(&self) -> &[u8] {
        redact::searched(self.bytes())
    }

    fn mask(&self) -> &str {
        self.hint.as_str()
    }
}

// === impl Entry ===

impl Entry {
    /// The entry of `key`, at `position`; `staying` is the same key in the previous list.
    pub(super) fn new(key: ApiKey, position: usize, domain: Arc<Domain>, staying: Option<&Arc<Key>>) -> Arc<Self> {
        let ApiKey {
            secret,
            hint,
            domain: _,
            rank,
            sent_as,
        } = key;
        Arc::new(Self {
            seed: choice::seed(secret.key()),
            domain,
            rank: rank.unwrap_or(u32::try_from(position).unwrap_or(u32::MAX)),
            sent_as,
            key: staying.map_or_else(|| Key::new(secret, hint), Arc::clone),
        })
    }

    /// The same key in another domain.
    pub(super) fn with_domain(&self, domain: Arc<Domain>) -> Arc<Self> {
        let same = self.clone();
        Arc::new(Self { domain, ..same })
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

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.key.hint).finish()
    }
}

// === impl Counters ===

impl Counters {
    pub(super) fn read(&self) -> KeyCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counters = KeyCounters {
            attempts: 0,
            accepted: load(&self.accepted),
            cooled_down: load(&self.cooled_down),
            revoked: load(&self.revoked),
            next_key: load(&self.next_key),
            suspected: load(&self.suspected),
            unanswered: load(&self.unanswered),
        };
        counters.attempts = counters.accepted
            + counters.cooled_down
            + counters.revoked
            + counters.next_key
            + counters.suspected
            + counters.unanswered;
        counters
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
    use crate::pool::{KeyPoolErrorKind, domain::DomainName};

    fn entry(key: ApiKey) -> Arc<Entry> {
        Entry::new(key, 0, Domain::new(DomainName::Own("k".into())), None)
    }

    #[test]
    fn only_visible_ascii_is_a_key() {
        for good in ["k", "sk-0123", "with a space", "~!@#$%^&*()"] {
            assert_eq!(ApiKey::new(good).unwrap().bytes(), good.as_bytes());
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
        let key = entry(ApiKey::new("sk-0123456789abcdefghij").unwrap());
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
        let key = entry(ApiKey::new("sk-0123").unwrap().sent_as(azure));
        assert_eq!(key.header(&CredentialHeader::bearer()).0.as_str(), "api-key");
        let key = entry(ApiKey::new("sk-0123").unwrap().sent_as(CredentialHeader::bearer()));
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
