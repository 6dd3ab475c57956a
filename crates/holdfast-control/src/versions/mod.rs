//! The configuration that this node runs: how it comes from its file, or from what the cluster agreed on,
//! and what it tells of that.
//!
//! ```text
//!  file changed, SIGHUP, `holdfast reload` ──▶ read, check ──▶ propose ──▶ the group's history
//!  `holdfast config rollback`              ──▶ compose, check ─▶    │
//!                                                                    ▼ every node
//!                     what holds + this node's own settings ──▶ compose ──▶ apply, or say why not
//! ```
//!
//! A version is proposed by the node that has it, which has checked that it could apply it. Then each
//! node takes it over by itself, whole or not at all; one that cannot keeps what it runs, says so, and
//! tries again. The text of a version is a value of the group's own store, under its digest; the history
//! names the digest. Both are the same on a node alone, which is a group of one and forgets its history
//! when it ends ([decision 14](../../../../docs/decisions/0014-a-configuration-is-a-version-in-the-log.md)).
//!
//! | file | holds |
//! |---|---|
//! | `keeper` | reading, proposing, following |
//! | `ledger` | the group: history and texts |
//! | `apply` | what a running node can do with a configuration |
//! | `record` | what the file had when this node last looked, across restarts |
//! | `standing` | what nodes tell each other about it |
//! | `tell` | what is told of it |
//! | `watch` | the file, looked at again and again |
//! | `view` | what operators are told |

mod apply;
mod keeper;
mod ledger;
mod metrics;
mod record;
mod standing;
mod tell;
#[cfg(test)]
mod tests;
mod view;
mod watch;

pub use self::apply::{Apply, Refusal};
pub use self::keeper::{Settings, Versions};
pub use self::ledger::Ledger;
pub use self::standing::{FileStanding, NodeStanding, Said, Standing};
pub use self::view::{Ask, Configured, History, ReloadError, Reloaded, Shown, VersionView};
