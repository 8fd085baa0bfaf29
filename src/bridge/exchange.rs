//! What all calls of the provider for one request share: the cleaned head, the credentials, the handle, the record.

use std::mem;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, request};

use super::config::Config;
use super::headers;
use crate::dialect::chat_completions::{Completion, Tokens};
use crate::extensions::{Actor, Credential, Intercepted, UpstreamAttempt};
use crate::pool::{KeyPool, Lease, SentKey};
use crate::record::{Fact, Interception, Outcome, TokenDetails};
use crate::redact;
use crate::rope::Rope;
use crate::types::{CredentialHeader, CredentialKind, KeyHint};

/// One request's side towards the provider.
pub(crate) struct Exchange<U> {
    pub(crate) config: Arc<Config>,
    pub(crate) upstream: U,
    pub(crate) credentials: Credentials,
    /// The caller's, cleaned. Boxed, like the credentials, because all this moves with what owns it.
    head: Box<request::Parts>,
    /// None for a pass-through, and once it has ended.
    interception: Option<Interception>,
    round: u32,
}

/// Whose keys are used.
pub(crate) enum Credentials {
    /// The pool, and the key that was sent last: it may have left the pool since, and is a secret all the same.
    Pool(KeyPool, Option<SentKey>),
    Caller(Box<Credential>),
}

// === impl Credentials ===

impl Credentials {
    /// The caller's own key if the auth layer set one; else the pool; else the key that the caller sent.
    pub(crate) fn of(config: &Config, own: Option<Credential>, headers: &HeaderMap) -> Option<Self> {
        match (own, &config.pool) {
            (Some(credential), _) => Some(Self::Caller(Box::new(credential))),
            (None, Some(pool)) => Some(Self::Pool(pool.clone(), None)),
            (None, None) => Credential::from_headers(headers, &CredentialHeader::bearer())
                .map(|credential| Self::Caller(Box::new(credential))),
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

    /// A test of the provider's texts: whether a key occurs in one.
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

// === impl Exchange ===

impl<U> Exchange<U> {
    pub(crate) fn new(
        config: Arc<Config>,
        upstream: U,
        credentials: Credentials,
        mut head: Box<request::Parts>,
        actor: Option<&Actor>,
        interception: Option<Interception>,
    ) -> Self {
        headers::clean_request(&mut head.headers);
        if let Some(actor) = actor.filter(|_| config.actor_headers) {
            headers::add_actor(&mut head.headers, actor);
        }
        Self {
            config,
            upstream,
            credentials,
            head,
            interception,
            round: 1,
        }
    }

    /// The request for one attempt. Its version is left to the client: the caller's says nothing about the provider.
    pub(crate) fn request(&mut self, body: &Rope, lease: Option<&Lease>, attempt: u32) -> Request<Rope> {
        let mut request = Request::new(body.clone());
        request.method_mut().clone_from(&self.head.method);
        request.uri_mut().clone_from(&self.head.uri);
        // The copy has no room for more, so it is what stays behind.
        let copy = self.head.headers.clone();
        *request.headers_mut() = mem::replace(&mut self.head.headers, copy);
        request.extensions_mut().clone_from(&self.head.extensions);
        request.extensions_mut().insert(UpstreamAttempt {
            round: self.round,
            attempt,
        });
        let headers = request.headers_mut();
        let hint = match (&mut self.credentials, lease) {
            (Credentials::Caller(credential), _) => {
                let (name, value) = credential.as_header();
                headers.insert(name, value.clone());
                Some(credential.hint())
            }
            (Credentials::Pool(pool, sent), lease) => {
                if let Some(lease) = lease {
                    let (name, value) = pool.header(lease, &CredentialHeader::bearer());
                    headers.insert(name, value);
                    *sent = Some(lease.sent_key());
                }
                lease.map(Lease::hint)
            }
        };
        if !body.is_empty() || matches!(self.head.method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        if let Some(interception) = &mut self.interception {
            interception.key_attempt(hint);
        }
        request
    }

    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    /// Counts a round from its start, so that one that fails is counted too.
    pub(crate) fn begin_round(&mut self, round: u32) {
        self.round = round;
        if let Some(interception) = &mut self.interception {
            interception.round();
        }
    }

    pub(crate) fn intercepted(&self) -> Option<Intercepted> {
        let interception = self.interception.as_ref()?;
        Some(Intercepted {
            id: interception.id(),
            key_attempts: interception.key_attempts(),
        })
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.interception.as_ref().is_some_and(Interception::is_recorded)
    }

    pub(crate) fn emit(&mut self, fact: Fact) {
        if let Some(interception) = &mut self.interception {
            interception.emit(fact);
        }
    }

    pub(crate) fn first_token(&mut self) {
        if let Some(interception) = &mut self.interception {
            interception.first_token();
        }
    }

    /// Records what the user asked, once, with the first completion's id.
    pub(crate) fn record_prompt(&mut self, msg_id: &str, prompt: impl FnOnce() -> Option<String>) {
        if self.round == 1
            && self.is_recorded()
            && let Some(prompt) = prompt()
        {
            self.emit(Fact::PromptUsage {
                msg_id: msg_id.to_owned(),
                prompt,
            });
        }
    }

    /// Keeps a round's usage as known so far: the last report counts, and it is recorded even if the stream is cut.
    pub(crate) fn hold_usage(&mut self, completion: &Completion) {
        if let (Some(fact), Some(interception)) = (self.usage(completion), &mut self.interception) {
            interception.hold(fact);
        }
    }

    /// Records one round's usage, of which no more will be reported.
    pub(crate) fn record_usage(&mut self, completion: &Completion) {
        if let Some(fact) = self.usage(completion) {
            self.emit(fact);
        }
    }

    /// What a completion used, if anybody wants to know.
    fn usage(&self, completion: &Completion) -> Option<Fact> {
        let span = tracing::Span::current();
        if !self.is_recorded() && span.is_disabled() {
            return None;
        }
        span.record("gen_ai.response.model", &*completion.model);
        usage_fact(completion)
    }

    pub(crate) fn finish(&mut self, outcome: Outcome, status: StatusCode, error_type: Option<&str>) {
        if let Some(mut interception) = self.interception.take() {
            interception.release();
            let (span, usage) = (tracing::Span::current(), interception.usage());
            span.record("gen_ai.usage.input_tokens", usage.input + usage.cache_read_input_tokens);
            span.record("gen_ai.usage.output_tokens", usage.output);
            interception.finish(outcome, Some(status), error_type);
        }
    }
}

fn usage_fact(completion: &Completion) -> Option<Fact> {
    let Tokens {
        usage,
        prompt_audio,
        completion_audio,
        completion_reasoning,
        completion_accepted_prediction,
        completion_rejected_prediction,
    } = completion.usage.as_ref()?.tokens();
    let extra = TokenDetails::from_iter([
        ("prompt_audio", prompt_audio),
        ("completion_audio", completion_audio),
        ("completion_reasoning", completion_reasoning),
        ("completion_accepted_prediction", completion_accepted_prediction),
        ("completion_rejected_prediction", completion_rejected_prediction),
    ]);
    Some(Fact::TokenUsage {
        msg_id: completion.id.clone(),
        model: completion.model.clone(),
        service_tier: completion.service_tier.clone(),
        usage,
        extra,
        cost: None,
    })
}
