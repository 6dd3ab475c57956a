//! What operators ask of the configuration, and what they are told.

use futures_util::future::BoxFuture;
use holdfast_config::Change;

use super::standing::NodeStanding;

/// The configuration as something that can be looked at, and changed.
pub trait Configured: Send + Sync + 'static {
    /// Reads the file and takes it over, in a cluster on all nodes. Fourteen seconds at most.
    ///
    /// # Cancel safety
    /// None: whoever may go before the end does it in a task of its own.
    ///
    /// # Errors
    /// [`ReloadError`]: then nothing has changed, unless it says that this is not known.
    fn reload(&self, ask: Ask) -> BoxFuture<'_, Result<Reloaded, ReloadError>>;

    /// Takes the content of an earlier version up again, as a new version. Otherwise
    /// as [`Self::reload`].
    ///
    /// # Errors
    /// As for [`Self::reload`].
    fn roll_back(&self, version: u64) -> BoxFuture<'_, Result<Reloaded, ReloadError>>;

    /// The versions, and which of them each node runs.
    fn history(&self) -> BoxFuture<'_, History>;

    /// The text of a version, or of the one that holds. Secrets are hidden in it where the
    /// configuration knows them for such: not in arguments of commands and paths of servers.
    ///
    /// # Errors
    /// [`ReloadError::Unknown`], [`ReloadError::NoText`].
    fn show(&self, version: Option<u64>) -> Result<Shown, ReloadError>;

    /// Appends the metrics.
    fn render(&self, out: &mut String);
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// That it is done.
    Do,
    /// Only what it would change.
    Check,
}

/// What a reload or a rollback came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reloaded {
    /// The version that holds now; 0: nothing was agreed on.
    pub version: u64,
    /// Whether that is a new one.
    pub new: bool,
    /// What has changed on this node, or would. Never a secret's value.
    pub changes: Vec<Change>,
    /// How the nodes stand to it, after a moment to take it over; of a check, none.
    pub nodes: Vec<NodeStanding>,
}

/// The versions that are remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// Oldest first; the last one holds.
    pub versions: Vec<VersionView>,
    /// In the order of their names.
    pub nodes: Vec<NodeStanding>,
}

/// One version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionView {
    /// Counts up from 1.
    pub version: u64,
    /// SHA-256 of its text.
    pub id: String,
    /// Who proposed it.
    pub by: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The version whose content it took up again.
    pub rolls_back_to: Option<u64>,
}

/// The text of a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The version.
    pub version: u64,
    /// YAML.
    pub text: String,
}

/// Why a configuration is not taken over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReloadError {
    /// It cannot be read, or something in it is wrong: all problems.
    #[error("{0}")]
    Problems(String),
    /// This node could not take it over.
    #[error("{0}")]
    Refused(String),
    /// It is longer than what the cluster keeps of one value.
    #[error(
        "without what is a node's own it has {found} bytes, and a version has at most {most}: take \
         servers out, or run a second gateway for some of them"
    )]
    TooLong {
        /// Its length.
        found: usize,
        /// The longest.
        most: usize,
    },
    /// Another one was agreed on first.
    #[error(
        "version {version} came first, {by}: look at it with `holdfast config show`, and try again if \
         yours is to follow it"
    )]
    Overtaken {
        /// The version that holds.
        version: u64,
        /// Who proposed it.
        by: String,
    },
    /// There is no such version.
    #[error("there is no version {version}; {known}")]
    Unknown {
        /// What was asked for.
        version: u64,
        /// What there is, in words.
        known: String,
    },
    /// It holds already.
    #[error("version {version} has the content that holds")]
    Holds {
        /// What was asked for.
        version: u64,
    },
    /// Its text is not kept any more.
    #[error("the text of version {version} is not kept any more")]
    NoText {
        /// What was asked for.
        version: u64,
    },
    /// It was agreed on, and this node could not take it over.
    #[error("version {version} holds, and this node cannot take it over: {why}")]
    Failed {
        /// The version that holds.
        version: u64,
        /// Why not.
        why: String,
    },
    /// Another change is under way at this node, and takes its time.
    #[error(
        "another change of the configuration is under way at this node: look at what becomes of it with \
         `holdfast config history`, and try again"
    )]
    Busy,
    /// Too few nodes are there to decide anything.
    #[error(
        "the cluster has no quorum: a configuration changes when a majority of its nodes is there; \
         until then each goes on with the one it runs"
    )]
    NoQuorum,
    /// The group did not answer in time; it may do so yet.
    #[error(
        "the cluster did not answer in time; the version may hold yet: look with `holdfast config \
         history`"
    )]
    TimedOut,
}

impl ReloadError {
    /// Whether the same may be taken over in a moment, with nothing changed.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::NoQuorum | Self::TimedOut)
    }
}
