//! What a reload changes, and what nodes compare.

use holdfast_config::{Change, Config, When};

use crate::{SERVERS, good, read};

const FILE: &str = "\
node: { id: a, secret: 0123456789abcdef0123456789abcdef }
admin: { token: sixteen-or-more-characters }
limits: { requests_per_minute: 100 }
notify: [{ url: \"https://hooks.example/T0/secret-path\" }]
servers:
  docs:
    url: \"http://docs/mcp?key=hunter2\"
    headers: { Authorization: hunter2 }
    breaker: { open_for: 20s }
  files: { command: sh, env: { TOKEN: hunter2 } }
  pair:
    instances:
      - { id: x, url: \"http://x/\", role: primary }
      - { id: y, url: \"http://y/\", role: secondary }
";

/// The changes from `FILE` to `FILE` with `from` replaced.
#[track_caller]
fn changes(from: &str, to: &str) -> Vec<Change> {
    assert!(FILE.contains(from), "{from}");
    good(FILE).difference(&good(&FILE.replace(from, to)))
}

/// The one change that this makes.
#[track_caller]
fn change(from: &str, to: &str, shown: &str) {
    let changes = changes(from, to);
    assert_eq!(changes.len(), 1, "{changes:#?}");
    assert_eq!(changes[0].to_string(), shown);
}

#[test]
fn a_configuration_does_not_differ_from_itself() {
    assert_eq!(good(FILE).difference(&good(FILE)), []);
    let comments = format!("# a comment\n{}", FILE.replace(": 20s", ": 20000ms"));
    assert_eq!(good(FILE).difference(&good(&comments)), []);
    assert_eq!(good(FILE).version(), good(&comments).version());
}

#[test]
fn what_changed_is_named_by_its_key() {
    change("open_for: 20s", "open_for: 40s", "servers.docs.breaker.open_for: 20s → 40s");
    change("minute: 100", "minute: 200", "limits.requests_per_minute: 100 → 200");
    change("limits: { requests_per_minute: 100 }", "", "limits.requests_per_minute: 100 → nothing");
    let url = "servers.pair.instances[1].url: http://y/ → http://z/";
    change("http://y/", "http://z/", url);
    // What follows from the roles follows them.
    let alike = FILE.replace(", role: primary", "").replace(", role: secondary", "");
    let changed = good(FILE).difference(&good(&alike));
    let failover = changed.iter().find(|c| c.key == "servers.pair.failover.enabled").expect("one");
    assert_eq!(failover.to_string(), "servers.pair.failover.enabled: true → false");
}

#[test]
fn a_server_that_comes_or_goes_is_one_change() {
    let more = format!("{FILE}  new: {{ url: \"http://new/\" }}\n");
    let shown = |changes: Vec<Change>| changes.iter().map(Change::to_string).collect::<Vec<_>>();
    let come = good(FILE).difference(&good(&more));
    assert_eq!(shown(come), ["servers.new: nothing → configured"]);
    let gone = good(&more).difference(&good(FILE));
    assert_eq!(shown(gone), ["servers.new: configured → nothing"]);
}

#[test]
fn what_a_running_node_cannot_change_says_so() {
    change("id: a,", "id: b,", "node.id: a → b (after a restart)");
    for (section, key) in [
        ("listen: { address: \"127.0.0.1:1\" }", "listen.address"),
        ("listen: { workers: 3 }", "listen.workers"),
        ("log: { format: json }", "log.format"),
    ] {
        let changed = good(SERVERS).difference(&good(&format!("{section}\n{SERVERS}")));
        let change = changed.iter().find(|change| change.key == key).expect(key);
        assert_eq!(change.when, When::Restart, "{change}");
    }
    let cluster = [
        ("HA_CLUSTER_NODES", "n=h:1,m=h:2,o=h:3"),
        ("HA_NODE_ID", "n"),
        ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
        ("HOLDFAST_DATA_DIR", "data"),
    ];
    let changed = good(SERVERS).difference(&read(SERVERS, &cluster).unwrap());
    for key in ["cluster.nodes.m", "cluster.failover_timeout", "node.data_dir", "node.secret"] {
        let change = changed.iter().find(|change| change.key == key).expect(key);
        assert_eq!((change.when, change.old.as_deref()), (When::Restart, None), "{change}");
    }
    let redis = format!("sessions: {{ store: redis, url: \"redis://h\" }}\n{SERVERS}");
    let before = read(SERVERS, &cluster).unwrap();
    let changed = before.difference(&read(&redis, &cluster).unwrap());
    assert!(changed.iter().all(|change| change.when == When::Restart), "{changed:#?}");
    assert!(changed.iter().any(|change| change.key == "sessions.redis.address"));
    for (from, to) in [("open_for: 20s", "open_for: 40s"), ("secret-path", "other-path")] {
        assert!(changes(from, to).iter().all(|change| change.when == When::Running));
    }
}

#[test]
fn a_secret_that_changed_is_named_and_not_shown() {
    let shown = "servers.docs.headers.authorization: changed (not shown)";
    change("Authorization: hunter2", "Authorization: hunter3", shown);
    change("TOKEN: hunter2", "TOKEN: hunter3", "servers.files.env.TOKEN: changed (not shown)");
    change("key=hunter2", "key=hunter3", "servers.docs.instances[0].url: changed (not shown)");
    change("secret-path", "other-path", "notify[0].url: changed (not shown)");
    let token = "admin.token: changed (not shown)";
    change("sixteen-or-more", "eighteen-or-more", token);
    let gone = "admin.token: (a secret) → nothing";
    change("admin: { token: sixteen-or-more-characters }", "", gone);
}

#[test]
fn the_canonical_text_shows_no_secret_and_nothing_of_the_node_alone() {
    let text = good(FILE).canonical();
    for secret in ["hunter", "secret-path", "sixteen", "0123456789abcdef"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(text.contains("servers.docs.headers.authorization = (a secret)\n"), "{text}");
    assert!(text.contains("servers.docs.instances[0].url = http://docs/mcp?…\n"), "{text}");
    assert!(text.contains("notify[0].url = https://hooks.example/…\n"), "{text}");
    assert!(text.contains("servers.docs.breaker.open_for = 20s\n"), "{text}");
    for own in ["node.id", "listen.address", "admin.address"] {
        assert!(!text.contains(own), "{text}");
    }
    let mut lines: Vec<&str> = text.lines().collect();
    assert!(lines.is_sorted() && lines.len() > 100, "{} lines", lines.len());
    lines.dedup();
    assert_eq!(lines.len(), text.lines().count());
}

#[test]
fn nodes_that_run_the_same_have_the_same_version() {
    let version = |config: &Config| config.version();
    let one = good(FILE);
    let node = FILE.replace("id: a,", "id: b, region: eu, data_dir: x,")
        + "listen: { address: \"127.0.0.1:5\", workers: 2 }\n";
    assert_eq!(version(&one), version(&good(&node)));
    let secret = FILE.replace("hunter2", "hunter3");
    assert_eq!(version(&one), version(&good(&secret)));
    let other = FILE.replace("open_for: 20s", "open_for: 21s");
    assert_ne!(version(&one), version(&good(&other)));
    assert_eq!(version(&one).to_string().len(), 64);
    assert_eq!(version(&one).short().len(), 12);
    assert!(version(&one).to_string().starts_with(&version(&one).short()));
}

#[test]
fn text_with_line_breaks_stays_one_setting() {
    let of = |env: &str| good(&format!("servers: {{ a: {{ command: sh, args: [{env}] }} }}"));
    let (one, two) = (of("\"a\\nlog.level = debug\", b"), of("\"a\", \"log.level = debug\", b"));
    assert_eq!(one.canonical().lines().count(), two.canonical().lines().count());
    assert_ne!(one.version(), two.version());
}
