//! No request takes service from another: whatever was asked before, a request is served exactly if some key of the
//! pool would serve it now.

use proptest::{collection::vec, prelude::*};

use super::*;

const SECRETS: [&str; 4] = [
    "aaaaa-key-0123456789",
    "bbbbb-key-0123456789",
    "ccccc-key-0123456789",
    "ddddd-key-0123456789",
];
const ACTORS: [Option<&str>; 4] = [None, Some("alice"), Some("bob"), Some("carol")];
const MODELS: [&str; 3] = ["big", "small", "tiny"];

/// The provider's real state, which no request changes.
#[derive(Clone, Debug)]
struct World {
    /// For each key: its organisation, and whether it is dead.
    keys: [(usize, bool); 4],
    /// For each organisation: from which millisecond it has no money.
    broke_from: [u64; 3],
    /// Decides when which organisation is at the limit of which model.
    limits: u64,
}

/// A request, as far as a caller can choose.
#[derive(Clone, Debug)]
struct Ask {
    after: u64,
    actor: usize,
    model: usize,
    is_keyed: bool,
    /// The keys that refuse it, and how.
    refused_by: u8,
    refusal: Report,
    is_cancelled: bool,
    /// What the answers' headers tell.
    names_organisation: bool,
    is_bucket_empty: bool,
}

impl World {
    /// What the key at `place` answers.
    fn answer(&self, ask: &Ask, place: usize, now: u64) -> Report {
        let (organisation, is_dead) = self.keys[place];
        if ask.refused_by & 1 << place != 0 {
            return ask.refusal;
        }
        if is_dead {
            return if ask.is_keyed { Report::NextKey } else { Report::Revoked };
        }
        if ask.is_keyed {
            return match self.limited_for(100 + place, now) {
                Some(rest) => Report::CoolDown(rest),
                None => Report::Served,
            };
        }
        if self.broke_from[organisation] <= now {
            return Report::CoolDownDomain(HOUR);
        }
        match self.limited_for(organisation * 10 + ask.model, now) {
            Some(rest) => Report::CoolDown(rest),
            None => Report::Served,
        }
    }

    /// How long a bucket is still at its limit: some of its stretches of ten seconds are.
    fn limited_for(&self, bucket: usize, now: u64) -> Option<Duration> {
        const STRETCH: u64 = 10_000;
        let is_limited = |stretch: u64| {
            let mixed = (self.limits ^ (stretch * 131 + bucket as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed >> 62 == 0
        };
        let stretch = now / STRETCH;
        let end = (stretch..).find(|stretch| !is_limited(*stretch)).unwrap();
        (end > stretch).then(|| Duration::from_millis(end * STRETCH - now))
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

/// Sends one request. Whether it was served.
fn send(pool: &KeyPool, world: &World, ask: &Ask, now: u64) -> bool {
    let purpose = if ask.is_keyed {
        Purpose::Keyed
    } else {
        Purpose::Model(MODELS[ask.model])
    };
    let mut walk = Walk::new(Caller::new(ACTORS[ask.actor], None));
    while let Some(mut leased) = pool.lease(&mut walk, purpose, Instant::now()) {
        if ask.is_cancelled {
            return false;
        }
        let place = SECRETS
            .iter()
            .position(|secret| secret[..1] == leased.hint().as_str()[..1]);
        let place = place.unwrap();
        let mut headers = HeaderMap::new();
        if ask.names_organisation {
            headers.insert("openai-organization", HeaderValue::from(world.keys[place].0 as u64));
        }
        if ask.is_bucket_empty {
            headers.insert("x-ratelimit-remaining-requests", HeaderValue::from_static("0"));
            headers.insert("x-ratelimit-reset-requests", HeaderValue::from_static("1h0m0s"));
        }
        pool.observe(
            &mut leased,
            purpose,
            &headers,
            Instant::now(),
            std::time::SystemTime::now,
        );
        let said = world.answer(ask, place, now);
        pool.report(&mut walk, &mut leased, purpose, said, Instant::now());
        if said == Report::Served {
            return true;
        }
    }
    false
}

async fn follow(world: World, asks: Vec<Ask>) -> Result<(), TestCaseError> {
    listen();
    // In two ranks of two, so that conversations have a choice.
    let keys = SECRETS.iter().zip([0, 0, 1, 1]);
    let pool = KeyPool::new(keys.map(|(&secret, rank)| ApiKey::new(secret).unwrap().rank(rank))).unwrap();
    let mut now = 0;
    for ask in asks {
        advance(Duration::from_millis(ask.after)).await;
        now += ask.after;
        let could = (0..SECRETS.len()).any(|place| world.answer(&ask, place, now) == Report::Served);
        let served = send(&pool, &world, &ask, now);
        prop_assert_eq!(
            served,
            could && !ask.is_cancelled,
            "{:?} at {}: {:?}",
            ask,
            now,
            pool.snapshot()
        );
    }
    Ok(())
}

fn world() -> impl Strategy<Value = World> {
    let key = || (0..3_usize, prop::bool::weighted(0.2));
    let broke = || prop_oneof![2 => Just(u64::MAX), 1 => 0..100_000_u64];
    let keys = [key(), key(), key(), key()];
    (keys, [broke(), broke(), broke()], any::<u64>()).prop_map(|(keys, broke_from, limits)| World {
        keys,
        broke_from,
        limits,
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let after = proptest::sample::select([0_u64, 0, 1, 500, 7_000, 60_000].as_slice());
    let refused_by = prop_oneof![3 => Just(0), 1 => Just(15), 3 => any::<u8>()];
    let refusal = prop_oneof![1 => Just(Report::NextKey), 2 => Just(Report::Suspect)];
    let choices = (after, 0..ACTORS.len(), 0..MODELS.len(), prop::bool::weighted(0.2));
    let fate = (refused_by, refusal, prop::bool::weighted(0.1));
    (choices, fate, any::<bool>(), any::<bool>()).prop_map(|(choices, fate, names_organisation, is_bucket_empty)| {
        let (after, actor, model, is_keyed) = choices;
        let (refused_by, refusal, is_cancelled) = fate;
        Ask {
            after,
            actor,
            model,
            is_keyed,
            refused_by,
            refusal,
            is_cancelled,
            names_organisation,
            is_bucket_empty,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_takes_service_from_another(world in world(), asks in vec(ask(), 0..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(follow(world, asks))?;
    }
}
