//! Remembers who owns a stored response, and the id under which the provider keeps it.
//!
//! A shared key opens every response that was made with it to everybody who knows the response's id, so the bridge
//! remembers which actor was shown which id. A stream of several rounds shows the id of its first visible round, but
//! the provider keeps the whole conversation under the id of the last.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many ids are remembered at most, and for how long after their last use.
const MAX_IDS: usize = 10_000;
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// In bytes; OpenAI's ids have 53.
const MAX_ID: usize = 256;

/// The stored response behind an id that a caller was shown.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::response_ids::StoredResponse;
///
/// let stored = StoredResponse::new("resp_2").owner("user-7");
/// assert_eq!(stored.id(), "resp_2");
/// assert!(stored.is_owned_by(Some("user-7")) && !stored.is_owned_by(None));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct StoredResponse {
    id: String,
    owner: Option<String>,
}

/// Remembers ids of responses, for all replicas of a service if it is shared among them.
///
/// A service of one process can use [`ResponseIds::default`], which remembers 10,000 ids, each for an hour after its
/// last use.
///
/// # Examples
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
///
/// use tower_llm_bridge::response_ids::{IdFuture, ResponseIds, ResponseIdStore, StoredResponse};
///
/// /// Never forgets.
/// #[derive(Default)]
/// struct Everlasting(Mutex<HashMap<String, StoredResponse>>);
///
/// impl ResponseIdStore for Everlasting {
///     fn remember<'a>(&'a self, id: &'a str, stored: StoredResponse) -> IdFuture<'a, ()> {
///         self.0.lock().unwrap().insert(id.to_owned(), stored);
///         Box::pin(std::future::ready(()))
///     }
///
///     fn find<'a>(&'a self, id: &'a str) -> IdFuture<'a, Option<StoredResponse>> {
///         let found = self.0.lock().unwrap().get(id).cloned();
///         Box::pin(std::future::ready(found))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let ids = ResponseIds::new(Everlasting::default());
/// ids.remember("resp_1", StoredResponse::new("resp_2")).await;
/// assert_eq!(ids.find("resp_1").await.unwrap().id(), "resp_2");
/// # }
/// ```
pub trait ResponseIdStore: Send + Sync + 'static {
    /// Remembers which response an id stands for, and forgets what it stood for before. There is no error to return: an id
    /// that cannot be stored is unknown later.
    fn remember<'a>(&'a self, id: &'a str, stored: StoredResponse) -> IdFuture<'a, ()>;

    /// The response that an id stands for; none if the id is unknown or forgotten. The bridge waits for it, so it should
    /// take milliseconds.
    fn find<'a>(&'a self, id: &'a str) -> IdFuture<'a, Option<StoredResponse>>;
}

/// The future of a [`ResponseIdStore`].
pub type IdFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The ids that one bridge remembers. A clone shares them.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::BridgeLayer;
/// use tower_llm_bridge::response_ids::ResponseIds;
///
/// let shared = ResponseIds::default();
/// let layer = BridgeLayer::new().response_ids(shared.clone());
/// # drop(layer);
/// ```
#[derive(Clone)]
#[must_use]
pub struct ResponseIds(Arc<dyn ResponseIdStore>);

/// The store of one process.
#[derive(Default)]
struct Local(Mutex<IdMap>);

/// A bounded map that forgets the ids which were not used for longest.
#[derive(Default)]
struct IdMap {
    entries: HashMap<Arc<str>, Entry>,
    /// Every use of an id, the oldest first; only the last use of each counts.
    uses: VecDeque<(u64, Arc<str>)>,
    next_use: u64,
}

struct Entry {
    stored: StoredResponse,
    last_use: u64,
    used_at: Instant,
}

// === impl StoredResponse ===

impl StoredResponse {
    /// A response without an owner that the provider keeps under `id`.
    ///
    /// ```
    /// # use tower_llm_bridge::response_ids::StoredResponse;
    /// assert!(StoredResponse::new("resp_1").is_owned_by(None));
    /// ```
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            owner: None,
        }
    }

    /// Names the [`Actor`](crate::Actor) who made it, by its id.
    ///
    /// ```
    /// # use tower_llm_bridge::response_ids::StoredResponse;
    /// assert!(!StoredResponse::new("resp_1").owner("user-7").is_owned_by(Some("user-8")));
    /// ```
    pub fn owner(mut self, actor: impl Into<String>) -> Self {
        self.owner = Some(actor.into());
        self
    }

    /// The provider's id.
    ///
    /// ```
    /// # use tower_llm_bridge::response_ids::StoredResponse;
    /// assert_eq!(StoredResponse::new("resp_1").id(), "resp_1");
    /// ```
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of the actor who made it, if there was one.
    ///
    /// ```
    /// # use tower_llm_bridge::response_ids::StoredResponse;
    /// assert_eq!(StoredResponse::new("resp_1").owner("user-7").owner_id(), Some("user-7"));
    /// ```
    #[must_use]
    pub fn owner_id(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// Whether it belongs to the actor; without an actor, whether it has no owner.
    ///
    /// ```
    /// # use tower_llm_bridge::response_ids::StoredResponse;
    /// assert!(StoredResponse::new("resp_1").owner("user-7").is_owned_by(Some("user-7")));
    /// ```
    #[must_use]
    pub fn is_owned_by(&self, actor: Option<&str>) -> bool {
        self.owner.as_deref() == actor
    }
}

// === impl ResponseIds ===

impl ResponseIds {
    /// Ids that `store` remembers.
    pub fn new(store: impl ResponseIdStore) -> Self {
        Self(Arc::new(store))
    }

    /// Remembers which response an id stands for.
    pub async fn remember(&self, id: &str, stored: StoredResponse) {
        self.0.remember(id, stored).await;
    }

    /// The response that an id stands for, if it is known.
    pub async fn find(&self, id: &str) -> Option<StoredResponse> {
        self.0.find(id).await
    }
}

impl Default for ResponseIds {
    fn default() -> Self {
        Self::new(Local::default())
    }
}

impl fmt::Debug for ResponseIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseIds").finish_non_exhaustive()
    }
}

// === impl Local ===

impl ResponseIdStore for Local {
    fn remember<'a>(&'a self, id: &'a str, stored: StoredResponse) -> IdFuture<'a, ()> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.remember(id, stored, Instant::now());
        Box::pin(ready(()))
    }

    fn find<'a>(&'a self, id: &'a str) -> IdFuture<'a, Option<StoredResponse>> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(ready(map.find(id, Instant::now())))
    }
}

// === impl IdMap ===

impl IdMap {
    fn remember(&mut self, id: &str, stored: StoredResponse, now: Instant) {
        if id.len() > MAX_ID || stored.id.len() > MAX_ID {
            return;
        }
        let id: Arc<str> = id.into();
        let entry = Entry {
            stored,
            last_use: 0,
            used_at: now,
        };
        self.entries.insert(Arc::clone(&id), entry);
        self.note_use(id, now);
        self.forget(now);
    }

    fn find(&mut self, id: &str, now: Instant) -> Option<StoredResponse> {
        self.forget(now);
        let (id, entry) = self.entries.get_key_value(id)?;
        let (id, stored) = (Arc::clone(id), entry.stored.clone());
        self.note_use(id, now);
        Some(stored)
    }

    fn note_use(&mut self, id: Arc<str>, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.last_use = self.next_use;
            entry.used_at = now;
            self.uses.push_back((self.next_use, id));
            self.next_use += 1;
        }
        // One id that is used all the time must not make the list grow.
        if self.uses.len() > 2 * MAX_IDS {
            let entries = &self.entries;
            self.uses
                .retain(|(number, id)| entries.get(id).is_some_and(|entry| entry.last_use == *number));
        }
    }

    /// Forgets the ids that are too old or too many.
    fn forget(&mut self, now: Instant) {
        while let Some((number, id)) = self.uses.front() {
            match self.entries.get(id).filter(|entry| entry.last_use == *number) {
                Some(entry) => {
                    let is_old = now.saturating_duration_since(entry.used_at) >= KEPT_FOR;
                    if !is_old && self.entries.len() <= MAX_IDS {
                        return;
                    }
                    let id = Arc::clone(id);
                    self.entries.remove(&id);
                    self.uses.pop_front();
                }
                // It was used again since, or is gone.
                None => drop(self.uses.pop_front()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: &str) -> StoredResponse {
        StoredResponse::new(id)
    }

    #[test]
    fn an_id_is_forgotten_an_hour_after_its_last_use() {
        let (mut map, start) = (IdMap::default(), Instant::now());
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        map.remember("a", stored("x"), at(0));
        map.remember("b", stored("y"), at(0));
        assert_eq!(map.find("a", at(59)), Some(stored("x")));
        assert_eq!(map.find("b", at(60)), None);
        assert_eq!(map.find("a", at(118)), Some(stored("x")));
        assert_eq!(map.find("a", at(178)), None);
        assert!(map.entries.is_empty() && map.uses.is_empty());
    }

    #[test]
    fn the_last_word_about_an_id_counts() {
        let (mut map, now) = (IdMap::default(), Instant::now());
        map.remember("a", stored("x"), now);
        map.remember("a", stored("y").owner("user-7"), now);
        assert_eq!(map.find("a", now), Some(stored("y").owner("user-7")));
        map.remember(&"a".repeat(MAX_ID + 1), stored("z"), now);
        assert_eq!(map.entries.len(), 1);
    }

    #[test]
    fn there_are_never_more_than_the_limit() {
        let (mut map, now) = (IdMap::default(), Instant::now());
        map.remember("kept", stored("x"), now);
        for number in 0..3 * MAX_IDS {
            map.remember(&number.to_string(), stored("x"), now);
            assert!(map.find("kept", now).is_some(), "{number}");
            assert!(map.entries.len() <= MAX_IDS && map.uses.len() <= 2 * MAX_IDS + 1);
        }
        assert_eq!(map.entries.len(), MAX_IDS);
        assert!(map.find("0", now).is_none());
        assert!(map.find(&(3 * MAX_IDS - 1).to_string(), now).is_some());
    }
}
