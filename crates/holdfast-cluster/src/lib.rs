//! The Raft group of all nodes: who is a member, who leads, and what all of them agree on.
