//! Nodes as processes: how they start, what they say, and how they end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For everything that is waited for; generous, since it only ends failing tests.
const DEADLINE: Duration = Duration::from_secs(60);

/// A `holdfast` process; killed when dropped. Its standard error goes to a file, so that a pipe
/// nobody reads never stops it.
struct Node {
    child: Child,
    folder: PathBuf,
}

impl Node {
    fn start(name: &str, arguments: &[&str], config: &str) -> Self {
        Self::start_with(name, &[], arguments, config)
    }

    /// By way of another program, which gets the binary and its arguments behind its own.
    fn start_with(name: &str, by: &[&str], arguments: &[&str], config: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("node-{name}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("holdfast.yaml"), config).expect("a file");
        let errors = std::fs::File::create(folder.join("stderr")).expect("a file");
        let mut words = by.iter().chain(&[env!("CARGO_BIN_EXE_holdfast")]).chain(arguments);
        let child = Command::new(words.next().expect("a program"))
            .args(words)
            .current_dir(&folder)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the binary runs");
        Self { child, folder }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).expect("the log is text")
    }

    /// The first line of the log with `text` in it.
    fn wait_for_log(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no {text} in the log:\n{log}");
            if let Some(status) = self.child.try_wait().expect("a status") {
                panic!("ended with {status} and without {text}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the process is there");
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration on free ports; `more` is put before its server.
fn config(more: &str) -> String {
    format!(
        "listen: {{ address: \"127.0.0.1:0\", workers: 1 }}\n\
         admin: {{ address: \"127.0.0.1:0\" }}\n{more}\n\
         servers: {{ sample: {{ command: {:?}, args: [sample-server, --stdio] }} }}\n",
        env!("CARGO_BIN_EXE_holdfast")
    )
}

/// The value of `key` in a line of logfmt, as an address.
fn address(line: &str, key: &str) -> SocketAddr {
    let start = line.find(&format!(" {key}=")).expect("the key") + key.len() + 2;
    let value = line[start..].split(' ').next().expect("a value");
    value.parse().unwrap_or_else(|_| panic!("{key} of {line} is no address"))
}

/// Posts a message and returns the connection, on which the answer comes.
fn post(address: SocketAddr, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("the request is sent");
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

/// One process: its id, its parent's, and what it runs. The dead that nobody has buried are not
/// counted.
#[derive(Clone, Debug)]
struct Process {
    id: u32,
    parent: u32,
    command: String,
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("the processes");
    let read = |entry: std::fs::DirEntry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before it may hold anything, a parenthesis too.
        let mut words = stat.rsplit(')').next()?.split_whitespace();
        let (state, parent) = (words.next()?, words.next()?.parse().ok()?);
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        (state != "Z").then_some(Process { id, parent, command })
    };
    entries.flatten().filter_map(read).collect()
}

/// All that the node has started, and what that has started.
fn descendants(node: &Node) -> Vec<Process> {
    let all = processes();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![node.child.id()];
    while let Some(parent) = parents.pop() {
        let children = all.iter().filter(|process| process.parent == parent);
        parents.extend(children.clone().map(|process| process.id));
        found.extend(children.cloned());
    }
    found
}

/// The descendants, once a server (and not only its guard) is among them with this in its command.
fn wait_for_server(node: &Node, word: &str) -> Vec<Process> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = descendants(node);
        let server = |it: &Process| it.command.contains(word) && !it.command.contains("guard");
        if found.iter().any(server) {
            return found;
        }
        assert!(Instant::now() < deadline, "no {word}: {found:#?}\n{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn wait_until_gone(them: &[Process]) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let same = |it: &Process| them.iter().any(|p| p.id == it.id && p.command == it.command);
        let left: Vec<Process> = processes().into_iter().filter(same).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_node_serves_says_what_it_is_and_ends_at_sigterm() {
    let more = "limits: { connections: 100 }\nsessions: { ttl: 1h }";
    let mut node = Node::start("serve", &["serve"], &config(more));
    let started = node.wait_for_log("msg=started");
    let client = address(&started, "clients");
    let text = answer(post(client, "/mcp", LIST));
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"id\":7"), "{text}");
    assert!(node.log().contains("no API keys"), "{}", node.log());

    let admin = address(&started, "admin").to_string();
    let status = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["status", "--admin", &admin, "-o", "json"])
        .output()
        .expect("the binary runs");
    let value: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(value["servers"][0]["name"], "sample", "{value:#}");
    assert_eq!(value["listeners"].as_array().map(Vec::len), Some(2), "{value:#}");
    let table = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["status", "--admin", &admin])
        .output()
        .expect("the binary runs");
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("sample") && table.contains("stdio"), "{table}");

    let servers = wait_for_server(&node, "--stdio");
    node.signal(Signal::SIGTERM);
    assert!(node.wait().success(), "{}", node.log());
    assert!(node.log().contains("msg=ended"), "{}", node.log());
    wait_until_gone(&servers);
}

#[test]
fn a_second_signal_does_not_wait_for_running_calls() {
    let mut node = Node::start("second", &["serve"], &config(""));
    let client = address(&node.wait_for_log("msg=started"), "clients");
    // A call that runs as long as its client waits.
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"slow","arguments":{"ms":600000}}}"#;
    let waiting = post(client, "/mcp", call);
    let servers = wait_for_server(&node, "--stdio");
    node.signal(Signal::SIGINT);
    node.wait_for_log("draining");
    node.signal(Signal::SIGINT);
    let status = node.wait();
    assert_eq!(status.code(), Some(1), "{}", node.log());
    drop(waiting);
    wait_until_gone(&servers);
}

#[test]
fn nothing_outlives_a_killed_node() {
    let mut node = Node::start("killed", &["serve"], &config(""));
    let client = address(&node.wait_for_log("msg=started"), "clients");
    let text = answer(post(client, "/mcp", LIST));
    assert!(text.contains("\"id\":7"), "{text}");
    let servers = wait_for_server(&node, "--stdio");
    node.signal(Signal::SIGKILL);
    assert_eq!(node.wait().signal(), Some(9));
    wait_until_gone(&servers);
}

#[test]
fn a_port_in_use_is_named_and_nothing_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    for (section, other) in [("listen", "admin"), ("admin", "listen")] {
        let text = format!(
            "{section}: {{ address: \"{address}\" }}\n{other}: {{ address: \"127.0.0.1:0\" }}\n\
             servers: {{ a: {{ command: b }} }}\n"
        );
        let mut node = Node::start(&format!("taken-{section}"), &["serve"], &text);
        assert_eq!(node.wait().code(), Some(1));
        let log = node.log();
        assert!(log.contains(&address.to_string()), "{log}");
        assert!(log.contains(&format!("{section}.address")), "{log}");
        assert!(!log.contains("msg=started"), "{log}");
    }
}

/// What the limits of this many connections need in open files.
const NEEDED_FOR_100: &str = "456";

#[test]
fn the_soft_limit_of_open_files_is_raised_and_one_that_is_too_low_is_said() {
    let text = config("limits: { connections: 100 }");
    for (name, limits, allowed) in
        [("raised", "-Sn 64", None), ("low", "-n 300", Some("300")), ("enough", "-n 456", None)]
    {
        let script = format!("ulimit {limits}; exec \"$0\" \"$@\"");
        let by = ["/bin/sh", "-c", &script];
        let mut node = Node::start_with(&format!("files-{name}"), &by, &["serve"], &text);
        node.wait_for_log("msg=started");
        let log = node.log();
        let said: Vec<&str> = log.lines().filter(|line| line.contains("open files")).collect();
        match (&said[..], allowed) {
            ([], None) => {}
            ([line], Some(allowed)) => {
                for part in [
                    &format!("allowed={allowed}"),
                    NEEDED_FOR_100,
                    "LimitNOFILE",
                    "limits.connections",
                ] {
                    assert!(line.contains(part), "no {part} in {line}");
                }
            }
            _ => panic!("{name}: {said:?}"),
        }
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.child.id()));
        let limits = limits.expect("the limits");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[3], words[4], "the soft limit is not the hard one: {line}");
    }
}

#[test]
fn a_wrong_configuration_opens_no_port() {
    let mut node = Node::start("wrong", &["serve"], "servers: { a: { comand: b } }\n");
    assert_eq!(node.wait().code(), Some(2));
    let log = node.log();
    assert!(log.contains("did you mean command?") && log.contains("holdfast.yaml:1:"), "{log}");
}

#[test]
fn logs_can_be_json_and_hold_no_secret() {
    let more = "log: { format: json, level: trace }\n\
                node: { secret: hunter2hunter2hunter2hunter2hunter2 }\n";
    let text = config(more).replace("--stdio] }", "--stdio], env: { TOKEN: hunter2 } }");
    let mut node = Node::start("json", &["serve"], &text);
    let started = node.wait_for_log("\"msg\":\"started\"");
    let value: serde_json::Value = serde_json::from_str(&started).expect("JSON");
    let client: SocketAddr = value["clients"].as_str().expect("text").parse().expect("an address");
    let text = answer(post(client, "/mcp", LIST));
    assert!(text.contains("\"id\":7"), "{text}");
    node.signal(Signal::SIGTERM);
    assert!(node.wait().success());
    let log = node.log();
    assert!(log.lines().count() > 5, "{log}");
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(value["ts"].is_string() && value["level"].is_string(), "{line}");
    }
    assert!(!log.contains("hunter2"), "{log}");
}

/// Starts a demo; its words up to those that end the welcome, and its further output.
fn demo(name: &str, more: &[&str]) -> (Node, String, BufReader<ChildStdout>) {
    let arguments = [&["demo", "--port", "0", "--admin-port", "0"], more].concat();
    let mut node = Node::start(name, &arguments, "not read");
    let mut out = BufReader::new(node.child.stdout.take().expect("standard output"));
    let text = lines_until(&node, &mut out, "Ctrl-C");
    (node, text, out)
}

/// Lines of the output up to the first with `word` in it.
fn lines_until(node: &Node, out: &mut BufReader<ChildStdout>, word: &str) -> String {
    let mut text = String::new();
    loop {
        let before = text.len();
        let read = out.read_line(&mut text).expect("text");
        assert!(read > 0, "it ends without {word}:\n{text}\n{}", node.log());
        if text[before..].contains(word) {
            return text;
        }
    }
}

/// Lists the tools of a server of the demo, at the address that its welcome names.
fn list_at(node: &Node, welcome: &str, server: &str) {
    let url = welcome
        .split_whitespace()
        .find(|word| word.starts_with("http://") && word.ends_with(&format!("/mcp/{server}")));
    let url = url.unwrap_or_else(|| panic!("no {server}:\n{welcome}\n{}", node.log()));
    let (address, path) = url["http://".len()..].split_once('/').expect("a path");
    let address = address.parse().expect("an address");
    let text = answer(post(address, &format!("/{path}"), LIST));
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"id\":7"), "{text}");
}

#[test]
fn the_demo_is_a_cluster_that_goes_on_when_a_node_is_killed() {
    let (mut node, welcome, mut out) = demo("demo-cluster", &[]);
    list_at(&node, &welcome, "sample-http");
    let victim = welcome.lines().find_map(|line| line.trim().strip_prefix("kill -9 "));
    let victim: i32 = victim.and_then(|pid| pid.parse().ok()).expect("what to kill");
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("the node is there");
    list_at(&node, &welcome, "sample-http");
    lines_until(&node, &mut out, &format!("(process {victim}) has ended: signal 9"));
    lines_until(&node, &mut out, "runs again");
    list_at(&node, &welcome, "sample-http");
    let all = descendants(&node);
    assert!(all.iter().filter(|it| it.command.contains("serve")).count() >= 3, "{all:#?}");
    node.signal(Signal::SIGINT);
    assert!(node.wait().success(), "{}", node.log());
    wait_until_gone(&all);
}

/// Neither takes a port that the other has chosen, whichever is faster.
#[test]
fn demos_run_side_by_side_on_ports_of_their_own() {
    let mut both = ["demo-left", "demo-right"].map(|name| Node::start(name, &["demo"], "not read"));
    let welcomes = both.each_mut().map(|node| {
        let mut out = BufReader::new(node.child.stdout.take().expect("standard output"));
        lines_until(node, &mut out, "Ctrl-C")
    });
    for (node, welcome) in both.iter().zip(&welcomes) {
        list_at(node, welcome, "sample-http");
    }
    let ports = |welcome: &str| -> Vec<String> {
        let words = welcome.split_whitespace().filter_map(|word| word.strip_prefix("http://"));
        words.filter_map(|word| Some(word.split_once('/')?.0.to_owned())).collect()
    };
    let (left, right) = (ports(&welcomes[0]), ports(&welcomes[1]));
    assert!(left.len() >= 5 && left.iter().all(|port| !right.contains(port)), "{left:?} {right:?}");
    let moved = welcomes.iter().filter(|it| it.contains("Port 37373 is taken")).count();
    assert!(moved >= 1, "one of them is not where it usually is, and says so: {welcomes:?}");
    for node in &mut both {
        node.signal(Signal::SIGINT);
        assert!(node.wait().success(), "{}", node.log());
    }
}

#[test]
fn a_port_that_the_demo_is_told_and_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for nodes in ["1", "3"] {
        for (option, other) in [("--port", "--admin-port"), ("--admin-port", "--port")] {
            let arguments = ["demo", "--nodes", nodes, option, &port, other, "0"];
            let mut node =
                Node::start(&format!("demo-taken{option}{nodes}"), &arguments, "not read");
            assert_eq!(node.wait().code(), Some(1), "{}", node.log());
            let log = node.log();
            assert!(log.contains(&format!(":{port} ({option}) cannot be listened on")), "{log}");
            assert!(log.contains("choose another port"), "{log}");
        }
    }
}

#[test]
fn the_demo_counts_what_a_client_saw_of_a_kill() {
    let mut node = Node::start(
        "demo-kill",
        &["demo", "--kill", "--port", "0", "--admin-port", "0"],
        "not read",
    );
    let mut out = BufReader::new(node.child.stdout.take().expect("standard output"));
    lines_until(&node, &mut out, "kill -9 ");
    let report = lines_until(&node, &mut out, "The promise was");
    for line in ["Longest pause: ", "Writes that ran twice, by the server's count: 0."] {
        assert!(report.contains(line), "{report}");
    }
    node.wait();
}

#[test]
fn the_demo_of_one_node_answers_on_both_servers_and_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let (mut node, welcome, _out) = demo(&format!("demo-{signal}"), &["--nodes", "1"]);
        for server in ["sample-http", "sample-stdio"] {
            list_at(&node, &welcome, server);
        }
        let servers = [wait_for_server(&node, "--stdio"), wait_for_server(&node, "--http")];
        node.signal(signal);
        let status = node.wait();
        if signal == Signal::SIGINT {
            assert!(status.success(), "{}", node.log());
        }
        wait_until_gone(&servers.concat());
    }
}
