//! The control plane: looks at the servers, decides with the other nodes which of them can be used, and
//! moves traffic. It may be away; the data plane goes on with what it was last told.
//!
//! Decisions are pure code (`holdfast_engine`), what all agree on is in the Raft group
//! (`holdfast_cluster`), and what a call meets is in the data plane (`holdfast_proxy`). Here is what
//! drives the three, as reconcilers that can be killed at any point.

mod driver;
mod metrics;

pub use self::metrics::Metrics;
