//! Placements, over every store.

use holdfast_engine::replicated::{Expect, KvCommand, Origin};

use super::group::Fault;
use super::{ME, OTHER, TestGroup, benches};
use crate::{Store, StoreError};

#[tokio::test]
pub(super) async fn a_place_is_its_holders_until_that_is_gone_or_gives_it_up() {
    for bench in benches() {
        let store = &bench.store;
        let all = |_| true;
        let none = |_| false;
        assert_eq!(store.claim("files", ME, &all).await, Ok(ME), "{}", bench.name);
        assert_eq!(store.claim("files", ME, &none).await, Ok(ME), "it knows itself");
        assert_eq!(store.claim("files", OTHER, &all).await, Ok(ME));
        assert_eq!(store.claim("web", OTHER, &all).await, Ok(OTHER), "another place");
        assert_eq!(store.claim("files", OTHER, &|origin| origin != ME).await, Ok(OTHER));
        assert_eq!(store.claim("files", ME, &all).await, Ok(OTHER), "{}", bench.name);

        store.release("files", ME).await.unwrap();
        assert_eq!(store.claim("files", ME, &all).await, Ok(OTHER), "it was not its to give");
        store.release("files", OTHER).await.unwrap();
        assert_eq!(store.claim("files", ME, &all).await, Ok(ME), "{}", bench.name);
        store.release("nowhere", ME).await.unwrap();
    }
}

#[tokio::test]
async fn who_claims_a_place_that_another_has_just_claimed_gets_its_holder() {
    let gone = Origin { node: 3, generation: 1 };
    for (holder_counts, had_one) in [(true, false), (true, true), (false, false), (false, true)] {
        let group = TestGroup::new();
        let store = Store::replicated(group.clone());
        if had_one {
            store.claim("files", gone, &|_| true).await.unwrap();
        }
        let theirs = KvCommand::Put {
            key: crate::keys::placement("files"),
            value: crate::encode::encode(1, 99, &OTHER).unwrap(),
            expect: Expect::Any,
            deadline: None,
        };
        group.next([Fault::Precede(theirs)]);
        let expected = if holder_counts { OTHER } else { ME };
        let holder = store.claim("files", ME, &|it| it != gone && holder_counts).await;
        assert_eq!(holder, Ok(expected), "{had_one}");
    }
}

#[tokio::test]
async fn a_known_place_needs_no_group_and_an_unknown_one_does() {
    let group = TestGroup::new();
    let store = Store::replicated(group.clone());
    store.claim("files", OTHER, &|_| true).await.unwrap();
    group.quorum(false);
    assert_eq!(store.claim("files", ME, &|_| true).await, Ok(OTHER));
    let unavailable = StoreError::Unavailable("no quorum".into());
    assert_eq!(store.claim("web", ME, &|_| true).await, Err(unavailable));
}
