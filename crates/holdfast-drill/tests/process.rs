//! The sample server as a process: what is left when it dies in the middle of a call.

#![expect(clippy::unwrap_used, reason = "helpers of a test, outside of its functions")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_drill::Port;
use serde_json::{Value, json};

/// A process that does not outlive the test.
struct Server(Child);

impl Server {
    fn start(args: &[&str]) -> Self {
        let tests = std::env::current_exe().unwrap();
        let program = tests.parent().and_then(|deps| deps.parent()).unwrap();
        let program = program.join("examples/sample_server");
        let child = Command::new(&program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self(child)
    }

    fn pipes(&mut self) -> (ChildStdin, BufReader<ChildStdout>) {
        (self.0.stdin.take().unwrap(), BufReader::new(self.0.stdout.take().unwrap()))
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log_file() -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    std::env::temp_dir().join(format!("drill-process-{}-{number}.log", std::process::id()))
}

fn write(key: &str) -> Value {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": "write", "arguments": { "key": key },
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    })
}

/// Sends a request and reads until the connection ends; `None` when it cannot be opened.
fn post(address: SocketAddr, path: &str, headers: &str, body: &Value) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).ok()?;
    let mut answer = String::new();
    // A reset is the end, too.
    let _ = stream.read_to_string(&mut answer);
    Some(answer)
}

fn call(address: SocketAddr, key: &str) -> Option<String> {
    let headers = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
                   MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: write\r\n";
    post(address, "/mcp", headers, &write(key))
}

fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "the deadline is over");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port for a server, until the end of the test.
fn free_port() -> Port {
    Port::keep("127.0.0.1:0".parse().unwrap()).unwrap()
}

#[test]
fn executions_are_counted_over_a_crash_in_mid_call() {
    let port = free_port();
    let address = port.address();
    let log = log_file();
    let listen = address.to_string();
    let args = ["--http", &listen, "--execution-log", log.to_str().unwrap()];
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();

    let mut first = Server::start(&args);
    let answered = eventually(|| call(address, "a"));
    assert!(answered.contains("execution 1"), "{answered}");
    let rule = json!({ "tool": "write", "execute": true, "fault": { "kind": "exit", "code": 9 } });
    assert!(post(address, "/_drill/behaviour", "", &rule).unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(call(address, "b").unwrap(), "", "it dies without an answer");
    assert_eq!(first.exit_code(), Some(9));

    let second = Server::start(&args);
    let answered = eventually(|| call(address, "b"));
    assert!(answered.contains("execution 1"), "a new process counts from the start: {answered}");
    let (one, two) = (first.0.id(), second.0.id());
    assert_eq!(lines(), format!("write a {one}\nwrite b {one}\nwrite b {two}\n"));
    std::fs::remove_file(&log).unwrap();
}

#[test]
fn a_crash_can_come_after_events() {
    let port = free_port();
    let address = port.address();
    let listen = address.to_string();
    let rule = r#"{"tool":"write","fault":{"kind":"exit_after_events","events":1,"code":3}}"#;
    let mut server = Server::start(&["--http", &listen, "--behaviour", rule]);
    let answer = eventually(|| call(address, "k"));
    assert!(answer.contains("execution 1"), "the event got out first: {answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "and the end of the body did not");
    assert_eq!(server.exit_code(), Some(3));
}

#[test]
fn a_process_on_stdio_ends_with_its_input() {
    let mut server = Server::start(&["--stdio"]);
    let (mut input, mut output) = server.pipes();
    writeln!(input, "{}", write("k")).unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["result"]["structuredContent"]["pid"], server.0.id());
    drop(input);
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_process_on_stdio_is_scripted_over_a_port_of_its_own() {
    let port = free_port();
    let address = port.address();
    let listen = address.to_string();
    let mut server = Server::start(&["--stdio", "--control", &listen]);
    let (mut input, _output) = server.pipes();
    let rule = json!({ "tool": "write", "fault": { "kind": "exit", "code": 4 } });
    eventually(|| post(address, "/_drill/behaviour", "", &rule));
    writeln!(input, "{}", write("k")).unwrap();
    assert_eq!(server.exit_code(), Some(4));
}

#[test]
fn a_process_on_stdio_ends_when_its_connection_is_cut() {
    let rule = r#"{"tool":"write","fault":{"kind":"reset"}}"#;
    let mut server = Server::start(&["--behaviour", rule]);
    let (mut input, mut output) = server.pipes();
    writeln!(input, "{}", write("k")).unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "");
    assert_eq!(server.exit_code(), Some(0), "although its input is still open");
}
