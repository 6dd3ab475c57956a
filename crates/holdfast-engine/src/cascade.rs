//! Which servers need which others.
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
        let needs =
            direct.keys().map(|server| (server.clone(), nearest_first(server, &direct))).collect();
        Ok(Self { needs })
    }

    /// Everything that `server` depends on, directly or through others, the nearest first: a call to it is refused
    /// while one of them is open.
    #[must_use]
    pub fn needs(&self, server: &S) -> &[S] {
        self.needs.get(server).map_or(&[], Vec::as_slice)
    }
}

impl<S> Default for DependencyGraph<S> {
    fn default() -> Self {
        Self { needs: BTreeMap::new() }
    }
}

/// Walks every path, with a stack of its own: the configuration decides how deep it gets.
fn find_cycle<S: Ord + Clone>(direct: &BTreeMap<S, BTreeSet<S>>) -> Result<(), Cycle<S>> {
    let none = BTreeSet::new();
    let below = |server: &S| direct.get(server).unwrap_or(&none).iter();
    let mut done: BTreeSet<&S> = BTreeSet::new();
    for start in direct.keys() {
        let mut path = vec![start];
        let mut on_path = BTreeSet::from([start]);
        let mut branches = vec![below(start)];
        while let Some(branch) = branches.last_mut() {
            match branch.next() {
                Some(next) if done.contains(next) => {}
                Some(next) => {
                    if !on_path.insert(next) {
                        let cycle = path.into_iter().skip_while(|it| *it != next);
                        return Err(Cycle(cycle.cloned().collect()));
                    }
                    path.push(next);
                    branches.push(below(next));
                }
                None => {
                    branches.pop();
                    if let Some(server) = path.pop() {
                        on_path.remove(server);
                        done.insert(server);
                    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(
        edges: &[(&'static str, &'static str)],
    ) -> Result<DependencyGraph<&'static str>, Cycle<&'static str>> {
        DependencyGraph::try_new(edges.iter().copied())
    }

    #[test]
    fn what_a_server_needs_comes_with_the_nearest_first_and_without_itself() {
        let graph =
            graph(&[("shop", "stock"), ("shop", "users"), ("stock", "db"), ("users", "db")])
                .unwrap();
        assert_eq!(graph.needs(&"shop"), ["stock", "users", "db"]);
        assert_eq!(graph.needs(&"stock"), ["db"]);
        for none in ["db", "unknown"] {
            assert!(graph.needs(&none).is_empty(), "{none}");
        }
    }

    #[test]
    fn a_cycle_is_named_and_nothing_else() {
        let cycle = graph(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("x", "a")]);
        let error = cycle.unwrap_err();
        assert_eq!(error, Cycle(vec!["b", "c", "d"]));
        let says = "servers depend on one another in a circle: b → c → d → b";
        assert_eq!(error.to_string(), says);
        assert_eq!(graph(&[("a", "a")]).unwrap_err(), Cycle(vec!["a"]));
        assert_eq!(graph(&[("a", "b"), ("a", "b"), ("c", "b"), ("a", "c")]).map(|_| ()), Ok(()));
    }

    #[test]
    fn a_long_chain_is_no_deep_recursion() {
        let chain = (0..20_000u32).map(|at| (at, at + 1));
        let Err(Cycle(cycle)) = DependencyGraph::try_new(chain.chain([(20_000, 0)])) else {
            panic!("a cycle");
        };
        assert_eq!(cycle.len(), 20_001);
    }

    proptest! {
        /// Against the slow way: a server needs another if there is a path.
        #[test]
        fn who_is_reached_is_needed(
            edges in prop::collection::vec((0u8..12, 0u8..12), 0..40),
        ) {
            let mut reaches = [[false; 12]; 12];
            for (from, to) in &edges {
                reaches[usize::from(*from)][usize::from(*to)] = true;
            }
            for via in 0..12 {
                for from in 0..12 {
                    for to in 0..12 {
                        reaches[from][to] |= reaches[from][via] && reaches[via][to];
                    }
                }
            }
            let circular = (0..12).any(|at| reaches[at][at]);
            match DependencyGraph::try_new(edges.iter().copied()) {
                Err(Cycle(cycle)) => {
                    prop_assert!(circular);
                    for (at, from) in cycle.iter().enumerate() {
                        let to = cycle[(at + 1) % cycle.len()];
                        prop_assert!(edges.contains(&(*from, to)), "{cycle:?}");
                    }
                }
                Ok(graph) => {
                    prop_assert!(!circular);
                    for from in 0..12u8 {
                        let needs: BTreeSet<u8> = graph.needs(&from).iter().copied().collect();
                        let slow = |at: usize| {
                            (0..12u8).filter(move |to| reaches[at][usize::from(*to)])
                        };
                        let reached: BTreeSet<u8> = slow(usize::from(from)).collect();
                        prop_assert_eq!(&needs, &reached);
                    }
                }
            }
        }
    }
}
