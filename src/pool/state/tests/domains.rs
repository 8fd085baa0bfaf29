//! Limits that keys share: declared domains, and domains learnt from answers.

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs
        .iter()
        .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    pairs.collect()
}

fn observe(pool: &KeyPool, lease: &mut Lease, pairs: &[(&'static str, &'static str)]) {
    pool.observe(
        lease,
        MODEL,
        &headers(pairs),
        Instant::now(),
        std::time::SystemTime::now,
    );
}

fn at(pool: &KeyPool, model: &str) -> Option<Lease> {
    pool.lease(&mut Walk::default(), Purpose::Model(model), Instant::now())
}

fn domains(pool: &KeyPool) -> Vec<Option<String>> {
    pool.snapshot().into_iter().map(|key| key.domain).collect()
}

fn declared(pool: &[(&str, &str)]) -> KeyPool {
    listen();
    let key = |(secret, domain): &(&str, &str)| ApiKey::new(*secret).unwrap().domain(*domain);
    KeyPool::new(pool.iter().map(key)).unwrap()
}

const ORG_1: [(&str, &str); 2] = [("openai-organization", "org-1"), ("openai-project", "p")];

#[tokio::test(start_paused = true)]
async fn a_429_rests_one_model() {
    let pool = three();
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(MINUTE));
    assert_eq!(name(at(&pool, "small").as_ref()), Some("a"), "A5: served at once");
    assert_eq!(name(fresh(&pool).as_ref()), Some("b"));
    assert_eq!(pool.snapshot()[0].state, KeyState::Usable);
}

#[tokio::test(start_paused = true)]
async fn money_rests_every_model() {
    let pool = three();
    report(&pool, fresh(&pool).unwrap(), Report::CoolDownDomain(3_600 * SECOND));
    assert_eq!(name(at(&pool, "small").as_ref()), Some("b"));
    let key = &pool.snapshot()[0];
    assert_eq!(
        (key.state, key.time_left),
        (KeyState::CoolingDown, Some(3_600 * SECOND))
    );
    let keyed = pool.lease(&mut Walk::default(), Purpose::Keyed, Instant::now());
    assert_eq!(name(keyed.as_ref()), Some("a"), "lists cost nothing");
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_declared_domain_rest_together() {
    let pool = declared(&[("aaaaa", "x"), ("bbbbb", "x"), ("ccccc", "y")]);
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(MINUTE));
    assert_eq!(name(fresh(&pool).as_ref()), Some("c"));
    assert_eq!(name(at(&pool, "small").as_ref()), Some("a"));
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(5 * SECOND));
    assert!(fresh(&pool).is_none());
    assert_eq!(retry_after(&pool), Some(5));
    assert_eq!(
        pool.exhausted(Purpose::Model("small"), Instant::now()),
        Exhausted::CoolingDown { retry_after: SECOND }
    );
    // An answer that names another domain does not count.
    let mut leased = at(&pool, "small").unwrap();
    observe(&pool, &mut leased, &ORG_1);
    assert_eq!(domains(&pool)[0].as_deref(), Some("x"));
    // Revocation is the key's own.
    report(&pool, leased, Report::Revoked);
    assert_eq!(name(at(&pool, "small").as_ref()), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn keys_that_turn_out_to_share_a_domain_share_its_rests() {
    let (pool, logs) = (three(), Logs::capture());
    let [mut first, mut second] = [(); 2].map(|()| fresh(&pool).unwrap());
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(MINUTE));
    assert_eq!(name(fresh(&pool).as_ref()), Some("b"));
    observe(&pool, &mut first, &ORG_1);
    observe(&pool, &mut second, &ORG_1);
    assert_eq!(domains(&pool), [Some("org-1/p".to_owned()), None, None]);
    assert_eq!(logs.text().matches("domain learnt").count(), 1);
    assert_eq!(states(&pool)[0], KeyState::CoolingDown, "its rest went with it");

    let mut third = fresh(&pool).unwrap();
    assert_eq!(name(Some(&third)), Some("b"));
    observe(&pool, &mut third, &ORG_1);
    assert_eq!(name(fresh(&pool).as_ref()), Some("c"), "the same empty bucket");
    // A report of a lease from before its key moved reaches the domain all the same.
    report(&pool, third, Report::CoolDown(2 * MINUTE));
    let left: Vec<_> = pool.snapshot().iter().map(|key| state(key).1).collect();
    assert_eq!(left, [Some(2 * MINUTE), Some(2 * MINUTE), None]);
}

#[tokio::test(start_paused = true)]
async fn a_domain_is_learnt_in_the_middle_of_a_walk() {
    let pool = three();
    // The second key is known to be of the organisation.
    let mut walk = Walk::default();
    let (_first, mut second) = (lease(&pool, &mut walk), lease(&pool, &mut walk).unwrap());
    observe(&pool, &mut second, &ORG_1);

    let mut walk = Walk::default();
    let mut first = lease(&pool, &mut walk).unwrap();
    observe(&pool, &mut first, &ORG_1);
    pool.report(&mut walk, &mut first, MODEL, Report::CoolDown(MINUTE), Instant::now());
    let next = lease(&pool, &mut walk).unwrap();
    assert_eq!(name(Some(&next)), Some("c"), "the second key draws on the same bucket");
    report(&pool, next, Report::CoolDown(5 * SECOND));
    assert!(lease(&pool, &mut walk).is_none());
    assert_eq!(retry_after(&pool), Some(5));
}

#[tokio::test(start_paused = true)]
async fn domains_survive_replacement() {
    let pool = three();
    let mut leased = fresh(&pool).unwrap();
    observe(&pool, &mut leased, &ORG_1);
    report(&pool, leased, Report::CoolDown(MINUTE));
    let key = |secret: &str| ApiKey::new(secret).unwrap();
    let [a, b, c] = ["aaaaa-key-0123456789", "bbbbb-key-0123456789", "ccccc-key-0123456789"];
    pool.replace([key(c), key(a).sent_as(CredentialHeader::bearer())])
        .unwrap();
    assert_eq!(domains(&pool), [None, Some("org-1/p".to_owned())]);
    assert_eq!(states(&pool), [KeyState::Usable, KeyState::CoolingDown]);
    // Declared now, with the rests that were the key's own.
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(5 * SECOND));
    pool.replace([key(c).domain("z"), key(b).domain("z")]).unwrap();
    assert_eq!(states(&pool), [KeyState::CoolingDown; 2]);
    pool.replace([key(b).domain("z")]).unwrap();
    assert_eq!(states(&pool), [KeyState::CoolingDown]);
    pool.replace([key(b)]).unwrap();
    assert_eq!(states(&pool), [KeyState::Usable], "no longer of that domain");
}

#[tokio::test(start_paused = true)]
async fn restoring_a_key_restores_its_domain() {
    let pool = declared(&[("aaaaa", "x"), ("bbbbb", "x")]);
    let late = fresh(&pool).unwrap();
    report(&pool, fresh(&pool).unwrap(), Report::CoolDownDomain(3_600 * SECOND));
    assert!(fresh(&pool).is_none());
    assert_eq!(pool.restore("a...a"), 1);
    assert_eq!(states(&pool), [KeyState::Usable; 2]);
    report(&pool, late, Report::CoolDownDomain(3_600 * SECOND));
    assert_eq!(states(&pool), [KeyState::Usable; 2], "that report is from before");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_models_take_the_pool_from_nobody() {
    let pool = three();
    for number in 0..10_000 {
        let model = format!("model-{number}");
        let mut walk = Walk::default();
        let mut leased = pool.lease(&mut walk, Purpose::Model(&model), Instant::now()).unwrap();
        pool.report(
            &mut walk,
            &mut leased,
            Purpose::Model(&model),
            Report::CoolDown(MINUTE),
            Instant::now(),
        );
        assert_eq!(name(fresh(&pool).as_ref()), Some("a"));
    }
    assert_eq!(pool.snapshot()[0].rests.len(), 256);
}
