//! A pool whose keys are all revoked: once a minute one request tries them.

use super::*;

#[tokio::test(start_paused = true)]
async fn nobody_probes_within_a_minute_of_the_last_revocation() {
    let pool = pool(&["one", "two"]);
    report(&pool, fresh(&pool).unwrap(), Report::Revoked);
    advance(MINUTE - SECOND).await;
    report(&pool, fresh(&pool).unwrap(), Report::Revoked);
    advance(MINUTE - SECOND).await;
    assert!(fresh(&pool).is_none());
    assert_eq!(retry_after(&pool), None);
    advance(SECOND).await;
    let mut walk = Walk::default();
    assert!(lease(&pool, &mut walk).is_some());
    assert!(fresh(&pool).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_probe_tries_every_key_once_and_restores_the_one_that_is_accepted() {
    let pool = three();
    revoke_all(&pool);
    advance(MINUTE).await;
    let mut walk = Walk::default();
    let first = lease(&pool, &mut walk).unwrap();
    report(&pool, first, Report::Revoked);
    let second = lease(&pool, &mut walk).unwrap();
    assert_eq!(name(Some(&second)), Some("b"));
    assert!(fresh(&pool).is_none(), "others wait");
    report(&pool, second, Report::Relayed);
    assert_eq!(states(&pool), [KeyState::Revoked, KeyState::Usable, KeyState::Revoked]);
    assert_eq!(name(fresh(&pool).as_ref()), Some("b"));

    assert_eq!(
        name(lease(&pool, &mut walk).as_ref()),
        Some("c"),
        "a walk that goes on after all"
    );
    assert!(lease(&pool, &mut walk).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_meets_a_usable_key_is_an_ordinary_attempt() {
    let pool = pool(&["old"]);
    revoke_all(&pool);
    advance(MINUTE).await;
    let mut walk = Walk::default();
    let _probe = lease(&pool, &mut walk).unwrap();
    pool.replace([ApiKey::new("new").unwrap()]).unwrap();
    let (first, second) = (lease(&pool, &mut walk).unwrap(), fresh(&pool).unwrap());
    report(&pool, first, Report::Relayed);
    report(&pool, second, Report::CoolDown(SECOND));
    assert_eq!(
        states(&pool),
        [KeyState::CoolingDown],
        "nothing was restored, so no report came late"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_leaves_the_next_to_the_next_minute() {
    let pool = pool(&["one", "two"]);
    revoke_all(&pool);
    for _ in 0..3 {
        advance(MINUTE).await;
        let mut walk = Walk::default();
        while let Some(lease) = lease(&pool, &mut walk) {
            report(&pool, lease, Report::Revoked);
        }
        assert_eq!(states(&pool), [KeyState::Revoked; 2]);
        advance(MINUTE - SECOND).await;
        assert!(fresh(&pool).is_none());
        advance(SECOND).await;
        assert!(fresh(&pool).is_some());
    }
}

#[test]
fn one_request_a_minute_probes_however_many_come_at_once() {
    const THREADS: usize = 2;
    let pool = three();
    let start = Instant::now();
    revoke_all(&pool);
    let leased: Vec<_> = (0..10_000).map(|_| AtomicUsize::new(0)).collect();
    let arrived = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                // A second each for the milliseconds that are rounded.
                for ((round, leased), minute) in leased.iter().enumerate().zip(2..) {
                    let now = start + minute * (MINUTE + SECOND);
                    // A barrier would wake them one after the other, too far apart to race.
                    arrived.fetch_add(1, Ordering::SeqCst);
                    let mut spins = 0_u32;
                    while arrived.load(Ordering::SeqCst) < THREADS * (round + 1) {
                        spins += 1;
                        if spins.is_multiple_of(1_000) {
                            thread::yield_now();
                        }
                    }
                    let mut walk = Walk::default();
                    if let Some(mut lease) = pool.lease(&mut walk, MODEL, now) {
                        leased.fetch_add(1, Ordering::Relaxed);
                        pool.report(&mut walk, &mut lease, MODEL, Report::Revoked, now);
                    }
                }
            });
        }
    });
    for leased in leased {
        assert_eq!(leased.into_inner(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_with_no_key_left_does_not_spend_the_probe() {
    let pool = pool(&["key"]);
    let mut walk = Walk::default();
    report(&pool, lease(&pool, &mut walk).unwrap(), Report::Revoked);
    advance(MINUTE).await;
    assert!(lease(&pool, &mut walk).is_none());
    assert!(fresh(&pool).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_proves_nothing_gives_its_turn_back() {
    let pool = three();
    revoke_all(&pool);
    advance(MINUTE).await;
    for said in [Some(Report::NextKey), Some(Report::Suspect), Some(Report::Failed), None] {
        let mut walk = Walk::default();
        let mut leased = lease(&pool, &mut walk).unwrap();
        assert!(fresh(&pool).is_none(), "others wait");
        if let Some(said) = said {
            pool.report(&mut walk, &mut leased, MODEL, said, Instant::now());
        }
        drop((walk, leased));
        assert!(fresh(&pool).is_some(), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_keyed_path_never_probes() {
    let pool = pool(&["key"]);
    revoke_all(&pool);
    advance(MINUTE).await;
    for purpose in [Purpose::Keyed, Purpose::Counting] {
        assert!(pool.lease(&mut Walk::default(), purpose, Instant::now()).is_none());
    }
    assert!(fresh(&pool).is_some());
}
