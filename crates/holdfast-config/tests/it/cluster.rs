//! A cluster, from the file, from the environment and from both.

use std::time::Duration;

use holdfast_config::{Cluster, Config, ExposeSecret, Place, Problem, StoreKind, Tier};

use crate::{SERVERS, good, read};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// One file for every node of a cluster: they differ in `HA_NODE_ID` alone.
fn shared_file() -> String {
    format!(
        "node: {{ data_dir: data }}\n\
         cluster:\n  \
           secret: \"{SECRET}\"\n  \
           nodes: {{ a: \"10.0.0.1:37375\", b: \"b.example:7\", c: \"localhost:8\" }}\n\
         {SERVERS}"
    )
}

#[track_caller]
fn clustered(text: &str, variables: &[(&str, &str)]) -> (Config, Cluster) {
    let config = read(text, variables).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let cluster = config.cluster.clone().expect("a cluster");
    (config, cluster)
}

/// The one problem of this file in this environment.
#[track_caller]
fn wrong(text: &str, variables: &[(&str, &str)]) -> Problem {
    let mut problems = read(text, variables).expect_err("a problem");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

/// `cluster` with these keys besides its name, secret and nodes; in a good file otherwise.
#[track_caller]
fn keys(keys: &str, key: &str, found: &str, cure: &str) {
    let text = format!(
        "node: {{ data_dir: data }}\n\
         cluster: {{ node_id: a, secret: \"{SECRET}\", nodes: {{ a: \"h:1\", b: \"h:2\", c: \"h:3\" }}, \
         {keys} }}\n{SERVERS}"
    );
    let problem = wrong(&text, &[]);
    assert_eq!(problem.key, key, "{problem:#?}");
    assert!(problem.found.contains(found), "{problem:#?}");
    assert!(problem.cure.contains(cure), "{problem:#?}");
}

#[test]
fn one_file_serves_nodes_that_differ_in_their_name_alone() {
    let expected = [("a", "10.0.0.1:37375"), ("b", "0.0.0.0:7"), ("c", "127.0.0.1:8")];
    for (name, listen) in expected {
        let (config, cluster) = clustered(&shared_file(), &[("HA_NODE_ID", name)]);
        assert_eq!((cluster.node_id.as_str(), config.node.id.as_str()), (name, name));
        assert_eq!(cluster.listen.to_string(), listen);
        assert_eq!(cluster.size(), 3);
        assert_eq!(cluster.failover_timeout, Duration::from_secs(1));
        assert_eq!(cluster.advertise, None);
        assert_eq!(config.sessions.store, StoreKind::Replicated);
        assert_eq!(config.servers["docs"].tier, Tier::One);
        // What one node seals, the others open.
        assert_eq!(config.node.secret.expect("a secret").expose_secret(), SECRET);
        assert!(config.notices.is_empty(), "{:?}", config.notices);
    }
}

#[test]
fn the_environment_alone_makes_a_cluster() {
    let variables = [
        ("HA_MODE", "cluster"),
        ("HA_NODE_ID", "gateway-2"),
        ("HA_CLUSTER_NODES", "gateway-1:37375, gateway-2:37375, gateway-3:37375"),
        ("HOLDFAST_CLUSTER_SECRET", SECRET),
        ("HOLDFAST_DATA_DIR", "data"),
        ("HOLDFAST_CLUSTER_LISTEN", "127.0.0.1:5"),
        ("HA_FAILOVER_TIMEOUT", "2500"),
        ("SESSION_STORE", "replicated"),
        ("SESSION_FAILOVER_ENABLED", "true"),
    ];
    let (config, cluster) = clustered(SERVERS, &variables);
    assert_eq!(cluster.node_id, "gateway-2");
    assert_eq!(cluster.nodes["gateway-3"], "gateway-3:37375");
    assert_eq!(cluster.listen.to_string(), "127.0.0.1:5");
    assert_eq!(cluster.failover_timeout, Duration::from_millis(2500));
    // Where it listens is not where the others were told that it is.
    assert_eq!(config.notices.len(), 1, "{:?}", config.notices);
    assert!(config.notices[0].contains("this machine alone"), "{:?}", config.notices);
}

#[test]
fn the_environments_nodes_replace_the_files() {
    let variables = [("HA_NODE_ID", "x"), ("HA_CLUSTER_NODES", "x=h:1,y@h:2,z=h:3")];
    let (_, cluster) = clustered(&shared_file(), &variables);
    assert_eq!(cluster.nodes.keys().collect::<Vec<_>>(), ["x", "y", "z"]);
}

#[test]
fn every_key_is_read() {
    let text = format!(
        "node: {{ id: a, data_dir: data }}\nsessions: {{ store: replicated }}\n\
         cluster: {{ node_id: a, secret: \"{SECRET}\", previous_secret: \"{SECRET}{SECRET}\", \
         nodes: {{ a: \"h:1\", b: \"h:2\", c: \"h:3\" }}, listen: \"0.0.0.0:9\", \
         advertise: \"Front.example:10\", failover_timeout: 300ms }}\n\
         servers: {{ docs: {{ url: \"http://h/\", tier: 2 }}, other: {{ url: \"http://i/\" }} }}\n"
    );
    let (config, cluster) = clustered(&text, &[]);
    assert_eq!(cluster.previous_secret.as_ref().unwrap().expose_secret().len(), 64);
    assert_eq!(cluster.listen.to_string(), "0.0.0.0:9");
    assert_eq!(cluster.advertise.as_deref(), Some("front.example:10"));
    assert_eq!(cluster.failover_timeout, Duration::from_millis(300));
    assert_eq!(config.servers["docs"].tier, Tier::Two);
    assert_eq!(config.servers["other"].tier, Tier::One);
    assert!(config.notices.is_empty(), "{:?}", config.notices);
}

#[test]
fn a_previous_secret_that_is_empty_is_none() {
    let text = shared_file().replace("  secret", "  previous_secret: \"${PREVIOUS:-}\"\n  secret");
    let (_, cluster) = clustered(&text, &[("HA_NODE_ID", "a")]);
    assert!(cluster.previous_secret.is_none());
    let previous = [("HA_NODE_ID", "a"), ("PREVIOUS", SECRET)];
    assert!(clustered(&text, &previous).1.previous_secret.is_some());
    let short = [("HA_NODE_ID", "a"), ("PREVIOUS", "short")];
    assert_eq!(wrong(&text, &short).key, "cluster.previous_secret");
}

#[test]
fn what_a_cluster_lacks_is_said_all_at_once() {
    let text = format!(
        "cluster: {{ nodes: {{ a: \"h:1\", b: \"h:1\", c: \"h:3\" }} }}\n\
         sessions: {{ store: memory }}\n{SERVERS}"
    );
    let problems = read(&text, &[("HA_NODE_ID", "d")]).expect_err("problems");
    let find = |key: &str| {
        problems.iter().find(|p| p.key == key).unwrap_or_else(|| panic!("{key}: {problems:#?}"))
    };
    assert!(find("cluster.secret").cure.contains("HOLDFAST_CLUSTER_SECRET"));
    assert!(find("node.data_dir").cure.contains("must survive a restart"));
    assert!(find("sessions.store").cure.contains("remove it"));
    assert!(find("cluster.nodes.b").found.contains("address of a already"));
    let own = find("cluster.node_id");
    assert!(own.found.contains("called d"), "{own:?}");
    assert_eq!(own.allowed, "a, b, c");
    assert_eq!(own.place, Place::Variable("HA_NODE_ID"));
    assert_eq!(problems.len(), 5, "{problems:#?}");
}

#[test]
fn a_mistyped_name_finds_its_node() {
    let variables = [("HA_NODE_ID", "gatway-1"), ("HA_CLUSTER_NODES", "gateway-1=h:1,b=h:2,c=h:3")];
    let problem = wrong(&shared_file(), &variables);
    assert_eq!(problem.cure, "did you mean gateway-1?");
    // Without a name of its own, the list is to blame.
    assert_eq!(wrong(&shared_file(), &[]).key, "cluster.nodes");
}

#[test]
fn each_mistake_has_one_problem() {
    keys("listen: \"h:1\"", "cluster.listen", "not looked up", "127.0.0.1:37375");
    keys("listen: \"127.0.0.1:0\"", "cluster.listen", "could not find it", "127.0.0.1");
    keys("advertise: h", "cluster.advertise", "no port", "write h:37375");
    keys("failover_timeout: 200ms", "cluster.failover_timeout", "out of range", "300ms");
    keys("failover_timeout: 61s", "cluster.failover_timeout", "out of range", "1m");
    keys("previous_secret: short", "cluster.previous_secret", "5 characters", "openssl");
    keys("quorum: 2", "cluster.quorum", "no such key", "remove it");
    let nodes = |nodes: &str| format!("cluster: {{ nodes: {{ {nodes} }} }}\n{SERVERS}");
    let environment =
        [("HA_NODE_ID", "a"), ("HOLDFAST_CLUSTER_SECRET", SECRET), ("HOLDFAST_DATA_DIR", "data")];
    for (text, key, found) in [
        ("a: h, b: \"h:1\"", "cluster.nodes.a", "no port"),
        ("a: , b: \"h:1\"", "cluster.nodes.a", "not an address"),
        ("a: \"http://h:1\", b: \"h:1\"", "cluster.nodes.a", "scheme"),
        ("a: \"h:1\", \"b c\": \"h:2\"", "cluster.nodes.b c", "not a node's name"),
    ] {
        let problem = wrong(&nodes(text), &environment);
        assert_eq!(problem.key, key, "{problem:#?}");
        assert!(problem.found.contains(found), "{problem:#?}");
    }
}

#[test]
fn lists_of_nodes_in_the_environment() {
    let problem = |nodes| {
        let problem = wrong(&shared_file(), &[("HA_NODE_ID", "a"), ("HA_CLUSTER_NODES", nodes)]);
        assert_eq!(problem.place, Place::Variable("HA_CLUSTER_NODES"));
        problem
    };
    assert_eq!(problem("a,b").cure, "set a:37375");
    assert!(problem("a=b:0").found.contains("from 1 to 65535"));
    assert!(problem("a=b:1,a=c:1").found.contains("second time"));
    assert!(problem(",").found.contains("names no node"));
}

#[test]
fn a_short_secret_is_one_problem_wherever_it_stands() {
    let text = shared_file().replace(SECRET, "short");
    let problem = wrong(&text, &[("HA_NODE_ID", "a")]);
    assert_eq!(problem.key, "cluster.secret");
    let variables = [("HA_NODE_ID", "a"), ("HOLDFAST_CLUSTER_SECRET", "short")];
    let problem = wrong(&shared_file(), &variables);
    assert_eq!(problem.place, Place::Variable("HOLDFAST_CLUSTER_SECRET"));
    assert!(!format!("{problem:?}").contains("\"short\""), "{problem:?}");
}

#[test]
fn names_and_secrets_that_differ() {
    let text = shared_file()
        .replace("data_dir", "id: a, data_dir")
        .replace("nodes", "node_id: b\n  nodes");
    assert!(wrong(&text, &[]).found.contains("node.id is a"));
    let (config, _) = clustered(&text, &[("HA_NODE_ID", "c")]);
    assert_eq!(config.node.id, "c");
    let other = "ffffffffffffffffffffffffffffffff";
    let text = shared_file().replace("data_dir", &format!("secret: \"{other}\", data_dir"));
    assert_eq!(wrong(&text, &[("HA_NODE_ID", "a")]).key, "node.secret");
}

#[test]
fn ports_that_collide_with_the_clusters() {
    let text = shared_file() + "admin: { address: \"127.0.0.1:8\" }\n";
    assert!(wrong(&text, &[("HA_NODE_ID", "c")]).found.contains("cluster port and the admin port"));
}

#[test]
fn standalone_leaves_the_cluster_out() {
    let variables = [("HA_MODE", "standalone"), ("SESSION_FAILOVER_ENABLED", "false")];
    let config = read(&shared_file(), &variables).unwrap();
    assert!(config.cluster.is_none());
    assert_eq!(config.sessions.store, StoreKind::Memory);
    assert_eq!(config.servers["docs"].tier, Tier::Three);
    assert_eq!(config.notices, ["cluster: left out, because HA_MODE is standalone"]);
    let store =
        wrong(&shared_file(), &[("HA_MODE", "standalone"), ("SESSION_STORE", "replicated")]);
    assert_eq!(store.place, Place::Variable("SESSION_STORE"));
    assert!(store.cure.contains("HA_CLUSTER_NODES"), "{store:?}");
}

#[test]
fn half_a_cluster_is_none() {
    let text = format!("cluster: {{ secret: \"{SECRET}\" }}\n{SERVERS}");
    assert_eq!(wrong(&text, &[]).key, "cluster.nodes");
    assert!(read(&text, &[("HA_MODE", "standalone")]).is_ok());
    let mode = [
        ("HA_MODE", "cluster"),
        ("HOLDFAST_CLUSTER_SECRET", SECRET),
        ("HOLDFAST_DATA_DIR", "data"),
    ];
    assert!(wrong(SERVERS, &mode).cure.contains("HA_CLUSTER_NODES"));
    assert!(good(&format!("cluster: {{}}\n{SERVERS}")).cluster.is_none());
}

#[test]
fn what_has_no_effect_alone_is_said() {
    let text = "servers: { docs: { url: \"http://h/\", tier: 1 } }\n";
    let config = read(text, &[("HA_FAILOVER_TIMEOUT", "1000")]).unwrap();
    assert_eq!(config.servers["docs"].tier, Tier::Three);
    let starts = |start: &str| config.notices.iter().any(|notice| notice.starts_with(start));
    assert!(starts("servers.docs.tier has no effect"), "{:?}", config.notices);
    assert!(starts("HA_FAILOVER_TIMEOUT has no effect"), "{:?}", config.notices);
}

/// A name that is nearly HA_CLUSTER_NODES is nobody's: what it leaves behind is said.
#[test]
fn variables_of_a_cluster_whose_nodes_are_missing_are_named() {
    let (id, secret) = (("HA_NODE_ID", "a"), ("HOLDFAST_CLUSTER_SECRET", SECRET));
    let config = read(SERVERS, &[id, secret, ("HA_CLUSTR_NODES", "a=h:1")]).unwrap();
    let [notice] = config.notices.as_slice() else { panic!("{:?}", config.notices) };
    for part in ["runs alone", "HA_NODE_ID and HOLDFAST_CLUSTER_SECRET", "HA_CLUSTER_NODES"] {
        assert!(notice.contains(part), "{notice}");
    }
    for one in [id, secret] {
        assert!(
            read(SERVERS, &[one]).unwrap().notices.is_empty(),
            "a node alone has its use for it"
        );
    }
}

#[test]
fn groups_that_gain_little_are_told_so() {
    for (nodes, says) in [
        ("a=h:1", "survives no loss"),
        ("a=h:1,b=h:2", "two nodes survive no loss"),
        ("a=h:1,b=h:2,c=h:3,d=h:4", "4 nodes survive the loss of 1, no more than 3"),
    ] {
        let variables = [("HA_NODE_ID", "a"), ("HA_CLUSTER_NODES", nodes)];
        let (config, _) = clustered(&shared_file(), &variables);
        assert!(config.notices[0].contains(says), "{:?}", config.notices);
    }
}
