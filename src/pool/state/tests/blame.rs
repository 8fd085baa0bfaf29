//! Who is to blame for a refusal that no rule knows: the key only if another key did the same for two actors.

use super::*;

/// A walk of `actor` in which the first key refuses and the second one serves.
fn compare(pool: &KeyPool, actor: Option<&str>) {
    let mut walk = Walk::new(Caller::new(actor, None));
    let mut first = lease(pool, &mut walk).unwrap();
    assert_eq!(name(Some(&first)), Some("a"));
    pool.report(&mut walk, &mut first, MODEL, Report::Suspect, Instant::now());
    let mut second = lease(pool, &mut walk).unwrap();
    pool.report(&mut walk, &mut second, MODEL, Report::Served, Instant::now());
}

#[tokio::test(start_paused = true)]
async fn one_actor_puts_no_key_away() {
    let pool = three();
    for _ in 0..100 {
        compare(&pool, Some("alice"));
    }
    compare(&pool, None);
    assert_eq!(states(&pool), [KeyState::Usable; 3]);
}

#[tokio::test(start_paused = true)]
async fn without_actors_nothing_rests() {
    let pool = three();
    for _ in 0..100 {
        compare(&pool, None);
    }
    assert_eq!(states(&pool), [KeyState::Usable; 3]);
}

#[tokio::test(start_paused = true)]
async fn two_actors_put_a_key_last_for_longer_each_time() {
    let (pool, logs) = (three(), Logs::capture());
    for seconds in [60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
        compare(&pool, Some("alice"));
        compare(&pool, Some("bob"));
        let key = &pool.snapshot()[0];
        assert_eq!(
            (key.state, key.time_left),
            (KeyState::Suspected, Some(seconds * SECOND))
        );
        assert_eq!(name(fresh(&pool).as_ref()), Some("b"));
        advance(seconds * SECOND).await;
    }
    assert_eq!(logs.text().matches("key suspected").count(), 8);
    // Forgotten at its next success.
    report(&pool, fresh(&pool).unwrap(), Report::Served);
    compare(&pool, Some("alice"));
    compare(&pool, Some("bob"));
    assert_eq!(pool.snapshot()[0].time_left, Some(60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_no_key_answers_better_harms_none() {
    let pool = three();
    for actor in ["alice", "bob", "carol"] {
        let mut walk = Walk::new(Caller::new(Some(actor), None));
        while let Some(mut leased) = lease(&pool, &mut walk) {
            pool.report(&mut walk, &mut leased, MODEL, Report::Suspect, Instant::now());
        }
    }
    assert_eq!(states(&pool), [KeyState::Usable; 3]);
}

#[tokio::test(start_paused = true)]
async fn only_a_success_is_better() {
    let pool = three();
    for actor in ["alice", "bob", "carol"] {
        let mut walk = Walk::new(Caller::new(Some(actor), None));
        for said in [Report::Suspect, Report::NextKey, Report::Relayed] {
            let mut leased = lease(&pool, &mut walk).unwrap();
            pool.report(&mut walk, &mut leased, MODEL, said, Instant::now());
        }
    }
    assert_eq!(states(&pool), [KeyState::Usable; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_suspected_key_serves_when_no_other_can() {
    let pool = three();
    compare(&pool, Some("alice"));
    compare(&pool, Some("bob"));
    let mut walk = Walk::default();
    for expected in ["b", "c"] {
        let mut leased = lease(&pool, &mut walk).unwrap();
        assert_eq!(name(Some(&leased)), Some(expected));
        pool.report(&mut walk, &mut leased, MODEL, Report::NextKey, Instant::now());
    }
    let last = lease(&pool, &mut walk).unwrap();
    assert_eq!(name(Some(&last)), Some("a"));
    report(&pool, last, Report::Served);
    assert_eq!(states(&pool), [KeyState::Usable; 3]);
    // While it rests, it is not suspected for longer.
    compare(&pool, Some("alice"));
    compare(&pool, Some("bob"));
    let left = pool.snapshot()[0].time_left;
    for actor in ["alice", "bob", "carol"] {
        let mut walk = Walk::new(Caller::new(Some(actor), None));
        let leases: Vec<_> = std::iter::from_fn(|| lease(&pool, &mut walk)).collect();
        let [mut second, _, mut first] = <[Lease; 3]>::try_from(leases).unwrap();
        pool.report(&mut walk, &mut first, MODEL, Report::Suspect, Instant::now());
        pool.report(&mut walk, &mut second, MODEL, Report::Served, Instant::now());
    }
    assert_eq!(pool.snapshot()[0].time_left, left);
}

#[tokio::test(start_paused = true)]
async fn keyed_paths_never_speak_against_a_key() {
    let pool = three();
    for said in [Report::Revoked, Report::Suspect, Report::NextKey] {
        for actor in ["alice", "bob"] {
            for purpose in [Purpose::Keyed, Purpose::Counting] {
                let mut walk = Walk::new(Caller::new(Some(actor), None));
                for said in [said, Report::Served] {
                    let mut leased = pool.lease(&mut walk, purpose, Instant::now()).unwrap();
                    pool.report(&mut walk, &mut leased, purpose, said, Instant::now());
                }
            }
        }
    }
    assert_eq!(states(&pool), [KeyState::Usable; 3]);
    assert_eq!(pool.snapshot()[0].counters.next_key, 12);
}

#[tokio::test(start_paused = true)]
async fn a_429_of_a_keyed_path_rests_one_key_for_such_paths() {
    let (pool, logs) = (three(), Logs::capture());
    let at = |purpose| pool.lease(&mut Walk::default(), purpose, Instant::now()).unwrap();
    for said in [Report::CoolDown(5 * SECOND), Report::CoolDownDomain(5 * SECOND)] {
        let mut leased = at(Purpose::Keyed);
        pool.report(&mut Walk::default(), &mut leased, Purpose::Keyed, said, Instant::now());
    }
    assert_eq!(name(Some(&at(Purpose::Keyed))), Some("c"));
    assert_eq!(name(Some(&at(Purpose::Counting))), Some("a"));
    assert_eq!(name(Some(&at(MODEL))), Some("a"));
    assert_eq!(logs.text().matches("key cools down").count(), 2);
    advance(5 * SECOND).await;
    assert_eq!(name(Some(&at(Purpose::Keyed))), Some("a"));
    let mut leased = at(Purpose::Counting);
    pool.report(
        &mut Walk::default(),
        &mut leased,
        Purpose::Counting,
        Report::CoolDown(MINUTE),
        Instant::now(),
    );
    assert_eq!(name(Some(&at(Purpose::Counting))), Some("b"));
    assert_eq!(pool.restore_all(), 1);
    assert_eq!(name(Some(&at(Purpose::Counting))), Some("a"));
}
