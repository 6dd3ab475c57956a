//! What `holdfast reload` and `holdfast config` print, against `tests/golden/*.out`: in front of an admin
//! port that only exists here. `UPDATE_GOLDEN=1` writes those files anew.

mod asked;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use holdfast_admin::api::{
    ChangeDto, ConfigHistoryDto, ConfigNodeDto, ConfigTextDto, ConfigVersionDto, ReloadedDto,
};
use serde_json::{Value, json};

/// Answers every request with this. Ends with the test's process.
fn port(status: u16, body: &Value) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let body = body.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut lines = BufReader::new(stream.expect("a connection"));
            let mut length = 0;
            loop {
                let mut line = String::new();
                lines.read_line(&mut line).expect("a line");
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                if line.is_empty() {
                    break;
                }
            }
            lines.read_exact(&mut vec![0; length]).expect("a body");
            let _ = write!(
                lines.into_inner(),
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

#[track_caller]
fn golden(name: &str, (status, body): (u16, Value), arguments: &[&str]) {
    asked::golden(name, port(status, &body), arguments);
}

fn change(key: &str, old: Option<&str>, new: Option<&str>) -> ChangeDto {
    ChangeDto { key: key.into(), old: old.map(str::to_owned), new: new.map(str::to_owned) }
}

fn node(number: u64, version: u64) -> ConfigNodeDto {
    ConfigNodeDto {
        node: format!("gateway-{number}"),
        version: Some(version),
        since_unix_ms: Some(1_796_083_200_000 + number),
        failed: None,
        why: None,
        file: Some("same".into()),
        trouble: None,
        format: None,
    }
}

fn unable() -> ConfigNodeDto {
    let why = "version 3:4:10: servers.docs.headers.X-Key: the environment variable KEY is not set\n    \
               allowed: a variable that is set, or one with a default\n    cure:    set KEY, or write \
               ${KEY:-default}\n1 problem";
    ConfigNodeDto {
        failed: Some(3),
        why: Some(why.into()),
        file: Some("differs".into()),
        ..node(3, 2)
    }
}

fn away() -> ConfigNodeDto {
    ConfigNodeDto { version: None, since_unix_ms: None, file: None, ..node(2, 0) }
}

fn reloaded(changes: Vec<ChangeDto>, nodes: Vec<ConfigNodeDto>) -> (u16, Value) {
    let done = ReloadedDto { version: 3, new: !changes.is_empty(), changes, nodes };
    (200, json!(done))
}

fn changes() -> Vec<ChangeDto> {
    vec![
        change("limits.requests_per_minute", Some("100"), None),
        change("servers.docs.headers.authorization", Some("(a secret)"), Some("(a secret)")),
        change("servers.docs.timeout", Some("5m"), Some("2m")),
    ]
}

#[test]
fn reload() {
    let all = || vec![node(1, 3), node(2, 3), node(3, 3)];
    golden("reload", reloaded(changes(), all()), &["reload"]);
    golden("reload-json", reloaded(changes(), all()), &["reload", "-o", "json"]);
    golden("reload-nothing", reloaded(Vec::new(), all()), &["reload"]);
    golden("reload-check", reloaded(changes(), Vec::new()), &["reload", "--check"]);
    golden("reload-check-nothing", reloaded(Vec::new(), Vec::new()), &["reload", "--check"]);
    let nodes = vec![node(1, 3), away(), unable()];
    golden("reload-one-cannot", reloaded(changes(), nodes), &["reload"]);
    let refused = json!({ "error": "version 4 came first, by the file of gateway-2: look at it with \
        `holdfast config show`, and try again if yours is to follow it" });
    golden("reload-overtaken", (409, refused), &["reload"]);
}

fn history(nodes: Vec<ConfigNodeDto>) -> (u16, Value) {
    let version = |version: u64, by: &str, rolls_back_to| ConfigVersionDto {
        version,
        id: format!("{:064x}", 0xfeed_u64 << (4 * version)).chars().rev().collect(),
        by: by.to_owned(),
        at_unix_ms: 1_796_083_100_000 + 60_000 * version,
        rolls_back_to,
    };
    let versions = vec![
        version(1, "the start of gateway-1", None),
        version(2, "the file of gateway-2", None),
        version(3, "an operator at gateway-1", Some(1)),
    ];
    (200, json!(ConfigHistoryDto { versions, nodes }))
}

#[test]
fn config_history() {
    let all = vec![node(1, 3), node(2, 3), node(3, 3)];
    golden("config-history", history(all.clone()), &["config", "history"]);
    golden("config-history-json", history(all), &["config", "history", "-o", "json"]);
    let trouble = Some("holdfast.yaml:3:1: servrs: there is no such key\n1 problem".to_owned());
    let nodes = vec![ConfigNodeDto { trouble, ..node(1, 3) }, away(), unable()];
    golden("config-history-trouble", history(nodes), &["config", "history"]);
    let later = ConfigNodeDto { format: Some(2), ..away() };
    golden("config-history-format", history(vec![node(1, 3), later]), &["config", "history"]);
    let none = ConfigHistoryDto { versions: Vec::new(), nodes: vec![node(1, 0)] };
    golden("config-history-none", (200, json!(none)), &["config", "history"]);
}

#[test]
fn config_show_and_rollback() {
    let text = "servers:\n  docs:\n    url: http://docs/mcp\n".to_owned();
    let shown = (200, json!(ConfigTextDto { version: 2, text }));
    golden("config-show", shown, &["config", "show", "2"]);
    let all = || vec![node(1, 3), node(2, 3), node(3, 3)];
    golden("config-rollback", reloaded(changes(), all()), &["config", "rollback", "1", "--yes"]);
    let rollback = ["config", "rollback", "1"];
    golden("config-rollback-no-terminal", reloaded(changes(), all()), &rollback);
    let unknown = json!({ "error": "there is no version 9; there are 1 to 3" });
    golden("config-rollback-unknown", (404, unknown), &["config", "rollback", "9", "--yes"]);
}
