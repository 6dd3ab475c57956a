//! What a node says of its configuration, to other nodes and to operators.

use serde::{Deserialize, Serialize};

/// What other nodes are asked.
pub(crate) const STANDING: &str = "control/configuration";

/// What one node says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    /// The version that it runs; 0: its file, nothing was agreed on.
    pub version: u64,
    /// Since when, in milliseconds since the Unix epoch.
    pub since: u64,
    /// The version that it could not take over, and why.
    pub failed: Option<(u64, String)>,
    /// How its file stands to what holds.
    pub file: FileStanding,
    /// What is wrong with its file, which it does not go by then.
    pub trouble: Option<String>,
}

/// How a node's file stands to the version that holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum FileStanding {
    /// Nothing has been agreed on yet.
    #[default]
    Unknown,
    /// It is that version.
    Same,
    /// It is another configuration.
    Differs,
}

/// What is known of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStanding {
    /// Its name.
    pub node: String,
    /// What it says; none: it does not answer.
    pub standing: Option<Standing>,
}

impl Standing {
    /// Whether it has done what it can about this version.
    pub(super) fn has_dealt_with(&self, version: u64) -> bool {
        self.version >= version || self.failed.as_ref().is_some_and(|(of, _)| *of >= version)
    }
}

impl FileStanding {
    /// `unknown`, `same` or `differs`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Same => "same",
            Self::Differs => "differs",
        }
    }
}
