//! Random histories of leases, reports, replacements and time: the pool and [`Model`] must agree after every step.

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::{
    model::{MODELS, Model, ModelLease, ModelWalk, SECRETS},
    *,
};

const WALKS: usize = 3;
const DOMAINS: [Option<&str>; 3] = [None, Some("d1"), Some("d2")];
const ORGANISATIONS: [&str; 2] = ["org-1", "org-2"];
const ACTORS: [&str; 3] = ["alice", "bob", "carol"];
/// How long a report may ask for, and a step may take, in milliseconds.
const TIMES: [u64; 7] = [0, 1, 20, 1_000, 59_999, 60_000, 600_000];

#[derive(Clone, Debug)]
enum Step {
    Begin(usize, Option<&'static str>),
    Lease(usize, &'static str),
    Report(prop::sample::Index, Report),
    Observe(prop::sample::Index, Option<&'static str>, u64),
    Drop(prop::sample::Index),
    Replace(Vec<&'static str>, Vec<Option<&'static str>>),
    Restore(&'static str),
    RestoreAll,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let time = || proptest::sample::select(TIMES.as_slice());
    let model = || proptest::sample::select(MODELS.as_slice());
    let index = any::<prop::sample::Index>;
    let said = prop_oneof![
        5 => Just(Report::Served),
        1 => Just(Report::Relayed),
        1 => Just(Report::Failed),
        4 => time().prop_map(|millis| Report::CoolDown(Duration::from_millis(millis))),
        1 => time().prop_map(|millis| Report::CoolDownDomain(Duration::from_millis(millis))),
        3 => Just(Report::Revoked),
        1 => Just(Report::NextKey),
        5 => Just(Report::Suspect),
    ];
    let actor = prop::option::weighted(0.9, proptest::sample::select(ACTORS.as_slice()));
    let organisation = prop::option::of(proptest::sample::select(ORGANISATIONS.as_slice()));
    let some = subsequence(SECRETS.as_slice(), 1..=SECRETS.len()).prop_shuffle();
    let declared = vec(proptest::sample::select(DOMAINS.as_slice()), SECRETS.len());
    prop_oneof![
        5 => ((0..WALKS), actor).prop_map(|(walk, actor)| Step::Begin(walk, actor)),
        12 => ((0..WALKS), model()).prop_map(|(walk, model)| Step::Lease(walk, model)),
        12 => (index(), said).prop_map(|(index, said)| Step::Report(index, said)),
        3 => (index(), organisation, time()).prop_map(|(index, name, empty)| Step::Observe(index, name, empty)),
        1 => index().prop_map(Step::Drop),
        1 => (some, declared).prop_map(|(some, declared)| Step::Replace(some, declared)),
        1 => proptest::sample::select(SECRETS.as_slice()).prop_map(Step::Restore),
        1 => Just(Step::RestoreAll),
        3 => time().prop_map(Step::Pass),
    ]
}

fn headers(organisation: Option<&'static str>, empty: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(organisation) = organisation {
        headers.insert("openai-organization", HeaderValue::from_static(organisation));
    }
    headers.insert("x-ratelimit-remaining-tokens", HeaderValue::from_static("0"));
    let reset = HeaderValue::try_from(format!("{empty}ms")).unwrap();
    headers.insert("x-ratelimit-reset-tokens", reset);
    headers
}

async fn follow(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (pool, mut model) = (pool(&SECRETS), Model::new());
    let mut walks: [(Walk, ModelWalk); WALKS] = Default::default();
    let mut begun = 0;
    let mut numbers = [0; WALKS];
    let mut leases: Vec<(Lease, ModelLease)> = Vec::new();
    for step in steps {
        match step.clone() {
            Step::Begin(at, actor) => {
                begun += 1;
                numbers[at] = begun;
                let model_walk = ModelWalk::of(actor);
                let walk = Walk::new(Caller::new(actor, None));
                let (_, ended) = std::mem::replace(&mut walks[at], (walk, model_walk));
                model.end(&ended);
            }
            Step::Lease(at, name) => {
                let (walk, model_walk) = &mut walks[at];
                let purpose = Purpose::Model(name);
                let leased = pool.lease(walk, purpose, Instant::now());
                match (leased, model.lease(model_walk, name, (at, numbers[at]))) {
                    (Some(lease), Some(expected)) => {
                        let authorization = format!("Bearer {}", expected.key.borrow().secret);
                        let (_, sent) = pool.header(&lease, &CredentialHeader::bearer());
                        prop_assert_eq!(sent, authorization);
                        leases.push((lease, expected));
                    }
                    (None, None) => {
                        prop_assert_eq!(pool.exhausted(purpose, Instant::now()), model.exhausted(name));
                    }
                    (lease, expected) => {
                        let expected = expected.map(|lease| lease.key.borrow().secret);
                        prop_assert!(false, "{:?} is not {:?}", lease, expected);
                    }
                }
            }
            Step::Report(index, said) if !leases.is_empty() => {
                let (mut lease, model_lease) = leases.swap_remove(index.index(leases.len()));
                // A walk that has ended gets no more reports.
                let mut ended = Default::default();
                let is_current = numbers[model_lease.walk] == model_lease.walk_number;
                let (walk, model_walk) = if is_current {
                    &mut walks[model_lease.walk]
                } else {
                    &mut ended
                };
                let purpose = Purpose::Model(model_lease.model);
                pool.report(walk, &mut lease, purpose, said, Instant::now());
                model.report(&model_lease, model_walk, said);
            }
            Step::Observe(index, organisation, empty) if !leases.is_empty() => {
                let at = index.index(leases.len());
                let (lease, model_lease) = &mut leases[at];
                let purpose = Purpose::Model(model_lease.model);
                let headers = headers(organisation, empty);
                pool.observe(lease, purpose, &headers, Instant::now(), std::time::SystemTime::now);
                model.observe(model_lease, organisation, empty);
            }
            Step::Drop(index) if !leases.is_empty() => {
                let (lease, model_lease) = leases.swap_remove(index.index(leases.len()));
                drop(lease);
                Model::abandon(&model_lease);
            }
            Step::Report(..) | Step::Observe(..) | Step::Drop(_) => {}
            Step::Replace(secrets, declared) => {
                let keys = secrets.iter().zip(&declared).map(|(&secret, domain)| {
                    let key = ApiKey::new(secret).unwrap();
                    match domain {
                        Some(domain) => key.domain(*domain),
                        None => key,
                    }
                });
                pool.replace(keys).unwrap();
                model.replace(&secrets, &declared);
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
