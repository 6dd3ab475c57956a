//! The cluster's variables: one image and one file serve nodes that differ in `HA_NODE_ID` alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::draft::{Draft, LEAST_TIMEOUT, LISTEN, MOST_TIMEOUT, Mode, cure_for, parse_listen};
use super::{LEAST_SECRET, PORT, address};
use crate::context::Context;
use crate::environment::{Variable, read};
use crate::field::quoted;
use crate::node::is_id;
use crate::problem::Place;

/// Puts the variables on top of what the file says.
pub(crate) fn apply(draft: &mut Draft, context: &Context<'_>) {
    if let Some(mode) = read(context, "HA_MODE", "") {
        match mode.text.as_str() {
            "standalone" => draft.mode = Some(Mode::Standalone),
            "cluster" => draft.mode = Some(Mode::Cluster),
            _ => mode.wrong("a mode", "standalone, cluster", "set standalone or cluster"),
        }
    }
    if let Some(id) = read(context, "HA_NODE_ID", "cluster.node_id") {
        // A bad one is reported where it names the node.
        draft.node_id = is_id(&id.text).then_some(id.text);
        draft.doubtful.retain(|key| *key != "node_id");
        if draft.node_id.is_none() {
            draft.doubtful.push("node_id");
        }
    }
    if let Some(nodes) = read(context, "HA_CLUSTER_NODES", "cluster.nodes") {
        draft.doubtful.retain(|key| *key != "nodes");
        match parse_nodes(&nodes.text) {
            Ok(map) => draft.nodes = map,
            Err((found, cure)) => {
                draft.doubtful.push("nodes");
                nodes.problem(found, NODES, &cure);
            }
        }
    }
    if let Some(secret) = read(context, "HOLDFAST_CLUSTER_SECRET", "cluster.secret") {
        // A short one is reported where it is read for `node.secret`.
        draft.doubtful.retain(|key| *key != "secret");
        if secret.text.chars().count() >= LEAST_SECRET {
            draft.secret = Some(secret.text.into());
        } else {
            draft.doubtful.push("secret");
        }
    }
    if let Some(listen) = read(context, "HOLDFAST_CLUSTER_LISTEN", "cluster.listen") {
        draft.doubtful.retain(|key| *key != "listen");
        match parse_listen(&listen.text) {
            Ok(address) => draft.listen = Some(address),
            Err(why) => {
                draft.doubtful.push("listen");
                let found = format!("{} {why}", quoted(&listen.text));
                let cure = format!("set something like 127.0.0.1:{PORT}");
                listen.problem(found, LISTEN, &cure);
            }
        }
    }
    if let Some(timeout) = read(context, "HA_FAILOVER_TIMEOUT", "cluster.failover_timeout") {
        read_timeout(draft, &timeout);
    }
    // Whatever follows from the list alone is blamed on where the list came from.
    if let place @ Place::Variable(_) = context.place_of("cluster.nodes")
        && !context.is_given("cluster")
    {
        context.located("cluster", place);
    }
}

fn read_timeout(draft: &mut Draft, variable: &Variable<'_>) {
    let value = variable.text.parse().map(Duration::from_millis);
    match value {
        Ok(value) if (LEAST_TIMEOUT..=MOST_TIMEOUT).contains(&value) => {
            draft.failover_timeout = Some(value);
        }
        _ => {
            let (least, most) = (LEAST_TIMEOUT.as_millis(), MOST_TIMEOUT.as_millis());
            let allowed = format!("{least} to {most} milliseconds");
            variable.wrong("a number in range", &allowed, "set a whole number, without a unit");
        }
    }
}

/// What `HA_CLUSTER_NODES` may be.
const NODES: &str = "NAME=HOST:PORT of every node, separated by commas; HOST:PORT alone where the \
                     host is the node's name";

/// `a=h:1,b=i:2`, `a@h:1,b@i:2`, or `h:1,i:2` for nodes that are named as their hosts are; or what
/// was found and what to do.
fn parse_nodes(text: &str) -> Result<BTreeMap<String, String>, (String, String)> {
    let mut nodes = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, at) = match part.split_once(['=', '@']) {
            Some((name, at)) => (name.trim(), at.trim()),
            None => (address::split(part).map_or(part, |(host, _)| host), part),
        };
        if let Err(why) = address::check(at) {
            return Err((format!("{} {why}", quoted(at)), cure_for(at).replace("write", "set")));
        }
        if !is_id(name) {
            let cure = format!("set something like gateway-1={at}");
            return Err((format!("{} is not a node's name", quoted(name)), cure));
        }
        if nodes.insert(name.to_owned(), at.to_ascii_lowercase()).is_some() {
            let found = format!("the node {name} stands there a second time");
            return Err((found, "keep one of the two".into()));
        }
    }
    if nodes.is_empty() {
        let cure = format!("set something like gateway-1=10.0.0.1:{PORT}");
        return Err((format!("{} names no node", quoted(text)), cure));
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let nodes = parse_nodes(text).expect("nodes");
        let expected = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        assert_eq!(nodes, expected.collect());
    }

    #[test]
    fn three_ways_to_write_the_nodes() {
        check("a=10.0.0.1:1, b=10.0.0.2:1", &[("a", "10.0.0.1:1"), ("b", "10.0.0.2:1")]);
        check("a@h.example:1,b@[::1]:2,", &[("a", "h.example:1"), ("b", "[::1]:2")]);
        check(
            "gateway-1:37375,gateway-2:1",
            &[("gateway-1", "gateway-1:37375"), ("gateway-2", "gateway-2:1")],
        );
    }

    #[test]
    fn lists_that_name_no_nodes() {
        for bad in [",", "a", "a=b", "a=b:0", "[::1]:5", "a=b:1,a=c:1", "a b=c:1", "http://a:1"] {
            assert!(parse_nodes(bad).is_err(), "{bad}");
        }
        assert!(parse_nodes("gateway-1").unwrap_err().1.contains("gateway-1:37375"));
    }
}
