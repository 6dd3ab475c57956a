//! What a node says of its configuration, to other nodes and to operators.

use serde::{Deserialize, Serialize};

use crate::report::{decode, encode};

/// What other nodes are asked.
pub(crate) const STANDING: &str = "control/configuration";

/// The format of what nodes tell each other of it. It is the first byte of each such message, so that a
/// later version can say something else and be told from this one.
const FORMAT: u8 = 1;

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
    /// What it says.
    pub said: Said,
}

/// What came of asking a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// How it stands.
    Standing(Standing),
    /// It runs another version of Holdfast, and says it in this format, which this node cannot read.
    Format(u8),
    /// Nothing that makes sense: it does not answer, most likely.
    Nothing,
}

impl Said {
    /// How it stands, where that is known.
    #[must_use]
    pub fn standing(&self) -> Option<&Standing> {
        match self {
            Self::Standing(standing) => Some(standing),
            Self::Format(_) | Self::Nothing => None,
        }
    }

    /// What a node's message says.
    pub(super) fn read(message: &[u8]) -> Self {
        match message.split_first() {
            Some((&FORMAT, rest)) => decode(rest).map_or(Self::Nothing, Self::Standing),
            Some((format, _)) => Self::Format(*format),
            None => Self::Nothing,
        }
    }
}

impl Standing {
    pub(super) fn to_message(&self) -> Result<Vec<u8>, String> {
        let mut message = vec![FORMAT];
        message.extend(encode(self)?);
        Ok(message)
    }

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
