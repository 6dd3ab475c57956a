//! Who is a member, in which life, and what the others know about it.

use std::collections::BTreeSet;
use std::time::Instant;

use holdfast_cluster::{ProposeError, RemoveError, Role};
use holdfast_engine::replicated::{Expect, Happened, MemberState};

use crate::harness::{DEADLINE, Group, PATIENCE, put, read, until, write};

/// A node that is cut off is declared dead once its lease is over, writes nothing under its old
/// generation, and comes back under the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_is_fenced_and_joins_under_a_new_generation() {
    let group = Group::of(&["a", "b", "c"]).await;
    for mute in [false, true] {
        let leader = group.leader().await;
        let away = group.follower().await;
        let node = group.node(&away).clone();
        until("a lease", || node.lease().holds()).await;
        let generation = node.origin().generation;
        match mute {
            true => group.switch.silence(&away),
            false => group.switch.isolate(&away),
        }
        let late = tokio::spawn({
            let (node, body) = (node.clone(), put("late", "must not be", Expect::Any));
            async move { node.propose(body, PATIENCE).await }
        });
        let mut dead = false;
        until("the node to be declared dead", || {
            // Looked at in this order: dead is only declared once the lease is over.
            dead = group.state_of(&away, &leader) == Some(MemberState::Dead);
            assert!(!dead || !node.lease().holds(), "a lease outlived the declaration");
            dead
        })
        .await;
        assert!(!late.is_finished());
        group.switch.heal();
        let late = late.await.unwrap();
        // Some of its attempts may have arrived, as far as it knows; none has changed anything.
        assert!(matches!(late, Err(ProposeError::Fenced | ProposeError::Unknown)), "{late:?}");
        until("a new generation", || node.origin().generation > generation).await;
        until("a lease again", || node.lease().holds()).await;
        assert_eq!(read(&node, "late").await, None);
        write(&node, "new life", "written").await;
        assert_eq!(group.state_of(&away, &leader), Some(MemberState::Ready));
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_gone_is_dead_at_once_and_a_leader_watches_itself_not() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    let leader = group.leader().await;
    let gone = group.follower().await;
    let began = Instant::now();
    group.kill(&gone).await;
    until("the node to be declared dead", || {
        group.state_of(&gone, &leader) == Some(MemberState::Dead)
    })
    .await;
    let state = group.node(&leader).state();
    let reason = state.borrow().incidents.back().unwrap().reason.clone();
    println!("process gone: dead after {:?} ({reason})", began.elapsed());
    assert_eq!(group.state_of(&leader, &leader), Some(MemberState::Ready));
    group.stop().await;
}

/// An emptied directory is a new member that gets everything from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_an_empty_directory_takes_its_predecessors_place_and_loses_nothing() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    for key in 0..50 {
        write(group.node("a"), &format!("k{key}"), "kept").await;
    }
    for name in ["a", "c"] {
        let old = group.node(name).me();
        group.kill(name).await;
        group.wipe(name);
        let node = group.restart(name).await;
        assert_ne!(node.me(), old);
        assert_eq!(node.origin().generation, 1);
        for witness in ["a", "b", "c"] {
            for key in 0..50 {
                let value = read(group.node(witness), &format!("k{key}")).await;
                assert_eq!(value.as_deref(), Some("kept"), "k{key} at {witness}");
            }
            until("the predecessor to have left", || {
                let state = group.node(witness).state();
                let state = state.borrow();
                state.members[&old].state == MemberState::Left
                    && state.by_name(name).is_some_and(|(id, _)| id == node.me())
            })
            .await;
        }
        let nodes = group.node(name).nodes().await;
        let voters = nodes.iter().filter(|it| matches!(it.role, Role::Leader | Role::Follower));
        assert_eq!(voters.count(), 3, "{nodes:?}");
        write(&node, "afterwards", name).await;
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_joins_and_a_leader_leaves_in_good_order() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    write(group.node("b"), "before", "the fourth").await;
    let fourth = group.restart("d").await;
    assert_eq!(read(&fourth, "before").await.as_deref(), Some("the fourth"));
    let voters = |nodes: &[holdfast_cluster::NodeStatus]| {
        nodes.iter().filter(|it| matches!(it.role, Role::Leader | Role::Follower)).count()
    };
    assert_eq!(voters(&fourth.nodes().await), 4);

    let leader = group.leader().await;
    let id = group.node(&leader).me();
    let term = group.node(&leader).leadership().borrow().term;
    let other = group.follower().await;
    assert_eq!(group.node(&other).remove(id).await, Err(RemoveError::Living));
    assert!(group.node(&leader).leave().await);
    assert!(!group.node(&leader).lease().holds());
    let next = group.leader_without(Some(&leader)).await;
    assert!(group.node(&next).leadership().borrow().term > term);
    until("the leader to have left", || group.state_of(&leader, &next) == Some(MemberState::Left))
        .await;
    let reply = group.node(&leader).propose(put("x", "late", Expect::Any), DEADLINE).await;
    assert_eq!(reply, Err(ProposeError::Fenced));
    group.kill(&leader).await;
    write(group.node(&next), "after", "it left").await;
    assert_eq!(voters(&group.node(&next).nodes().await), 4);

    // Back after a restart as if it had never left; and once more after it was removed.
    for removed in [false, true] {
        if removed {
            assert!(group.node(&leader).leave().await);
            group.kill(&leader).await;
            let witness = group.names()[0].clone();
            assert_eq!(group.node(&witness).remove(id).await, Ok(()));
            let nodes = group.node(&group.leader().await).nodes().await;
            assert_eq!(voters(&nodes), 3);
            assert!(nodes.iter().any(|it| it.id == id && it.role == Role::Gone));
        }
        let back = group.restart(&leader).await;
        assert_eq!(back.me(), id);
        assert_eq!(read(&back, "after").await.as_deref(), Some("it left"));
        assert_eq!(voters(&back.nodes().await), 4);
        until("a lease", || back.lease().holds()).await;
    }
    let leader = group.leader().await;
    assert!(group.node(&leader).transfer_leadership(&BTreeSet::new()).await);
    let next = group.leader().await;
    assert_ne!(next, leader);
    group.stop().await;
}

/// The log that a node was away for is gone; it gets a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_gets_a_snapshot() {
    let mut group = Group::new();
    group.entries_per_snapshot = 40;
    group.start(&["a", "b", "c"]).await;
    let away = group.follower().await;
    write(group.node(&away), "k", "before").await;
    group.kill(&away).await;
    let leader = group.leader().await;
    for key in 0..250 {
        write(group.node(&leader), &format!("k{key}"), &"v".repeat(1000)).await;
    }
    let node = group.restart(&away).await;
    for key in 0..250 {
        let value = read(&node, &format!("k{key}")).await;
        assert_eq!(value.map(|it| it.len()), Some(1000), "k{key}");
    }
    // And its own restart begins from what it was given.
    group.kill(&away).await;
    let node = group.restart(&away).await;
    assert_eq!(read(&node, "k").await.as_deref(), Some("before"));
    assert!(read(&node, "k249").await.is_some());
    group.stop().await;
}

/// Two directories for one name: the newer one wins, and the older says why it cannot go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_was_replaced_does_not_come_back() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    group.kill("c").await;
    let kept = group.directory_of("kept");
    std::fs::rename(group.directory_of("c"), &kept).unwrap();
    group.restart("c").await;
    group.kill("c").await;
    group.wipe("c");
    std::fs::rename(&kept, group.directory_of("c")).unwrap();
    let old = group.restart_unjoined("c").await;
    let mut failed = old.failed();
    let reason = failed.wait_for(Option::is_some);
    let reason = tokio::time::timeout(PATIENCE, reason).await.unwrap().unwrap().clone();
    assert!(reason.unwrap().contains("another directory has joined as \"c\""));
    write(group.node("a"), "goes on", "yes").await;
    assert!(old.propose(put("x", "y", Expect::Any), DEADLINE / 20).await.is_err());
    group.stop().await;
}

/// A second process under the name of a node that lives takes nothing from it, and says why it is no member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_taken_for_as_long_as_its_node_lives() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    let id = group.node("c").me();
    let second = group.second("c").await;
    let mut hindered = second.hindered();
    let reason = tokio::time::timeout(PATIENCE, hindered.wait_for(Option::is_some)).await;
    let reason = reason.unwrap().unwrap().clone().unwrap();
    assert!(
        reason.starts_with("another process is in the cluster as \"c\", and alive"),
        "{reason}"
    );
    assert_eq!(second.origin().generation, 0, "it is no member");
    let leader = group.leader().await;
    let nodes = group.node(&leader).nodes().await;
    let named: Vec<_> = nodes.iter().filter(|it| it.name == "c").map(|it| it.id).collect();
    assert_eq!(named, [id]);
    write(group.node("c"), "goes on", "yes").await;

    group.kill("c").await;
    assert!(second.joined(PATIENCE).await, "it is dead");
    assert_eq!(*second.hindered().borrow(), None);
    assert_eq!(read(&second, "goes on").await.as_deref(), Some("yes"));
    second.stop().await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_majority_names_those_that_do_not_answer() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    assert_eq!(group.node("a").silent(PATIENCE).await, Vec::<String>::new());
    group.kill("b").await;
    group.kill("c").await;
    let mut silent = group.node("a").silent(PATIENCE).await;
    silent.sort();
    assert_eq!(silent, ["b", "c"]);
    group.stop().await;
}

/// A log of one group is never mixed with that of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_group_is_refused() {
    let mut group = Group::of(&["a", "b"]).await;
    let mut other = Group::of(&["c", "d"]).await;
    write(other.node("d"), "k", "of the other group").await;
    other.kill("c").await;
    other.kill("d").await;
    let here = group.directory_of("d");
    std::fs::rename(other.directory_of("d"), here).unwrap();
    let stranger = group.restart_unjoined("d").await;
    let mut failed = stranger.failed();
    let reason = failed.wait_for(Option::is_some);
    let reason = tokio::time::timeout(PATIENCE, reason).await.unwrap().unwrap().clone();
    assert!(reason.unwrap().contains("belongs to another group"));
    assert_eq!(read(group.node("a"), "k").await, None);
    let known = stranger.nodes().await;
    assert!(known.iter().all(|it| it.name == "c" || it.name == "d"), "{known:?}");
    group.stop().await;
}

/// A process that does not run for a while has to take itself for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_frozen_notices_and_begins_a_new_life() {
    let mut group = Group::of(&["a", "b"]).await;
    // A runtime of its own, with one thread that can be stopped.
    let (send, handle) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        send.send(runtime.handle().clone()).unwrap();
        let _ = runtime.block_on(ended);
    });
    let runtime = handle.recv().unwrap();
    let node = group.restart_on("c", &runtime).await;
    let mut frozen = node.frozen();
    until("a lease", || node.lease().holds()).await;
    let generation = node.origin().generation;

    let (before, pause) = (*frozen.borrow(), group.failover * 5 / 2);
    runtime.spawn(async move { std::thread::sleep(pause) });
    let leader = group.leader_without(Some("c")).await;
    let (id, state) = (node.me(), group.node(&leader).state());
    until("it to be declared dead", || {
        let state = state.borrow();
        state.incidents.iter().any(|it| it.node == id && it.what == Happened::Died)
    })
    .await;
    tokio::time::timeout(PATIENCE, frozen.wait_for(|it| *it > before)).await.unwrap().unwrap();
    until("a new generation", || node.origin().generation > generation).await;
    until("a lease again", || node.lease().holds()).await;
    until("it to be ready", || group.state_of("c", &leader) == Some(MemberState::Ready)).await;
    runtime.spawn(async move { node.stop().await }).await.unwrap();
    drop(end);
    thread.join().unwrap();
}
