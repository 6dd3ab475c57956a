//! The transport between nodes: always encrypted, both sides proven to hold the cluster secret.
