//! The Raft group of all nodes: who is a member, who leads, and what all of them agree on.

mod state_machine;
mod store;
mod types;

/// A random number that is not 0.
fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}
