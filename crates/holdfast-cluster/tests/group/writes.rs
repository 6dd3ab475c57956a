//! What becomes of a write when messages are lost.

use std::time::Duration;

use holdfast_cluster::{Change, ProposeError};
use holdfast_engine::replicated::{Expect, Reply};

use crate::harness::{DEADLINE, Group, put, read, until, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_whose_answer_was_lost_is_done_once() {
    let group = Group::of(&["a", "b", "c"]).await;
    let follower = group.node(&group.follower().await).clone();
    for round in 0..10 {
        group.switch.lose_answers("cluster/propose", 3);
        let body = put(&format!("k{round}"), "once", Expect::Absent);
        let reply = follower.propose(body, DEADLINE).await;
        // Done a second time, it would find what it wrote the first time.
        assert!(matches!(reply, Ok(Reply::Done { .. })), "{reply:?}");
        assert_eq!(group.switch.to_be_lost("cluster/propose"), 0);
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_says_whether_a_write_may_have_been_made() {
    let group = Group::of(&["a", "b", "c"]).await;
    let leader = group.leader().await;
    let follower = group.node(&group.follower().await).clone();
    group.switch.lose_answers("cluster/propose", usize::MAX);
    let short = Duration::from_millis(500);
    let reply = follower.propose(put("k", "made", Expect::Any), short).await;
    assert_eq!(reply, Err(ProposeError::Unknown));
    group.switch.lose_answers("cluster/propose", 0);
    assert_eq!(read(&follower, "k").await.as_deref(), Some("made"));

    // A read sees the latest write, wherever that was made.
    let mut changes = follower.changes();
    write(group.node(&leader), "k", "newer").await;
    assert_eq!(read(&follower, "k").await.as_deref(), Some("newer"));
    until(
        "the change to be told",
        || matches!(changes.try_recv(), Ok(Change::Key { key, .. }) if &key[..] == b"k"),
    )
    .await;
    group.stop().await;
}

/// Without a quorum nothing is done and nothing is read; nobody waits longer than asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_every_wait_ends() {
    let mut group = Group::of(&["a", "b", "c"]).await;
    group.kill("a").await;
    group.kill("b").await;
    let node = group.node("c").clone();
    until("the lease to end", || !node.lease().holds()).await;
    let reply = node.propose(put("k", "v", Expect::Any), Duration::from_millis(300)).await;
    assert!(matches!(reply, Err(ProposeError::Unavailable | ProposeError::Unknown)), "{reply:?}");
    assert!(node.read_index(Duration::from_millis(300)).await.is_err());
    group.restart("a").await;
    write(&node, "k2", "v").await;
    until("a lease again", || node.lease().holds()).await;
    group.stop().await;
}
