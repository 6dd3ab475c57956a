//! When a server is opened for all nodes: never by one node's word.

use holdfast_engine::breaker::{
    Breaker, ClusterCause, Evidence, Outcome, Params, Phase, cluster_verdict,
};
use proptest::prelude::*;

use super::rig::{Rig, SECOND};

fn says(opened: bool, failed: u32, calls: u32) -> Evidence {
    Evidence { opened, calls, failed }
}

fn verdict(reports: &[Evidence]) -> Option<ClusterCause> {
    cluster_verdict(reports, &Params::default())
}

#[test]
fn two_nodes_that_have_opened_open_it_for_all() {
    let well = says(false, 0, 1000);
    assert_eq!(verdict(&[says(true, 5, 5), says(true, 5, 9), well]), Some(ClusterCause::Nodes(2)));
    assert_eq!(verdict(&[says(true, 5, 5), well, well]), None);
    assert_eq!(verdict(&[]), None);
}

/// What is too little on each node is enough in sum.
#[test]
fn the_summed_rate_opens_it_where_no_node_alone_would() {
    let each = says(false, 6, 30);
    let cause = ClusterCause::SummedRate { failed: 18, calls: 90 };
    assert_eq!(verdict(&[each; 3]), Some(cause));
    assert_eq!(verdict(&[each; 2]), None, "too few calls without either");
    assert_eq!(verdict(&[says(false, 1, 100); 3]), None);
}

/// One node that is cut off from a healthy server takes its calls for hanging.
#[test]
fn a_node_with_a_broken_network_opens_it_for_nobody() {
    let well = says(false, 3, 300);
    for opened in [false, true] {
        // However many there are.
        assert_eq!(verdict(&[says(opened, u32::MAX, u32::MAX), well, well, well]), None);
        let cut_off = says(opened, 100_000, 100_000);
        assert_eq!(verdict(&[cut_off, well, well]), None);
        assert_eq!(verdict(&[cut_off, says(false, 0, 0), says(false, 0, 0)]), None);
        assert_eq!(verdict(&[cut_off]), None);
    }
}

/// A word that would be its own reason would keep a server open for ever.
#[test]
fn the_clusters_word_uses_evidence_up() {
    let mut rig = Rig::open(Params::default());
    assert!(rig.breaker.evidence().opened);
    assert!(rig.breaker.opened_by_cluster(rig.now + SECOND, 4, rig.now, 0));
    assert_eq!(rig.breaker.evidence(), Evidence::default());
    // Half-open, it has seen nothing yet; a probe that fails is news.
    rig.wait(60 * SECOND);
    assert_eq!(rig.phase(), Phase::HalfOpen);
    assert_eq!(rig.breaker.evidence(), Evidence::default());
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.breaker.evidence(), says(true, 1, 1));
}

proptest! {
    /// Whatever one node says: if the others together see nothing, nobody is opened.
    #[test]
    fn one_node_is_never_enough(
        failed in any::<u32>(),
        more in any::<u32>(),
        opened in any::<bool>(),
        others in prop::collection::vec(0u32..1_000_000, 0..6),
        at in any::<prop::sample::Index>(),
    ) {
        let mut reports: Vec<Evidence> =
            others.iter().map(|calls| says(false, calls / 100, *calls)).collect();
        let liar = says(opened, failed, failed.saturating_add(more));
        reports.insert(at.index(reports.len() + 1), liar);
        prop_assert_eq!(verdict(&reports), None);
    }

    #[test]
    fn the_order_of_the_reports_does_not_matter(
        reports in prop::collection::vec((any::<bool>(), 0u32..500, 0u32..5_000), 0..6),
    ) {
        let mut reports: Vec<Evidence> = reports
            .into_iter()
            .map(|(opened, failed, more)| says(opened, failed, failed + more))
            .collect();
        let forward = verdict(&reports);
        reports.reverse();
        prop_assert_eq!(forward, verdict(&reports));
    }
}

/// Nodes that the cluster's word opened together do not try together, and not as soon each time.
#[test]
fn the_clusters_word_is_scattered_and_lasts_longer_each_time() {
    let rig = Rig::new(Params::default());
    let opened = |breaker: &mut Breaker, word: u64, now, chance| {
        assert!(breaker.opened_by_cluster(now + 10 * SECOND, word, now, chance));
        breaker.status().open_until.expect("open") - now
    };
    for (chance, least, most) in
        [(0, 10.0, 10.0), (u64::MAX / 2, 11.2, 11.3), (u64::MAX, 12.4, 12.5)]
    {
        let length = opened(&mut rig.breaker.clone(), 1, rig.now, chance).as_secs_f64();
        assert!((least..=most).contains(&length), "{length}");
    }
    let (mut breaker, mut now) = (rig.breaker.clone(), rig.now);
    for (word, seconds) in [(1, 10), (2, 20), (3, 40), (4, 48), (5, 48)] {
        let length = opened(&mut breaker, word, now, 0);
        assert_eq!(length, seconds * SECOND, "word {word}");
        now += length;
        breaker.tick(now, 0);
        assert_eq!(breaker.phase(), Phase::HalfOpen);
    }
    // What the node has opened itself is the same opening.
    let mut own = Rig::open(Params::default());
    let length = opened(&mut own.breaker, 1, own.now, 0);
    assert!(length <= 38 * SECOND, "{length:?}");
}
