//! The files that people bring a cluster up with fit together: what they mount, name, expect from the
//! environment and call by address is there. No container engine runs here, so what one would notice at
//! the start is looked for by reading.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::workspace::{none, read, root};

const COMPOSE: &str = "docker-compose.ha.yml";
const CONFIG: &str = "config/ha.yaml";

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(Path::new(path))).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn services() -> BTreeMap<String, Value> {
    let compose = yaml(COMPOSE);
    let services = compose["services"].as_object().expect("services");
    assert!(services.len() > 10, "the form of {COMPOSE} has changed");
    services.iter().map(|(name, it)| (name.clone(), it.clone())).collect()
}

fn starting_with(prefix: &str) -> BTreeMap<String, Value> {
    let found: BTreeMap<_, _> =
        services().into_iter().filter(|(name, _)| name.starts_with(prefix)).collect();
    assert!(!found.is_empty(), "{COMPOSE} has no service {prefix}…");
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("text and not {value}"))
}

/// Its own, or that of the service whose network it is in.
fn address(service: &Value) -> String {
    match service["network_mode"].as_str().and_then(|mode| mode.strip_prefix("service:")) {
        Some(owner) => address(services().get(owner).unwrap_or_else(|| panic!("no {owner}"))),
        None => text(&service["networks"]["cluster"]["ipv4_address"]).to_owned(),
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default()
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    let given = service["environment"].as_object();
    given.into_iter().flatten().map(|(name, it)| (name.clone(), text(it).to_owned())).collect()
}

/// `${NAME…}` in a text, with what follows the name.
fn variables(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut found = Vec::new();
    for line in lines {
        for part in line.split("${").skip(1) {
            let inner = part.split('}').next().unwrap_or_default();
            let end = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let (name, rest) = inner.split_at(end.unwrap_or(inner.len()));
            found.push((name.to_owned(), rest.to_owned()));
        }
    }
    found
}

/// Addresses of the compose file's network in a text.
fn addresses(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words.filter(|word| word.starts_with("172.31.37.")).map(str::to_owned).collect()
}

#[test]
fn whoever_is_started_alone_has_its_image_built() {
    let findings: Vec<String> = services()
        .iter()
        .filter(|(_, it)| text(&it["image"]).starts_with("holdfast") && it.get("build").is_none())
        .map(|(name, it)| format!("{name}: {}", text(&it["image"])))
        .collect();
    none(&findings, "these services use an image of ours, and do not say how it is built:");
}

#[test]
fn images_are_pinned() {
    let mut images: Vec<String> =
        services().values().map(|it| text(&it["image"]).to_owned()).collect();
    let dockerfile = read(Path::new("Dockerfile"));
    images.extend(
        dockerfile
            .lines()
            .filter_map(|line| line.strip_prefix("FROM "))
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned()),
    );
    let findings: Vec<String> = images
        .into_iter()
        .filter(|image| {
            let version = image.split_once(':').map(|(_, version)| version).unwrap_or_default();
            version.split('.').count() < 3 && !version.starts_with("12.")
        })
        .collect();
    none(&findings, "these images are not pinned to a version:");
}

#[test]
fn what_is_mounted_and_copied_exists() {
    let compose = yaml(COMPOSE);
    let volumes = compose["volumes"].as_object().expect("volumes");
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for (name, service) in services() {
        for mount in texts(&service["volumes"]) {
            let source = mount.split(':').next().unwrap_or_default();
            if let Some(path) = source.strip_prefix("./") {
                if !root().join(path).exists() {
                    findings.push(format!("{name} mounts {path}, which is not there"));
                }
            } else if !volumes.contains_key(source) {
                findings.push(format!("{name} mounts the volume {source}, which is not declared"));
            } else {
                used.insert(source.to_owned());
            }
        }
        // Words without a path are the image's own programs.
        if let Some(start) = texts(&service["entrypoint"]).first().filter(|it| it.contains('/')) {
            let path = start.replace("/etc/holdfast-redis/", "redis/");
            if !root().join(&path).is_file() {
                findings.push(format!("{name} starts {start}, which is not there"));
            }
        }
    }
    let idle = volumes.keys().filter(|volume| !used.contains(*volume));
    findings.extend(idle.map(|volume| format!("nobody mounts the volume {volume}")));
    let ignored = read(Path::new(".dockerignore"));
    let ignored: BTreeSet<&str> = ignored.lines().collect();
    for line in read(Path::new("Dockerfile")).lines() {
        let Some(source) = line.strip_prefix("COPY ").and_then(|it| it.split(' ').next()) else {
            continue;
        };
        let first = source.split('/').next().unwrap_or_default();
        let there = source.starts_with("--from") || root().join(source).exists();
        if !there || ignored.contains(first) {
            findings.push(format!("the Dockerfile copies {source}, which the build does not see"));
        }
    }
    none(&findings, "the deployment names what is not there:");
}

#[test]
fn gateways_differ_in_their_name_alone() {
    let gateways = starting_with("gateway-");
    assert_eq!(gateways.len(), 3);
    let mut same = BTreeSet::new();
    for (name, gateway) in &gateways {
        let mut environment = environment(gateway);
        assert_eq!(environment.remove("HA_NODE_ID").as_ref(), Some(name));
        let mut rest = gateway.clone();
        for own in ["environment", "volumes", "networks"] {
            rest[own] = Value::Null;
        }
        assert_eq!(texts(&gateway["volumes"]), [format!("{name}:/var/lib/holdfast")]);
        same.insert((environment, rest.to_string()));
    }
    assert_eq!(same.len(), 1, "{same:?}");
}

#[test]
fn environment_variables_are_known_and_secrets_have_no_default() {
    let documented = read(Path::new("docs/configuration.md"));
    let config = read(Path::new(CONFIG));
    let in_config: BTreeSet<String> =
        variables(&config).into_iter().map(|(name, _)| name).collect();
    let mut findings = Vec::new();
    for (service, it) in starting_with("gateway-") {
        let environment = environment(&it);
        for name in environment.keys() {
            if !documented.contains(&format!("| `{name}` |")) && !in_config.contains(name) {
                findings.push(format!("{service}: the gateway knows no {name}"));
            }
        }
        let missing = in_config.iter().filter(|name| !environment.contains_key(*name));
        findings.extend(missing.map(|name| format!("{service}: {CONFIG} needs {name}")));
    }
    for (template, service) in
        [("nginx/nginx.conf", "nginx"), ("nginx/keepalived.conf", "keepalived")]
    {
        let needed: BTreeSet<String> =
            variables(&read(Path::new(template))).into_iter().map(|(name, _)| name).collect();
        for (name, it) in starting_with(service) {
            let given: BTreeSet<String> = environment(&it).into_keys().collect();
            let missing = needed.iter().filter(|needed| !given.contains(*needed));
            findings.extend(missing.map(|it| format!("{name}: {template} needs {it}")));
        }
    }
    let example = read(Path::new(".env.example"));
    // What need not be set is there as a comment.
    let example: BTreeMap<&str, &str> = example
        .lines()
        .filter_map(|line| match line.strip_prefix('#') {
            Some(optional) => Some((optional.strip_suffix('=')?, "optional")),
            None => line.split_once('='),
        })
        .collect();
    let used = variables(&read(Path::new(COMPOSE)));
    for (name, rest) in &used {
        match example.get(name.as_str()) {
            None => findings.push(format!(".env.example does not mention {name}")),
            Some(value) if value.is_empty() && !rest.starts_with(":?") => {
                findings
                    .push(format!("{name} is a secret: write ${{{name}:?…}}, so that it fails"));
            }
            Some(_) => {}
        }
    }
    let idle = example.keys().filter(|name| !used.iter().any(|(used, _)| used == *name));
    findings.extend(idle.map(|name| format!("nothing uses {name} of .env.example")));
    none(&findings, "environment of the deployment:");
}

#[test]
fn addresses_are_those_of_services() {
    let own: BTreeSet<String> =
        services().values().filter(|it| it.get("network_mode").is_none()).map(address).collect();
    let shared = "172.31.37.10";
    assert!(!own.contains(shared));
    let mut findings = Vec::new();
    for file in [CONFIG, COMPOSE] {
        let text: String = read(Path::new(file))
            .lines()
            .filter(|line| !line.trim_start().starts_with('#') && !line.contains("subnet"))
            .map(|line| format!("{line}\n"))
            .collect();
        let strangers = addresses(&text).into_iter().filter(|it| !own.contains(it) && it != shared);
        findings.extend(strangers.map(|it| format!("{file}: {it} is nobody's")));
    }
    none(&findings, "addresses of the deployment:");

    let config = yaml(CONFIG);
    let gateways = starting_with("gateway-");
    for (name, gateway) in &gateways {
        let node = text(&config["cluster"]["nodes"][name.as_str()]);
        assert_eq!(node, format!("{}:37375", address(gateway)), "{CONFIG}: {name}");
    }
    for (name, balancer) in starting_with("nginx") {
        let environment = environment(&balancer);
        for (at, gateway) in gateways.values().enumerate() {
            let given = &environment[&format!("HOLDFAST_NODE_{}", at + 1)];
            assert_eq!(*given, format!("{}:37373", address(gateway)), "{name}");
        }
        let trusted = texts(&config["listen"]["trusted_proxies"]);
        let own = address(&balancer);
        assert!(trusted.contains(&own.as_str()), "{CONFIG} does not trust {name}");
    }
    let url = text(&config["sessions"]["url"]);
    for sentinel in starting_with("sentinel-").values() {
        assert!(url.contains(&format!("{}:26379", address(sentinel))), "{url}");
    }
}

/// Where one container is waited for, a broken one keeps others from starting that could do without it.
#[test]
fn nothing_is_kept_from_starting_by_what_is_broken() {
    let mut findings = Vec::new();
    for (name, service) in &services() {
        for (other, it) in service["depends_on"].as_object().into_iter().flatten() {
            if it["condition"] != "service_started" {
                findings.push(format!("{name} does not start while {other} is not well"));
            }
        }
        if service.get("restart").is_none() {
            findings.push(format!("{name} is not started again when it dies"));
        }
    }
    none(&findings, "services of the deployment:");
}

/// The network of a container ends with it, and whatever else is in it stays in a dead one.
#[test]
fn who_owns_a_network_that_others_are_in_does_nothing_else() {
    let services = services();
    let mut owners = BTreeSet::new();
    for (name, service) in &services {
        let Some(mode) = service.get("network_mode").map(text) else { continue };
        let owner = mode.strip_prefix("service:").unwrap_or_else(|| panic!("{name}: {mode}"));
        assert_eq!(texts(&services[owner]["entrypoint"]), ["sleep", "infinity"], "{owner}");
        assert_eq!(services[owner]["init"], true, "{owner}: `sleep` alone does not end on SIGTERM");
        owners.insert(owner.to_owned());
    }
    let balancers: Vec<String> = starting_with("balancer").into_keys().collect();
    assert_eq!(owners.into_iter().collect::<Vec<_>>(), balancers);
}

fn milliseconds(text: &str) -> u64 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("a duration and not {text}"));
    number
        * match unit {
            "ms" | "" => 1,
            "s" => 1_000,
            "m" => 60_000,
            other => panic!("{text}: {other:?} is no unit"),
        }
}

#[test]
fn gateways_have_the_time_that_their_end_may_take() {
    // What docs/operations.md adds up: last answers, servers are told, the log is closed; and two
    // times three `failover_timeout` to hand over and to leave.
    let rest = 2_000 + 5_000 + 10_000;
    let drain = milliseconds(text(&yaml(CONFIG)["listen"]["drain_deadline"]));
    for (name, gateway) in starting_with("gateway-") {
        let grace = milliseconds(text(&gateway["stop_grace_period"]));
        let failover = milliseconds(text(&gateway["environment"]["HA_FAILOVER_TIMEOUT"]));
        let needed = drain + rest + 6 * failover;
        assert!(grace >= needed, "{name} has {grace} ms of the {needed} that its end may take");
    }
}

/// Clients try the GET of a stream twice, `streams.retry` apart; the address is away for 2 to 3 s.
#[test]
fn streams_outlast_the_move_of_the_shared_address() {
    assert!(!starting_with("keepalived").is_empty());
    let retry = milliseconds(text(&yaml(CONFIG)["streams"]["retry"]));
    assert!(retry >= 2_000, "{CONFIG}: streams.retry is {retry} ms");
}

/// The directives of a shipped file, each by the words that a row about it would name.
fn directives(path: &str) -> BTreeSet<String> {
    let file = read(Path::new(path));
    let lines = file.lines().map(str::trim);
    let code = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    code.flat_map(|line| {
        let mut words = line.split_whitespace().map(|word| word.trim_end_matches([';', '{']));
        let first = words.next().unwrap_or_default();
        match first {
            "sentinel" | "option" => vec![words.next().unwrap_or_default()],
            "timeout" if path.ends_with(".cfg") => vec![words.next().unwrap_or_default()],
            _ => vec![first],
        }
    })
    .map(str::to_owned)
    .collect()
}

#[test]
fn every_directive_of_a_shipped_file_is_explained() {
    let operations = read(Path::new("docs/operations.md"));
    let sections: Vec<&str> = operations.split("\n## ").collect();
    let mut findings = Vec::new();
    for path in [
        "nginx/nginx.conf",
        "nginx/keepalived.conf",
        "haproxy/haproxy.cfg",
        "redis/redis.conf",
        "redis/sentinel.conf",
    ] {
        let own = sections.iter().find(|it| it.lines().next().is_some_and(|it| it.contains(path)));
        let Some(own) = own else { panic!("docs/operations.md has no section {path}") };
        let rows = own.lines().filter(|line| line.starts_with('|'));
        let named: BTreeSet<&str> = rows
            .filter_map(|row| row.split(" | ").next())
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .flat_map(|code| {
                code.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
            })
            .collect();
        let all = directives(path);
        assert!(all.len() > 4, "the form of {path} has changed: {all:?}");
        let missing = all.iter().filter(|it| !named.contains(it.as_str()));
        findings.extend(missing.map(|it| format!("{path}: {it}")));
    }
    none(&findings, "no row of docs/operations.md names these directives:");
}
