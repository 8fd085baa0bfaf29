//! The pool's rules one by one. `histories.rs` has them all at once.

use std::{
    sync::{Barrier, atomic::AtomicUsize},
    thread,
};

use http::HeaderMap;
use tokio::time::advance;

use super::*;
use crate::{
    logs::{Logs, listen},
    pool::{Caller, KeyCounters, KeyPoolErrorKind, Report, Verdict},
};

mod blame;
mod domains;
mod fairness;
mod histories;
mod model;
mod order;
mod probe;

/// The model of most tests.
const MODEL: Purpose<'_> = Purpose::Model("m");

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn pool(secrets: &[&str]) -> KeyPool {
    listen();
    KeyPool::from_secrets(secrets.iter().copied()).unwrap()
}

/// Three keys with hints of their own.
fn three() -> KeyPool {
    pool(&["aaaaa-key-0123456789", "bbbbb-key-0123456789", "ccccc-key-0123456789"])
}

fn lease(pool: &KeyPool, walk: &mut Walk) -> Option<Lease> {
    pool.lease(walk, MODEL, Instant::now())
}

fn fresh(pool: &KeyPool) -> Option<Lease> {
    lease(pool, &mut Walk::default())
}

fn report(pool: &KeyPool, mut lease: Lease, said: Report) {
    pool.report(&mut Walk::default(), &mut lease, MODEL, said, Instant::now());
}

fn name(lease: Option<&Lease>) -> Option<&str> {
    lease.map(|lease| &lease.hint().as_str()[..1])
}

/// How [`MODEL`] finds a key, and how long it stays so.
fn state(key: &KeySnapshot) -> (KeyState, Option<Duration>) {
    let rest = key.rests.iter().find(|rest| rest.model == "m" && !rest.last_resort);
    match (key.state, rest) {
        (KeyState::Revoked, _) | (_, None) => (key.state, key.time_left),
        (_, Some(rest)) => (KeyState::CoolingDown, Some(rest.time_left)),
    }
}

fn states(pool: &KeyPool) -> Vec<KeyState> {
    pool.snapshot().iter().map(|key| state(key).0).collect()
}

fn time_left(pool: &KeyPool) -> Option<Duration> {
    state(&pool.snapshot()[0]).1
}

/// Revokes every key, each by a request of its own.
fn revoke_all(pool: &KeyPool) {
    while let Some(lease) = fresh(pool) {
        report(pool, lease, Report::Revoked);
    }
}

fn retry_after(pool: &KeyPool) -> Option<u64> {
    match pool.exhausted(MODEL, Instant::now()) {
        Exhausted::CoolingDown { retry_after } => Some(retry_after.as_secs()),
        Exhausted::Revoked => None,
    }
}

#[test]
fn lists_that_are_no_pool() {
    assert_eq!(KeyPool::new([]).unwrap_err().kind(), KeyPoolErrorKind::Empty);
    let twice = KeyPool::from_secrets(["aaaaa", "bbbbb", "aaaaa"]).unwrap_err();
    assert_eq!(twice.kind(), KeyPoolErrorKind::Duplicate);
    assert_eq!(twice.hint(), Some(&KeyHint::of("aaaaa")));
    let unsendable = KeyPool::from_secrets(["a", "b\n"]).unwrap_err();
    assert_eq!(unsendable.kind(), KeyPoolErrorKind::NotAHeaderValue);
}

#[tokio::test(start_paused = true)]
async fn order_is_preference_and_each_key_is_tried_once() {
    let pool = three();
    let mut walk = Walk::default();
    for expected in ["a", "b", "c"] {
        let lease = lease(&pool, &mut walk).unwrap();
        assert_eq!(name(Some(&lease)), Some(expected));
        report(&pool, lease, Report::NextKey);
    }
    assert!(lease(&pool, &mut walk).is_none());
    assert_eq!(retry_after(&pool), Some(1), "they are usable, only not for this walk");
    assert_eq!(name(fresh(&pool).as_ref()), Some("a"), "forbidden requests harm no key");
}

#[tokio::test(start_paused = true)]
async fn a_walk_allocates_nothing_until_a_key_failed() {
    let (pool, mut walk) = (three(), Walk::default());
    assert!(lease(&pool, &mut walk).is_some());
    assert!(!walk.has_allocated());
    assert!(lease(&pool, &mut walk).is_some());
    assert!(walk.has_allocated());
}

#[tokio::test(start_paused = true)]
async fn a_key_rests_for_as_long_as_it_was_told() {
    let pool = three();
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(5 * SECOND));
    advance(5 * SECOND - Duration::from_millis(1)).await;
    assert_eq!(name(fresh(&pool).as_ref()), Some("b"));
    advance(Duration::from_millis(1)).await;
    assert_eq!(name(fresh(&pool).as_ref()), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_never_shortened() {
    let pool = pool(&["key"]);
    let (first, second, third) = (fresh(&pool).unwrap(), fresh(&pool).unwrap(), fresh(&pool).unwrap());
    report(&pool, first, Report::CoolDown(MINUTE));
    report(&pool, second, Report::CoolDown(SECOND));
    assert_eq!(time_left(&pool), Some(MINUTE));
    report(&pool, third, Report::CoolDown(2 * MINUTE));
    assert_eq!(time_left(&pool), Some(2 * MINUTE));
    assert_eq!(pool.snapshot()[0].counters.cooled_down, 3);
}

#[tokio::test(start_paused = true)]
async fn revoked_wins_over_cooling_in_either_order() {
    for reports in [
        [Report::Revoked, Report::CoolDown(SECOND)],
        [Report::CoolDown(SECOND), Report::Revoked],
    ] {
        let pool = pool(&["key"]);
        let leases = [fresh(&pool).unwrap(), fresh(&pool).unwrap()];
        for (lease, said) in leases.into_iter().zip(reports) {
            report(&pool, lease, said);
        }
        assert_eq!(states(&pool), [KeyState::Revoked]);
        advance(2 * SECOND).await;
        assert_eq!(states(&pool), [KeyState::Revoked]);
        assert_eq!(retry_after(&pool), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_success_revives_nothing() {
    let pool = pool(&["one", "two"]);
    let leases = [fresh(&pool).unwrap(), fresh(&pool).unwrap(), fresh(&pool).unwrap()];
    let [late, later, first] = leases;
    report(&pool, first, Report::CoolDown(MINUTE));
    report(&pool, late, Report::Relayed);
    assert_eq!(states(&pool), [KeyState::CoolingDown, KeyState::Usable]);
    report(&pool, later, Report::Relayed);
    assert_eq!(states(&pool), [KeyState::CoolingDown, KeyState::Usable]);
}

#[tokio::test(start_paused = true)]
async fn one_millisecond_on_the_only_key_ends_the_walk() {
    let pool = pool(&["key"]);
    let mut walk = Walk::default();
    let mut headers = HeaderMap::new();
    headers.insert("retry-after-ms", HeaderValue::from_static("1"));
    let said = Verdict::CoolDown.report(&headers, "", std::time::SystemTime::UNIX_EPOCH);
    report(&pool, lease(&pool, &mut walk).unwrap(), said);
    assert!(lease(&pool, &mut walk).is_none());
    advance(Duration::from_millis(1)).await;
    assert_eq!(states(&pool), [KeyState::Usable]);
    assert!(lease(&pool, &mut walk).is_none(), "usable, but this walk has tried it");
    assert_eq!(retry_after(&pool), Some(1));
    assert!(fresh(&pool).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_cool_down_of_nothing_is_none() {
    let (pool, logs) = (pool(&["key"]), Logs::capture());
    advance(SECOND).await;
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(Duration::ZERO));
    assert_eq!(states(&pool), [KeyState::Usable]);
    assert_eq!(logs.text(), "");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_least_time_left_in_whole_seconds() {
    let pool = three();
    for rest in [90_000, 1_500, 61_000] {
        report(
            &pool,
            fresh(&pool).unwrap(),
            Report::CoolDown(Duration::from_millis(rest)),
        );
    }
    assert_eq!(retry_after(&pool), Some(2), "rounded up");
    advance(Duration::from_millis(501)).await;
    assert_eq!(retry_after(&pool), Some(1));
    advance(Duration::from_millis(998)).await;
    assert_eq!(retry_after(&pool), Some(1), "at least one");
}

#[tokio::test(start_paused = true)]
async fn one_cooling_key_among_revoked_ones_is_worth_waiting_for() {
    let pool = three();
    report(&pool, fresh(&pool).unwrap(), Report::Revoked);
    report(&pool, fresh(&pool).unwrap(), Report::CoolDown(10 * SECOND));
    report(&pool, fresh(&pool).unwrap(), Report::Revoked);
    assert!(fresh(&pool).is_none());
    assert_eq!(retry_after(&pool), Some(10));
}

#[test]
fn concurrent_429s_make_one_transition_and_one_line() {
    for _ in 0..100 {
        let (pool, logs, start) = (pool(&["key"]), Logs::capture(), Barrier::new(4));
        thread::scope(|scope| {
            for seconds in 60..64 {
                let (pool, start, dispatch) = (&pool, &start, logs.dispatch());
                let lease = fresh(pool).unwrap();
                scope.spawn(move || {
                    tracing::dispatcher::with_default(dispatch, || {
                        start.wait();
                        report(pool, lease, Report::CoolDown(seconds * SECOND));
                    });
                });
            }
        });
        let log = logs.text();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("WARN") && log.contains("model cools down credential_hint=..."));
        let left = time_left(&pool).unwrap();
        assert!(left > 62 * SECOND && left <= 63 * SECOND, "the longest of them");
    }
}

#[tokio::test(start_paused = true)]
async fn every_transition_is_one_line() {
    let (pool, logs) = (pool(&["aaaaa-key-0123456789"]), Logs::capture());
    let mut expected = Vec::new();
    let mut logged = |line: &str| {
        expected.push(line.to_owned());
        let log = logs.text();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(&expected) {
            assert!(line.contains(expected) && line.contains("aaaa...6789"), "{line}");
            assert!(line.contains("tower_llm_bridge::pool"), "{line}");
        }
    };
    let late = [fresh(&pool).unwrap(), fresh(&pool).unwrap(), fresh(&pool).unwrap()];
    report(&pool, fresh(&pool).unwrap(), Report::Relayed);
    report(
        &pool,
        fresh(&pool).unwrap(),
        Report::CoolDown(Duration::from_millis(1_500)),
    );
    logged("WARN");
    assert!(logs.text().contains("seconds=1.5"));
    let [first, second, third] = late;
    report(&pool, first, Report::CoolDown(2 * SECOND));
    advance(2 * SECOND).await;
    assert!(fresh(&pool).is_some() && fresh(&pool).is_some());
    logged("model usable again");
    report(&pool, second, Report::Revoked);
    logged("key revoked");
    report(&pool, third, Report::Revoked);
    assert_eq!(pool.restore_all(), 1);
    logged("key restored");
}

#[tokio::test(start_paused = true)]
async fn a_report_from_before_the_restore_has_no_effect() {
    let pool = pool(&["key"]);
    let [first, late, later, latest] = [(); 4].map(|()| fresh(&pool).unwrap());
    report(&pool, first, Report::Revoked);
    assert_eq!(pool.restore(KeyHint::of("key")), 1);
    let current = fresh(&pool).unwrap();
    report(&pool, late, Report::Revoked);
    report(&pool, later, Report::CoolDown(MINUTE));
    assert_eq!(states(&pool), [KeyState::Usable]);
    report(&pool, current, Report::CoolDown(SECOND));
    report(&pool, latest, Report::Revoked);
    assert_eq!(time_left(&pool), Some(SECOND));
    assert_eq!(pool.restore_all(), 1, "cooling keys come back too");
    assert_eq!(pool.restore_all(), 0);
    assert_eq!(states(&pool), [KeyState::Usable]);
}

#[tokio::test(start_paused = true)]
async fn keys_that_look_alike_are_restored_together_and_told_apart_otherwise() {
    let pool = pool(&[
        "aaaa-first-0000000zzzz",
        "aaaa-other-0000000zzzz",
        "bbbb-third-0000000zzzz",
    ]);
    let hint = fresh(&pool).unwrap().hint().clone();
    report(&pool, fresh(&pool).unwrap(), Report::Revoked);
    assert_eq!(states(&pool), [KeyState::Revoked, KeyState::Usable, KeyState::Usable]);
    revoke_all(&pool);
    assert_eq!(pool.restore("no...dy"), 0);
    assert_eq!(pool.restore(hint.as_str()), 2);
    assert_eq!(states(&pool), [KeyState::Usable, KeyState::Usable, KeyState::Revoked]);
}

#[tokio::test(start_paused = true)]
async fn keys_are_replaced_in_the_middle_of_a_walk() {
    let [a, b, c] = ["aaaaa-key-0123456789", "bbbbb-key-0123456789", "ccccc-key-0123456789"];
    let keys = |secrets: &[&str]| {
        secrets
            .iter()
            .map(|&secret| ApiKey::new(secret).unwrap())
            .collect::<Vec<_>>()
    };
    let pool = pool(&[a, b]);
    let mut walk = Walk::default();
    let first = lease(&pool, &mut walk).unwrap();
    pool.replace(keys(&[c, b, a])).unwrap();
    report(&pool, first, Report::Revoked);
    assert_eq!(
        states(&pool),
        [KeyState::Usable, KeyState::Usable, KeyState::Revoked],
        "it stayed, and was reached"
    );

    let second = lease(&pool, &mut walk).unwrap();
    assert_eq!(name(Some(&second)), Some("c"));
    report(&pool, second, Report::CoolDown(MINUTE));
    let third = lease(&pool, &mut walk).unwrap();
    assert_eq!(name(Some(&third)), Some("b"), "each once, wherever it now stands");
    assert!(lease(&pool, &mut walk).is_none());

    for bad in [&[][..], &[a, a]] {
        assert!(pool.replace(keys(bad)).is_err());
        assert_eq!(
            states(&pool),
            [KeyState::CoolingDown, KeyState::Usable, KeyState::Revoked],
            "nothing changed"
        );
    }
    pool.replace(keys(&[a, c])).unwrap();
    report(&pool, third, Report::Revoked);
    assert_eq!(states(&pool), [KeyState::Revoked, KeyState::CoolingDown]);
    pool.replace(keys(&[b])).unwrap();
    pool.replace(keys(&[a, b])).unwrap();
    assert_eq!(
        states(&pool),
        [KeyState::Usable, KeyState::Usable],
        "gone and back is new"
    );
    assert_eq!(pool.snapshot()[0].counters, KeyCounters::default());
}

#[tokio::test(start_paused = true)]
async fn snapshots_count_every_outcome() {
    let pool = pool(&["aaaaa-key-0123456789"]);
    let leases = [(); 7].map(|()| fresh(&pool).unwrap());
    let [accepted, cooled, next, suspect, revoked, dropped, under_way] = leases;
    report(&pool, accepted, Report::Served);
    report(&pool, cooled, Report::CoolDown(Duration::from_millis(1_500)));
    report(&pool, next, Report::NextKey);
    report(&pool, suspect, Report::Suspect);
    drop(dropped);
    let expected = r#"[{"hint":"aaaa...6789","domain":null,"state":"usable","time_left_ms":null,"rests":[{"model":"m","last_resort":false,"time_left_ms":1500}],"counters":{"attempts":5,"accepted":1,"cooled_down":1,"revoked":0,"next_key":1,"suspected":1,"unanswered":1}}]"#;
    assert_eq!(serde_json::to_string(&pool.snapshot()).unwrap(), expected);
    report(&pool, revoked, Report::Revoked);
    let expected = r#"[{"hint":"aaaa...6789","domain":null,"state":"revoked","time_left_ms":null,"rests":[{"model":"m","last_resort":false,"time_left_ms":1500}],"counters":{"attempts":6,"accepted":1,"cooled_down":1,"revoked":1,"next_key":1,"suspected":1,"unanswered":1}}]"#;
    assert_eq!(serde_json::to_string(&pool.snapshot()).unwrap(), expected);
    drop(under_way);
}

#[test]
fn threads_lose_no_count() {
    let pool = three();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    report(&pool, fresh(&pool).unwrap(), Report::Relayed);
                }
            });
        }
    });
    assert_eq!(pool.snapshot()[0].counters.accepted, 4_000);
}

#[tokio::test(start_paused = true)]
async fn nothing_prints_a_key() {
    let (secret, logs) = ("sk-secret-0123456789abcdef", Logs::capture());
    let pool = pool(&[secret]);
    let key = ApiKey::new(secret).unwrap();
    let mut walk = Walk::default();
    let leased = lease(&pool, &mut walk).unwrap();
    let (_, header) = pool.header(&leased, &CredentialHeader::bearer());
    assert_eq!(header, format!("Bearer {secret}"));
    let mut printed = format!(
        "{pool:?} {pool:#?} {key:?} {leased:?} {walk:?} {header:?} {:?}",
        pool.snapshot()
    );
    printed += &format!("{:?}", KeyPool::from_secrets([secret, secret]).unwrap_err());
    assert!(printed.contains(r#"KeyPool [("sk-s...cdef", Usable)]"#), "{printed}");
    report(&pool, leased, Report::CoolDown(SECOND));
    advance(SECOND).await;
    report(&pool, fresh(&pool).unwrap(), Report::Revoked);
    advance(MINUTE).await;
    report(&pool, fresh(&pool).unwrap(), Report::Relayed);
    printed += &logs.text();
    for part in ["secret", "0123", &secret[4..]] {
        assert!(!printed.contains(part), "{printed}");
    }
}

#[test]
fn what_crosses_threads_can() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<KeyPool>();
    crosses::<Lease>();
    crosses::<Walk>();
    crosses::<KeyPoolError>();
}
