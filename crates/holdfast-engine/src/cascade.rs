//! Which servers need which others, and what it means for them when one is not there.
//!
//! A server whose tools call another one fails when that does: slowly, with its own breaker learning
//! it the hard way. So a call is refused while something is open that its server depends on, directly
//! or through others. A cycle would have its servers wait for one another for ever and is refused when
//! the graph is made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// Who depends on whom, without cycles. Small: made from the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DependencyGraph<S> {
    /// Server → everything it needs, the nearest first.
    needs: BTreeMap<S, Vec<S>>,
    /// Server → everything that needs it.
    needed_by: BTreeMap<S, BTreeSet<S>>,
}

/// Servers that depend on one another in a circle: each on the next, the last on the first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cycle<S>(pub Vec<S>);

// === impl DependencyGraph ===

impl<S: Ord + Clone> DependencyGraph<S> {
    /// A graph of edges `(server, what it depends on)`. An edge given twice counts once.
    ///
    /// # Errors
    /// The servers of one cycle, if there is any; a server that depends on itself is one.
    pub fn try_new(edges: impl IntoIterator<Item = (S, S)>) -> Result<Self, Cycle<S>> {
        let mut direct: BTreeMap<S, BTreeSet<S>> = BTreeMap::new();
        for (server, needed) in edges {
            direct.entry(server).or_default().insert(needed);
        }
        find_cycle(&direct)?;
        let needs: BTreeMap<S, Vec<S>> =
            direct.keys().map(|server| (server.clone(), nearest_first(server, &direct))).collect();
        let mut needed_by: BTreeMap<S, BTreeSet<S>> = BTreeMap::new();
        for (server, needed) in &needs {
            for needed in needed {
                needed_by.entry(needed.clone()).or_default().insert(server.clone());
            }
        }
        Ok(Self { needs, needed_by })
    }

    /// The server for whose sake a call to `server` is refused: the nearest of those it depends on
    /// that is open.
    #[must_use]
    pub fn blocked_by(&self, server: &S, open: &BTreeSet<S>) -> Option<&S> {
        if open.is_empty() {
            return None;
        }
        self.needs(server).iter().find(|needed| open.contains(needed))
    }

    /// Everything that `server` depends on, directly or through others, the nearest first.
    #[must_use]
    pub fn needs(&self, server: &S) -> &[S] {
        self.needs.get(server).map_or(&[], Vec::as_slice)
    }

    /// The servers that are of no use while `server` is not there, itself not among them.
    pub fn blast_radius(&self, server: &S) -> impl Iterator<Item = &S> {
        self.needed_by.get(server).into_iter().flatten()
    }

    /// Whether nothing depends on anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }
}

impl<S> Default for DependencyGraph<S> {
    fn default() -> Self {
        Self { needs: BTreeMap::new(), needed_by: BTreeMap::new() }
    }
}

/// Walks every path, with a stack of its own: the configuration decides how deep it gets.
fn find_cycle<S: Ord + Clone>(direct: &BTreeMap<S, BTreeSet<S>>) -> Result<(), Cycle<S>> {
    let none = BTreeSet::new();
    let below = |server: &S| direct.get(server).unwrap_or(&none).iter();
    let mut done: BTreeSet<&S> = BTreeSet::new();
    for start in direct.keys() {
        let mut path = vec![start];
        let mut branches = vec![below(start)];
        while let Some(branch) = branches.last_mut() {
            match branch.next() {
                Some(next) if done.contains(next) => {}
                Some(next) => {
                    if let Some(from) = path.iter().position(|on_path| *on_path == next) {
                        return Err(Cycle(path[from..].iter().copied().cloned().collect()));
                    }
                    path.push(next);
                    branches.push(below(next));
                }
                None => {
                    branches.pop();
                    done.extend(path.pop());
                }
            }
        }
    }
    Ok(())
}

fn nearest_first<S: Ord + Clone>(server: &S, direct: &BTreeMap<S, BTreeSet<S>>) -> Vec<S> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next: VecDeque<&S> = direct.get(server).into_iter().flatten().collect();
    while let Some(needed) = next.pop_front() {
        if seen.insert(needed) {
            found.push(needed.clone());
            next.extend(direct.get(needed).into_iter().flatten());
        }
    }
    found
}

// === impl Cycle ===

impl<S: fmt::Display> fmt::Display for Cycle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("servers depend on one another in a circle: ")?;
        for server in &self.0 {
            write!(f, "{server} → ")?;
        }
        self.0.first().map_or(Ok(()), |first| write!(f, "{first}"))
    }
}

impl<S: fmt::Display + fmt::Debug> std::error::Error for Cycle<S> {}
