//! What an operator's commands print about a cluster, against `tests/golden/*.out`, with an admin port
//! that only exists here. `UPDATE_GOLDEN=1` writes those files anew.

mod asked;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use holdfast_admin::DrainError;
use holdfast_admin::api::{
    ConfigNodeDto, ControlDto, EventDto, EventsDto, IncidentDto, IncidentsDto, InstanceControlDto,
    KeptToolDto, NodeEntryDto, NodesDto, ServerDto, ServersDto, SessionDto, SessionsDto, ToolDto,
};
use serde_json::{Value, json};

/// An admin port with set answers. What it was asked to change can be read.
struct Fake {
    address: SocketAddr,
    changes: Receiver<String>,
}

/// What the port answers: views of the nodes in turn, of which the last one stays, and the rest.
#[derive(Default)]
struct Script {
    nodes: Vec<NodesDto>,
    sessions: Option<SessionsDto>,
    status: Option<Value>,
    drain: Option<(u16, Value)>,
    /// Views of the servers in turn, of which the last one stays.
    servers: Vec<ServersDto>,
    /// What an order about a server is answered with.
    ordered: Option<(u16, Value)>,
    events: Option<EventsDto>,
    incidents: Option<IncidentsDto>,
    /// After so many views it is gone.
    views: Option<usize>,
}

impl Fake {
    fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (tell, changes) = channel();
        let seen = Mutex::new(0);
        // Ends with the test's process, or once the script has it go.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (request, stream) = read(stream.expect("a connection"));
                let (status, body) = script.answer(&request, &seen);
                if request.0.starts_with("POST") {
                    let _ = tell.send(format!("{} {}", request.0, request.1));
                }
                answer(stream, status, &body);
                let views = *seen.lock().expect("no panic");
                if script.views.is_some_and(|most| views >= most) {
                    return;
                }
            }
        });
        Self { address, changes }
    }
}

impl Script {
    fn answer(&self, request: &(String, String), seen: &Mutex<usize>) -> (u16, Value) {
        let missing = || (404, json!({ "error": "no such path" }));
        match request.0.as_str() {
            "GET /api/nodes" => {
                let mut seen = seen.lock().expect("no panic");
                let at = (*seen).min(self.nodes.len() - 1);
                *seen += 1;
                (200, serde_json::to_value(&self.nodes[at]).expect("JSON"))
            }
            "GET /api/servers" if !self.servers.is_empty() => {
                let mut seen = seen.lock().expect("no panic");
                let at = (*seen).min(self.servers.len() - 1);
                *seen += 1;
                (200, serde_json::to_value(&self.servers[at]).expect("JSON"))
            }
            "POST /api/failover" | "POST /api/failback" | "POST /api/breaker" => {
                self.ordered.clone().unwrap_or_else(missing)
            }
            "GET /api/incidents" => match &self.incidents {
                Some(incidents) => (200, serde_json::to_value(incidents).expect("JSON")),
                None => missing(),
            },
            path if path.starts_with("GET /api/audit?") => match &self.events {
                Some(events) => (200, serde_json::to_value(events).expect("JSON")),
                None => missing(),
            },
            "GET /api/status" => self.status.clone().map_or_else(missing, |status| (200, status)),
            "POST /api/drain" => self.drain.clone().unwrap_or_else(missing),
            path if path.starts_with("GET /api/sessions?") => match &self.sessions {
                Some(sessions) => (200, serde_json::to_value(sessions).expect("JSON")),
                None => missing(),
            },
            _ => missing(),
        }
    }
}

/// Method and path, and the body.
fn read(stream: TcpStream) -> ((String, String), TcpStream) {
    let mut lines = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    lines.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).expect("a header");
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).expect("a body");
    let asked = first.trim().trim_end_matches(" HTTP/1.1").to_owned();
    ((asked, String::from_utf8(body).expect("text")), lines.into_inner())
}

fn answer(mut stream: TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
}

/// Runs a command against the port and compares all that it prints, and its exit code, with the
/// golden file.
#[track_caller]
fn golden(name: &str, script: Script, arguments: &[&str]) -> Fake {
    let fake = Fake::start(script);
    asked::golden(name, fake.address, arguments);
    fake
}

fn node(number: u64) -> NodeEntryDto {
    NodeEntryDto {
        name: format!("gateway-{number}"),
        id: Some(format!("{:016x}", 0xfeed_0000 + number)),
        role: if number == 2 { "leader" } else { "follower" }.into(),
        state: "ready".into(),
        term: Some(7),
        generation: 1,
        commit_lag: Some(0),
        last_heard_ms: Some(100 + number),
        sessions: Some(10 * number),
        in_flight: Some(number),
        health: Some(if number == 3 { "critical" } else { "normal" }.into()),
        version: "0.1.0".into(),
        client: format!("10.0.0.{number}:37373"),
        admin: format!("10.0.0.{number}:37374"),
        configuration: Some(runs(number, Some(3))),
    }
}

fn runs(number: u64, version: Option<u64>) -> ConfigNodeDto {
    ConfigNodeDto {
        node: format!("gateway-{number}"),
        version,
        since_unix_ms: version.map(|_| 1_796_083_200_000),
        failed: None,
        why: None,
        file: version.map(|_| "same".into()),
        trouble: None,
        format: None,
    }
}

fn cluster() -> NodesDto {
    NodesDto {
        clustered: true,
        me: "gateway-1".into(),
        quorum: Some(true),
        leader: Some("gateway-2".into()),
        term: Some(7),
        nodes: vec![node(1), node(2), node(3)],
    }
}

/// The cluster with another third node.
fn with_third(change: impl Fn(&mut NodeEntryDto)) -> NodesDto {
    let mut nodes = cluster();
    change(&mut nodes.nodes[2]);
    nodes
}

fn alone() -> NodesDto {
    let node = NodeEntryDto {
        name: "holdfast".into(),
        id: None,
        role: "alone".into(),
        term: None,
        commit_lag: None,
        ..node(1)
    };
    NodesDto {
        clustered: false,
        me: "holdfast".into(),
        quorum: None,
        leader: None,
        term: None,
        nodes: vec![node],
    }
}

fn views(nodes: impl Into<Vec<NodesDto>>) -> Script {
    Script { nodes: nodes.into(), ..Script::default() }
}

#[test]
fn nodes_of_a_cluster() {
    golden("nodes", views([cluster()]), &["nodes"]);
    golden("nodes-json", views([cluster()]), &["nodes", "-o", "json"]);
    golden("nodes-alone", views([alone()]), &["nodes"]);
    let mut unlike = cluster();
    unlike.nodes[0].configuration = Some(ConfigNodeDto {
        trouble: Some("holdfast.yaml:3:1: servrs: there is no such key\n1 problem".into()),
        ..runs(1, Some(3))
    });
    unlike.nodes[1].configuration = Some(ConfigNodeDto { format: Some(2), ..runs(2, None) });
    unlike.nodes[2].configuration = Some(ConfigNodeDto {
        failed: Some(3),
        why: Some("version 3:4:10: the environment variable KEY is not set\n1 problem".into()),
        ..runs(3, Some(2))
    });
    golden("nodes-configuration", views([unlike]), &["nodes"]);
    let mut cut_off = with_third(|node| {
        node.configuration = Some(runs(3, None));
        node.state = "dead".into();
        node.role = "unknown".into();
        (node.term, node.commit_lag) = (None, None);
        (node.sessions, node.in_flight) = (None, None);
        node.last_heard_ms = Some(90_500);
    });
    golden("nodes-dead", views([cut_off.clone()]), &["nodes"]);
    cut_off.quorum = Some(false);
    cut_off.leader = None;
    cut_off.nodes[1] = NodeEntryDto {
        state: "absent".into(),
        generation: 0,
        last_heard_ms: None,
        health: None,
        version: String::new(),
        client: String::new(),
        configuration: None,
        ..cut_off.nodes[2].clone()
    };
    cut_off.nodes[1].name = "gateway-2".into();
    // What the group knew last of one that has gone since.
    cut_off.nodes[2].state = "ready".into();
    cut_off.nodes[2].last_heard_ms = None;
    golden("nodes-no-quorum", views([cut_off]), &["nodes"]);
}

fn session(number: usize) -> SessionDto {
    SessionDto {
        digest: format!("{:012x}", 0xabc_def0 + number),
        server: ["docs", "files"][number % 2].into(),
        principal: "team-a".into(),
        version: "2025-06-18".into(),
        client: (number == 0).then(|| "inspector 1.2.0".into()),
        age_s: 61,
        idle_s: 2,
        instance: (number == 0).then(|| "b".into()),
        node: (number == 1).then(|| "gateway-1".into()),
        revision: 4 + number as u64,
    }
}

#[test]
fn sessions_that_a_node_has_in_hand() {
    let page = |total, count| {
        let sessions = (0..count).map(session).collect();
        let page = SessionsDto { node: "gateway-1".into(), total, offset: 0, sessions };
        Script { sessions: Some(page), ..Script::default() }
    };
    golden("sessions", page(250, 2), &["sessions", "--limit", "2"]);
    golden("sessions-one-json", page(1, 1), &["sessions", "-o", "json"]);
    golden("sessions-none", page(0, 0), &["sessions"]);
    golden("sessions-limit", page(0, 0), &["sessions", "--limit", "1001"]);
}

/// The group agrees: the third node drains.
fn agreed() -> Option<(u16, Value)> {
    Some((202, json!({ "node": "gateway-3", "generation": 1, "deadline_ms": 30_000 })))
}

fn draining(calls: u64) -> NodesDto {
    with_third(|node| {
        node.state = "draining".into();
        node.in_flight = Some(calls);
    })
}

#[test]
fn drain_is_followed_until_the_node_has_left() {
    let left = with_third(|node| node.state = "left".into());
    let steps = [cluster(), draining(3), draining(3), draining(0), left];
    let script = || Script { drain: agreed(), ..views(steps.clone()) };
    let fake = golden("drain", script(), &["drain", "gateway-3", "--yes"]);
    let change = fake.changes.try_recv().expect("it was asked");
    assert_eq!(change, r#"POST /api/drain {"node":"gateway-3"}"#);
    golden("drain-json", script(), &["drain", "gateway-3", "--yes", "-o", "json"]);
}

#[test]
fn drain_of_a_node_that_comes_back_dies_or_is_the_one_that_is_asked() {
    let back = with_third(|node| node.generation = 2);
    let script = Script { drain: agreed(), ..views([cluster(), draining(1), back]) };
    golden("drain-came-back", script, &["drain", "gateway-3", "--yes"]);
    let died = with_third(|node| node.state = "dead".into());
    let script = Script { drain: agreed(), ..views([cluster(), draining(1), died]) };
    golden("drain-died", script, &["drain", "gateway-3", "--yes"]);
    let as_third = |mut nodes: NodesDto| {
        nodes.me = "gateway-3".into();
        nodes
    };
    let steps = [as_third(cluster()), as_third(draining(0))];
    let script = Script { drain: agreed(), views: Some(2), ..views(steps) };
    golden("drain-itself", script, &["drain", "gateway-3", "--yes"]);
}

#[test]
fn drain_leaves_the_last_majority_unless_it_is_forced() {
    let mut weak = cluster();
    weak.nodes[0].state = "dead".into();
    let mut left = weak.clone();
    left.nodes[2].state = "left".into();
    let error = DrainError::Majority { node: "gateway-3".into(), ready: 1, all: 3 }.to_string();
    let refused = Some((409, json!({ "error": error })));
    let script = |drain| Script { drain, ..views([weak.clone(), left.clone()]) };
    let fake = golden("drain-weak", script(refused), &["drain", "gateway-3", "--yes"]);
    let change = fake.changes.try_recv().expect("the node decides");
    assert_eq!(change, r#"POST /api/drain {"node":"gateway-3"}"#);
    let forced = &["drain", "gateway-3", "--yes", "--force"];
    let fake = golden("drain-forced", script(agreed()), forced);
    let change = fake.changes.try_recv().expect("it was asked");
    assert_eq!(change, r#"POST /api/drain {"node":"gateway-3","force":true}"#);
}

#[test]
fn drain_refuses_what_cannot_be_done() {
    let refused = |fake: Fake| assert!(fake.changes.try_recv().is_err(), "it was asked to change");
    refused(golden("drain-no-terminal", views([cluster()]), &["drain", "gateway-3"]));
    refused(golden("drain-unknown", views([cluster()]), &["drain", "gateway-9", "--yes"]));
    refused(golden("drain-alone", views([alone()]), &["drain", "holdfast", "--yes"]));
    let error = "the cluster has no quorum: nothing can be decided until a majority is there";
    let script = Script { drain: Some((503, json!({ "error": error }))), ..views([cluster()]) };
    golden("drain-no-quorum", script, &["drain", "gateway-3", "--yes"]);
}

fn instance(id: &str, role: &str) -> InstanceControlDto {
    InstanceControlDto {
        id: id.into(),
        role: Some(role.into()),
        region: Some(if id == "a" { "east" } else { "west" }.into()),
        verdict: "healthy".into(),
        votes: "3 of 3 nodes voted: 0 unhealthy, 0 degraded, 3 healthy; score 1.00, score".into(),
        score: Some(1.0),
        why: Vec::new(),
        breaker: "closed".into(),
        kept: None,
        in_flight: 3,
        share: None,
    }
}

/// A server as a node shows it, with what was agreed on about it.
fn server(name: &str, control: Option<ControlDto>) -> ServerDto {
    let text = json!({
        "name": name, "state": "ok", "reason": null, "transport": "http",
        "instances": [{ "id": "default", "target": "http://10.0.0.9:3000/mcp" }],
        "versions": ["2025-11-25"], "sessions": 4, "in_flight": 3,
        "recent": { "window_s": 60.0, "calls": 10, "rate": 0.2, "success": 1.0, "p50_ms": 1.0, "p99_ms": 2.0 },
        "total": { "calls": 10, "errors": 0, "failures": 0, "cancelled": 0, "repeated": 0, "p50_ms": 1.0, "p99_ms": 2.0 },
        "last_success_s": 1, "last_error": null, "processes": null
    });
    ServerDto { control, ..serde_json::from_value(text).expect("a server") }
}

fn at_rest(active: &str, phase: &str) -> ControlDto {
    ControlDto {
        verdict: "healthy".into(),
        active: Some(active.into()),
        phase: Some(phase.into()),
        since_unix_s: Some(1_798_761_599),
        generation: 1,
        instances: vec![instance("a", "primary"), instance("b", "secondary")],
        ..ControlDto::default()
    }
}

fn moving(stage: &str) -> ControlDto {
    ControlDto {
        stage: Some(stage.into()),
        target: Some("b".into()),
        generation: 2,
        reason: "by an operator at gateway-1".into(),
        ..at_rest("a", "failing_over")
    }
}

fn one(control: ControlDto) -> ServersDto {
    ServersDto { servers: vec![server("docs", Some(control))] }
}

fn accepted(control: ControlDto) -> Option<(u16, Value)> {
    Some((202, json!({ "server": "docs", "control": control })))
}

fn refused_with(status: u16, error: &str) -> Option<(u16, Value)> {
    Some((status, json!({ "error": error })))
}

#[test]
fn servers_with_health_breakers_and_what_serves() {
    let shown = |servers| Script { servers: vec![ServersDto { servers }], ..Script::default() };
    let mut ill = moving("ramp");
    ill.verdict = "degraded".into();
    ill.reason = "a errors".into();
    ill.instances[0].verdict = "degraded".into();
    ill.instances[0].score = Some(0.666);
    ill.instances[0].why = vec!["tool: timed out (no answer within 2000 ms)".into()];
    ill.instances[0].breaker = "half_open".into();
    (ill.instances[0].share, ill.instances[1].share) = (Some(0.8), Some(0.2));
    let mut equal = ControlDto { active: None, phase: None, ..at_rest("a", "") };
    equal.instances.truncate(1);
    equal.instances[0].role = None;
    equal.instances[0].kept = Some("forced open by an operator at gateway-2".into());
    equal.instances[0].breaker = "forced_open".into();
    let kept = |name: &str, kept: &str| KeptToolDto { name: name.into(), kept: kept.into() };
    equal.kept_tools = vec![
        kept("old", "forced open by an operator at gateway-1"),
        kept("write", "forced open by an operator at gateway-3"),
    ];
    let tool = |name: &str, breaker: &str| ToolDto { name: name.into(), breaker: breaker.into() };
    let mut search = server("search", Some(equal));
    search.tools =
        vec![tool("find", "closed"), tool("crawl", "open"), tool("write", "forced_open")];
    let all = vec![server("docs", Some(ill)), search, server("files", None)];
    golden("servers", shown(all), &["servers"]);
    let failed = ControlDto {
        reason: "a is unreachable, and no other instance can take over".into(),
        ..at_rest("a", "failover_failed")
    };
    golden("servers-failed", shown(vec![server("docs", Some(failed))]), &["servers"]);
    let secondary = server("docs", Some(at_rest("b", "secondary_active")));
    golden("servers-secondary", shown(vec![secondary.clone()]), &["servers"]);
    golden("servers-json", shown(vec![secondary]), &["servers", "-o", "json"]);
    golden("servers-none", shown(vec![]), &["servers"]);
}

#[test]
fn a_failover_is_followed_until_the_server_has_arrived() {
    let steps =
        [moving("drain"), moving("drain"), moving("switch"), at_rest("b", "secondary_active")];
    let script = || Script {
        servers: steps.iter().cloned().map(one).collect(),
        ordered: accepted(moving("pause")),
        ..Script::default()
    };
    let fake = golden("failover", script(), &["failover", "docs", "--to", "b", "--yes"]);
    let change = fake.changes.try_recv().expect("it was asked");
    assert_eq!(change, r#"POST /api/failover {"server":"docs","to":"b"}"#);
    golden("failover-json", script(), &["failover", "docs", "--yes", "-o", "json"]);
    let rolled_back = Script {
        servers: vec![one(moving("check")), one(at_rest("a", "primary_active"))],
        ordered: accepted(moving("pause")),
        ..Script::default()
    };
    golden("failover-rolled-back", rolled_back, &["failover", "docs", "--yes"]);
    let by_force = ["failover", "docs", "--to", "b", "--force", "--yes"];
    let fake = golden("failover-force", script(), &by_force);
    let change = fake.changes.try_recv().expect("it was asked");
    assert_eq!(change, r#"POST /api/failover {"server":"docs","to":"b","force":true}"#);
    golden("failover-force-alone", Script::default(), &["failover", "docs", "--force"]);
}

#[test]
fn a_failback_says_which_share_has_gone_over() {
    let ramp = |share| {
        let mut control = ControlDto {
            phase: Some("failing_back".into()),
            target: Some("a".into()),
            active: Some("b".into()),
            ..moving("ramp")
        };
        control.instances[0].share = Some(share);
        control
    };
    let script = Script {
        servers: vec![one(ramp(0.1)), one(ramp(1.0)), one(at_rest("a", "primary_active"))],
        ordered: accepted(ramp(0.1)),
        ..Script::default()
    };
    let fake = golden("failback", script, &["failback", "docs", "--yes"]);
    let change = fake.changes.try_recv().expect("it was asked");
    assert_eq!(change, r#"POST /api/failback {"server":"docs"}"#);
    let script = Script {
        servers: vec![one(at_rest("a", "primary_active"))],
        ordered: accepted(ControlDto {
            phase: Some("failing_back".into()),
            target: Some("a".into()),
            active: Some("b".into()),
            ..moving("pause")
        }),
        ..Script::default()
    };
    let fake = golden("failback-at-once", script, &["failback", "docs", "--at-once", "--yes"]);
    let change = fake.changes.try_recv().expect("it was asked");
    assert_eq!(change, r#"POST /api/failback {"server":"docs","at_once":true}"#);
}

#[test]
fn an_order_that_takes_the_opposite_move_back_has_done_what_it_was_to_do() {
    let taken_back = |phase: &str, active: &str, target: &str| ControlDto {
        phase: Some(phase.into()),
        active: Some(active.into()),
        target: Some(target.into()),
        reason: "taken back by an operator at gateway-1".into(),
        ..moving("notify")
    };
    for (order, back, rests) in [
        ("failover", taken_back("failing_back", "b", "a"), at_rest("b", "secondary_active")),
        ("failback", taken_back("failing_over", "a", "b"), at_rest("a", "primary_active")),
    ] {
        let script = Script {
            servers: vec![one(back.clone()), one(rests)],
            ordered: accepted(back),
            ..Script::default()
        };
        golden(&format!("{order}-undone"), script, &[order, "docs", "--yes"]);
    }
}

#[test]
fn orders_that_cannot_be_carried_out_say_why() {
    let unasked = |fake: Fake| assert!(fake.changes.try_recv().is_err(), "it was asked to change");
    unasked(golden("failover-no-terminal", Script::default(), &["failover", "docs", "--to", "b"]));
    unasked(golden("failback-no-terminal", Script::default(), &["failback", "docs"]));
    let breaker = ["breaker", "open", "docs", "a"];
    unasked(golden("breaker-no-terminal", Script::default(), &breaker));
    let table = [
        ("failover-unknown", 404, r#"no server is called "dosc"; did you mean docs?"#),
        (
            "failover-no-secondary",
            409,
            "docs has no secondary: give one of its instances `role: secondary`",
        ),
        (
            "failover-running",
            409,
            "docs is on its way to b already (drain): follow it with `holdfast servers --watch`",
        ),
        (
            "failover-no-quorum",
            503,
            "the cluster has no quorum: nothing can be decided until a majority of its nodes is there. \
             gateway-2, gateway-3 do not answer: start them, or mend their network, and give the order again",
        ),
    ];
    for (name, status, error) in table {
        let script = Script { ordered: refused_with(status, error), ..Script::default() };
        let server = if status == 404 { "dosc" } else { "docs" };
        golden(name, script, &["failover", server, "--yes"]);
    }
}

#[test]
fn breakers_are_held_and_let_go() {
    let script =
        || Script { ordered: accepted(at_rest("a", "primary_active")), ..Script::default() };
    let fake = golden("breaker-open", script(), &["breaker", "open", "docs", "a", "--yes"]);
    let change = fake.changes.try_recv().expect("it was asked");
    assert_eq!(change, r#"POST /api/breaker {"server":"docs","instance":"a","action":"open"}"#);
    golden("breaker-clear", script(), &["breaker", "clear", "docs", "--yes"]);
    let mut held = at_rest("a", "primary_active");
    held.instances[1].kept = Some("forced open by an operator at gateway-2".into());
    let script = || Script { ordered: accepted(held.clone()), ..Script::default() };
    golden("breaker-clear-held", script(), &["breaker", "clear", "docs", "--yes"]);
    let tool = ["breaker", "open", "docs", "--tool", "write", "--yes"];
    let fake = golden("breaker-tool", script(), &tool);
    let change = fake.changes.try_recv().expect("it was asked");
    let asked =
        r#"POST /api/breaker {"server":"docs","instance":null,"tool":"write","action":"open"}"#;
    assert_eq!(change, asked);
}

#[test]
fn events_and_incidents() {
    let line = |index: u64, kind: &str, text: &str| EventDto {
        index,
        at_unix_ms: 1_798_761_599_000 + index,
        server: if kind == "configured" { "" } else { "docs" }.into(),
        instance: "a".into(),
        kind: kind.into(),
        text: text.into(),
    };
    let events = vec![
        line(7, "configured", "configuration: version 1, by gateway-1"),
        line(9, "verdict", "a is unhealthy, was healthy: 3 of 3 nodes voted: 3 unhealthy"),
        line(10, "failover_began", "failover to b begins: a is unreachable (immediate, pause)"),
    ];
    let script = |events| Script { events: Some(EventsDto { events }), ..Script::default() };
    golden("events", script(events), &["events", "--limit", "3"]);
    golden("events-none", script(vec![]), &["events"]);
    let incident = |recovered_ms, objective: &str| IncidentDto {
        server: "docs".into(),
        instance: "a".into(),
        began_unix_ms: 1_798_761_598_100,
        detected_ms: 912,
        decided_ms: Some(915),
        switched_ms: Some(1_140),
        recovered_ms,
        rto_ms: 30_000,
        objective: objective.into(),
        tier_ms: Some(1_000),
        tier: Some(objective.into()),
        unknown_writes: 0,
        in_doubt_ms: 0,
        rpo_ms: Some(0),
        rpo: Some(objective.into()),
        sessions_moved: 200,
    };
    let mut doubtful = incident(Some(1_158), "kept");
    (doubtful.unknown_writes, doubtful.in_doubt_ms) = (3, 1_402);
    doubtful.rpo = Some("missed".into());
    // As a node of an earlier version says it.
    let mut earlier = incident(Some(1_158), "kept");
    (earlier.rpo, earlier.rpo_ms) = (None, None);
    let incidents = vec![incident(Some(1_158), "kept"), doubtful, earlier, incident(None, "open")];
    let script =
        |incidents| Script { incidents: Some(IncidentsDto { incidents }), ..Script::default() };
    golden("incidents", script(incidents), &["incidents"]);
    golden("incidents-none", script(vec![]), &["incidents"]);
}
