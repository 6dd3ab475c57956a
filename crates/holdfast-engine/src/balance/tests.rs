//! Who gets a call, and why the others do not; shares, and properties.

use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;

use super::*;

const MILLION: u64 = 1_000_000;

fn candidates(count: u16) -> Vec<Candidate> {
    (0..count).map(|id| Candidate::new(id, seed(&format!("instance-{id}")))).collect()
}

fn params(strategy: Strategy) -> Params {
    Params { strategy, ..Params::default() }
}

/// How often each gets one of so many calls.
fn shares(all: &[Candidate], request: Request, params: Params, calls: u64) -> Vec<f64> {
    let mut counts = vec![0_u64; all.len()];
    for turn in 0..calls {
        let request = Request { turn, ..request };
        counts[pick(all, &request, &params, mix(turn)).unwrap().index] += 1;
    }
    counts.into_iter().map(|it| it as f64 / calls as f64).collect()
}

fn near(shares: &[f64], expected: &[f64]) {
    let is_near = shares.iter().zip(expected).all(|(one, other)| (one - other).abs() < 0.01);
    assert!(is_near && shares.len() == expected.len(), "{shares:?}, not {expected:?}");
}

const READ: Request = Request { is_read: true, sticky: None, key: None, turn: 0, tried: Set::NONE };
const WRITE: Request = Request { is_read: false, ..READ };

#[test]
fn weighted_by_weight_and_health_and_only_the_well() {
    let mut all = candidates(4);
    (all[0].weight, all[1].weight) = (1, 2);
    all[2].score = 0.75;
    all[3].score = 0.5;
    near(
        &shares(&all, READ, params(Strategy::Weighted), 100_000),
        &[1.0 / 3.75, 2.0 / 3.75, 0.75 / 3.75, 0.0],
    );
    let why_not = why(&all, &READ, &params(Strategy::Weighted), Some(0), 3);
    assert_eq!(why_not, Some(Why::Unwell));
}

#[test]
fn round_robin_takes_turns_and_leaves_out_who_may_not() {
    let mut all = candidates(4);
    all[2].admitted = Err(Why::BreakerOpen);
    let order: Vec<_> = (0..6)
        .map(|turn| {
            pick(&all, &Request { turn, ..READ }, &params(Strategy::RoundRobin), 7).unwrap().id
        })
        .collect();
    assert_eq!(order, [0, 1, 3, 0, 1, 3]);
}

#[test]
fn least_connections_avoids_the_busy_and_the_slow_and_spreads_over_equals() {
    let all = candidates(3);
    near(&shares(&all, READ, params(Strategy::LeastConnections), 30_000), &[1.0 / 3.0; 3]);
    let mut busy = candidates(3);
    busy[1].in_flight = 50;
    let spread = shares(&busy, READ, params(Strategy::LeastConnections), 30_000);
    assert!(spread[1] < 0.001, "{spread:?}");
    let mut slow = candidates(2);
    (slow[0].latency, slow[1].latency) = (1_000.0, 50_000.0);
    near(&shares(&slow, READ, params(Strategy::LeastConnections), 1_000), &[1.0, 0.0]);
    // A little slower is no reason to stay idle.
    (slow[0].latency, slow[1].latency) = (1_000.0, 1_100.0);
    near(&shares(&slow, READ, params(Strategy::LeastConnections), 1_000), &[0.5, 0.5]);
}

#[test]
fn an_instance_that_fails_fast_draws_no_load() {
    let (good, bad) = (latency::Latency::new(), latency::Latency::new());
    let mut all = candidates(2);
    let mut to_bad = 0;
    for turn in 0..10_000_u64 {
        let now = turn;
        (all[0].latency, all[1].latency) = (good.read(now), bad.read(now));
        let request = Request { turn, ..READ };
        let picked = pick(&all, &request, &params(Strategy::LeastConnections), mix(turn)).unwrap();
        if picked.index == 0 {
            good.answered(20_000, now);
        } else {
            to_bad += 1;
            bad.failed(300, now);
        }
    }
    // Ten seconds at a thousand calls a second: it is tried, and no more.
    assert!((1..=5).contains(&to_bad), "{to_bad} of 10,000 calls");
}

#[test]
fn reads_go_to_the_nearest_replicas_and_writes_to_the_primary() {
    let mut all = candidates(5);
    for replica in &mut all[1..] {
        replica.role = Role::Replica;
    }
    let distances = [1, 0, 0, 2, 1];
    for (candidate, distance) in all.iter_mut().zip(distances) {
        candidate.distance = distance;
    }
    let params = params(Strategy::ReadWrite);
    near(&shares(&all, READ, params, 10_000), &[0.0, 0.5, 0.5, 0.0, 0.0]);
    near(&shares(&all, WRITE, params, 100), &[1.0, 0.0, 0.0, 0.0, 0.0]);
    let reason = |request, at| why(&all, &request, &params, Some(1), at);
    assert_eq!(reason(READ, 0), Some(Why::ReplicasFirst));
    assert_eq!(reason(READ, 3), Some(Why::Farther));
    assert_eq!(reason(READ, 2), Some(Why::NotChosen));
    assert_eq!(reason(READ, 1), None);
    assert_eq!(reason(WRITE, 2), Some(Why::ReadsOnly));
    // The nearest are full: the next region. No replica left: the primary.
    for near in [1, 2] {
        (all[near].limit, all[near].in_flight) = (1, 1);
    }
    near(&shares(&all, READ, params, 100), &[0.0, 0.0, 0.0, 0.0, 1.0]);
    for far in [3, 4] {
        all[far].admitted = Err(Why::BreakerOpen);
    }
    near(&shares(&all, READ, params, 100), &[1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_standby_gets_nothing_and_a_write_without_a_primary_says_why() {
    let mut all = candidates(3);
    all[0].admitted = Err(Why::Paused);
    all[1].admitted = Err(Why::Standby);
    all[2].role = Role::Replica;
    let none = pick(&all, &WRITE, &params(Strategy::ReadWrite), 1).unwrap_err();
    let reasons: Vec<_> = none.reasons().collect();
    assert_eq!(reasons, [(0, Why::Paused), (1, Why::Standby), (2, Why::ReadsOnly)]);
    assert_eq!((none.count, none.foremost), (3, Some(Why::Paused)));
    let nobody = pick(&[], &WRITE, &params(Strategy::Hash), 1).unwrap_err();
    assert_eq!((nobody.count, nobody.foremost), (0, None));
}

#[test]
fn a_key_stays_and_only_the_lost_share_moves() {
    let all = candidates(5);
    let params = params(Strategy::Hash);
    let place = |all: &[Candidate], key| {
        pick(all, &Request { key: Some(mix(key)), ..READ }, &params, key).unwrap().id
    };
    let before: Vec<_> = (0..20_000).map(|key| place(&all, key)).collect();
    let mut fewer = all.clone();
    fewer[3].admitted = Err(Why::BreakerOpen);
    let moved = (0..20_000).filter(|key| place(&fewer, *key) != before[*key as usize]).count();
    let lost = before.iter().filter(|it| **it == 3).count();
    assert_eq!(moved, lost, "only those of the lost one move");
    let share = lost as f64 / 20_000.0;
    assert!((share - 0.2).abs() < 0.01, "{share}");
    let mut heavy = all;
    heavy[0].weight = 4;
    let share = (0..20_000).filter(|key| place(&heavy, *key) == 0).count() as f64 / 20_000.0;
    assert!((share - 0.5).abs() < 0.01, "{share}");
}

#[test]
fn rate_aware_goes_where_most_is_left_and_nowhere_without_any() {
    let mut all = candidates(3);
    let params = params(Strategy::RateAware);
    for (candidate, left) in all.iter_mut().zip([0.2, 0.9, 0.0]) {
        candidate.allowance = left;
    }
    near(&shares(&all, READ, params, 100), &[0.0, 1.0, 0.0]);
    assert_eq!(why(&all, &READ, &params, Some(1), 2), Some(Why::RateLimited));
    all[0].allowance = 0.9;
    near(&shares(&all, READ, params, 100_000), &[0.5, 0.5, 0.0]);
    (all[0].allowance, all[1].allowance) = (0.0, 0.0);
    assert_eq!(pick(&all, &READ, &params, 1).unwrap_err().foremost, Some(Why::RateLimited));
}

#[test]
fn a_client_stays_for_an_hour_with_what_is_well() {
    let mut all = candidates(3);
    let params = params(Strategy::LeastConnections);
    let sticky = |id, used_ago| Request { sticky: Some(Sticky { id, used_ago }), ..READ };
    all[2].in_flight = 100;
    let picked = pick(&all, &sticky(2, 3_599_999), &params, 1).unwrap();
    assert_eq!((picked.id, picked.ground), (2, Ground::Sticky));
    assert_eq!(why(&all, &sticky(2, 0), &params, Some(2), 0), Some(Why::Sticky));
    assert_ne!(pick(&all, &sticky(2, 3_600_000), &params, 1).unwrap().id, 2);
    all[2].score = 0.4;
    assert_ne!(pick(&all, &sticky(2, 0), &params, 1).unwrap().id, 2);
    assert_ne!(pick(&all, &sticky(9, 0), &params, 1).unwrap().ground, Ground::Sticky);
}

#[test]
fn too_few_well_instances_are_not_left_alone() {
    let mut all = candidates(5);
    for unwell in &mut all[2..] {
        unwell.score = 0.3;
    }
    let params = params(Strategy::RoundRobin);
    let even = [0.2; 5];
    near(&shares(&all, READ, params, 1_000), &even);
    assert_eq!(pick(&all, &READ, &params, 1).unwrap().ground, Ground::Panic);
    // One more that is well, and they can carry it.
    all[2].score = 0.9;
    let third = 1.0 / 3.0;
    near(&shares(&all, READ, params, 999), &[third, third, third, 0.0, 0.0]);
    // A breaker holds in a panic too.
    all[2].score = 0.3;
    all[4].admitted = Err(Why::BreakerOpen);
    near(&shares(&all, READ, params, 1_000), &[0.25, 0.25, 0.25, 0.25, 0.0]);
    let never = Params { panic: 0.0, ..params };
    near(&shares(&all, READ, never, 1_000), &[0.5, 0.5, 0.0, 0.0, 0.0]);
    // Nothing else is left: better than nothing.
    for candidate in &mut all {
        candidate.score = f32::NAN;
    }
    assert!(pick(&all, &READ, &never, 1).is_ok());
}

#[test]
fn who_came_back_warms_up_and_nobody_does_after_a_cold_start() {
    let share = |back_for, strategy| {
        let mut all = candidates(2);
        all[1].back_for = back_for;
        shares(&all, READ, params(strategy), 100_000)[1]
    };
    let at = |back_for| share(Some(back_for), Strategy::Weighted);
    let expected = [(0, 0.1 / 1.1), (15_000, 0.5 / 1.5), (30_000, 0.5), (99_999, 0.5)];
    for (back_for, expected) in expected {
        assert!((at(back_for) - expected).abs() < 0.01, "{back_for}: {}", at(back_for));
    }
    assert!((share(None, Strategy::Weighted) - 0.5).abs() < 0.01);
    // Idle as all of them are: as much as it is warm, and no step at the end.
    for (back_for, expected) in [(0, 0.05), (3_000, 0.05), (15_000, 0.25), (29_999, 0.5)] {
        let share = share(Some(back_for), Strategy::LeastConnections);
        assert!((share - expected).abs() < 0.01, "{back_for}: {share}");
    }
}

#[test]
fn what_was_tried_is_not_tried_again() {
    let all = candidates(3);
    let mut tried = Set::default();
    tried.insert(0);
    tried.insert(2);
    tried.insert(MOST);
    assert_eq!((tried.len(), tried.iter().collect::<Vec<_>>()), (2, vec![0, 2]));
    let request = Request { tried, ..READ };
    let picked = pick(&all, &request, &params(Strategy::LeastConnections), 1).unwrap();
    assert_eq!((picked.id, picked.ground), (1, Ground::Only));
    assert_eq!(why(&all, &request, &params(Strategy::Hash), Some(1), 0), Some(Why::Tried));
}

#[test]
fn a_server_may_have_64_instances_and_more_do_no_harm() {
    let all = candidates(70);
    let spread = shares(&all, READ, params(Strategy::RoundRobin), 6_400);
    assert!(spread[..64].iter().all(|it| (it - 1.0 / 64.0).abs() < 1e-9));
    assert!(spread[64..].iter().all(|it| *it == 0.0));
    assert_eq!(why(&all, &READ, &params(Strategy::Hash), Some(0), 69), Some(Why::NotChosen));
}

/// The cost of a choice: `cargo test --release -p holdfast-engine cost -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn cost() {
    for strategy in [
        Strategy::RoundRobin,
        Strategy::Weighted,
        Strategy::LeastConnections,
        Strategy::ReadWrite,
        Strategy::Hash,
        Strategy::RateAware,
    ] {
        for count in [2, 3, 8] {
            let mut all = candidates(count);
            all[1].role = Role::Replica;
            all[1].latency = 900.0;
            let params = params(strategy);
            let begin = std::time::Instant::now();
            let mut sum = 0;
            for turn in 0..MILLION {
                let request = Request { turn, key: Some(turn), ..READ };
                let candidates = std::hint::black_box(&all);
                sum += pick(candidates, &request, &params, mix(turn)).unwrap().index;
            }
            let nanos = begin.elapsed().as_nanos() as f64 / MILLION as f64;
            println!("{strategy:?} of {count}: {nanos:.0} ns ({sum})");
        }
    }
}

fn anything() -> impl proptest::strategy::Strategy<Value = Candidate> {
    let refused = prop_oneof![6 => Just(Ok(())), 1 => Just(Err(Why::BreakerOpen)), 1 => Just(Err(Why::Standby))];
    let role = prop_oneof![Just(Role::Primary), Just(Role::Secondary), Just(Role::Replica)];
    let score = prop_oneof![6 => 0.0f32..=1.0, 1 => Just(f32::NAN)];
    (
        role,
        0u16..3,
        0u32..5,
        score,
        0u32..5,
        0u32..5,
        (0.0f32..1e6, 0.0f32..=1.0),
        proptest::option::of(0u64..60_000),
        refused,
        any::<u64>(),
    )
        .prop_map(
            |(
                role,
                distance,
                weight,
                score,
                in_flight,
                limit,
                (latency, allowance),
                back_for,
                admitted,
                seed,
            )| Candidate {
                id: 0,
                role,
                distance,
                weight,
                score,
                in_flight,
                limit,
                latency,
                allowance,
                back_for,
                due: seed.is_multiple_of(4),
                seed,
                admitted,
            },
        )
}

proptest! {
    /// Whatever the candidates: who is chosen may be used, every other has a reason, and nobody is
    /// chosen only if nobody may be used.
    #[test]
    fn every_instance_has_its_reason(
        mut all in prop::collection::vec(anything(), 0..12),
        strategy in 0usize..6,
        is_read: bool,
        sticky in proptest::option::of((0u16..12, 0u64..7_200_000)),
        turn: u64,
        random: u64,
        tried in prop::collection::vec(0usize..12, 0..4),
    ) {
        for (at, candidate) in all.iter_mut().enumerate() {
            candidate.id = at as u16;
        }
        let strategy = [
            Strategy::RoundRobin, Strategy::Weighted, Strategy::LeastConnections,
            Strategy::ReadWrite, Strategy::Hash, Strategy::RateAware,
        ][strategy];
        let params = params(strategy);
        let mut set = Set::default();
        tried.iter().for_each(|it| set.insert(*it));
        let sticky = sticky.map(|(id, used_ago)| Sticky { id, used_ago });
        let request = Request { is_read, sticky, key: Some(random), turn, tried: set };
        let usable = |at: usize| {
            let it = &all[at];
            it.admitted.is_ok() && !set.contains(at) && it.allowance > 0.0
                && (it.limit == 0 || it.in_flight < it.limit)
                && (is_read || it.role != Role::Replica)
        };
        match pick(&all, &request, &params, random) {
            Ok(picked) => {
                prop_assert!(usable(picked.index));
                prop_assert_eq!(usize::from(picked.id), picked.index);
                prop_assert_eq!(picked, pick(&all, &request, &params, random).unwrap());
                for at in 0..all.len() {
                    let reason = why(&all, &request, &params, Some(picked.index), at);
                    prop_assert_eq!(reason.is_none(), at == picked.index);
                }
            }
            Err(none) => {
                prop_assert!((0..all.len()).all(|it| !usable(it)));
                prop_assert_eq!(none.reasons().count(), all.len().min(8));
            }
        }
    }
}

/// What it is avoided for does not keep the call away that would show that it is well again.
#[test]
fn one_that_has_to_be_tried_goes_first_unless_it_may_not_or_a_key_says_otherwise() {
    let mut all = candidates(3);
    (all[0].latency, all[1].latency, all[2].latency) = (1_000.0, 4_000_000.0, 1_000.0);
    let least = params(Strategy::LeastConnections);
    near(&shares(&all, READ, least, 1_000), &[0.5, 0.0, 0.5]);
    all[1].due = true;
    let picked = pick(&all, &READ, &least, 1).unwrap();
    assert_eq!((picked.id, picked.ground), (1, Ground::Due));
    let hash = params(Strategy::Hash);
    let keys: Vec<_> = (0..100)
        .map(|key| pick(&all, &Request { key: Some(mix(key)), ..READ }, &hash, 1).unwrap())
        .collect();
    assert!(keys.iter().any(|picked| picked.id != 1), "a key stays where it is");
    all[1].score = 0.2;
    assert_ne!(pick(&all, &READ, &least, 1).unwrap().id, 1, "it is unwell");
    (all[1].score, all[1].admitted) = (1.0, Err(Why::Draining));
    assert_ne!(pick(&all, &READ, &least, 1).unwrap().id, 1);
}
