//! `node`: what makes this process itself, as opposed to a copy of it.

use std::path::PathBuf;

use secrecy::SecretString;

/// Who this node is and what it keeps between two starts.
#[derive(Clone, Debug)]
pub struct Node {
    /// A name for people: in logs, `/health` and `status`. 1 to 64 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Where the node may write. `None`: it writes nothing.
    pub data_dir: Option<PathBuf>,
    /// Seals event ids, so that a client can resume a stream after a restart. At least 32
    /// characters. `None`: a random secret for this process's life.
    pub secret: Option<SecretString>,
}

impl Default for Node {
    fn default() -> Self {
        Self { id: "holdfast".into(), data_dir: None, secret: None }
    }
}
