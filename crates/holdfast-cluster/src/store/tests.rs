//! The log and the state machine against openraft's own suite, and what a directory refuses.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::storage::RaftLogStorage;
use openraft::testing::log::{StoreBuilder, Suite};

use super::{Directory, DirectoryError, Log};
use crate::state_machine::{Applied, StateMachine};
use crate::types::{Types, Vote};

/// A directory that is removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-store-{}-{next}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Builder;

impl StoreBuilder<Types, Log, StateMachine, Scratch> for Builder {
    async fn build(&self) -> Result<(Scratch, Log, StateMachine), StorageError<Types>> {
        let scratch = Scratch::new();
        let open = Directory::open(scratch.path(), "a").unwrap();
        Ok((scratch, open.log, StateMachine::new(Applied::new(), open.snapshots)))
    }
}

#[test]
fn the_log_and_the_machine_pass_openrafts_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

#[tokio::test]
async fn a_directory_keeps_its_identity_and_its_vote() {
    let scratch = Scratch::new();
    let mut first = Directory::open(scratch.path(), "a").unwrap();
    assert_ne!(first.identity.node, 0);
    let vote = Vote::new(7, first.identity.node);
    first.log.save_vote(&vote).await.unwrap();
    let identity = first.identity;
    first.log.closed().await;

    let mut again = Directory::open(scratch.path(), "a").unwrap();
    assert_eq!(again.identity, identity);
    assert_eq!(openraft::RaftLogReader::read_vote(&mut again.log).await.unwrap(), Some(vote));
}

#[tokio::test]
async fn an_empty_directory_gives_a_new_identity() {
    let scratch = Scratch::new();
    let first = Directory::open(scratch.path(), "a").unwrap();
    let node = first.identity.node;
    first.log.closed().await;
    std::fs::remove_dir_all(scratch.path()).unwrap();
    let second = Directory::open(scratch.path(), "a").unwrap();
    assert_ne!(second.identity.node, node);
}

#[tokio::test]
async fn a_directory_is_for_one_process_and_one_name() {
    let scratch = Scratch::new();
    let first = Directory::open(scratch.path(), "a").unwrap();
    assert!(matches!(Directory::open(scratch.path(), "a"), Err(DirectoryError::InUse { .. })));
    first.log.closed().await;
    let Err(error) = Directory::open(scratch.path(), "b") else { panic!("another's directory") };
    assert!(matches!(&error, DirectoryError::OtherName { found, .. } if found == "a"), "{error}");
    assert!(error.to_string().contains("empty one to join as a new member"), "{error}");
}
