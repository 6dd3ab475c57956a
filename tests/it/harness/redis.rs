//! A Redis of a test's own: the real server with the settings that the project ships, on a port of its
//! own, and a look at every command that it gets.

#[allow(dead_code, reason = "the drills ask for more")]
#[path = "../../cluster/redis/resp.rs"]
pub(crate) mod resp;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use resp::{Conn, Value};
use tokio::time::Instant;

use super::process::{Process, free_address};
use super::{DEADLINE, TempDir};

/// A running server. Dropping it kills it.
pub(crate) struct Redis {
    pub(crate) address: SocketAddr,
    process: Process,
    folder: TempDir,
}

/// Sees every command that a server carries out, from the moment at which it is opened.
pub(crate) struct Monitor {
    conn: Conn,
    redis: SocketAddr,
}

/// Commands on records, by the command and the kind of record: `put journal`, `get session`, ….
pub(crate) type Operations = BTreeMap<String, usize>;

/// What is asked to know that all before it has been seen.
const MARK: &str = "that is all";
/// So often in a row nothing more may come before a count is taken for whole.
const QUIET: u32 = 4;

// === impl Redis ===

impl Redis {
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new();
        let mut said = String::new();
        // A port can be taken between finding and binding it.
        for _ in 0..3 {
            let address = free_address();
            std::fs::write(folder.join("redis.conf"), settings(address, &folder))
                .expect("write the settings");
            let mut process = launch(&folder);
            if answers(&mut process, address).await {
                return Self { address, process, folder };
            }
            said = process.output();
        }
        panic!("redis-server does not start; it said:\n{said}");
    }

    /// The section that makes it the store of a gateway.
    pub(crate) fn section(&self) -> String {
        format!(r#"sessions: {{ store: redis, url: "redis://{}/0" }}"#, self.address)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with what it had.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.process = launch(&self.folder);
        let answers = answers(&mut self.process, self.address).await;
        assert!(answers, "it does not start again; it said:\n{}", self.process.output());
    }

    pub(crate) async fn ask(&self, words: &[&str]) -> Value {
        resp::ask(self.address, None, words).await.expect("an answer of Redis")
    }

    pub(crate) async fn monitor(&self) -> Monitor {
        let mut conn = Conn::open(self.address, None).await.expect("a connection to Redis");
        conn.ask(&["MONITOR"]).await.expect("it tells");
        Monitor { conn, redis: self.address }
    }
}

/// The shipped settings but for what differs here: where it listens, and that nobody stands behind it.
fn settings(address: SocketAddr, folder: &TempDir) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../redis/redis.conf");
    let text = std::fs::read_to_string(&shipped).expect("redis/redis.conf");
    let own = ["bind", "port", "dir", "logfile", "replicaof", "min-replicas-to-write"];
    let kept = text.lines().filter(|line| {
        let name = line.split_whitespace().next().unwrap_or_default();
        !own.contains(&name)
    });
    let mut text = kept.collect::<Vec<_>>().join("\n");
    text.push_str(&format!(
        "\nbind {}\nport {}\ndir \"{}\"\nmin-replicas-to-write 0\nprotected-mode no\n",
        address.ip(),
        address.port(),
        folder.join("").display()
    ));
    text
}

fn launch(folder: &TempDir) -> Process {
    Process::start(Command::new("redis-server").arg(folder.join("redis.conf")))
}

async fn answers(process: &mut Process, address: SocketAddr) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline && process.ended().is_none() {
        // While it reads its file it answers with an error.
        if resp::ask(address, None, &["PING"]).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

// === impl Monitor ===

impl Monitor {
    /// What has been done since the last time, once no more of it comes. A node looks after itself all
    /// the time (heartbeats, the search for what is due): that is not counted.
    pub(crate) async fn counted(&mut self) -> Operations {
        let mut all = Operations::new();
        let mut quiet = 0;
        let deadline = Instant::now() + DEADLINE;
        while quiet < QUIET {
            let mut more = false;
            for line in self.until_mark().await {
                if let Some(operation) = operation(&line) {
                    *all.entry(operation).or_default() += 1;
                    more = true;
                }
            }
            quiet = if more { 0 } else { quiet + 1 };
            assert!(Instant::now() < deadline, "it never ends: {all:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        all
    }

    async fn until_mark(&mut self) -> Vec<String> {
        resp::ask(self.redis, None, &["ECHO", MARK]).await.expect("an answer of Redis");
        let mut lines = Vec::new();
        loop {
            let line = tokio::time::timeout(DEADLINE, self.conn.answer()).await;
            let line = line.expect("in time").expect("a line of MONITOR").text().to_owned();
            if line.ends_with(&format!("\"{MARK}\"")) {
                return lines;
            }
            lines.push(line);
        }
    }
}

/// `1764432000.1 [0 127.0.0.1:1] "EVALSHA" "…" "2" "{holdfast:0a}s/…" …`: a command on a record of the
/// store. Those that a script makes are part of it.
fn operation(line: &str) -> Option<String> {
    let (head, command) = line.split_once("] ")?;
    if head.ends_with("lua") {
        return None;
    }
    let words: Vec<&str> = command.split("\" \"").map(|word| word.trim_matches('"')).collect();
    let name = words.first()?.to_ascii_lowercase();
    let record = words.iter().skip(1).find_map(|word| {
        let (_, key) = word.split_once('}').filter(|_| word.starts_with("{holdfast:"))?;
        match key.get(..2)? {
            "s/" => Some("session"),
            "j/" => Some("journal"),
            "x/" => Some("stream"),
            "p/" => Some("placement"),
            "h/" => Some("hints"),
            _ => None,
        }
    })?;
    // A script is known by the number of its arguments: put 8, delete 3, touch 4.
    let what = match (name.as_str(), words.len().saturating_sub(5)) {
        ("eval" | "evalsha", 8) => "put",
        ("eval" | "evalsha", 4) => "touch",
        ("eval" | "evalsha", 3) => "delete",
        (other, _) => other,
    };
    Some(format!("{what} {record}"))
}
