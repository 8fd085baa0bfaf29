//! The pool's rules once more, as the simplest program that keeps them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;

pub(super) const SECRETS: [&str; 6] = ["key-one", "key-two", "key-three", "key-four", "key-five", "key-six"];
pub(super) const MODELS: [&str; 2] = ["big", "small"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Own,
    Declared(&'static str),
    Learnt(&'static str),
}

#[derive(Debug)]
struct ModelDomain {
    name: Name,
    generation: u64,
    all_models: u64,
    cooling: BTreeMap<&'static str, u64>,
    last_resort: BTreeMap<&'static str, u64>,
}

type SharedDomain = Rc<RefCell<ModelDomain>>;

#[derive(Debug)]
pub(super) struct ModelKey {
    pub(super) secret: &'static str,
    generation: u64,
    revoked: bool,
    suspected_until: u64,
    suspected_by: Option<(&'static str, u64)>,
    suspect_rests: u32,
    domain: SharedDomain,
    counters: KeyCounters,
}

type Shared = Rc<RefCell<ModelKey>>;

#[derive(Default)]
pub(super) struct ModelWalk {
    actor: Option<&'static str>,
    tried: Vec<Shared>,
    suspects: Vec<Shared>,
    /// When the next probe was due before this walk took its turn, and how many keys it has not heard of.
    probe: Option<(u64, usize)>,
}

pub(super) struct ModelLease {
    pub(super) key: Shared,
    generation: u64,
    domain: SharedDomain,
    domain_generation: u64,
    probing: bool,
    pub(super) model: &'static str,
    pub(super) walk: usize,
    pub(super) walk_number: u64,
}

pub(super) struct Model {
    pub(super) now: u64,
    next_probe: u64,
    keys: Vec<Shared>,
}

fn domain(name: Name) -> SharedDomain {
    Rc::new(RefCell::new(ModelDomain {
        name,
        generation: 0,
        all_models: 0,
        cooling: BTreeMap::new(),
        last_resort: BTreeMap::new(),
    }))
}

fn raise(map: &mut BTreeMap<&'static str, u64>, model: &'static str, deadline: u64) {
    let known = map.entry(model).or_default();
    *known = deadline.max(*known);
}

impl ModelDomain {
    fn absorb(&mut self, other: &Self) {
        self.all_models = self.all_models.max(other.all_models);
        for (model, deadline) in &other.cooling {
            raise(&mut self.cooling, model, *deadline);
        }
        for (model, deadline) in &other.last_resort {
            raise(&mut self.last_resort, model, *deadline);
        }
    }

    fn rests_until(&self, model: &str) -> u64 {
        self.all_models
            .max(self.cooling.get(model).copied().unwrap_or_default())
    }
}

impl ModelKey {
    fn new(secret: &'static str, domain: SharedDomain) -> Shared {
        Rc::new(RefCell::new(Self {
            secret,
            generation: 0,
            revoked: false,
            suspected_until: 0,
            suspected_by: None,
            suspect_rests: 0,
            domain,
            counters: KeyCounters::default(),
        }))
    }

    /// 0 to 2 for keys that may be tried, the lesser first.
    fn class(&self, model: &str, now: u64) -> Option<u8> {
        let domain = self.domain.borrow();
        if self.revoked || domain.rests_until(model) > now {
            return None;
        }
        if self.suspected_until > now {
            return Some(2);
        }
        let is_empty = domain.last_resort.get(model).is_some_and(|deadline| *deadline > now);
        Some(is_empty.into())
    }
}

impl ModelWalk {
    pub(super) fn of(actor: Option<&'static str>) -> Self {
        Self {
            actor,
            ..Self::default()
        }
    }
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            next_probe: 0,
            keys: SECRETS.map(|secret| ModelKey::new(secret, domain(Name::Own))).into(),
        }
    }

    pub(super) fn lease(
        &mut self,
        walk: &mut ModelWalk,
        model: &'static str,
        (at, number): (usize, u64),
    ) -> Option<ModelLease> {
        let now = self.now;
        let untried = |key: &&Shared| !walk.tried.iter().any(|tried| Rc::ptr_eq(tried, key));
        let candidates = self.keys.iter().filter(untried);
        let classed = candidates.filter_map(|key| Some((key.borrow().class(model, now)?, key)));
        let mut found = classed.min_by_key(|(class, _)| *class).map(|(_, key)| Rc::clone(key));
        if found.is_none() {
            let next = self.keys.iter().filter(untried).find(|key| key.borrow().revoked);
            let all_revoked = self.keys.iter().all(|key| key.borrow().revoked);
            if next.is_some() && walk.probe.is_none() && all_revoked && now >= self.next_probe {
                self.next_probe = now + 60_000;
                walk.probe = Some((self.next_probe, 0));
            }
            if let Some((_, undecided)) = walk.probe.as_mut().filter(|_| next.is_some()) {
                *undecided += 1;
                found = next.map(Rc::clone);
            }
        }
        let key = found?;
        walk.tried.push(Rc::clone(&key));
        let borrowed = key.borrow();
        let domain = Rc::clone(&borrowed.domain);
        let domain_generation = domain.borrow().generation;
        let (generation, probing) = (borrowed.generation, borrowed.revoked);
        drop(borrowed);
        Some(ModelLease {
            key,
            generation,
            domain,
            domain_generation,
            probing,
            model,
            walk: at,
            walk_number: number,
        })
    }

    pub(super) fn end(&mut self, walk: &ModelWalk) {
        if let Some((after, undecided)) = walk.probe
            && undecided > 0
            && self.next_probe == after
        {
            self.next_probe = 0;
        }
    }

    /// The domain that a report is about; `None` if it was restored since.
    fn domain_of(&self, lease: &ModelLease) -> Option<SharedDomain> {
        let is_listed = self.keys.iter().any(|key| Rc::ptr_eq(key, &lease.key));
        let current = Rc::clone(&lease.key.borrow().domain);
        if is_listed && !Rc::ptr_eq(&current, &lease.domain) {
            return Some(current);
        }
        let is_current = lease.domain.borrow().generation == lease.domain_generation;
        is_current.then(|| Rc::clone(&lease.domain))
    }

    pub(super) fn report(&mut self, lease: &ModelLease, walk: &mut ModelWalk, said: Report) {
        let now = self.now;
        let domain = self.domain_of(lease);
        let mut key = lease.key.borrow_mut();
        let current = key.generation == lease.generation;
        key.counters.attempts += 1;
        match said {
            Report::Served | Report::Relayed | Report::Failed => {
                key.counters.accepted += 1;
                if said != Report::Failed && current && lease.probing && key.revoked {
                    key.revoked = false;
                    key.generation += 1;
                }
                if said == Report::Served {
                    key.suspected_by = None;
                    key.suspect_rests = 0;
                    key.suspected_until = 0;
                    drop(key);
                    self.suspect(walk);
                }
            }
            Report::CoolDown(rest) | Report::CoolDownDomain(rest) => {
                key.counters.cooled_down += 1;
                let end = now + u64::try_from(rest.as_millis()).unwrap();
                if let Some(domain) = domain {
                    let mut domain = domain.borrow_mut();
                    match said {
                        Report::CoolDown(_) => raise(&mut domain.cooling, lease.model, end),
                        _ => domain.all_models = domain.all_models.max(end),
                    }
                }
            }
            Report::Revoked => {
                key.counters.revoked += 1;
                if lease.probing
                    && let Some((_, undecided)) = &mut walk.probe
                {
                    *undecided = undecided.saturating_sub(1);
                }
                if current && !key.revoked {
                    key.revoked = true;
                    key.suspected_until = 0;
                    self.next_probe = self.next_probe.max(now + 60_000);
                }
            }
            Report::NextKey => key.counters.next_key += 1,
            Report::Suspect => {
                key.counters.suspected += 1;
                if walk.actor.is_some() {
                    walk.suspects.push(Rc::clone(&lease.key));
                }
            }
        }
    }

    fn suspect(&self, walk: &mut ModelWalk) {
        let now = self.now;
        for key in walk.suspects.drain(..) {
            let mut key = key.borrow_mut();
            let actor = walk.actor.unwrap();
            if key.revoked || key.suspected_until > now {
                continue;
            }
            match key.suspected_by {
                Some((before, at)) if before != actor && now - at <= 600_000 => {
                    key.suspected_until = now + (60_000 << key.suspect_rests).min(3_600_000);
                    key.suspect_rests = (key.suspect_rests + 1).min(10);
                    key.suspected_by = None;
                }
                _ => key.suspected_by = Some((actor, now)),
            }
        }
    }

    pub(super) fn observe(&mut self, lease: &ModelLease, organisation: Option<&'static str>, empty: u64) {
        let is_listed = self.keys.iter().any(|key| Rc::ptr_eq(key, &lease.key));
        // A lease from before its key came to be unnamed teaches nothing.
        let is_own = [&lease.domain, &lease.key.borrow().domain]
            .iter()
            .all(|domain| domain.borrow().name == Name::Own);
        if let Some(organisation) = organisation.filter(|_| is_listed && is_own) {
            let name = Name::Learnt(organisation);
            let known = self.keys.iter().map(|key| Rc::clone(&key.borrow().domain));
            let shared = known.into_iter().find(|domain| domain.borrow().name == name);
            let shared = shared.unwrap_or_else(|| domain(name));
            shared.borrow_mut().absorb(&lease.key.borrow().domain.borrow());
            lease.key.borrow_mut().domain = shared;
        }
        if empty > 0
            && let Some(domain) = self.domain_of(lease)
        {
            raise(&mut domain.borrow_mut().last_resort, lease.model, self.now + empty);
        }
    }

    pub(super) fn abandon(lease: &ModelLease) {
        let counters = &mut lease.key.borrow_mut().counters;
        counters.attempts += 1;
        counters.unanswered += 1;
    }

    pub(super) fn replace(&mut self, secrets: &[&'static str], declared: &[Option<&'static str>]) {
        let mut shared: BTreeMap<&str, SharedDomain> = BTreeMap::new();
        for key in &self.keys {
            let domain = Rc::clone(&key.borrow().domain);
            let name = domain.borrow().name.clone();
            if let Name::Declared(name) = name {
                shared.insert(name, domain);
            }
        }
        let mut next = Vec::new();
        for (secret, declared) in secrets.iter().zip(declared) {
            let staying = self.keys.iter().find(|key| key.borrow().secret == *secret);
            let before = staying.map(|key| Rc::clone(&key.borrow().domain));
            let domain = match (declared, before) {
                (Some(name), before) => {
                    let named = shared.entry(name).or_insert_with(|| domain(Name::Declared(name)));
                    if let Some(before) = before.filter(|before| before.borrow().name == Name::Own) {
                        named.borrow_mut().absorb(&before.borrow());
                    }
                    Rc::clone(named)
                }
                (None, Some(before)) if !matches!(before.borrow().name, Name::Declared(_)) => before,
                (None, _) => domain(Name::Own),
            };
            let key = staying.map_or_else(|| ModelKey::new(secret, Rc::clone(&domain)), Rc::clone);
            key.borrow_mut().domain = domain;
            next.push(key);
        }
        self.keys = next;
    }

    pub(super) fn restore(&mut self, wanted: impl Fn(&ModelKey) -> bool) -> usize {
        let now = self.now;
        let wanted: Vec<_> = self.keys.iter().filter(|key| wanted(&key.borrow())).collect();
        let mut restored = 0;
        for key in &wanted {
            let mut key = key.borrow_mut();
            let is_unusable = key.revoked || key.suspected_until > now;
            let domain = key.domain.borrow();
            let mut deadlines = domain.cooling.values().chain(domain.last_resort.values());
            let rests = domain.all_models > now || deadlines.any(|deadline| *deadline > now);
            drop(domain);
            restored += usize::from(is_unusable || rests);
            key.generation += u64::from(is_unusable);
            (key.revoked, key.suspected_until, key.suspected_by, key.suspect_rests) = (false, 0, None, 0);
        }
        for key in wanted {
            let key = key.borrow();
            let mut domain = key.domain.borrow_mut();
            domain.generation += 1;
            domain.all_models = 0;
            domain.cooling.clear();
            domain.last_resort.clear();
        }
        restored
    }

    pub(super) fn snapshot(&self) -> Vec<KeySnapshot> {
        let left = |deadline: u64| Duration::from_millis(deadline - self.now);
        let inspect = |key: &Shared| {
            let (key, now) = (key.borrow(), self.now);
            let domain = key.domain.borrow();
            let (state, until) = if key.revoked {
                (KeyState::Revoked, None)
            } else if domain.all_models > now {
                (KeyState::CoolingDown, Some(domain.all_models))
            } else if key.suspected_until > now {
                (KeyState::Suspected, Some(key.suspected_until))
            } else {
                (KeyState::Usable, None)
            };
            let rest = |model: &&'static str| {
                let ahead = |map: &BTreeMap<&str, u64>| map.get(*model).copied().filter(|deadline| *deadline > now);
                let cooling = ahead(&domain.cooling);
                Some(ModelRest {
                    model: (*model).to_owned(),
                    last_resort: cooling.is_none(),
                    time_left: left(cooling.or(ahead(&domain.last_resort))?),
                })
            };
            KeySnapshot {
                hint: KeyHint::of(key.secret),
                domain: match domain.name {
                    Name::Own => None,
                    Name::Declared(name) | Name::Learnt(name) => Some(name.to_owned()),
                },
                state,
                time_left: until.map(left),
                rests: MODELS.iter().filter_map(rest).collect(),
                counters: key.counters,
            }
        };
        self.keys.iter().map(inspect).collect()
    }

    pub(super) fn exhausted(&self, model: &str) -> Exhausted {
        let keys = self.keys.iter().map(|key| key.borrow());
        let back = keys
            .filter(|key| !key.revoked)
            .map(|key| key.domain.borrow().rests_until(model));
        match back.min() {
            Some(back) => Exhausted::CoolingDown {
                retry_after: Duration::from_secs(back.saturating_sub(self.now).div_ceil(1_000).max(1)),
            },
            None => Exhausted::Revoked,
        }
    }
}
