//! Tells a load balancer whether new requests should come here: not while the gateway drains, cannot record, or has no
//! usable key.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tower_llm_bridge::{
    pool::{KeyPool, KeyState},
    record::Recorder,
};

/// The state that is checked for each answer.
pub struct Readiness {
    /// `None` from the first signal on: a recorder kept here would keep the record writer waiting for more.
    recorder: Mutex<Option<Recorder>>,
    providers: Vec<Provider>,
}

/// A provider of this gateway, as its operator knows it.
#[derive(Clone, Debug)]
pub struct Provider {
    pub name: &'static str,
    /// `None`: callers bring their own keys.
    pub pool: Option<KeyPool>,
}

/// Why no request should come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    Draining,
    RecorderClosed,
    NoUsableKey,
}

// === impl Readiness ===

impl Readiness {
    pub fn new(recorder: Recorder, providers: Vec<Provider>) -> Self {
        Self {
            recorder: Mutex::new(Some(recorder)),
            providers,
        }
    }

    /// To be called before the gateway stops accepting, so that a load balancer learns of it first.
    pub fn begin_drain(&self) {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Brings the metrics of all keys up to date.
    pub fn publish_keys(&self) {
        for Provider { name, pool } in &self.providers {
            if let Some(pool) = pool {
                pool.publish_metrics(name);
            }
        }
    }

    /// Whether requests should come.
    ///
    /// # Errors
    ///
    /// Why they should not.
    pub fn check(&self) -> Result<(), NotReady> {
        match &*self.recorder.lock().unwrap_or_else(PoisonError::into_inner) {
            None => return Err(NotReady::Draining),
            Some(recorder) if recorder.is_closed() => return Err(NotReady::RecorderClosed),
            Some(_) => {}
        }
        // A provider without usable keys must not stop the other provider's callers.
        if self.providers.is_empty() || self.providers.iter().any(Provider::has_usable_key) {
            Ok(())
        } else {
            Err(NotReady::NoUsableKey)
        }
    }
}

// === impl Provider ===

impl Provider {
    fn has_usable_key(&self) -> bool {
        let Some(pool) = &self.pool else { return true };
        let keys = pool.snapshot();
        // A suspected key is tried when there is no other.
        keys.iter()
            .any(|key| matches!(key.state, KeyState::Usable | KeyState::Suspected))
    }
}

// === impl NotReady ===

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "draining",
            Self::RecorderClosed => "the record writer has ended",
            Self::NoUsableKey => "no key is usable",
        })
    }
}

impl std::error::Error for NotReady {}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(keys: &[&str]) -> Provider {
        let pool = (!keys.is_empty()).then(|| KeyPool::from_secrets(keys.iter().copied()).unwrap());
        Provider { name: "test", pool }
    }

    #[test]
    fn it_is_ready_until_it_drains() {
        let (recorder, mut events) = Recorder::channel(1);
        let ready = Readiness::new(recorder, vec![provider(&["sk-0123456789"]), provider(&[])]);
        assert_eq!(ready.check(), Ok(()));
        ready.begin_drain();
        assert_eq!(ready.check(), Err(NotReady::Draining));
        assert!(
            tokio_test::block_on(events.recv()).is_none(),
            "the record writer is not kept waiting"
        );
    }

    #[test]
    fn it_is_not_ready_while_nothing_is_recorded() {
        let (recorder, events) = Recorder::channel(1);
        let ready = Readiness::new(recorder, Vec::new());
        assert_eq!(ready.check(), Ok(()));
        drop(events);
        assert_eq!(ready.check(), Err(NotReady::RecorderClosed));
    }
}
