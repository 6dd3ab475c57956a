//! The configuration's versions in the API's words.

use serde::{Deserialize, Serialize};

/// `POST /api/config/reload`: the node reads its file and takes it over, in a cluster on all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequestDto {
    /// Only say what would change.
    #[serde(default)]
    pub check: bool,
}

/// `POST /api/config/rollback`: the content of an earlier version becomes a new version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequestDto {
    /// The earlier version.
    pub version: u64,
}

/// What came of either.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReloadedDto {
    /// The version that holds now; 0: none was agreed on.
    pub version: u64,
    /// Whether that is a new one.
    pub new: bool,
    /// What has changed on the node that was asked, or would.
    pub changes: Vec<ChangeDto>,
    /// How the nodes stand to it; none of a check.
    pub nodes: Vec<ConfigNodeDto>,
}

/// One setting.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeDto {
    /// Its key as in the file.
    pub key: String,
    /// What it was; none: it was not there. Never a secret's value.
    pub old: Option<String>,
    /// What it is; none: it is gone. Never a secret's value.
    pub new: Option<String>,
}

/// `GET /api/config/history`: the versions, the newest last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigHistoryDto {
    /// The last of them holds.
    pub versions: Vec<ConfigVersionDto>,
    /// Which of them each node runs.
    pub nodes: Vec<ConfigNodeDto>,
}

/// One version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigVersionDto {
    /// Counts up from 1.
    pub version: u64,
    /// SHA-256 of its text, in hexadecimal digits.
    pub id: String,
    /// Who proposed it.
    pub by: String,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The version whose content it took up again.
    pub rolls_back_to: Option<u64>,
}

/// How one node stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigNodeDto {
    /// Its name.
    pub node: String,
    /// The version that it runs, 0: its own file; none: it does not answer.
    pub version: Option<u64>,
    /// Since when, milliseconds since 1970.
    pub since_unix_ms: Option<u64>,
    /// The version that it could not take over.
    pub failed: Option<u64>,
    /// Why.
    pub why: Option<String>,
    /// How its file stands to the version that holds: `same`, `differs` or `unknown`.
    pub file: Option<String>,
    /// What is wrong with its file.
    pub trouble: Option<String>,
    /// It runs another version of Holdfast, which says all this in a format of this number, and the
    /// node that speaks cannot read that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<u8>,
}

/// `GET /api/config?version=3`: the text of a version, or of the one that holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigTextDto {
    /// Which one.
    pub version: u64,
    /// YAML, without any secret's value and without what is one node's own.
    pub text: String,
}
