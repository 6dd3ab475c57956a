//! The reconcilers, one a file.
//!
//! | task | where | compares | acts |
//! |---|---|---|---|
//! | `probe` | every node, per instance | when it was last checked, with when it should be | checks it |
//! | `report` | every node | what it knows, with what the coordinator was told | tells it |
//! | `follow` | every node | what is agreed on, with what the data plane was told | tells it |
//! | `losses` | every node | what outages cost its clients, with what was told of that | tells the coordinator |
//! | `verdict` | coordinator | the votes, with the verdicts | proposes verdicts |
//! | `node` | every | how the node itself is, with its limits | shows it, hands over, steps aside |
//! | `breaker_sync` | coordinator | the nodes' breakers, with what is open for all | opens for all |
//! | `failover` | coordinator | verdicts and confirmations, with the step of each move | proposes the next |
//! | `notify` | coordinator | the history, with what was announced | calls webhooks |
//! | `objectives` | coordinator | incidents, with the objectives | takes down answers and breaches |
//!
//! `beside` are the checks for which `probe` does not wait.

mod beside;
pub(crate) mod breaker_sync;
pub(crate) mod failover;
pub(crate) mod follow;
pub(crate) mod losses;
pub(crate) mod node;
pub(crate) mod notify;
pub(crate) mod objectives;
pub(crate) mod probe;
pub(crate) mod report;
pub(crate) mod verdict;
