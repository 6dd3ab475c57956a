//! What the commands print.

mod transcript;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

/// The binary in a folder of its own, under an environment of its own.
fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs")
}

/// A folder with these files, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        for (file, content) in files {
            std::fs::write(path.join(file), content).expect("a file");
        }
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a command and compares all that it prints, and its exit code, with the golden file.
#[track_caller]
fn golden(
    name: &str,
    files: &[(&str, &[u8])],
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> String {
    let folder = Folder::new(name, files);
    let output = run(&folder.0, arguments, variables);
    let text = transcript::of(&arguments.join(" "), &output);
    transcript::compare(name, &text);
    text
}

const MISTAKES: &str = r#"listen:
  address: 127.0.0.1:70000
  public_host: [mcp.example.com]
limits:
  body: 4 megs
sessions: { ttl: 3600 }
streams:
  rotate_after: 10m
auth:
  keys:
    - { principal: team-a, sha256: not-a-hash-but-the-secret-key }
servers:
  docs:
    url: 127.0.0.1:3001/mcp
    headers: { Authorization: "Bearer ${NO_SUCH_TOKEN}" }
"#;

const GOOD: &str = r#"listen: { address: "0.0.0.0:8080", public_hosts: [mcp.example.com] }
servers:
  docs: { url: "https://docs.example.com/mcp?key=${DOCS_KEY}" }
  files: { command: npx, args: ["-y", "some-mcp-server"] }
  search:
    instances:
      - { id: a, url: "http://10.0.0.7:3002/mcp" }
      - { id: b, url: "http://10.0.0.8:3002/mcp" }
"#;

const DESKTOP: &str = r#"{
  "globalShortcut": "Ctrl+Space",
  "mcpServers": {
    "files": {
      "command": "npx",
      "args": ["-y", "some-mcp-server", "/data"],
      "env": { "TOKEN": "not-shown" },
      "disabled": false,
      "autoApprove": ["read_file"]
    },
    "x": { "type": "http", "url": "https://x.example.com/mcp", "headers": { "X-Key": "not-shown" } },
    "off": { "command": "never", "disabled": true }
  }
}
"#;

#[test]
fn help() {
    golden("help", &[], &["--help"], &[]);
    for command in [
        "serve",
        "check-config",
        "demo",
        "edge",
        "key",
        "status",
        "nodes",
        "servers",
        "failover",
        "failback",
        "breaker",
        "events",
        "incidents",
        "sessions",
        "drain",
        "reload",
        "config",
    ] {
        golden(&format!("help-{command}"), &[], &[command, "--help"], &[]);
    }
    golden("help-key-new", &[], &["key", "new", "--help"], &[]);
    for command in ["history", "show", "rollback"] {
        let name = format!("help-config-{command}");
        golden(&name, &[], &["config", command, "--help"], &[]);
    }
}

#[test]
fn check_config_reports_all_mistakes_at_once() {
    let files: &[(&str, &[u8])] = &[("holdfast.yaml", MISTAKES.as_bytes())];
    let text = golden("check-config-mistakes", files, &["check-config"], &[]);
    assert!(text.contains("8 problems") && text.contains("exit code 2"), "{text}");
    assert!(!text.contains("not-a-hash"), "a secret is shown: {text}");
    golden("check-config-mistakes-json", files, &["check-config", "-o", "json"], &[]);
}

const UNREDUNDANT: &str = r#"sessions:
  store: redis
  url: "redis+sentinel://holdfast:not@shown@sentinel-1,sentinel-2/mymaster"
  redis: { address: "redis:6379", replicas_to_acknowledge: 12 }
bulkheads: { users: { concurrency: 500 } }
health: { votes: { fail: 20% } }
notify:
  - { url: "https://hooks.example.com/ops", events: [fail_over] }
servers:
  neo4j:
    instances:
      - { id: a, url: "http://neo4j-a:3002/mcp", role: primary }
      - { id: b, url: "http://neo4j-b:3002/mcp", role: replica }
    failover: { threshold: 2 }
    breaker: { consecutive_failures: 2, open_for: 2m, max_open_for: 60s }
    health: { checks: [ { type: ping }, { type: tool, arguments: { query: RETURN 1 } } ] }
    balance: { hash_on: user }
    depends_on: [auth]
  auth: { url: "http://auth:3003/mcp", depends_on: [vault] }
  vault: { url: "http://vault:3004/mcp", depends_on: [neo4j, vaultt], class: urgent }
"#;

#[test]
fn check_config_reports_mistakes_of_redis_and_of_what_fails() {
    let files: &[(&str, &[u8])] = &[("holdfast.yaml", UNREDUNDANT.as_bytes())];
    let text = golden("check-config-failing-mistakes", files, &["check-config"], &[]);
    assert!(text.contains("auth → vault → neo4j → auth"), "{text}");
    assert!(!text.contains("not@shown"), "a secret is shown: {text}");
    let variables = &[
        ("DOCS_KEY", "not-shown"),
        ("SESSION_STORE", "redis"),
        ("SESSION_STORE_URL", "redis://:not/shown@redis"),
        ("CIRCUIT_BREAKER_THRESHOLD", "50"),
    ];
    let files: &[(&str, &[u8])] = &[("good.yaml", GOOD.as_bytes())];
    let arguments = &["check-config", "--config", "good.yaml"];
    let text = golden("check-config-redis-variables", files, arguments, variables);
    assert!(text.contains("exit code 2") && !text.contains("not/shown"), "{text}");
}

#[test]
fn check_config_of_a_good_file() {
    let files: &[(&str, &[u8])] = &[("good.yaml", GOOD.as_bytes())];
    let variables =
        &[("DOCS_KEY", "not-shown"), ("SESSION_FAILOVER_ENABLED", "true"), ("PORT", "9090")];
    let arguments = &["check-config", "--config", "good.yaml"];
    let text = golden("check-config-good", files, arguments, variables);
    assert!(text.contains("exit code 0") && !text.contains("not-shown"), "{text}");
    let arguments = &["check-config", "--config", "good.yaml", "-o", "json"];
    golden("check-config-good-json", files, arguments, variables);
}

#[test]
fn check_config_of_a_cluster() {
    let example = include_bytes!("../../../config/cluster.yaml");
    let files: &[(&str, &[u8])] = &[("cluster.yaml", example)];
    let variables = &[
        ("HA_NODE_ID", "gateway-2"),
        ("HOLDFAST_CLUSTER_SECRET", "not-shown-not-shown-not-shown-not-shown"),
        ("HOLDFAST_DATA_DIR", "data"),
    ];
    let arguments = &["check-config", "--config", "cluster.yaml"];
    let text = golden("check-config-cluster", files, arguments, variables);
    assert!(text.contains("exit code 0") && !text.contains("not-shown"), "{text}");
    let variables = &[("HA_NODE_ID", "gatewy-2"), ("HOLDFAST_CLUSTER_SECRET", "not-shown")];
    let text = golden("check-config-cluster-mistakes", files, arguments, variables);
    assert!(text.contains("exit code 2") && !text.contains("not-shown\""), "{text}");
}

#[test]
fn check_config_takes_a_desktop_clients_file() {
    let files: &[(&str, &[u8])] = &[("mcp.json", DESKTOP.as_bytes())];
    let variables = &[("HOLDFAST_CONFIG", "mcp.json")];
    let text = golden("check-config-desktop", files, &["check-config"], variables);
    assert!(text.contains("exit code 0") && !text.contains("not-shown"), "{text}");
}

#[test]
fn without_a_configuration_an_example_is_shown() {
    golden("check-config-none", &[], &["check-config"], &[]);
}

#[test]
fn files_that_are_no_configuration() {
    let check = |name: &str, content: &[u8]| {
        golden(name, &[("holdfast.yaml", content)], &["check-config"], &[]);
    };
    check("check-config-empty", b"");
    check("check-config-binary", &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0xff, 0xfe]);
    check("check-config-tabs", b"servers:\n\tdocs:\n\t\turl: x\n");
    let twice = b"servers: { a: { command: b } }\nservers: { c: { command: d } }\n";
    check("check-config-duplicate", twice);
    golden("check-config-directory", &[], &["check-config", "-c", "."], &[]);
    golden("check-config-missing", &[], &["check-config", "-c", "nowhere.yaml"], &[]);
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    golden("usage-command", &[], &["serv"], &[]);
    golden("usage-option", &[], &["check-config", "--confg", "x"], &[]);
    golden("usage-principal", &[], &["key", "new", "two words"], &[]);
}

#[test]
fn a_new_key_is_accepted_by_the_configuration() {
    let folder = Folder::new("key", &[]);
    // A name that YAML would read otherwise without its quotes.
    let output = run(&folder.0, &["key", "new", "team:#a"], &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    let key = text.split_whitespace().find(|word| word.starts_with("hfk_")).expect("a key");
    assert_eq!(key.len(), 4 + 64);
    let yaml = text.split_once("auth:").map(|(_, rest)| format!("auth:{rest}")).expect("yaml");
    assert!(!yaml.contains(key), "the configuration holds the key itself: {yaml}");
    let config = format!("{yaml}servers: {{ a: {{ command: b }} }}\n");
    std::fs::write(folder.0.join("holdfast.yaml"), config).expect("a file");
    let output = run(&folder.0, &["check-config"], &[]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("1 key of 1 principal"), "{shown}");

    let again = run(&folder.0, &["key", "new", "team:#a", "-o", "json"], &[]);
    let value: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_ne!(value["key"], key, "the same key twice");
}

#[test]
fn status_of_a_node_that_is_not_there_says_what_to_do() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let address = free.expect("a port").to_string();
    let folder = Folder::new("status", &[]);
    let output = run(&folder.0, &["status", "--admin", &address], &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is the gateway running there?") && text.contains(&address), "{text}");
}
