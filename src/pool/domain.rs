//! A domain: the organisation, project or workspace whose rate limits several keys share, and its rests.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use http::HeaderMap;

use super::word::NEVER;

/// Model names come from callers, so their number is bounded. The least recently used one is forgotten first.
pub(super) const MOST_MODELS: usize = 256;

/// The headers that name the domain: its organisation, and its project or workspace.
const NAMES: [(&str, &str); 2] = [
    ("openai-organization", "openai-project"),
    ("anthropic-organization-id", "anthropic-workspace-id"),
];

/// Longer header values are not taken for names.
const LONGEST_NAME: usize = 256;

/// State that keys share. Keys whose domain is unknown have one each.
pub(super) struct Domain {
    pub(super) name: DomainName,
    /// Counts calls of [`restore`](Self::restore): a report from before one has no effect.
    generation: AtomicU64,
    /// Whether anything rests. Requests look at it first and take the lock only then.
    has_rests: AtomicBool,
    rests: Mutex<Rests>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DomainName {
    /// Of one key, by its hint.
    Own(Arc<str>),
    /// By the operator.
    Declared(Arc<str>),
    /// By the provider's answers: the organisation, and the project or workspace in it.
    Learnt {
        organisation: Arc<str>,
        part: Option<Arc<str>>,
    },
}

/// Deadlines, in milliseconds of the pool's clock. 0 is none.
#[derive(Clone, Default)]
struct Rests {
    all_models: u64,
    models: HashMap<Arc<str>, ModelRests>,
    /// The first deadline of all.
    earliest: u64,
    /// Counts uses of models.
    uses: u64,
}

#[derive(Clone, Copy, Default)]
struct ModelRests {
    cooling: u64,
    last_resort: u64,
    used: u64,
}

/// Whether a domain serves a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DomainFate {
    Free,
    /// Its bucket is empty, as the provider's headers say: it is tried after all others.
    LastResort,
    /// Not before this millisecond.
    Resting(u64),
}

/// A model's rest as a snapshot shows it.
pub(super) struct ModelRest {
    pub(super) model: Arc<str>,
    pub(super) cooling: Option<u64>,
    pub(super) last_resort: Option<u64>,
}

// === impl DomainName ===

impl DomainName {
    /// Reads the domain out of an answer.
    pub(super) fn learn(headers: &HeaderMap) -> Option<Self> {
        let value = |name| {
            let text = headers.get(name)?.to_str().ok()?.trim();
            (1..=LONGEST_NAME).contains(&text.len()).then_some(text)
        };
        NAMES.into_iter().find_map(|(organisation, part)| {
            Some(Self::Learnt {
                organisation: value(organisation)?.into(),
                part: value(part).map(Into::into),
            })
        })
    }

    /// Whether `headers` teach nothing new. A domain is learnt once: answers that later name another organisation come
    /// from a proxy that has several. An answer that adds the project or workspace makes it more exact.
    pub(super) fn is_settled(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Declared(_) | Self::Learnt { part: Some(_), .. } => true,
            Self::Own(_) => !NAMES
                .iter()
                .any(|(organisation, _)| headers.contains_key(*organisation)),
            Self::Learnt {
                organisation,
                part: None,
            } => !NAMES.iter().any(|(name, part)| {
                let is_same = headers
                    .get(*name)
                    .is_some_and(|value| value.as_bytes() == organisation.as_bytes());
                is_same && headers.contains_key(*part)
            }),
        }
    }

    /// The name that the provider or the operator gave.
    pub(super) fn public(&self) -> Option<String> {
        match self {
            Self::Own(_) => None,
            Self::Declared(_) | Self::Learnt { .. } => Some(self.to_string()),
        }
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(name) | Self::Declared(name) => f.write_str(name),
            Self::Learnt {
                organisation,
                part: None,
            } => f.write_str(organisation),
            Self::Learnt {
                organisation,
                part: Some(part),
            } => write!(f, "{organisation}/{part}"),
        }
    }
}

// === impl Domain ===

impl Domain {
    pub(super) fn new(name: DomainName) -> Arc<Self> {
        Arc::new(Self {
            name,
            generation: AtomicU64::new(0),
            has_rests: AtomicBool::new(false),
            rests: Mutex::default(),
        })
    }

    #[inline]
    pub(super) fn has_rests(&self) -> bool {
        self.has_rests.load(Ordering::Acquire)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether it serves `model` at the millisecond `now`.
    #[inline]
    pub(super) fn fate(&self, model: &str, now: u64) -> DomainFate {
        if self.has_rests() {
            self.locked_fate(model, now)
        } else {
            DomainFate::Free
        }
    }

    fn locked_fate(&self, model: &str, now: u64) -> DomainFate {
        let mut rests = self.lock();
        if rests.earliest <= now {
            self.clear_expired(&mut rests, now);
        }
        rests.uses += 1;
        let (all_models, uses) = (rests.all_models, rests.uses);
        let mut of_model = ModelRests::default();
        if let Some(found) = rests.models.get_mut(model) {
            found.used = uses;
            of_model = *found;
        }
        match all_models.max(of_model.cooling) {
            0 if of_model.last_resort > 0 => DomainFate::LastResort,
            0 => DomainFate::Free,
            deadline => DomainFate::Resting(deadline),
        }
    }

    /// Rests until `deadline`: for `model`, or for all models. A deadline is never shortened. Returns whether it served
    /// the model until now.
    pub(super) fn cool_down(&self, generation: u64, model: Option<&str>, deadline: u64, now: u64) -> bool {
        self.change(generation, now, |rests| {
            let cooling = match model {
                Some(model) => &mut rests.model(model).cooling,
                None => &mut rests.all_models,
            };
            let was_free = *cooling == 0;
            *cooling = deadline.max(*cooling);
            was_free
        })
        .unwrap_or(false)
    }

    /// Makes it a last resort for `model` until `deadline`.
    pub(super) fn make_last_resort(&self, generation: u64, model: &str, deadline: u64, now: u64) {
        self.change(generation, now, |rests| {
            let last_resort = &mut rests.model(model).last_resort;
            *last_resort = deadline.max(*last_resort);
        });
    }

    /// Takes over the rests of another domain that turned out to be this one.
    pub(super) fn absorb(&self, other: &Self, now: u64) {
        let others = other.lock().clone();
        self.change(self.generation(), now, |rests| {
            rests.all_models = rests.all_models.max(others.all_models);
            for (model, other) in &others.models {
                let rests = rests.model(model);
                rests.cooling = rests.cooling.max(other.cooling);
                rests.last_resort = rests.last_resort.max(other.last_resort);
            }
        });
    }

    /// Ends every rest. Reports from before have no effect any more.
    pub(super) fn restore(&self) {
        let mut rests = self.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        *rests = Rests::default();
        self.has_rests.store(false, Ordering::Release);
    }

    /// The deadline until which all models rest, and the rests of single models, sorted by name.
    pub(super) fn inspect(&self, now: u64) -> (Option<u64>, Vec<ModelRest>) {
        if !self.has_rests() {
            return (None, Vec::new());
        }
        let ahead = |deadline: u64| (deadline > now).then_some(deadline);
        let rests = self.lock();
        let models = rests.models.iter().map(|(model, rests)| ModelRest {
            model: Arc::clone(model),
            cooling: ahead(rests.cooling),
            last_resort: ahead(rests.last_resort),
        });
        let mut models: Vec<_> = models
            .filter(|rest| rest.cooling.is_some() || rest.last_resort.is_some())
            .collect();
        models.sort_unstable_by(|one, other| one.model.cmp(&other.model));
        (ahead(rests.all_models), models)
    }

    /// Changes the rests, unless they were restored since `generation`.
    fn change<T>(&self, generation: u64, now: u64, change: impl FnOnce(&mut Rests) -> T) -> Option<T> {
        let mut rests = self.lock();
        if self.generation() != generation {
            return None;
        }
        self.clear_expired(&mut rests, now);
        let changed = change(&mut rests);
        rests.find_earliest();
        self.has_rests.store(rests.earliest != NEVER, Ordering::Release);
        Some(changed)
    }

    fn clear_expired(&self, rests: &mut Rests, now: u64) {
        if (1..=now).contains(&rests.all_models) {
            rests.all_models = 0;
            tracing::info!(domain = %self.name, "domain usable again");
        }
        rests.models.retain(|model, rest| {
            if (1..=now).contains(&rest.cooling) {
                rest.cooling = 0;
                tracing::info!(domain = %self.name, model = &**model, "model usable again");
            }
            if rest.last_resort <= now {
                rest.last_resort = 0;
            }
            rest.cooling > 0 || rest.last_resort > 0
        });
        rests.find_earliest();
        self.has_rests.store(rests.earliest != NEVER, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Rests> {
        // No change under the lock panics half-way.
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Domain").field(&self.name).finish()
    }
}

// === impl Rests ===

impl Rests {
    /// The rests of `model`; the model used least recently makes room for a new one.
    fn model(&mut self, model: &str) -> &mut ModelRests {
        self.uses += 1;
        let used = self.uses;
        if !self.models.contains_key(model) {
            if self.models.len() >= MOST_MODELS {
                let oldest = self.models.iter().min_by_key(|(_, rests)| rests.used);
                if let Some(oldest) = oldest.map(|(model, _)| Arc::clone(model)) {
                    self.models.remove(&oldest);
                }
            }
            self.models.insert(model.into(), ModelRests::default());
        }
        let rests = self.models.entry(model.into()).or_default();
        rests.used = used;
        rests
    }

    fn find_earliest(&mut self) {
        let of_models = self
            .models
            .values()
            .flat_map(|rests| [rests.cooling, rests.last_resort]);
        let deadlines = of_models.chain([self.all_models]).filter(|deadline| *deadline > 0);
        self.earliest = deadlines.min().unwrap_or(NEVER);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn domain() -> Arc<Domain> {
        Domain::new(DomainName::Declared("d".into()))
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|&(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn a_model_rests_alone() {
        let domain = domain();
        assert!(domain.cool_down(0, Some("big"), 100, 0));
        assert!(!domain.cool_down(0, Some("big"), 50, 0), "it rested already");
        assert_eq!(domain.fate("big", 99), DomainFate::Resting(100));
        assert_eq!(domain.fate("small", 99), DomainFate::Free);
        assert!(domain.cool_down(0, None, 200, 99));
        assert_eq!(domain.fate("small", 100), DomainFate::Resting(200));
        assert_eq!(domain.fate("big", 100), DomainFate::Resting(200));
        assert_eq!(domain.fate("big", 200), DomainFate::Free);
        assert!(!domain.has_rests(), "the lock is not taken any more");
    }

    #[test]
    fn an_empty_bucket_is_a_last_resort() {
        let domain = domain();
        domain.make_last_resort(0, "big", 100, 0);
        assert_eq!(domain.fate("big", 99), DomainFate::LastResort);
        domain.cool_down(0, Some("big"), 50, 0);
        assert_eq!(domain.fate("big", 49), DomainFate::Resting(50));
        assert_eq!(domain.fate("big", 50), DomainFate::LastResort);
        assert_eq!(domain.fate("big", 100), DomainFate::Free);
    }

    #[test]
    fn a_report_from_before_a_restore_has_no_effect() {
        let domain = domain();
        domain.cool_down(0, None, 100, 0);
        domain.restore();
        assert!(!domain.cool_down(0, None, 100, 0));
        domain.make_last_resort(0, "big", 100, 0);
        assert_eq!(domain.fate("big", 1), DomainFate::Free);
        assert!(domain.cool_down(domain.generation(), None, 100, 0));
    }

    #[test]
    fn ten_thousand_model_names_are_not_remembered() {
        let domain = domain();
        domain.cool_down(0, Some("used"), NEVER - 1, 0);
        for number in 0..10_000 {
            domain.cool_down(0, Some(&format!("model-{number}")), NEVER - 1, 0);
            assert_eq!(domain.fate("used", 1), DomainFate::Resting(NEVER - 1));
        }
        assert_eq!(domain.lock().models.len(), MOST_MODELS);
        assert_eq!(domain.fate("model-9999", 1), DomainFate::Resting(NEVER - 1));
        assert_eq!(domain.fate("model-9000", 1), DomainFate::Free);
        // Nothing is kept of rests that are over.
        assert_eq!(domain.fate("used", NEVER), DomainFate::Free);
        assert_eq!(domain.lock().models.len(), 0);
    }

    #[test]
    fn the_rests_of_two_domains_that_are_one_add_up() {
        let (shared, own) = (domain(), domain());
        shared.cool_down(0, Some("a"), 100, 0);
        own.cool_down(0, Some("a"), 50, 0);
        own.cool_down(0, Some("b"), 70, 0);
        own.make_last_resort(0, "c", 80, 0);
        shared.absorb(&own, 1);
        assert_eq!(shared.fate("a", 1), DomainFate::Resting(100));
        assert_eq!(shared.fate("b", 1), DomainFate::Resting(70));
        assert_eq!(shared.fate("c", 1), DomainFate::LastResort);
    }

    #[test]
    fn domains_are_read_out_of_answers() {
        let learn = |pairs: &[_]| DomainName::learn(&headers(pairs)).map(|name| name.to_string());
        assert_eq!(learn(&[]), None);
        assert_eq!(learn(&[("openai-project", "p")]), None);
        assert_eq!(learn(&[("openai-organization", "o")]).as_deref(), Some("o"));
        let both = [("openai-organization", "o"), ("openai-project", "p")];
        assert_eq!(learn(&both).as_deref(), Some("o/p"));
        let anthropic = [("anthropic-organization-id", "a"), ("anthropic-workspace-id", "w")];
        assert_eq!(learn(&anthropic).as_deref(), Some("a/w"));
        assert_eq!(learn(&[("openai-organization", " ")]), None);
    }

    #[test]
    fn a_domain_is_learnt_once_and_made_more_exact() {
        let organisation = headers(&[("openai-organization", "o")]);
        let both = headers(&[("openai-organization", "o"), ("openai-project", "p")]);
        let other = headers(&[("openai-organization", "x"), ("openai-project", "p")]);
        let nothing = headers(&[("openai-project", "p"), ("x-request-id", "r")]);
        for (name, settled) in [
            (DomainName::Own("o".into()), [true, false, false, false]),
            (DomainName::learn(&organisation).unwrap(), [true, true, false, true]),
            (DomainName::learn(&both).unwrap(), [true; 4]),
            (DomainName::Declared("d".into()), [true; 4]),
        ] {
            let got = [&nothing, &organisation, &both, &other].map(|headers| name.is_settled(headers));
            assert_eq!(got, settled, "{name}");
        }
    }
}
