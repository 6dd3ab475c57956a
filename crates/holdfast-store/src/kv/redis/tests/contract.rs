//! The rules of every store, over each topology.

use std::cell::Cell;

use holdfast_config::{Redis, Topology};

use super::servers::{Server, Watched, cluster};
use super::{manual, standalone};
use crate::Store;
use crate::contract::{START, compare_with_memory, run_over};

/// Makes stores that share nothing but their servers.
fn fresh(settings: Redis) -> impl Fn() -> Store + 'static {
    let count = Cell::new(0);
    move || {
        count.set(count.get() + 1);
        manual(&settings, &format!("t{}", count.get()), START)
    }
}

#[test]
fn one_server_keeps_the_rules() {
    let server = Server::start(&[]);
    run_over("standalone", fresh(standalone(server.address())));
}

#[test]
fn one_server_does_what_memory_does() {
    let server = Server::start(&[]);
    compare_with_memory(24, fresh(standalone(server.address())));
}

#[test]
fn a_primary_with_replicas_and_sentinels_keeps_the_rules() {
    let watched = Watched::start(&[]);
    let settings = Redis::new(Topology::Sentinel {
        sentinels: watched.addresses(),
        master: "mymaster".into(),
    });
    assert_eq!(settings.replicas_to_acknowledge, 1);
    run_over("sentinel", fresh(settings));
    assert!(watched.data[0].calls("wait") > 100, "{}", watched.data[0].calls("wait"));
}

#[test]
fn a_cluster_keeps_the_rules_and_every_master_has_its_share() {
    let nodes = cluster(&[]);
    let topology = Topology::Cluster { nodes: vec![nodes[0].address()] };
    let settings = Redis { replicas_to_acknowledge: 0, allow_unsafe: true, ..Redis::new(topology) };
    run_over("cluster", fresh(settings));
    for node in &nodes {
        assert!(node.calls("evalsha") > 10, "{} has had its share", node.port);
    }
}
