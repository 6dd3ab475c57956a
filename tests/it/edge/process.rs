//! The edge as a process of its own.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus};

use serde_json::Value;

use crate::harness::process::{Process, binary};
use crate::harness::wire::Conn;
use crate::harness::{eventually, within};

pub(super) struct Edge {
    process: Process,
    pub(super) address: SocketAddr,
}

/// Probes are answered by tasks of a test that may be busy: only tests of frozen nodes want them to
/// be counted as silent.
const PATIENT: [&str; 4] = ["--probe-interval", "50ms", "--probe-deadline", "20s"];

/// For tests of frozen nodes.
pub(super) const WATCHFUL: [&str; 2] = ["--probe-deadline", "500ms"];

impl Edge {
    /// Starts it on a free port. Options given again replace the patient ones.
    pub(super) async fn start(nodes: &[String], options: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["edge", "--listen", "127.0.0.1:0", "--workers", "2"]);
        for pair in PATIENT.chunks(2).filter(|pair| !options.contains(&pair[0])) {
            command.args(pair);
        }
        command.args(options).env_remove("HOLDFAST_LOG").env_remove("RUST_LOG");
        for node in nodes {
            command.args(["--node", node]);
        }
        let mut process = Process::start(&mut command);
        let address = eventually("the edge's address in its log", || {
            if let Some(status) = process.ended() {
                panic!("the edge ended with {status}:\n{}", process.output());
            }
            let log = process.output();
            let line = log.lines().find(|line| line.contains("edge started"))?.to_owned();
            let (_, rest) = line.split_once("clients=")?;
            rest.split(' ').next()?.parse().ok()
        })
        .await;
        Self { process, address }
    }

    /// Waits until every node has been probed.
    pub(super) async fn knows_all(&self, nodes: &[String]) {
        for node in nodes {
            self.sees(node, |standing| standing != "unknown").await;
        }
    }

    /// Waits until a node stands as it should.
    pub(super) async fn sees(&self, node: &str, fits: impl Fn(&str) -> bool) {
        within(&format!("{node} stands as expected:\n{}", self.log()), async {
            loop {
                let health = self.health().await;
                let nodes = health["nodes"].as_array().expect("nodes").clone();
                let it = nodes.iter().find(|it| it["address"] == node).expect("the node");
                if fits(it["standing"].as_str().expect("a standing")) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub(super) async fn health(&self) -> Value {
        let request = "GET /edge/health HTTP/1.1\r\nHost: x\r\n\r\n";
        Conn::open(self.address).await.exchange(request).await.json()
    }

    pub(super) fn log(&self) -> String {
        self.process.output()
    }

    pub(super) fn terminate(&self) {
        self.process.terminate();
    }

    pub(super) fn stop(&mut self) -> ExitStatus {
        self.process.stop()
    }

    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }
}
