//! A key: the secret, which only a header value ever shows, and what the pool counts of it.

use std::{
    array,
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::{
    KeyPoolError,
    word::{Stamp, Word},
};
use crate::types::KeyHint;

const SCHEME: &[u8] = b"Bearer ";

/// More threads than this share lanes. Fewer lanes for fewer cores would not do: threads come and go, and two of those
/// that are left could have the same.
const LANES: usize = 16;

/// A provider's API key.
///
/// It cannot be read back or cloned, and prints as its [hint](KeyHint). Its bytes exist once, in the buffer of the
/// `Authorization` value that every request shares; that buffer is overwritten when the last of them is dropped. What
/// an HTTP client below copies to the wire is beyond our reach, as is a `&str` that the key was made of.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::ApiKey;
///
/// let key = ApiKey::new("sk-0123456789abcdefghij")?;
/// assert_eq!(format!("{key:?}"), r#"ApiKey("sk-0...ghij")"#);
/// assert!(ApiKey::new("read from a file, line break included\n").is_err());
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
pub struct ApiKey {
    secret: Arc<Secret>,
    hint: KeyHint,
    /// Proof that the secret is a header value.
    authorization: HeaderValue,
}

/// `Bearer <key>`, wiped on drop.
pub(super) struct Secret(Zeroizing<Vec<u8>>);

/// A key of a pool. Its word is read by every request and written only when the key's standing changes.
pub(super) struct Key {
    /// Keys are told apart by it across [`replace`](super::KeyPool::replace), where positions change.
    pub(super) id: KeyId,
    pub(super) word: Word,
    pub(super) hint: KeyHint,
    pub(super) secret: Arc<Secret>,
    pub(super) cooled_down: AtomicU64,
    pub(super) revoked: AtomicU64,
    pub(super) forbidden: AtomicU64,
    pub(super) unanswered: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyId(u64);

/// What requests on one thread write of a key. Threads that share a cache line wait for each other, so each lane, and
/// the reference count of its header value, has a line of its own.
#[repr(align(64))]
pub(super) struct Lane {
    pub(super) key: Arc<Key>,
    pub(super) authorization: HeaderValue,
    pub(super) accepted: AtomicU64,
}

/// A key in a key set.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: Arc<Key>,
    lanes: Arc<[Arc<Lane>; LANES]>,
}

/// Keeps the secret alive for one lane's header values.
#[repr(align(64))]
struct Owner(Arc<Secret>);

// === impl ApiKey ===

impl ApiKey {
    /// A key that is sent as `Authorization: Bearer <secret>`.
    ///
    /// # Errors
    ///
    /// [`NotAHeaderValue`](KeyPoolError::NotAHeaderValue) if it is empty, begins or ends with a space, or has other
    /// characters than visible ASCII and the space.
    pub fn new(secret: impl Into<String>) -> Result<Self, KeyPoolError> {
        let text = Zeroizing::new(secret.into());
        let hint = KeyHint::of(&text);
        let visible = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if text.is_empty() || !visible || text.starts_with(' ') || text.ends_with(' ') {
            return Err(KeyPoolError::NotAHeaderValue(hint));
        }
        // Of its full size from the start: a buffer that grows leaves its old self behind, unwiped.
        let mut bearer = Zeroizing::new(Vec::with_capacity(SCHEME.len() + text.len()));
        bearer.extend_from_slice(SCHEME);
        bearer.extend_from_slice(text.as_bytes());
        let secret = Arc::new(Secret(bearer));
        match secret.authorization() {
            Ok(authorization) => Ok(Self {
                secret,
                hint,
                authorization,
            }),
            Err(_) => Err(KeyPoolError::NotAHeaderValue(hint)),
        }
    }

    /// The key, masked.
    #[must_use]
    pub fn hint(&self) -> &KeyHint {
        &self.hint
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.key()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKey").field(&self.hint).finish()
    }
}

// === impl Secret ===

impl Secret {
    /// The key alone.
    pub(super) fn key(&self) -> &[u8] {
        &self.0[SCHEME.len()..]
    }

    /// A header value with a reference count of its own and without a copy of the bytes.
    fn authorization(self: &Arc<Self>) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
        let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Owner(Arc::clone(self))))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

// === impl Key ===

impl Key {
    /// Notes that its cool-down is over.
    #[cold]
    pub(super) fn wake(&self, rested: Stamp) {
        if self.word.wake(rested) {
            tracing::info!(credential_hint = %self.hint, "key usable again");
        }
    }

    /// Makes it usable if it is still `dead`. Whether it was this call that did.
    pub(super) fn restore(&self, dead: Stamp) -> bool {
        let restored = self.word.restore(dead);
        if restored {
            tracing::info!(credential_hint = %self.hint, "key restored");
        }
        restored
    }
}

// === impl Entry ===

impl Entry {
    /// The key as a pool holds it.
    pub(super) fn new(
        ApiKey {
            secret,
            hint,
            authorization,
        }: ApiKey,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = Arc::new(Key {
            id: KeyId(NEXT.fetch_add(1, Ordering::Relaxed)),
            word: Word::default(),
            hint,
            secret,
            cooled_down: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            forbidden: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        });
        let lane = |_| {
            Arc::new(Lane {
                // These bytes passed the same check in `ApiKey::new`; a shared count is the worst that can come of it.
                authorization: key.secret.authorization().unwrap_or_else(|_| authorization.clone()),
                key: Arc::clone(&key),
                accepted: AtomicU64::new(0),
            })
        };
        let lanes = Arc::new(array::from_fn(lane));
        Self { key, lanes }
    }

    /// The lane of the thread that asks.
    #[inline]
    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.lanes[thread_number() % LANES]
    }

    pub(super) fn lanes(&self) -> &[Arc<Lane>] {
        &*self.lanes
    }
}

/// Numbers threads as they come, from 1.
#[inline]
fn thread_number() -> usize {
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(0) };
    }
    #[cold]
    fn next() -> usize {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }
    if NUMBER.get() == 0 {
        NUMBER.set(next());
    }
    NUMBER.get()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            assert!(
                matches!(ApiKey::new(bad), Err(KeyPoolError::NotAHeaderValue(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_header_value_is_the_secret_s_own_buffer_which_goes_with_its_last_clone() {
        let entry = Entry::new(ApiKey::new("sk-0123456789abcdefghij").unwrap());
        let value = entry.lane().authorization.clone();
        assert_eq!(value, "Bearer sk-0123456789abcdefghij");
        assert!(value.is_sensitive());
        assert_eq!(value.as_bytes().as_ptr(), entry.key.secret.0.as_ptr(), "not a copy");

        let secret = Arc::downgrade(&entry.key.secret);
        drop(entry);
        assert!(secret.upgrade().is_some(), "a request still has it");
        drop(value);
        assert!(
            secret.upgrade().is_none(),
            "dropped, and `Zeroizing` wipes what it drops"
        );
    }

    #[test]
    fn a_thread_stays_in_its_lane() {
        let entry = Entry::new(ApiKey::new("k").unwrap());
        assert_eq!(Arc::as_ptr(entry.lane()), Arc::as_ptr(entry.lane()));
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
