//! Ranks, and the choice among equals.

use std::collections::HashSet;

use super::*;

fn key(secret: &str) -> ApiKey {
    ApiKey::new(secret).unwrap()
}

fn walked(pool: &KeyPool, caller: Caller) -> String {
    let mut walk = Walk::new(caller);
    let names = std::iter::from_fn(|| lease(pool, &mut walk)).map(|lease| lease.hint().as_str()[..1].to_owned());
    names.collect()
}

fn equals() -> KeyPool {
    listen();
    KeyPool::new(["aaaaa", "bbbbb", "ccccc", "ddddd"].map(|secret| key(secret).rank(1))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn lower_ranks_come_first_and_the_default_is_the_place() {
    listen();
    let keys = [key("aaaaa").rank(9), key("bbbbb"), key("ccccc").rank(0), key("ddddd")];
    assert_eq!(walked(&KeyPool::new(keys).unwrap(), Caller::default()), "cbda");
}

#[tokio::test(start_paused = true)]
async fn a_conversation_keeps_its_key() {
    let pool = equals();
    let caller = |conversation: Option<&str>| Caller::new(Some("alice"), conversation);
    let mut firsts = HashSet::new();
    for number in 0..100 {
        let conversation = format!("session-{number}");
        let walk = walked(&pool, caller(Some(&conversation)));
        assert_eq!(walk.chars().collect::<HashSet<_>>().len(), 4, "each once");
        assert_eq!(walk, walked(&pool, caller(Some(&conversation))));
        firsts.insert(walk.chars().next().unwrap());
    }
    assert_eq!(firsts.len(), 4, "load spreads");
    assert_eq!(
        walked(&pool, caller(None)),
        walked(&pool, caller(None)),
        "the actor alone"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_conversation_requests_take_turns() {
    let pool = equals();
    for expected in ["abcd", "bcda", "cdab", "dabc", "abcd"] {
        assert_eq!(walked(&pool, Caller::default()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_choice_is_kept_too() {
    let pool = equals();
    let caller = Caller::new(None, Some("s"));
    let walk = walked(&pool, caller);
    report(&pool, lease(&pool, &mut Walk::new(caller)).unwrap(), Report::Revoked);
    assert_eq!(walked(&pool, caller), walk[1..]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_bucket_is_tried_after_all_others() {
    listen();
    let pool = KeyPool::new([key("aaaaa"), key("bbbbb").rank(5), key("ccccc").rank(5)]).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-ratelimit-remaining-tokens", HeaderValue::from_static("0"));
    headers.insert("x-ratelimit-reset-tokens", HeaderValue::from_static("6s"));
    let mut leased = fresh(&pool).unwrap();
    pool.observe(&mut leased, MODEL, &headers, Instant::now(), std::time::SystemTime::now);
    report(&pool, leased, Report::Served);
    assert_eq!(walked(&pool, Caller::default()).chars().last(), Some('a'));
    let other = pool.lease(&mut Walk::default(), Purpose::Model("other"), Instant::now());
    assert_eq!(name(other.as_ref()), Some("a"));
    let rest = &pool.snapshot()[0].rests[0];
    assert_eq!(
        (&*rest.model, rest.last_resort, rest.time_left),
        ("m", true, 6 * SECOND)
    );
    // Never a refusal by itself.
    for _ in 0..2 {
        report(&pool, fresh(&pool).unwrap(), Report::CoolDown(MINUTE));
    }
    assert_eq!(walked(&pool, Caller::default()), "a");
    advance(6 * SECOND).await;
    assert_eq!(walked(&pool, Caller::default()), "a");
    assert!(pool.snapshot()[0].rests.is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_equal_keys_are_all_reached() {
    listen();
    let secrets: Vec<String> = (0..40).map(|number| format!("key-{number:020}")).collect();
    let pool = KeyPool::new(secrets.iter().map(|secret| key(secret).rank(0))).unwrap();
    let caller = Caller::new(None, Some("s"));
    for _ in 0..2 {
        let mut walk = Walk::new(caller);
        let leases: Vec<Lease> = std::iter::from_fn(|| lease(&pool, &mut walk)).collect();
        assert_eq!(leases.len(), 40);
    }
}
