//! Applies what answers say about keys and their domains: learns domains, and begins and ends rests.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use tokio::time::Instant;

use super::{
    KeyPool, Lease, Purpose, Report, Walk,
    domain::{Domain, DomainName},
    headroom,
    key::Attempt,
    state::PROBE_INTERVAL,
    word::KeyFate,
};

impl KeyPool {
    /// Reads in the headers of any answer what they say about the key's domain: its name, and whether its bucket for
    /// the model is empty. `wall` is the wall clock. To be called before [`report`](Self::report).
    #[inline]
    pub(crate) fn observe(
        &self,
        lease: &mut Lease,
        purpose: Purpose<'_>,
        headers: &HeaderMap,
        now: Instant,
        wall: impl Fn() -> SystemTime,
    ) {
        if !lease.entry.domain.name.is_settled(headers) {
            self.learn_domain(lease, headers, now);
        }
        if let Purpose::Model(model) = purpose
            && let Some(empty) = headroom::empty_for(headers, wall)
        {
            let clock = &self.inner.clock;
            let (deadline, now) = (clock.deadline(now, empty), clock.millis(now));
            let (domain, generation) = self.domain_of(lease);
            domain.make_last_resort(generation, model, deadline, now);
        }
    }

    /// Moves the key of `lease` into the domain that an answer names.
    #[cold]
    fn learn_domain(&self, lease: &mut Lease, headers: &HeaderMap, now: Instant) {
        let Some(name) = DomainName::learn(headers) else {
            return;
        };
        // It guards no data, so a panic under it left nothing half changed.
        let _publishing = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.inner.keys.load();
        // Another answer may have said so in the meantime.
        if let Some(current) = keys.current(&lease.entry)
            && !current.domain.name.is_settled(headers)
        {
            let now = self.inner.clock.millis(now);
            if let Some((next, moved)) = keys.with_domain(current, name, now) {
                tracing::info!(credential_hint = %moved.key.hint, domain = %moved.domain.name, "domain learnt");
                self.inner.keys.store(Arc::new(next));
            }
        }
    }

    /// The domain that the key of `lease` is in by now, and the generation that its reports belong to.
    fn domain_of(&self, lease: &Lease) -> (Arc<Domain>, u64) {
        let keys = self.inner.keys.load();
        match keys.current(&lease.entry) {
            Some(current) if !Arc::ptr_eq(&current.domain, &lease.entry.domain) => {
                (Arc::clone(&current.domain), current.domain.generation())
            }
            _ => (Arc::clone(&lease.entry.domain), lease.generation),
        }
    }

    /// Applies what an attempt's answer says about its key.
    #[inline]
    pub(crate) fn report(
        &self,
        walk: &mut Walk,
        lease: &mut Lease,
        purpose: Purpose<'_>,
        report: Report,
        now: Instant,
    ) {
        lease.answered = true;
        let key = &lease.entry.key;
        let is_keyed = !matches!(purpose, Purpose::Model(_));
        match report {
            Report::Served | Report::Relayed | Report::Failed => {
                key.count(Attempt::Accepted);
                if report != Report::Failed && lease.stamp.is_revoked() {
                    key.restore(lease.stamp);
                }
                if report == Report::Served && !is_keyed {
                    self.note_success(walk, lease, now);
                }
            }
            Report::CoolDown(rest) => self.cool_down(lease, purpose, rest, now),
            Report::CoolDownDomain(rest) => self.cool_down_domain(lease, purpose, rest, now),
            // Answers on keyed paths never count against the key.
            Report::Revoked | Report::Suspect | Report::NextKey if is_keyed => {
                key.count(Attempt::NextKey);
            }
            Report::Revoked => self.revoke(walk, lease, now),
            Report::NextKey => {
                key.count(Attempt::NextKey);
            }
            Report::Suspect => {
                key.count(Attempt::Suspected);
                if walk.caller.actor.is_some() {
                    walk.suspects.push(Arc::clone(&lease.entry));
                }
            }
        }
    }

    /// The key served a request that other keys of the walk may have refused.
    #[inline]
    fn note_success(&self, walk: &mut Walk, lease: &Lease, now: Instant) {
        if lease.entry.key.suspicion.is_noted() {
            lease.entry.key.forget_suspicion();
        }
        if !walk.suspects.is_empty() {
            self.suspect(walk, now);
        }
    }

    #[cold]
    fn suspect(&self, walk: &mut Walk, now: Instant) {
        let clock = &self.inner.clock;
        let Some(actor) = walk.caller.actor else {
            return;
        };
        for entry in walk.suspects.drain(..) {
            let key = &entry.key;
            let stamp = key.word.load();
            if !matches!(stamp.fate(|| clock.millis(now)), KeyFate::Usable | KeyFate::Rested) {
                continue;
            }
            let Some(rest) = key.suspicion.suspect(actor, clock.millis(now)) else {
                continue;
            };
            if key.word.raise_to(stamp.cooling(clock.deadline(now, rest))).is_some() {
                tracing::warn!(
                    credential_hint = %key.hint,
                    seconds = rest.as_secs_f64(),
                    "key suspected: other keys serve what it refuses"
                );
                key.meter.transition("key", "suspected");
            }
        }
    }

    #[cold]
    fn cool_down(&self, lease: &Lease, purpose: Purpose<'_>, rest: Duration, now: Instant) {
        let (key, clock) = (&lease.entry.key, &self.inner.clock);
        key.count(Attempt::CooledDown);
        let (deadline, now) = (clock.deadline(now, rest), clock.millis(now));
        if deadline <= now {
            return;
        }
        // Of several answers that come together, the first changes the state; the others only move its end.
        match purpose {
            Purpose::Model(model) => {
                let (domain, generation) = self.domain_of(lease);
                if domain.cool_down(generation, Some(model), deadline, now) {
                    tracing::warn!(
                        credential_hint = %key.hint,
                        domain = %domain.name,
                        model,
                        seconds = rest.as_secs_f64(),
                        "model cools down"
                    );
                    key.meter.transition("model", "cooling_down");
                }
            }
            Purpose::Keyed | Purpose::Counting => {
                if key.begin_rest(purpose, deadline, now) {
                    tracing::warn!(
                        credential_hint = %key.hint,
                        ?purpose,
                        seconds = rest.as_secs_f64(),
                        "key cools down"
                    );
                    key.meter.transition("key", "cooling_down");
                }
            }
        }
    }

    #[cold]
    fn cool_down_domain(&self, lease: &Lease, purpose: Purpose<'_>, rest: Duration, now: Instant) {
        if !matches!(purpose, Purpose::Model(_)) {
            return self.cool_down(lease, purpose, rest, now);
        }
        let (key, clock) = (&lease.entry.key, &self.inner.clock);
        key.count(Attempt::CooledDown);
        let (deadline, now) = (clock.deadline(now, rest), clock.millis(now));
        let (domain, generation) = self.domain_of(lease);
        if deadline > now && domain.cool_down(generation, None, deadline, now) {
            tracing::warn!(
                credential_hint = %key.hint,
                domain = %domain.name,
                seconds = rest.as_secs_f64(),
                "domain cools down"
            );
            key.meter.transition("domain", "cooling_down");
        }
    }

    #[cold]
    fn revoke(&self, walk: &mut Walk, lease: &Lease, now: Instant) {
        let key = &lease.entry.key;
        key.count(Attempt::Revoked);
        if let Some(probe) = walk.probe.as_mut().filter(|_| lease.stamp.is_revoked()) {
            probe.undecided = probe.undecided.saturating_sub(1);
        }
        let revoked = lease.stamp.revoked();
        if key.word.load() >= revoked {
            return;
        }
        // Written before the key's word: a request that sees the last key revoked must see when a probe is due.
        self.inner
            .next_probe
            .fetch_max(self.inner.clock.deadline(now, PROBE_INTERVAL), Ordering::AcqRel);
        if key.word.raise_to(revoked).is_some() {
            tracing::warn!(credential_hint = %key.hint, "key revoked");
            key.meter.transition("key", "revoked");
        }
    }
}
