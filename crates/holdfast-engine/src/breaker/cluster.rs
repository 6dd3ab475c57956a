//! Whether a server is open for all nodes, by what each of them says.
//!
//! One node alone never opens a server for the others: what it takes for a server that hangs may be
//! its own network. So either two nodes' breakers have opened on what they saw, or the summed rate is
//! clearly above the threshold *whichever node's evidence is left out*. On a single node there is
//! nobody to open it for.
//!
//! Evidence is used once. A node that has heard the cluster's word starts to count anew, and what it
//! said before must not count towards the next word: else a word would be its own reason, and a server
//! that is well again would stay open for ever. Who collects the reports leaves those out.

use super::Params;
use super::window::clearly_above;

/// What one node says of a server. Evidence of its own network is not in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// Its breaker is open because of the server's failures, seen since then.
    pub opened: bool,
    /// Calls within the window that reached the server, or should have been answered by now.
    pub calls: u32,
    /// Those of them that failed.
    pub failed: u32,
}

/// Why a server is opened for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterCause {
    /// So many nodes' breakers are open.
    Nodes(u32),
    /// The calls of all nodes together.
    SummedRate {
        /// Failed calls.
        failed: u32,
        /// All calls.
        calls: u32,
    },
}

/// Whether the server is to be opened for all. `reports` has the newest of each node that can be
/// heard, one per node; the caller leaves out what is old, and what was said by a node before it had
/// heard the cluster's last word about this breaker.
#[must_use]
pub fn cluster_verdict(reports: &[Evidence], params: &Params) -> Option<ClusterCause> {
    let params = params.sane();
    let opened = reports.iter().filter(|it| it.opened).count();
    if opened >= 2 {
        return Some(ClusterCause::Nodes(u32::try_from(opened).unwrap_or(u32::MAX)));
    }
    let sum = |left_out: Option<usize>| {
        let counted = reports.iter().enumerate().filter(|(at, _)| Some(*at) != left_out);
        counted.fold((0u32, 0u32), |(failed, calls), (_, it)| {
            (failed.saturating_add(it.failed), calls.saturating_add(it.calls))
        })
    };
    let without = |left_out| {
        let (failed, calls) = sum(Some(left_out));
        calls >= params.minimum_calls && clearly_above(failed, calls, params.failure_rate)
    };
    let all_agree = reports.len() >= 2 && (0..reports.len()).all(without);
    let (failed, calls) = sum(None);
    all_agree.then_some(ClusterCause::SummedRate { failed, calls })
}
