//! What a node keeps on disk: who it is, its log and vote, and its last snapshot.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | nothing; locked while a process uses the directory |
//! | `raft.redb` | the identity, the vote, the log, how far it is committed and purged |
//! | `snapshot` | the state that the purged part of the log had led to |
//!
//! The identity is in the same file as the log on purpose. A node that has lost its log must not go on
//! under its old id: it would vote again in terms in which it has voted, and the group would lose what
//! it had acknowledged without anybody noticing. Whoever deletes the log deletes the id with it.

mod directory;
mod log;
mod snapshots;
#[cfg(test)]
mod tests;
mod writer;

pub use directory::DirectoryError;
pub(crate) use directory::{Directory, Identity};
pub(crate) use log::Log;
pub(crate) use snapshots::Snapshots;
