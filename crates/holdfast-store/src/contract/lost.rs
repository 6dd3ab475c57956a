//! A store over a group whose replies are lost, whose node is behind, or that has no quorum.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_engine::journal::{Entry, Phase};
use holdfast_engine::replicated::{Expect, KvCommand};

use super::group::Fault;
use super::journal::{KEY, entry};
use super::streams::stream;
use super::{ME, MINUTE, OTHER, TestGroup, later, record};
use crate::{Begin, SessionKey, SessionRecord, Store, StoreError, keys};

fn store() -> (Store, Arc<TestGroup>) {
    let group = TestGroup::new();
    (Store::replicated(group.clone()), group)
}

fn unknown() -> StoreError {
    StoreError::Unknown("no reply".into())
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("no quorum".into())
}

/// What another node writes at the key of a session, whatever is there.
fn theirs(session: SessionKey) -> KvCommand {
    let other = SessionRecord { initialized: true, ..record(session.0) };
    let (key, value) = (keys::session(session), other.encode(99, true).unwrap());
    KvCommand::Put { key, value, expect: Expect::Any, deadline: None }
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_is_found() {
    let (store, group) = store();
    group.next([Fault::LoseReply]);
    let created = store.create(record(1)).await.unwrap();
    assert_eq!(store.get(created.key).await.unwrap(), created);

    group.next([Fault::LoseReply]);
    let replaced = store.replace(created.clone()).await.unwrap();
    assert!(replaced.revision > created.revision);
    assert_eq!(store.get(created.key).await.unwrap(), replaced);

    group.next([Fault::LoseReply]);
    store.touch(created.key, later(MINUTE)).await.unwrap();
    group.next([Fault::LoseReply]);
    assert_eq!(store.delete(created.key, MINUTE).await.unwrap(), replaced);
    assert_eq!(store.get(created.key).await.unwrap_err(), StoreError::Gone);

    group.next([Fault::LoseReply]);
    let begun = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap();
    let Begin::Mine(revision) = begun else { panic!("it is ours") };
    group.next([Fault::LoseReply]);
    let settled = store.settle(&KEY, revision, &entry(Phase::Failed)).await.unwrap();
    assert_eq!(store.entry(&KEY).await.unwrap(), (entry(Phase::Failed), settled));

    store.put_stream(&stream(1), MINUTE).await.unwrap();
    group.next([Fault::LoseReply]);
    store.kv.delete(keys::stream(5), Expect::Any).await.unwrap();
    assert_eq!(store.stream(5).await.unwrap_err(), StoreError::Missing);
}

#[tokio::test]
async fn a_write_that_was_lost_is_made_again_once() {
    for fault in [|| Fault::LoseProposal, || Fault::Delay] {
        let (store, group) = store();
        group.next([fault()]);
        let created = store.create(record(1)).await.unwrap();
        assert_eq!(store.get_fresh(created.key).await.unwrap(), created, "{:?}", fault());
        group.next([fault()]);
        let replaced = store.replace(created).await.unwrap();
        assert_eq!(store.get_fresh(replaced.key).await.unwrap(), replaced, "{:?}", fault());
        let dated = SessionRecord { deadline: Some(later(MINUTE)), ..record(2) };
        store.create(dated).await.unwrap();
        group.next([fault()]);
        store.touch(SessionKey(2), later(2 * MINUTE)).await.unwrap();
        let touched = store.get_fresh(SessionKey(2)).await.unwrap();
        assert_eq!(touched.deadline, Some(later(2 * MINUTE)), "{:?}", fault());
        store.put_stream(&stream(1), MINUTE).await.unwrap();
        group.next([fault()]);
        store.kv.delete(keys::stream(5), Expect::Any).await.unwrap();
        assert_eq!(store.stream(5).await.unwrap_err(), StoreError::Missing, "{:?}", fault());
    }
    let (store, group) = store();
    group.next([Fault::LoseProposal, Fault::LoseProposal]);
    assert_eq!(store.create(record(1)).await.unwrap_err(), unknown());
    group.next([Fault::LoseProposal, Fault::Refuse]);
    let error = store.create(record(1)).await.unwrap_err();
    assert_eq!(error, unknown(), "what was lost may be under way, whatever the second try says");
}

#[tokio::test]
async fn of_two_equal_entries_with_lost_replies_one_is_ours() {
    let (store, group) = store();
    // Both proposals are of one node and say the same, byte for byte but for the write's number.
    group.next([Fault::LoseReply]);
    let first = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap();
    assert!(matches!(first, Begin::Mine(_)));
    group.lag();
    let second = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap();
    assert!(matches!(second, Begin::Other(..)), "{second:?}");

    let (store, group) = self::store();
    let equal = crate::encode::encode(1, 99, &entry(Phase::Pending)).unwrap();
    let put = KvCommand::Put {
        key: keys::journal(&KEY),
        value: equal,
        expect: Expect::Any,
        deadline: None,
    };
    group.lag();
    group.next([Fault::Precede(put.clone())]);
    let begun = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap();
    assert!(matches!(begun, Begin::Other(..)), "{begun:?}");

    let (store, group) = self::store();
    group.next([Fault::LoseReplyThen(put)]);
    assert_eq!(store.begin(&KEY, &entry(Phase::Pending)).await.unwrap_err(), unknown());
}

#[tokio::test]
async fn a_write_that_somebody_wrote_over_is_unknown() {
    let (store, group) = store();
    let created = store.create(record(1)).await.unwrap();
    group.next([Fault::LoseReplyThen(theirs(created.key))]);
    assert_eq!(store.replace(created).await.unwrap_err(), unknown());
    let stored = store.get(SessionKey(1)).await.unwrap();
    assert!(stored.initialized, "the other node's");
}

#[tokio::test]
async fn without_a_quorum_a_write_did_not_happen_and_a_read_says_what_is_here() {
    let (store, group) = store();
    let created = store.create(record(1)).await.unwrap();
    let dated = SessionRecord { deadline: Some(later(MINUTE)), ..record(2) };
    store.create(dated).await.unwrap();
    let Begin::Mine(revision) = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap() else {
        panic!("there was none")
    };
    group.quorum(false);
    assert_eq!(store.get(created.key).await.unwrap(), created);
    assert_eq!(store.get(SessionKey(9)).await.unwrap_err(), unavailable(), "not Missing");
    assert_eq!(store.get_local(SessionKey(9)).unwrap_err(), StoreError::Missing);
    assert_eq!(store.get_fresh(created.key).await.unwrap_err(), unavailable());
    assert_eq!(store.stream(5).await.unwrap_err(), unavailable());
    assert_eq!(store.entry(&KEY).await.unwrap(), (entry(Phase::Pending), revision));

    assert_eq!(store.create(record(3)).await.unwrap_err(), unavailable());
    assert_eq!(store.replace(created.clone()).await.unwrap_err(), unavailable());
    assert_eq!(store.touch(created.key, later(MINUTE)).await.unwrap_err(), unavailable());
    assert_eq!(store.delete(created.key, MINUTE).await.unwrap_err(), unavailable());
    let other = holdfast_engine::journal::CallKey([8; 32]);
    assert_eq!(store.begin(&other, &entry(Phase::Pending)).await.unwrap_err(), unavailable());
    assert_eq!(
        store.settle(&KEY, revision, &entry(Phase::Failed)).await.unwrap_err(),
        unavailable()
    );
    group.advance(MINUTE);
    assert_eq!(store.due(10).await.len(), 1, "what is due is known here");
    group.quorum(true);
    assert_eq!(store.get(created.key).await.unwrap(), created);
    assert_eq!(store.get(SessionKey(3)).await.unwrap_err(), StoreError::Missing);
}

#[tokio::test]
async fn a_reply_that_is_lost_with_the_quorum_is_unknown() {
    let (store, group) = store();
    let created = store.create(record(1)).await.unwrap();
    group.next([Fault::LoseReply]);
    // Nor does the group answer the question what became of it.
    group.cut_after_next();
    assert_eq!(store.replace(created.clone()).await.unwrap_err(), unknown());
    group.quorum(true);
    let stored = store.get_fresh(created.key).await.unwrap();
    assert!(stored.revision > created.revision, "it had happened");
}

#[tokio::test]
async fn a_node_that_was_given_up_writes_nothing() {
    let (store, group) = store();
    let created = store.create(record(1)).await.unwrap();
    let Begin::Mine(revision) = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap() else {
        panic!("there was none")
    };
    group.join(ME);
    assert_eq!(store.create(record(2)).await.unwrap_err(), StoreError::Fenced);
    assert_eq!(store.replace(created.clone()).await.unwrap_err(), StoreError::Fenced);
    assert_eq!(
        store.settle(&KEY, revision, &entry(Phase::Failed)).await.unwrap_err(),
        StoreError::Fenced
    );
    assert_eq!(store.delete(created.key, MINUTE).await.unwrap_err(), StoreError::Fenced);
    assert_eq!(store.claim("files", ME, &|_| true).await.unwrap_err(), StoreError::Fenced);
    assert_eq!(store.get(created.key).await.unwrap(), created);
    // After an unknown one, a refusal does not say that nothing happened.
    group.next([Fault::LoseProposal]);
    assert_eq!(store.create(record(2)).await.unwrap_err(), unknown());
}

#[tokio::test]
async fn what_is_missing_here_is_asked_of_the_group() {
    let (store, group) = store();
    group.lag();
    let created = store.create(record(1)).await.unwrap();
    assert_eq!(store.get_local(created.key).unwrap_err(), StoreError::Missing);
    assert_eq!(store.get(created.key).await.unwrap(), created);
    assert_eq!(store.get_local(created.key).unwrap(), created, "from now on it is here");
    let before = group.asked();
    store.get(created.key).await.unwrap();
    assert_eq!(group.asked(), before, "what is here is not asked for");
}

#[tokio::test]
async fn after_a_conflict_a_read_sees_what_it_was_with() {
    let (store, group) = store();
    let created = store.create(record(1)).await.unwrap();
    group.lag();
    let replaced = store.replace(created.clone()).await.unwrap();
    assert_eq!(store.get(created.key).await.unwrap(), created, "this node is behind");
    assert_eq!(store.get_fresh(created.key).await.unwrap(), replaced);

    let again = store.replace(replaced.clone()).await.unwrap();
    assert_eq!(store.get_local(created.key).unwrap(), replaced, "behind again");
    let error = store.replace(replaced.clone()).await.unwrap_err();
    let (expected, found) = (replaced.revision, again.revision);
    assert_eq!(error, StoreError::Conflict { expected, found });
    assert_eq!(store.get_local(created.key).unwrap(), again);

    let Begin::Mine(mine) = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap() else {
        panic!("there was none")
    };
    store.entry(&KEY).await.unwrap();
    let taken = Entry { owner: OTHER, ..entry(Phase::Pending) };
    let theirs = store.settle(&KEY, mine, &taken).await.unwrap();
    assert_eq!(store.entry(&KEY).await.unwrap().1, mine, "behind");
    store.settle(&KEY, mine, &entry(Phase::Failed)).await.unwrap_err();
    assert_eq!(store.entry(&KEY).await.unwrap(), (taken, theirs));
}

#[tokio::test]
async fn whoever_deletes_a_session_does_not_find_it_again() {
    let (store, group) = store();
    let created = store.create(record(1)).await.unwrap();
    group.lag();
    store.delete(created.key, MINUTE).await.unwrap();
    assert_eq!(store.get_local(created.key).unwrap_err(), StoreError::Gone);

    // One that was changed in between is ended as it is now.
    let created = store.create(record(2)).await.unwrap();
    store.get(created.key).await.unwrap();
    group.next([Fault::Precede(theirs(created.key))]);
    let ended = store.delete(created.key, MINUTE).await.unwrap();
    assert!(ended.initialized, "the other node's change");
    assert_eq!(store.get(created.key).await.unwrap_err(), StoreError::Gone);
}

#[tokio::test]
async fn what_the_machine_does_not_take_is_refused() {
    let (store, _group) = store();
    let initialize = Bytes::from(vec![b'x'; holdfast_engine::replicated::MAX_VALUE + 1]);
    let large = SessionRecord { initialize, ..record(1) };
    let error = store.create(large).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert_eq!(store.get(SessionKey(1)).await.unwrap_err(), StoreError::Missing);
}
