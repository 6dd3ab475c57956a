//! What a store could not do, and what is known then.

/// What a store could not do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// Somebody else changed the record: read it again and decide anew.
    #[error("it was changed by someone else (revision {found:?}, expected {expected})")]
    Conflict {
        /// The revision the caller had read.
        expected: u64,
        /// The revision that is stored; none if nothing is.
        found: Option<u64>,
    },
    /// The session was deleted; it does not come back.
    #[error("the session has ended")]
    Gone,
    /// There is no such record.
    #[error("there is no such record")]
    Missing,
    /// A record with this key exists already.
    #[error("a record with this key exists already")]
    Exists,
    /// The store is away; nothing was done.
    #[error("the cluster's store is unavailable ({0})")]
    Unavailable(String),
    /// The store did not say whether it was done; it may be yet.
    #[error("the cluster's store did not confirm in time ({0})")]
    Unknown(String),
    /// This node was declared dead, or has joined anew since: nothing was done.
    #[error("this node has lost its place in the cluster")]
    Fenced,
    /// What is stored cannot be read by this version.
    #[error("a record cannot be read: {0}")]
    Malformed(String),
}
