//! Who leads, when leaders die or are cut off.

use std::time::{Duration, Instant};

use holdfast_engine::replicated::{Body, ControlCommand, MemberState, Reply};

use crate::harness::{DEADLINE, Group, eventually, read, until, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_leader_and_a_restart_of_all() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    for name in ["a", "b", "c"] {
        write(group.node(name), name, "from every node").await;
    }
    let mut times = Vec::new();
    for _ in 0..3 {
        let leader = group.leader().await;
        let began = Instant::now();
        group.kill(&leader).await;
        group.leader_without(Some(&leader)).await;
        times.push(began.elapsed());
        group.restart(&leader).await;
    }
    println!("leaders killed: new leader after {times:?}");
    let leader = group.leader().await;
    group.kill(&leader).await;
    let survivors = group.names();
    for name in &survivors {
        assert_eq!(read(group.node(name), "a").await.as_deref(), Some("from every node"));
        write(group.node(name), &format!("{name} after"), "still").await;
    }
    let generation = {
        let state = group.node(&survivors[0]).state();
        let state = state.borrow();
        state.by_name(&leader).unwrap().1.generation
    };
    let node = group.restart(&leader).await;
    assert!(node.origin().generation > generation);
    assert_eq!(read(&node, &format!("{} after", survivors[0])).await.as_deref(), Some("still"));

    for name in ["a", "b", "c"] {
        group.kill(name).await;
    }
    for name in ["a", "b", "c"] {
        group.restart_unjoined(name).await;
    }
    for name in ["a", "b", "c"] {
        assert!(group.node(name).joined(crate::harness::PATIENCE).await);
        for key in ["a", "b", "c"] {
            assert_eq!(read(group.node(name), key).await.as_deref(), Some("from every node"));
        }
    }
    group.stop().await;
}

/// Twenty times: the leader is cut off, another is elected, the old one comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_cuts_of_the_leader_never_give_two_leaders_in_a_term() {
    let group = Group::of(&["a", "b", "c"]).await;
    let mut times: Vec<Duration> = Vec::new();
    for cut in 0..20_u32 {
        let old = group.leader().await;
        let term = group.node(&old).leadership().borrow().term;
        let began = Instant::now();
        group.switch.isolate(&old);
        let new = eventually("a new leader", || {
            let others = group.names().into_iter().filter(|it| *it != old);
            others.into_iter().find(|it| {
                let leadership = *group.node(it).leadership().borrow();
                leadership.me && leadership.term > term
            })
        })
        .await;
        times.push(began.elapsed());
        group.switch.heal();
        until("the old leader to follow", || {
            group
                .node(&old)
                .leadership()
                .borrow()
                .leader
                .is_some_and(|it| it != group.node(&old).me())
        })
        .await;
        write(group.node(&new), "cut", &cut.to_string()).await;

        // What the deposed leader had decided in its term is refused.
        let (about, generation) = {
            let state = group.node(&old).state();
            let state = state.borrow();
            let (id, member) = state.by_name(&new).unwrap();
            (id, member.generation)
        };
        let declare = ControlCommand::Declare {
            node: about,
            generation,
            state: MemberState::Dead,
            term,
            reason: "decided before it was deposed".to_owned(),
        };
        let reply = group.node(&old).propose(Body::Control(declare), DEADLINE).await;
        assert!(matches!(reply, Ok(Reply::Stale { .. })), "{reply:?}");
    }
    group.check_terms();
    times.sort_unstable();
    println!("20 cuts: new leader after median {:?}, max {:?}", times[10], times[19]);
    for name in ["a", "b", "c"] {
        assert_eq!(read(group.node(name), "cut").await.as_deref(), Some("19"));
    }
    group.stop().await;
}

/// With pre-vote a follower that hears nothing does not raise its term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_comes_back_disturbs_nobody() {
    let group = Group::of(&["a", "b", "c"]).await;
    let leader = group.leader().await;
    let follower = group.follower().await;
    let before = *group.node(&leader).leadership().borrow();
    group.switch.isolate(&follower);
    // Long enough that it would have stood for election several times.
    until("the follower to be declared dead", || {
        group.state_of(&follower, &leader) == Some(MemberState::Dead)
    })
    .await;
    tokio::time::sleep(group.failover * 2).await;
    write(group.node(&leader), "meanwhile", "written").await;
    group.switch.heal();
    until("the follower to have heard", || {
        group.node(&follower).get(b"meanwhile").is_some()
            && group.state_of(&follower, &leader) == Some(MemberState::Ready)
    })
    .await;
    assert_eq!(*group.node(&leader).leadership().borrow(), before);
    assert_eq!(group.node(&follower).leadership().borrow().term, before.term);
    group.stop().await;
}

/// A leader that is heard and does not hear, or hears and is not heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_in_one_direction_is_replaced() {
    let group = Group::of(&["a", "b", "c"]).await;
    for deaf in [true, false] {
        let old = group.leader().await;
        let term = group.node(&old).leadership().borrow().term;
        let began = Instant::now();
        match deaf {
            true => group.switch.deafen(&old),
            false => group.switch.silence(&old),
        }
        let new = eventually("a new leader", || {
            group.names().into_iter().filter(|it| *it != old).find(|it| {
                let leadership = *group.node(it).leadership().borrow();
                leadership.me && leadership.term > term
            })
        })
        .await;
        println!(
            "leader that is {}: replaced after {:?}",
            if deaf { "deaf" } else { "mute" },
            began.elapsed()
        );
        until("the lease of the old leader to end", || !group.node(&old).lease().holds()).await;
        write(group.node(&new), "one way", "written").await;
        group.switch.heal();
        assert_eq!(read(group.node(&old), "one way").await.as_deref(), Some("written"));
    }
    group.stop().await;
}
