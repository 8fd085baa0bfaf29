//! The side towards the provider: the cleaned head, the credentials and the handle, shared by all calls for one request.

use std::mem;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, Request, request};

use super::config::Config;
use super::headers;
use crate::dialect::Api;
use crate::extensions::{Actor, Credential, UpstreamAttempt};
use crate::pool::{Caller, KeyPool, Lease, Purpose, SentKey};
use crate::redact;
use crate::rope::Rope;
use crate::types::{CredentialHeader, CredentialKind, KeyHint};

/// One request's provider.
pub(crate) struct Provider<U> {
    pub(crate) config: Arc<Config>,
    pub(crate) api: &'static dyn Api,
    pub(crate) upstream: U,
    pub(crate) credentials: Credentials,
    /// The caller's, cleaned. Boxed, like the credentials, so that moving a `Provider` stays cheap.
    head: Box<request::Parts>,
    /// From 1.
    pub(crate) round: u32,
    /// The attempts of this round so far.
    pub(crate) attempts: u32,
    pub(crate) target: Target,
    pub(crate) caller: Caller,
    /// Whether the next attempt uses the key that was sent last.
    pub(crate) sends_again: bool,
    /// Headers of an earlier round's answer that are sent back together with its key, and that key; `None` for the
    /// caller's own key.
    sticky: Vec<(HeaderName, HeaderValue)>,
    sticky_key: Option<SentKey>,
}

/// What a request needs a key for.
pub(crate) enum Target {
    /// An answer of this model.
    Model(String),
    /// A path that gets a key and nothing else.
    Keyed,
    /// A count of tokens.
    Count,
}

/// Whose keys are used.
pub(crate) enum Credentials {
    /// The pool, and the key that was sent last: it may have left the pool since, but is still a secret.
    Pool(KeyPool, Option<SentKey>),
    Caller(Box<Credential>),
}

// === impl Credentials ===

impl Credentials {
    /// The caller's own key if the auth layer set one; else the pool; else the key that the caller sent.
    pub(crate) fn of(
        pool: Option<KeyPool>,
        own: Option<Credential>,
        headers: &HeaderMap,
        usual: &CredentialHeader,
    ) -> Option<Self> {
        match (own, pool) {
            (Some(credential), _) => Some(Self::Caller(Box::new(credential))),
            (None, Some(pool)) => Some(Self::Pool(pool, None)),
            (None, None) => {
                Credential::from_headers(headers, usual).map(|credential| Self::Caller(Box::new(credential)))
            }
        }
    }

    /// The conversation, if the choice of a key depends on it.
    pub(crate) fn spread_by(&self, conversation: impl FnOnce() -> Option<String>) -> Option<String> {
        match self {
            Self::Pool(pool, _) if pool.has_equals() => conversation(),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> CredentialKind {
        match self {
            Self::Pool(..) => CredentialKind::Centralized,
            Self::Caller(_) => CredentialKind::Byok,
        }
    }

    /// The caller's key, masked; a pool's key is not chosen yet.
    pub(crate) fn hint(&self) -> Option<KeyHint> {
        match self {
            Self::Pool(..) => None,
            Self::Caller(credential) => Some(credential.hint().clone()),
        }
    }

    /// A function that tells whether a key occurs in a text of the provider.
    pub(crate) fn key_finder(&self) -> impl Fn(&[u8]) -> bool + '_ {
        let pooled = match self {
            Self::Pool(pool, _) => Some(pool.key_finder()),
            Self::Caller(_) => None,
        };
        move |text| match self {
            Self::Pool(_, sent) => {
                pooled.as_ref().is_some_and(|occur_in| occur_in(text))
                    || sent.as_ref().is_some_and(|sent| redact::occurs_in(text, sent))
            }
            Self::Caller(own) => own.occurs_in(text),
        }
    }

    /// `text` with every key masked; `None` if there is none in it.
    pub(crate) fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Pool(pool, sent) => {
                let pooled = pool.redact(text);
                let sent = sent
                    .as_ref()
                    .and_then(|sent| redact::redact(pooled.as_deref().unwrap_or(text), sent));
                sent.or(pooled)
            }
            Self::Caller(own) => own.redact(text),
        }
    }
}

// === impl Target ===

impl Target {
    pub(crate) fn purpose(&self) -> Purpose<'_> {
        match self {
            Self::Model(model) => Purpose::Model(model),
            Self::Keyed => Purpose::Keyed,
            Self::Count => Purpose::Counting,
        }
    }
}

// === impl Provider ===

impl<U> Provider<U> {
    pub(crate) fn new(
        config: Arc<Config>,
        api: &'static dyn Api,
        upstream: U,
        credentials: Credentials,
        mut head: Box<request::Parts>,
        actor: Option<&Actor>,
        (target, session): (Target, Option<&str>),
    ) -> Self {
        let id = actor.map(Actor::id);
        let caller = match &credentials {
            Credentials::Pool(..) => Caller::new(id, session),
            Credentials::Caller(_) => Caller::default(),
        };
        match &credentials {
            Credentials::Pool(..) => headers::keep_allowed(&mut head.headers, &config.forward_headers),
            Credentials::Caller(_) => headers::clean_request(&mut head.headers),
        }
        if let Some(actor) = actor.filter(|_| config.actor_headers) {
            headers::add_actor(&mut head.headers, actor);
        }
        Self {
            config,
            api,
            upstream,
            credentials,
            head,
            round: 1,
            attempts: 0,
            target,
            caller,
            sends_again: false,
            sticky: Vec::new(),
            sticky_key: None,
        }
    }

    pub(crate) fn begin_round(&mut self, round: u32) {
        (self.round, self.attempts) = (round, 0);
    }

    /// Keeps the sticky headers of the first answer that has any: by them a provider finds a conversation's state
    /// again.
    pub(crate) fn keep_sticky(&mut self, answer: &HeaderMap, lease: Option<&Lease>) {
        if !self.sticky.is_empty() {
            return;
        }
        for name in self.api.sticky_headers() {
            if let Some(value) = answer.get(*name) {
                self.sticky.push((HeaderName::from_static(name), value.clone()));
                self.sticky_key = lease.map(Lease::sent_key);
            }
        }
    }

    /// The extensions of the caller's request for a tool's call, with its actor.
    pub(crate) fn call_extensions(&self, actor: Option<&Actor>) -> Extensions {
        let mut extensions = self.head.extensions.clone();
        if let Some(actor) = actor {
            extensions.insert(actor.clone());
        }
        extensions
    }

    /// The request for one attempt, and the hint of its key. Its HTTP version is left to the client below: the caller's
    /// version says nothing about the provider.
    pub(crate) fn request(&mut self, body: &Rope, lease: Option<&Lease>) -> (Request<Rope>, Option<KeyHint>) {
        self.attempts += 1;
        let mut request = Request::new(body.clone());
        request.method_mut().clone_from(&self.head.method);
        request.uri_mut().clone_from(&self.head.uri);
        // Sends the original map, which has spare capacity; keeps the exact-size clone.
        let copy = self.head.headers.clone();
        *request.headers_mut() = mem::replace(&mut self.head.headers, copy);
        request.extensions_mut().clone_from(&self.head.extensions);
        request.extensions_mut().insert(UpstreamAttempt {
            round: self.round,
            attempt: self.attempts,
        });
        let headers = request.headers_mut();
        let is_same_key = match (lease, &self.sticky_key) {
            (Some(lease), Some(key)) => lease.is_of(key),
            (lease, key) => lease.is_none() && key.is_none(),
        };
        if is_same_key {
            for (name, value) in &self.sticky {
                headers.insert(name, value.clone());
            }
        }
        let hint = match (&mut self.credentials, lease) {
            (Credentials::Caller(credential), _) => {
                let (name, value) = credential.as_header();
                headers.insert(name, value.clone());
                Some(credential.hint().clone())
            }
            (Credentials::Pool(pool, sent), Some(lease)) => {
                let (name, value) = pool.header(lease, self.api.key_header());
                headers.insert(name, value);
                *sent = Some(lease.sent_key());
                Some(lease.hint().clone())
            }
            (Credentials::Pool(..), None) => None,
        };
        if !body.is_empty() || matches!(self.head.method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        (request, hint)
    }
}
