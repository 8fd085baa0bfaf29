//! One round's walk through the keys: lease, send, judge, report. Only an answer about a key leads to another attempt.

use std::mem;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use http::{Response, StatusCode, response};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::answer::{Failure, Refusal};
use super::headers;
use super::provider::{Credentials, Provider};
use crate::body::collect::collect;
use crate::dialect::turn::{ErrorNames, InBandError};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::pool::{Caller, Exhausted, Lease, Purpose, Refused, Report, Verdict, Walk};
use crate::record::Interception;
use crate::rope::Rope;
use crate::upstream::Upstream;

/// Stands for a time-out that is longer than a clock can count.
const FAR_FUTURE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest error of a provider that is handed on.
const ERROR_BYTES: usize = 1 << 20;

/// How much of a refusal is read to understand it, and how long that may take. A longer one is judged by its status.
const REFUSAL_BYTES: usize = 256 << 10;
const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// One walk through the keys.
pub(crate) struct RoundWalk {
    walk: Walk,
    /// The first refusal that did not blame the key: the answer, if no other key succeeds.
    first_refusal: Option<Box<Refusal>>,
}

/// An answer that is not about the key.
pub(crate) struct Attempted<B> {
    pub(crate) response: Response<B>,
    /// When the whole attempt has to be over.
    pub(crate) deadline: Instant,
    lease: Option<Lease>,
}

impl<U: Upstream> Provider<U> {
    /// Sends the round's request with one key after the other until an answer is not about the key.
    ///
    /// Only the first bytes of a rejected answer are kept while the next answer is awaited.
    pub(crate) async fn attempt(
        &mut self,
        walk: &mut RoundWalk,
        body: &Rope,
        mut interception: Option<&mut Interception>,
    ) -> Result<Attempted<U::Body>, Failure> {
        loop {
            let purpose = self.target.purpose();
            let mut lease = match &self.credentials {
                Credentials::Caller(_) => None,
                Credentials::Pool(pool, sent) => {
                    let again = sent.as_ref().filter(|_| mem::take(&mut self.sends_again));
                    let again = again.and_then(|sent| pool.lease_again(&mut walk.walk, sent));
                    match again.or_else(|| pool.lease(&mut walk.walk, purpose, Instant::now())) {
                        Some(lease) => Some(lease),
                        None => {
                            let exhausted = pool.exhausted(purpose, Instant::now());
                            return Err(self.exhausted(walk, exhausted));
                        }
                    }
                }
            };
            let (request, hint) = self.request(body, lease.as_ref());
            if let Some(interception) = &mut interception {
                interception.note_key_attempt(hint.as_ref());
            }
            let span = attempt_span(self.attempts, self.round, lease.as_ref());
            let now = Instant::now();
            let deadline = now.checked_add(self.config.attempt_timeout).unwrap_or(now + FAR_FUTURE);
            let asked = interception.as_ref().and_then(|interception| interception.stopwatch());
            let sent = timeout_at(deadline, self.upstream.send(request))
                .instrument(span.clone())
                .await;
            if let Some(interception) = &mut interception {
                interception.waited(asked);
            }
            let response = sent
                .map_err(|_| Failure::timeout())?
                .map_err(|error| Failure::upstream(&error.0, &self.credentials))?;
            span.record("http.response.status_code", response.status().as_u16());
            if let (Some(lease), Credentials::Pool(pool, _)) = (&mut lease, &self.credentials) {
                let purpose = self.target.purpose();
                pool.observe(lease, purpose, response.headers(), Instant::now(), SystemTime::now);
            }
            if lease.is_none() || !self.config.verdicts.concerns(response.status()) {
                return Ok(Attempted {
                    response,
                    deadline,
                    lease,
                });
            }
            let (parts, body) = response.into_parts();
            let mut body = pin!(body);
            let asked = interception.as_ref().and_then(|interception| interception.stopwatch());
            let enough = deadline.min(Instant::now() + REFUSAL_TIME);
            let body = match timeout_at(enough, collect(body.as_mut(), REFUSAL_BYTES)).await {
                Ok(Ok(rope)) => rope.into_bytes(),
                // Unreadable: judged by the status alone.
                Ok(Err(_)) | Err(_) => bytes::Bytes::new(),
            };
            if let Some(interception) = &mut interception {
                interception.waited(asked);
            }
            let refusal = self.refusal(parts, body);
            self.judge(walk, lease, refusal)?;
        }
    }

    fn exhausted(&self, walk: &mut RoundWalk, exhausted: Exhausted) -> Failure {
        if walk.first_refusal.is_none() {
            let reason = match exhausted {
                Exhausted::CoolingDown { .. } => "cooling_down",
                Exhausted::Revoked => "revoked",
            };
            let provider = self.config.provider(self.api.dialect());
            self.config.meter.exhausted(provider, reason);
        }
        walk.exhausted(exhausted)
    }

    /// Reports what a refusal says about the key; `Ok` means that another key may do better.
    fn judge(&self, walk: &mut RoundWalk, lease: Option<Lease>, refusal: Refusal) -> Result<(), Failure> {
        let (Some(mut lease), Credentials::Pool(pool, _)) = (lease, &self.credentials) else {
            return Err(self.refused(refusal).into());
        };
        let codes: Vec<&str> = refusal.names.iter().flat_map(ErrorNames::codes).collect();
        let names = refusal.names.as_ref();
        let message = names.and_then(|names| names.message.as_deref()).unwrap_or_default();
        let verdict = self.config.verdicts.judge(&Refused {
            status: refusal.parts.status,
            codes: &codes,
            message,
            is_api_error: names.is_some(),
        });
        let purpose = self.target.purpose();
        let is_keyed = !matches!(purpose, Purpose::Model(_));
        let verdict = match verdict {
            // The caller chooses the keyed path, so no refusal there may rest a key for other requests. Only a 429
            // rests it, and for such paths alone.
            Verdict::CoolDown | Verdict::CoolDownFor(_)
                if is_keyed && refusal.parts.status != StatusCode::TOO_MANY_REQUESTS =>
            {
                Verdict::NextKey
            }
            verdict => verdict,
        };
        let report = verdict.report(&refusal.parts.headers, message, SystemTime::now());
        pool.report(&mut walk.walk, &mut lease, purpose, report, Instant::now());
        match verdict {
            Verdict::Relay => return Err(self.refused(refusal).into()),
            // On keyed paths every refusal may become the answer: none is taken to say that the key is dead.
            Verdict::NextKey | Verdict::Suspect => {}
            _ if is_keyed => {}
            _ => return Ok(()),
        }
        if walk.first_refusal.is_none() {
            walk.first_refusal = Some(self.refused(refusal));
        }
        Ok(())
    }

    /// Judges an error that came inside a success as a refusal.
    pub(crate) fn judge_in_band(
        &self,
        walk: &mut RoundWalk,
        lease: Option<Lease>,
        parts: response::Parts,
        error: InBandError,
    ) -> Result<(), Failure> {
        let refusal = self.in_band_refusal(parts, error);
        self.judge(walk, lease, refusal)
    }

    /// Turns an error event into the refusal that it would have been with an error status.
    pub(crate) fn in_band_refusal(&self, mut parts: response::Parts, error: InBandError) -> Refusal {
        parts.status = error.status;
        let json = http::HeaderValue::from_static("application/json");
        parts.headers.insert(http::header::CONTENT_TYPE, json);
        self.refusal(parts, error.body)
    }

    fn refusal(&self, parts: response::Parts, body: bytes::Bytes) -> Refusal {
        Refusal {
            names: self.api.read_error(&body),
            parts,
            body,
        }
    }

    /// Reports that the attempt's key served the request.
    pub(crate) fn accept(&self, walk: &mut RoundWalk, lease: Option<Lease>) {
        self.report(walk, lease, Report::Served);
    }

    fn report(&self, walk: &mut RoundWalk, lease: Option<Lease>, report: Report) {
        if let (Some(mut lease), Credentials::Pool(pool, _)) = (lease, &self.credentials) {
            let purpose = self.target.purpose();
            pool.report(&mut walk.walk, &mut lease, purpose, report, Instant::now());
        }
    }

    /// The provider's error for the caller: as it came, but without our keys.
    pub(crate) fn refused(&self, mut refusal: Refusal) -> Box<Refusal> {
        let holds_key = self.credentials.key_finder();
        headers::clean_response(&mut refusal.parts.headers, &holds_key);
        refusal.parts.version = http::Version::default();
        // Names go into records.
        if let Some(names) = &mut refusal.names {
            for name in [&mut names.kind, &mut names.code, &mut names.detail] {
                name.take_if(|name| holds_key(name.as_bytes()));
            }
        }
        // A caller's own key is not secret to the caller, so its errors pass unchanged.
        if let Credentials::Pool(..) = &self.credentials
            && let Some(redacted) = self.credentials.redact(&refusal.body)
        {
            refusal.body = redacted.into();
        }
        Box::new(refusal)
    }

    /// Reads an error of the provider that is not about the key, to its end.
    pub(crate) async fn read_refusal(&mut self, walk: &mut RoundWalk, attempted: Attempted<U::Body>) -> Failure {
        let (response, deadline, lease) = attempted.into_parts();
        let report = match response.status().is_server_error() {
            true => Report::Failed,
            false => Report::Relayed,
        };
        self.report(walk, lease, report);
        let (parts, body) = response.into_parts();
        let mut body = pin!(body);
        let limit = self.config.max_response_body.min(ERROR_BYTES);
        match timeout_at(deadline, collect(body.as_mut(), limit)).await {
            Ok(Ok(rope)) => self.refused(self.refusal(parts, rope.into_bytes())).into(),
            Ok(Err(error)) => Failure::unread(&error, &self.credentials),
            Err(_) => Failure::timeout(),
        }
    }
}

/// Out of line, to keep span construction off the hot path.
#[inline(never)]
fn attempt_span(key_attempt: u32, round: u32, lease: Option<&Lease>) -> tracing::Span {
    tracing::debug_span!(
        "upstream_attempt",
        key_attempt,
        round,
        credential_hint = lease.map(|lease| tracing::field::display(lease.hint())),
        "http.response.status_code" = tracing::field::Empty,
    )
}

// === impl RoundWalk ===

impl RoundWalk {
    pub(crate) fn new(caller: Caller) -> Self {
        Self {
            walk: Walk::new(caller),
            first_refusal: None,
        }
    }

    fn exhausted(&mut self, exhausted: Exhausted) -> Failure {
        if let Some(refusal) = self.first_refusal.take() {
            return Failure::Provider(refusal);
        }
        match exhausted {
            Exhausted::CoolingDown { retry_after } => BridgeError::new(
                BridgeErrorKind::KeysCoolingDown,
                "every key for this provider is rate limited, please try again later",
            )
            .retry_after(retry_after.as_secs())
            .into(),
            Exhausted::Revoked => Failure::bridge(
                BridgeErrorKind::KeysRevoked,
                "no key for this provider is accepted any more, please tell the operator",
            ),
        }
    }
}

// === impl Attempted ===

impl<B> Attempted<B> {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn into_parts(self) -> (Response<B>, Instant, Option<Lease>) {
        (self.response, self.deadline, self.lease)
    }
}
