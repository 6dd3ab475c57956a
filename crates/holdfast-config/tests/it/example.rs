//! `config/holdfast.yaml` shows every key, and shows the defaults.

use std::path::Path;

use holdfast_config::Config;

use crate::{good, read};

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/holdfast.yaml");
    std::fs::read_to_string(path).expect("the example is there")
}

#[test]
fn the_example_is_the_defaults_and_a_server() {
    let mut config = good(&example());
    assert_eq!(config.servers.keys().collect::<Vec<_>>(), ["files"]);
    config.servers.clear();
    assert_eq!(format!("{config:#?}"), format!("{:#?}", Config::default()));
}

#[test]
fn the_example_of_a_cluster_serves_all_its_nodes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/cluster.yaml");
    let text = std::fs::read_to_string(path).expect("the example is there");
    for node in ["gateway-1", "gateway-2", "gateway-3"] {
        let variables = [
            ("HA_NODE_ID", node),
            ("HOLDFAST_DATA_DIR", "data"),
            ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
        ];
        let config = read(&text, &variables).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!(config.cluster.expect("a cluster").node_id, node);
        assert!(config.notices.is_empty(), "{:?}", config.notices);
    }
}

#[test]
fn the_example_of_the_whole_stack_serves_all_its_nodes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/ha.yaml");
    let text = std::fs::read_to_string(path).expect("the example is there");
    for node in ["gateway-1", "gateway-2", "gateway-3"] {
        let variables = [
            ("HA_NODE_ID", node),
            ("HOLDFAST_DATA_DIR", "data"),
            ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
            ("HOLDFAST_REDIS_PASSWORD", "0123456789abcdef"),
        ];
        let config = read(&text, &variables).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!(config.cluster.expect("a cluster").node_id, node);
        let redis = config.sessions.redis.expect("a Redis");
        assert_eq!((redis.topology.label(), redis.replicas_to_acknowledge), ("sentinel", 1));
        assert!(config.notices.is_empty(), "{:?}", config.notices);
    }
}

/// What is commented out must be right as well: whoever needs it takes the marks away.
#[test]
fn the_server_that_is_commented_out_is_read() {
    let text = example();
    let from = text.find("  # search:").expect("a server with instances");
    let block = text[from..].split("\n\n").next().expect("its lines");
    let lines: Vec<_> = block.lines().map(|line| line.replacen("# ", "", 1)).collect();
    let docs = "  docs: { url: \"http://127.0.0.1:3001/mcp\" }";
    let config = good(&format!("servers:\n{docs}\n{}\n", lines.join("\n")));
    let server = &config.servers["search"];
    assert_eq!(server.breaker.slow_call, Some(std::time::Duration::from_secs(45)));
    let failover = server.failover.as_ref().expect("a failover");
    assert!(failover.consistency.is_some() && !server.fallback.is_empty());
    assert_eq!(server.health.checks.len(), 4);
    assert_eq!(server.tools.len(), 1);
    // But for what is shown as an example, these are the defaults.
    let mut breaker = server.breaker.clone();
    breaker.slow_call = None;
    assert_eq!(breaker, holdfast_config::Breaker::default());
    let mut failover = failover.clone();
    failover.consistency = None;
    failover.tier = holdfast_config::FailoverTier::Local;
    assert_eq!(failover, holdfast_config::Failover::default());
    assert_eq!(server.balance, holdfast_config::Balance::default());
    assert_eq!(server.pool, holdfast_config::Pool::default());
}

#[test]
fn the_example_names_every_key() {
    let text = example();
    let mut asked = 0;
    let sections = [
        "",
        "node.",
        "cluster.",
        "listen.",
        "listen.tls.",
        "admin.",
        "limits.",
        "bulkheads.",
        "bulkheads.user.",
        "retry_budget.",
        "health.",
        "health.votes.",
        "health.passive.",
        "health.measures.",
        "node.health.",
        "sessions.",
        "sessions.redis.",
        "streams.",
        "auth.",
        "log.",
        "servers.a.",
        "servers.a.breaker.",
        "servers.a.health.",
        "servers.a.balance.",
        "servers.a.failover.",
        "servers.a.fallback.",
        "servers.a.pool.",
        "servers.a.objectives.",
    ];
    for section in sections {
        for key in known(section) {
            let shown = format!("{key}:");
            assert!(text.contains(&shown), "config/holdfast.yaml does not show {section}{key}");
            asked += 1;
        }
    }
    assert!(asked > 150, "only {asked} keys");
}

/// The keys of a section, from the problem that an unknown one makes.
fn known(section: &str) -> Vec<String> {
    let depth = section.matches('.').count();
    let path: Vec<&str> = section.split_terminator('.').collect();
    let probe = format!("{}: {{ qqqqqqqqqqqq: 1 {}", path.join(": { "), "}".repeat(depth));
    let probe = if section.is_empty() { "qqqqqqqqqqqq: 1".to_owned() } else { probe };
    let problems = read(&probe, &[]).expect_err("an unknown key");
    let unknown = problems.iter().find(|problem| problem.found == "there is no such key");
    let allowed = &unknown.unwrap_or_else(|| panic!("{probe}: {problems:#?}")).allowed;
    allowed.split(", ").map(str::to_owned).collect()
}
