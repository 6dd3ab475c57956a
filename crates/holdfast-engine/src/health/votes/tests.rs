//! Who is outvoted and who decides; properties of the count.

use proptest::prelude::*;

use super::*;

fn member(node: NodeId) -> Origin {
    Origin { node, generation: 1 }
}

fn members(count: u64) -> Vec<Origin> {
    (1..=count).map(member).collect()
}

fn vote(node: NodeId, opinion: Opinion, received: Instant) -> Vote {
    let score = match opinion {
        Healthy => 1.0,
        Degraded => 0.6,
        Unhealthy => 0.0,
    };
    let cause = Cause::Unreachable;
    Vote { from: member(node), opinion, score, cause, received, age: Duration::ZERO }
}

/// What a cluster of `members` concludes when its nodes vote like this.
fn concluded(count: u64, opinions: &[Opinion]) -> Option<Opinion> {
    let now = Instant::now();
    let votes: Vec<_> = opinions.iter().zip(1..).map(|(it, node)| vote(node, *it, now)).collect();
    tally(&votes, &members(count), &Rules::default(), now).opinion
}

use Opinion::{Degraded, Healthy, Unhealthy};

#[test]
fn in_a_cluster_one_is_outvoted_and_two_of_three_decide() {
    assert_eq!(concluded(3, &[Healthy, Healthy, Healthy]), Some(Healthy));
    assert_eq!(concluded(3, &[Unhealthy, Healthy, Healthy]), Some(Healthy));
    assert_eq!(concluded(3, &[Unhealthy, Degraded, Healthy]), Some(Degraded));
    assert_eq!(concluded(3, &[Unhealthy, Unhealthy, Healthy]), Some(Unhealthy));
    assert_eq!(concluded(3, &[Degraded, Degraded, Healthy]), Some(Degraded));
    // Three of five are a majority, and not yet two thirds.
    let five = [Unhealthy, Unhealthy, Unhealthy, Healthy, Healthy];
    assert_eq!(concluded(5, &five), Some(Degraded));
    assert_eq!(
        concluded(5, &[Unhealthy, Unhealthy, Unhealthy, Unhealthy, Healthy]),
        Some(Unhealthy)
    );
    // Two thirds of those who voted, and not most of those who might have.
    assert_eq!(concluded(5, &[Unhealthy, Unhealthy, Healthy]), Some(Degraded));
}

#[test]
fn what_was_found_unhealthy_is_better_when_most_of_all_say_so() {
    let now = Instant::now();
    let lifts = |count: u64, opinions: &[Opinion]| {
        let votes = opinions.iter().zip(1..).map(|(it, node)| vote(node, *it, now));
        tally(&votes.collect::<Vec<_>>(), &members(count), &Rules::default(), now).lifts()
    };
    assert!(lifts(3, &[Unhealthy, Degraded, Healthy]));
    // One has not looked again, and one who had is gone.
    assert!(!lifts(2, &[Unhealthy, Degraded]) && !lifts(3, &[Unhealthy, Healthy]));
    assert!(!lifts(5, &[Unhealthy, Unhealthy, Unhealthy, Healthy, Healthy]));
    assert!(lifts(2, &[Degraded, Healthy]) && lifts(1, &[Healthy]));
}

#[test]
fn who_was_outvoted_has_no_part_in_the_score() {
    let now = Instant::now();
    let scored = |votes: &[f64]| {
        let votes = votes.iter().zip(1..);
        let votes: Vec<Vote> = votes
            .map(|(score, node)| Vote { score: *score, ..vote(node, Opinion::of(*score), now) })
            .collect();
        let tally = tally(&votes, &members(votes.len() as u64), &Rules::default(), now);
        (tally.opinion, tally.score)
    };
    assert_eq!(scored(&[0.35, 0.35, 1.0]), (Some(Unhealthy), 0.35));
    assert_eq!(scored(&[1.0, 0.95, 0.0]), (Some(Healthy), 0.95));
    // One of those that agree does not make it either.
    assert_eq!(scored(&[0.0, 0.45, 1.0]), (Some(Unhealthy), 0.45));
    assert_eq!(scored(&[0.0, 0.1, 0.45]), (Some(Unhealthy), 0.1));
    assert_eq!(scored(&[0.6, 0.0, 1.0]), (Some(Degraded), 0.6));
    assert_eq!(scored(&[0.0, 1.0]), (None, 1.0));
    assert_eq!(scored(&[]), (None, 0.0));
}

#[test]
fn a_conclusion_is_as_old_as_the_sign_that_made_it_one() {
    let now = Instant::now();
    let sign = |count: u64, votes: &[(Opinion, Cause, u64)]| {
        let signed = votes.iter().zip(1..).map(|((opinion, cause, since), node)| {
            (Vote { cause: *cause, ..vote(node, *opinion, now) }, *since)
        });
        let signed: Vec<(Vote, u64)> = signed.collect();
        let votes: Vec<Vote> = signed.iter().map(|(vote, _)| *vote).collect();
        let (members, rules) = (members(count), Rules::default());
        let tally = tally(&votes, &members, &rules, now);
        first_sign(&signed, &tally, &members, &rules, now)
    };
    let (gone, slow, open) = (Cause::Unreachable, Cause::Score, Cause::BreakerOpen);
    let of = |since: u64| (Unhealthy, gone, since);
    // Whoever was outvoted before says nothing of when the others saw it.
    assert_eq!(sign(3, &[of(5), of(9_000), of(9_100)]), 9_000);
    assert_eq!(sign(3, &[of(9_000), of(5), (Healthy, slow, 0)]), 9_000);
    assert_eq!(sign(5, &[of(4), of(3), of(2), of(1), (Healthy, slow, 0)]), 4);
    assert_eq!(sign(1, &[of(5)]), 5);
    // Slow for hours, and then gone: the slow one's sign is not for this.
    assert_eq!(sign(3, &[(Degraded, slow, 5), of(9_000), of(9_100)]), 9_100);
    // What names no sign does not date it, and neither does one alone that it would not do without.
    assert_eq!(sign(3, &[of(0), of(9_000), of(9_100)]), 9_100);
    assert_eq!(sign(3, &[of(0), of(5), of(0)]), 0);
    assert_eq!(sign(3, &[of(0), of(0), of(0)]), 0);
    // Calls that fail are dated by those who say that they do.
    let calls = [(Degraded, slow, 5), (Degraded, open, 7_000), (Degraded, open, 8_000)];
    assert_eq!(sign(3, &calls), 8_000);
    assert_eq!(sign(3, &calls[..2]), 0, "there is no conclusion");
    // One node's calls have failed for hours, and it was outvoted until another one found it slow.
    let errors = [(Degraded, Cause::Errors, 5), (Degraded, slow, 9_000), (Healthy, slow, 0)];
    assert_eq!(sign(3, &errors), 9_000);
    assert_eq!(sign(3, &[(Healthy, slow, 0), (Healthy, slow, 0), of(5)]), 0);
}

#[test]
fn too_few_votes_conclude_nothing() {
    assert_eq!(concluded(3, &[]), None);
    assert_eq!(concluded(3, &[Unhealthy]), None);
    assert_eq!(concluded(3, &[Unhealthy, Unhealthy]), None, "the third is not declared dead yet");
    assert_eq!(concluded(7, &[Unhealthy, Unhealthy, Unhealthy]), None);
    assert_eq!(concluded(0, &[]), None);
}

#[test]
fn small_clusters_agree_or_stay() {
    assert_eq!(concluded(2, &[Unhealthy, Unhealthy]), Some(Unhealthy));
    assert_eq!(concluded(2, &[Unhealthy, Healthy]), None);
    assert_eq!(concluded(2, &[Healthy, Healthy]), Some(Healthy));
    assert_eq!(concluded(4, &[Unhealthy, Unhealthy, Healthy, Healthy]), None);
    assert_eq!(concluded(2, &[Unhealthy, Degraded]), Some(Degraded));
    assert_eq!(concluded(2, &[Unhealthy]), None);
    assert_eq!(concluded(1, &[Unhealthy]), Some(Unhealthy));
    assert_eq!(concluded(1, &[]), None);
    let (now, rules) = (Instant::now(), Rules { alone: false, ..Rules::default() });
    let left = tally(&[vote(1, Unhealthy, now)], &members(1), &rules, now);
    assert_eq!(left.opinion, None, "one that is left of several");
    let both = [vote(1, Unhealthy, now), vote(2, Unhealthy, now)];
    assert_eq!(tally(&both, &members(2), &rules, now).opinion, Some(Unhealthy));
    let basis = |count| tally(&[], &members(count), &Rules::default(), Instant::now()).basis;
    assert_eq!([1, 2, 3].map(basis), [Basis::Alone, Basis::Pair, Basis::Consensus]);
}

#[test]
fn old_votes_old_evidence_other_lives_and_strangers_do_not_count() {
    let start = Instant::now();
    let rules = Rules::default();
    let three = members(3);
    let good: Vec<_> = (1..=3).map(|node| vote(node, Unhealthy, start)).collect();
    let at = |votes: &[Vote], secs: u64| {
        let tally = tally(votes, &three, &rules, start + Duration::from_secs(secs));
        (tally.opinion, tally.counted, tally.stale)
    };
    assert_eq!(at(&good, 10), (Some(Unhealthy), 3, 0));
    assert_eq!(at(&good, 11), (None, 0, 3));
    let mut old = good.clone();
    old[0].age = Duration::from_secs(25);
    assert_eq!(at(&old, 5), (Some(Unhealthy), 3, 0));
    assert_eq!(at(&old, 6), (None, 2, 1), "25 s old when it came, and 6 s since");
    let mut reborn = good.clone();
    reborn[0].from.generation = 2;
    assert_eq!(at(&reborn, 0), (None, 2, 1));
    let mut stranger = good;
    stranger[0].from.node = 9;
    assert_eq!(at(&stranger, 0), (None, 2, 1));
}

#[test]
fn a_node_votes_once_and_its_last_vote_counts() {
    let now = Instant::now();
    let mut votes: Vec<_> = (1..=3).map(|node| vote(node, Healthy, now)).collect();
    votes.extend([vote(1, Unhealthy, now), vote(1, Unhealthy, now), vote(1, Unhealthy, now)]);
    let tally = tally(&votes, &members(3), &Rules::default(), now);
    assert_eq!((tally.opinion, tally.counted, tally.unhealthy), (Some(Healthy), 3, 1));
}

#[test]
fn the_cause_is_the_one_most_name_and_the_gravest_of_equals() {
    let now = Instant::now();
    let mut votes: Vec<_> = (1..=3).map(|node| vote(node, Unhealthy, now)).collect();
    votes[0].cause = Cause::Errors;
    let cause = |votes: &[Vote]| tally(votes, &members(3), &Rules::default(), now).cause;
    assert_eq!(cause(&votes), Cause::Unreachable);
    votes[1].cause = Cause::Authentication;
    assert_eq!(cause(&votes), Cause::Unreachable);
    votes[2].opinion = Healthy;
    assert_eq!(cause(&votes), Cause::Authentication, "a healthy vote names no cause");
}

/// An instance is left at once for it.
#[test]
fn open_breakers_are_the_cause_where_most_have_them() {
    let now = Instant::now();
    let mut votes: Vec<_> = [Degraded, Degraded, Healthy]
        .into_iter()
        .zip(1..)
        .map(|(opinion, node)| vote(node, opinion, now))
        .collect();
    let cause = |votes: &[Vote]| tally(votes, &members(3), &Rules::default(), now).cause;
    (votes[0].cause, votes[1].cause) = (Cause::BreakerOpen, Cause::Score);
    assert_eq!(cause(&votes), Cause::Score, "one of three has one");
    votes[1].cause = Cause::BreakerOpen;
    assert_eq!(cause(&votes), Cause::BreakerOpen);
}

#[test]
fn one_peer_with_a_broken_network_does_not_pull_a_ballot_down() {
    let weights = Weights::default();
    let well = Evidence { local: Some(1.0), peers: &[0.0, 1.0], users: Some(1.0), external: None };
    assert_eq!(ballot(&well, &weights), Some(1.0));
    // The one itself sees nothing, and still hears its peers.
    let cut = Evidence { local: Some(0.0), peers: &[1.0, 1.0], users: Some(0.0), external: None };
    let score = ballot(&cut, &weights).unwrap();
    assert_eq!(Opinion::of(score), Unhealthy);
    // Nobody else reaches the instance: this one degrades it, and does not claim it is well.
    let last = Evidence { local: Some(1.0), peers: &[0.0, 0.0], users: Some(1.0), external: None };
    assert_eq!(Opinion::of(ballot(&last, &weights).unwrap()), Degraded);
}

#[test]
fn a_ballot_weighs_what_there_is() {
    let weights = Weights::default();
    let only = |evidence| ballot(&evidence, &weights);
    assert_eq!(only(Evidence::default()), None);
    assert_eq!(only(Evidence { users: Some(0.5), ..Evidence::default() }), Some(0.5));
    let all = Evidence { local: Some(1.0), peers: &[0.5], external: Some(0.0), users: Some(1.0) };
    assert!((only(all).unwrap() - 0.65).abs() < 1e-9);
    let of = |local, peers, external, users| {
        let score = only(Evidence { local, peers, external, users });
        score.map(|it| (it * 1e3).round() / 1e3)
    };
    let (well, ill) = (Some(1.0), Some(0.0));
    // Each of the four alone against the others: its weight is what is lost.
    assert_eq!(of(ill, &[1.0], well, well), Some(0.6));
    assert_eq!(of(well, &[0.0], well, well), Some(0.7));
    assert_eq!(of(well, &[1.0], ill, well), Some(0.8));
    assert_eq!(of(well, &[1.0], well, ill), Some(0.9));
    // What is not known leaves its weight to the others; the voice from outside keeps its own.
    assert_eq!(of(ill, &[1.0], None, well), Some(0.5));
    assert_eq!(of(well, &[], ill, None), Some(0.8));
    assert_eq!(of(None, &[], ill, None), None, "it does not speak for the cluster");
}

#[test]
fn calls_that_are_judged_poor_make_no_healthy_vote() {
    let judged = |poor| Judgement { score: 0.69, mostly: None, poor };
    let by = |score, judged: Option<Judgement>| Opinion::by(score, Cause::Score, judged.as_ref());
    assert_eq!(by(1.0, None), Healthy);
    assert_eq!(by(0.97, Some(judged(false))), Healthy);
    assert_eq!(by(0.96, Some(judged(true))), Degraded);
    assert_eq!(by(0.4, Some(judged(true))), Unhealthy);
}

#[test]
fn the_middle_of_scores() {
    let middles =
        [&[][..], &[0.3], &[0.3, 0.9], &[0.9, 0.1, 0.5], &[0.0, 1.0, 0.2, 0.8], &[1.0, 1.0]];
    assert_eq!(middles.map(middle), [None, Some(0.3), Some(0.9), Some(0.5), Some(0.8), Some(1.0)]);
}

proptest! {
    /// Whatever the weights: the voice from outside alone makes nobody vote unhealthy, and takes no more
    /// off the score than its share.
    #[test]
    fn the_voice_from_outside_alone_fails_no_server_over(
        weights in (0.01f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        peers in 0usize..5,
        users: bool,
        voice in 0.0f64..=1.0,
    ) {
        let (local, peers_weigh, external, users_weigh) = weights;
        let weights = Weights { local, peers: peers_weigh, external, users: users_weigh };
        let peers = vec![1.0; peers];
        let evidence = Evidence {
            local: Some(1.0),
            peers: &peers,
            external: Some(voice),
            users: users.then_some(1.0),
        };
        let score = ballot(&evidence, &weights).unwrap();
        prop_assert_ne!(Opinion::of(score), Unhealthy);
        prop_assert!(score >= 1.0 - weights.external_share() - 1e-9);
    }

    /// Whatever one node says, as often as it likes, it declares nothing unhealthy in a cluster of
    /// three or more whose other nodes find the instance well.
    #[test]
    fn no_single_node_fails_a_server_over(
        count in 3u64..8,
        liar in 1u64..8,
        repeats in 1usize..5,
        silent in prop::collection::vec(any::<bool>(), 8),
    ) {
        let now = Instant::now();
        let liar = (liar - 1) % count + 1;
        let mut votes = Vec::new();
        for node in 1..=count {
            if node == liar {
                votes.extend(std::iter::repeat_n(vote(node, Unhealthy, now), repeats));
            } else if !silent[node as usize] {
                votes.push(vote(node, Healthy, now));
            }
        }
        let tally = tally(&votes, &members(count), &Rules::default(), now);
        prop_assert_ne!(tally.opinion, Some(Unhealthy));
        prop_assert_ne!(tally.opinion, Some(Degraded));
    }

    /// The order of the votes does not matter, and a vote for worse never makes the conclusion better.
    #[test]
    fn counting_is_fair(opinions in prop::collection::vec(0u8..3, 3..9), at in 0usize..9) {
        let now = Instant::now();
        let opinion = |it: u8| [Healthy, Degraded, Unhealthy][usize::from(it)];
        let count = opinions.len() as u64;
        let mut votes: Vec<_> =
            opinions.iter().zip(1..).map(|(it, node)| vote(node, opinion(*it), now)).collect();
        let conclude = |votes: &[Vote]| tally(votes, &members(count), &Rules::default(), now).opinion;
        let before = conclude(&votes);
        let mut reversed = votes.clone();
        reversed.reverse();
        prop_assert_eq!(conclude(&reversed), before);
        let at = at % votes.len();
        votes[at].opinion = Unhealthy;
        let after = conclude(&votes);
        prop_assert!(after.is_none() || after >= before, "{:?} after {:?}", after, before);
    }

    #[test]
    fn a_middle_is_one_of_the_scores_and_half_are_on_each_side(
        scores in prop::collection::vec(0.0f64..=1.0, 1..10),
    ) {
        let found = middle(&scores).unwrap();
        let above = scores.iter().filter(|it| **it > found).count();
        let below = scores.iter().filter(|it| **it < found).count();
        prop_assert!(above <= scores.len() / 2 && below <= scores.len() / 2);
    }
}

#[test]
fn calls_that_fail_degrade_what_answers_every_check() {
    let perfect = |cause| Opinion::by(0.95, cause, None);
    assert_eq!(perfect(Cause::Score), Healthy);
    for cause in [Cause::Errors, Cause::Exhausted, Cause::BreakerOpen] {
        assert_eq!(perfect(cause), Degraded);
        assert_eq!(Opinion::by(0.3, cause, None), Unhealthy);
    }
}

#[test]
fn who_has_no_calls_takes_over_what_most_peers_calls_say_that_reach_the_instance() {
    use Calls::Succeed;
    const OPEN: Calls = Calls::Fail(Cause::BreakerOpen);
    const ERRORS: Calls = Calls::Fail(Cause::Errors);
    type Row = (Option<Calls>, Option<f64>, &'static [Calls], Option<Cause>);
    let table: [Row; 9] = [
        (None, Some(1.0), &[OPEN], Some(Cause::BreakerOpen)),
        (None, Some(1.0), &[ERRORS], Some(Cause::Errors)),
        (None, Some(1.0), &[OPEN, ERRORS], Some(Cause::BreakerOpen)),
        (None, Some(1.0), &[], None),
        // Its own calls say it otherwise, or it does not reach the instance, or does not know.
        (Some(Succeed), Some(1.0), &[OPEN], None),
        (None, Some(0.8), &[OPEN], None),
        (None, None, &[OPEN], None),
        // The peers are of two minds.
        (None, Some(1.0), &[OPEN, Succeed], None),
        (None, Some(1.0), &[OPEN, OPEN, Succeed], Some(Cause::BreakerOpen)),
    ];
    for (own, local, peers, expected) in table {
        assert_eq!(heard(own, local, peers), expected, "{own:?} {local:?} {peers:?}");
    }
}
