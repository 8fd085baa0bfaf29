//! Any sequence of what can happen to a pool, against a model that is too simple to be wrong.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;

const SECRETS: [&str; 7] = [
    "key-one",
    "key-two",
    "key-three",
    "key-four",
    "key-five",
    "key-six",
    "key-seven",
];
const WALKS: usize = 3;
/// How long a report may ask for, and a step may take, in milliseconds.
const TIMES: [u64; 6] = [0, 1, 20, 1_000, 59_999, 60_000];

#[derive(Clone, Debug)]
enum Step {
    Begin(usize),
    Lease(usize),
    Report(prop::sample::Index, Report),
    Drop(prop::sample::Index),
    Replace(Vec<&'static str>),
    Restore(&'static str),
    RestoreAll,
    Pass(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Usable,
    CoolingUntil(u64),
    Revoked,
}

#[derive(Debug)]
struct ModelKey {
    secret: &'static str,
    generation: u64,
    state: State,
    counters: KeyCounters,
}

type Shared = Rc<RefCell<ModelKey>>;

#[derive(Default)]
struct ModelWalk {
    tried: Vec<Shared>,
    probing: bool,
}

struct ModelLease {
    key: Shared,
    generation: u64,
    probing: bool,
}

struct Model {
    now: u64,
    next_probe: u64,
    keys: Vec<Shared>,
}

impl ModelKey {
    fn new(secret: &'static str) -> Shared {
        let counters = KeyCounters::default();
        Rc::new(RefCell::new(Self {
            secret,
            generation: 0,
            state: State::Usable,
            counters,
        }))
    }

    fn state(&self, now: u64) -> State {
        match self.state {
            State::CoolingUntil(end) if end <= now => State::Usable,
            state => state,
        }
    }

    fn restore(&mut self, now: u64) -> usize {
        if self.state(now) == State::Usable {
            return 0;
        }
        self.state = State::Usable;
        self.generation += 1;
        1
    }
}

impl Model {
    fn lease(&mut self, walk: &mut ModelWalk) -> Option<ModelLease> {
        let now = self.now;
        let state = |key: &Shared| key.borrow().state(now);
        let untried = |key: &&Shared| !walk.tried.iter().any(|tried| Rc::ptr_eq(tried, key));
        let usable = |key: &&Shared| state(key) == State::Usable;
        let may_try = |key: &&Shared| !matches!(state(key), State::CoolingUntil(_));
        let mut found = None;
        if !walk.probing {
            found = self.keys.iter().filter(untried).find(usable);
            let all_revoked = self.keys.iter().all(|key| state(key) == State::Revoked);
            if found.is_none() && all_revoked && now >= self.next_probe && self.keys.iter().any(|key| untried(&key)) {
                self.next_probe = now + 60_000;
                walk.probing = true;
            }
        }
        if walk.probing {
            found = self.keys.iter().filter(untried).find(may_try);
        }
        let key = Rc::clone(found?);
        walk.tried.push(Rc::clone(&key));
        let (generation, probing) = (key.borrow().generation, key.borrow().state == State::Revoked);
        Some(ModelLease {
            key,
            generation,
            probing,
        })
    }

    fn report(&mut self, lease: &ModelLease, said: Report) {
        let mut key = lease.key.borrow_mut();
        let current = key.generation == lease.generation;
        key.counters.attempts += 1;
        match said {
            Report::Relayed => {
                key.counters.accepted += 1;
                if current && lease.probing && key.state == State::Revoked {
                    key.restore(self.now);
                }
            }
            Report::CoolDown(rest) => {
                key.counters.cooled_down += 1;
                let end = self.now + u64::try_from(rest.as_millis()).unwrap();
                match key.state {
                    State::Usable if current => key.state = State::CoolingUntil(end),
                    State::CoolingUntil(before) if current => key.state = State::CoolingUntil(before.max(end)),
                    _ => {}
                }
            }
            Report::Revoked => {
                key.counters.revoked += 1;
                if current && key.state != State::Revoked {
                    key.state = State::Revoked;
                    self.next_probe = self.next_probe.max(self.now + 60_000);
                }
            }
            Report::NextKey => key.counters.forbidden += 1,
        }
    }

    fn abandon(lease: &ModelLease) {
        let counters = &mut lease.key.borrow_mut().counters;
        counters.attempts += 1;
        counters.unanswered += 1;
    }

    fn replace(&mut self, secrets: &[&'static str]) {
        let staying = |secret: &str| {
            self.keys
                .iter()
                .find(|key| key.borrow().secret == secret)
                .map(Rc::clone)
        };
        self.keys = secrets
            .iter()
            .map(|&secret| staying(secret).unwrap_or_else(|| ModelKey::new(secret)))
            .collect();
    }

    fn restore(&mut self, wanted: impl Fn(&ModelKey) -> bool) -> usize {
        let wanted = self.keys.iter().filter(|key| wanted(&key.borrow()));
        wanted.map(|key| key.borrow_mut().restore(self.now)).sum()
    }

    fn snapshot(&self) -> Vec<KeySnapshot> {
        let inspect = |key: &Shared| {
            let key = key.borrow();
            let (state, time_left) = match key.state(self.now) {
                State::Usable => (KeyState::Usable, None),
                State::CoolingUntil(end) => (KeyState::CoolingDown, Some(Duration::from_millis(end - self.now))),
                State::Revoked => (KeyState::Revoked, None),
            };
            KeySnapshot {
                hint: KeyHint::of(key.secret),
                state,
                time_left,
                counters: key.counters,
            }
        };
        self.keys.iter().map(inspect).collect()
    }

    fn exhausted(&self) -> Exhausted {
        let left = |key: &Shared| match key.borrow().state(self.now) {
            State::Usable => Some(0),
            State::CoolingUntil(end) => Some(end - self.now),
            State::Revoked => None,
        };
        match self.keys.iter().filter_map(left).min() {
            Some(left) => Exhausted::CoolingDown {
                retry_after: Duration::from_secs(left.div_ceil(1_000).max(1)),
            },
            None => Exhausted::Revoked,
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let time = || proptest::sample::select(TIMES.as_slice());
    let index = any::<prop::sample::Index>;
    let said = prop_oneof![
        3 => Just(Report::Relayed),
        4 => time().prop_map(|millis| Report::CoolDown(Duration::from_millis(millis))),
        4 => Just(Report::Revoked),
        1 => Just(Report::NextKey),
    ];
    let some = subsequence(SECRETS.as_slice(), 1..=SECRETS.len()).prop_shuffle();
    prop_oneof![
        4 => (0..WALKS).prop_map(Step::Begin),
        12 => (0..WALKS).prop_map(Step::Lease),
        12 => (index(), said).prop_map(|(index, said)| Step::Report(index, said)),
        1 => index().prop_map(Step::Drop),
        1 => some.prop_map(Step::Replace),
        1 => proptest::sample::select(SECRETS.as_slice()).prop_map(Step::Restore),
        1 => Just(Step::RestoreAll),
        3 => time().prop_map(Step::Pass),
    ]
}

async fn follow(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let pool = pool(&SECRETS);
    let mut model = Model {
        now: 0,
        next_probe: 0,
        keys: SECRETS.map(ModelKey::new).into(),
    };
    let mut walks: [(Walk, ModelWalk); WALKS] = Default::default();
    let mut leases: Vec<(Lease, ModelLease)> = Vec::new();
    for step in steps {
        match step.clone() {
            Step::Begin(walk) => walks[walk] = Default::default(),
            Step::Lease(walk) => {
                let (walk, model_walk) = &mut walks[walk];
                match (lease(&pool, walk), model.lease(model_walk)) {
                    (Some(lease), Some(expected)) => {
                        let authorization = format!("Bearer {}", expected.key.borrow().secret);
                        let (_, sent) = pool.header(&lease, &CredentialHeader::bearer());
                        prop_assert_eq!(sent, authorization);
                        leases.push((lease, expected));
                    }
                    (None, None) => prop_assert_eq!(pool.exhausted(Instant::now()), model.exhausted()),
                    (lease, expected) => {
                        let expected = expected.map(|lease| lease.key.borrow().secret);
                        prop_assert!(false, "{:?} is not {:?}", lease, expected);
                    }
                }
            }
            Step::Report(index, said) if !leases.is_empty() => {
                let (lease, model_lease) = leases.swap_remove(index.index(leases.len()));
                report(&pool, lease, said);
                model.report(&model_lease, said);
            }
            Step::Drop(index) if !leases.is_empty() => {
                let (lease, model_lease) = leases.swap_remove(index.index(leases.len()));
                drop(lease);
                Model::abandon(&model_lease);
            }
            Step::Report(..) | Step::Drop(_) => {}
            Step::Replace(secrets) => {
                pool.replace(secrets.iter().map(|&secret| ApiKey::new(secret).unwrap()))
                    .unwrap();
                model.replace(&secrets);
            }
            Step::Restore(secret) => {
                let hint = KeyHint::of(secret);
                let expected = model.restore(|key| KeyHint::of(key.secret) == hint);
                prop_assert_eq!(pool.restore(&hint), expected);
            }
            Step::RestoreAll => prop_assert_eq!(pool.restore_all(), model.restore(|_| true)),
            Step::Pass(millis) => {
                advance(Duration::from_millis(millis)).await;
                model.now += millis;
            }
        }
        prop_assert_eq!(pool.snapshot(), model.snapshot(), "after {:?}", step);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_does_what_the_model_does(steps in vec(step(), 0..150)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(follow(steps))?;
    }
}
