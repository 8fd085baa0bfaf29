//! Access to stored answers: who owns them, and the ids under which the provider keeps them.

use std::ops::Range;

use http::Uri;
use http::uri::PathAndQuery;

use super::admit::Admitted;
use super::config::Config;
use super::paths::is_plain_segment;
use super::provider::Credentials;
use crate::dialect::turn::ShownId;
use crate::error::{BridgeError, BridgeErrorKind};
use crate::extensions::Actor;
use crate::response_ids::{ResponseIds, StoredResponse};

/// One caller's access to stored answers.
pub(crate) struct StoredAnswers {
    ids: ResponseIds,
    /// The actor's id.
    owner: Option<String>,
    /// Whether the key is the operator's, which opens everybody's answers.
    is_shared_key: bool,
    serves_anonymous: bool,
}

// === impl StoredAnswers ===

impl StoredAnswers {
    pub(crate) fn new(config: &Config, admitted: &Admitted) -> Self {
        Self {
            ids: config.response_ids.clone(),
            owner: admitted.actor.as_ref().map(Actor::id).map(str::to_owned),
            is_shared_key: matches!(admitted.credentials, Credentials::Pool(..)),
            serves_anonymous: config.anonymous_responses,
        }
    }

    /// Whether the key opens everybody's answers.
    pub(crate) fn is_shared_key(&self) -> bool {
        self.is_shared_key
    }

    /// Remembers an answer whose id the caller was shown.
    pub(crate) async fn remember(&self, id: ShownId) {
        let mut stored = StoredResponse::new(id.stored);
        if let Some(owner) = &self.owner {
            stored = stored.owner(owner);
        }
        self.ids.remember(&id.shown, stored).await;
    }

    /// The provider's id of an answer that a request builds on; `None` if the id is unknown: then the provider decides.
    pub(crate) async fn previous(&self, id: &str) -> Result<Option<String>, BridgeError> {
        match self.ids.find(id).await {
            Some(stored) if self.may_use(&stored) => Ok(Some(stored.id().to_owned())),
            Some(_) => {
                let message = format!("Previous response with id '{id}' not found.");
                Err(BridgeError::new(BridgeErrorKind::RequestInvalid, message).param("previous_response_id"))
            }
            None => Ok(None),
        }
    }

    /// Replaces the caller's id at `place` by the provider's. Refuses another actor's answer and, with a shared key, an
    /// actor's unknown id.
    pub(crate) async fn redirect(&self, uri: &mut Uri, place: Range<usize>) -> Result<(), BridgeError> {
        let path = uri.path();
        let id = path.get(place.clone()).unwrap_or_default();
        let found = self.ids.find(id).await;
        let is_allowed = match &found {
            Some(stored) => self.may_use(stored),
            None => !self.is_shared_key || self.owner.is_none(),
        };
        if !is_allowed || self.is_shared_key && self.owner.is_none() && !self.serves_anonymous {
            let message = format!("Response with id '{id}' not found.");
            return Err(BridgeError::new(BridgeErrorKind::NotFound, message));
        }
        let Some(stored) = found.filter(|stored| stored.id() != id && is_plain_segment(stored.id())) else {
            return Ok(());
        };
        let mut target = [&path[..place.start], stored.id(), &path[place.end..]].concat();
        if let Some(query) = uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = PathAndQuery::try_from(target).ok();
        if let Ok(redirected) = Uri::from_parts(parts) {
            *uri = redirected;
        }
        Ok(())
    }

    /// The provider itself sees to it that a caller's own key opens the caller's own answers only.
    fn may_use(&self, stored: &StoredResponse) -> bool {
        !self.is_shared_key || stored.is_owned_by(self.owner.as_deref())
    }
}
