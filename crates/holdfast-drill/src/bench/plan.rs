//! What load to make, and the bytes of the requests that make it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

/// One run of the load generator.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Where to connect to.
    pub address: SocketAddr,
    /// The path of the MCP endpoint, beginning with `/`.
    pub path: String,
    /// How calls are dressed.
    pub dialect: Dialect,
    /// The tool to call.
    pub tool: String,
    /// Its arguments, a JSON object.
    pub arguments: Value,
    /// Further request headers, for example an API key.
    pub headers: Vec<(String, String)>,
    /// The name of one more, whose value is another in each call, as balancers and traces give one.
    pub counts: Option<&'static str>,
    /// Keep-alive connections, each with at most one call at a time. At least 1.
    pub connections: usize,
    /// Threads of the generator; connections are dealt out to them. At least 1.
    pub threads: usize,
    /// When calls start.
    pub pace: Pace,
    /// Calls of this first part are made but not counted.
    pub warm_up: Duration,
    /// The counted part.
    pub duration: Duration,
    /// How long calls may still take after the counted part has ended; what is open then is counted
    /// as timed out.
    pub grace: Duration,
    /// How long a client waits for an answer, from when its call is due: then it closes its connection, as
    /// those of the SDKs do after 60 s, and the call has failed. None: for as long as the run lasts.
    pub patience: Option<Duration>,
}

/// How calls are dressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// 2025-11-25: every connection opens a session of its own and sends its id.
    Legacy,
    /// 2025-11-25 without a session.
    Sessionless,
    /// 2026-07-28: version, method and name in headers and `_meta`.
    Modern,
}

/// When calls start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each connection calls again as soon as it has its answer: finds the greatest throughput.
    Closed,
    /// Calls are due at a fixed rate whatever the answers do; latency counts from the due moment,
    /// so waiting for a free connection is part of it.
    Open {
        /// Calls per second over all connections, greater than zero.
        per_second: f64,
    },
}

/// A request ready to be sent: only the digits of its number change from call to call.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    bytes: Vec<u8>,
    /// Where they stand: in its id, and in the header that counts.
    numbers: Vec<usize>,
}

/// Ids have ten digits, so that a request's length never changes.
const FIRST_ID: u64 = 1_000_000_000;
const ID_DIGITS: usize = 10;

// === impl LoadPlan ===

impl LoadPlan {
    /// A closed loop of `echo` calls of 64 bytes for five seconds after one of warm-up, over 32
    /// connections and one thread, to `/mcp`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            path: "/mcp".to_owned(),
            dialect: Dialect::Legacy,
            tool: "echo".to_owned(),
            arguments: json!({ "bytes": super::DEFAULT_BYTES }),
            headers: Vec::new(),
            counts: None,
            connections: 32,
            threads: 1,
            pace: Pace::Closed,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(5),
            grace: Duration::from_secs(10),
            patience: None,
        }
    }

    /// The call of this plan for a connection whose session is `session`.
    pub(super) fn call(&self, session: Option<&str>) -> Prepared {
        let mut params = json!({ "name": self.tool, "arguments": self.arguments });
        if self.dialect == Dialect::Modern {
            params["_meta"] = modern_meta();
        }
        let body =
            json!({ "jsonrpc": "2.0", "id": FIRST_ID, "method": "tools/call", "params": params });
        self.prepare("tools/call", Some(&self.tool), session, &body)
    }

    /// The request that opens a session; `None` for dialects without one.
    pub(super) fn initialize(&self) -> Option<Prepared> {
        let body = json!({
            "jsonrpc": "2.0", "id": FIRST_ID, "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": { "name": "holdfast-load", "version": env!("CARGO_PKG_VERSION") },
            },
        });
        (self.dialect == Dialect::Legacy).then(|| self.prepare("initialize", None, None, &body))
    }

    /// The notification that completes the handshake.
    pub(super) fn initialized(&self, session: &str) -> Prepared {
        let body = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.prepare("notifications/initialized", None, Some(session), &body)
    }

    /// The GET that opens a session's stream.
    pub(super) fn listen(&self, session: &str) -> Vec<u8> {
        let (path, address) = (&self.path, self.address);
        format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\
             MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {session}\r\n\r\n"
        )
        .into_bytes()
    }

    fn prepare(
        &self,
        method: &str,
        name: Option<&str>,
        session: Option<&str>,
        body: &Value,
    ) -> Prepared {
        let body = body.to_string();
        let mut head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n",
            self.path,
            self.address,
            body.len()
        );
        let mut header = |name: &str, value: &str| {
            head.push_str(&format!("{name}: {value}\r\n"));
        };
        match self.dialect {
            Dialect::Modern => {
                header("MCP-Protocol-Version", "2026-07-28");
                header("Mcp-Method", method);
                if let Some(name) = name {
                    header("Mcp-Name", name);
                }
            }
            Dialect::Legacy | Dialect::Sessionless if method != "initialize" => {
                header("MCP-Protocol-Version", "2025-11-25");
            }
            Dialect::Legacy | Dialect::Sessionless => {}
        }
        if let Some(session) = session {
            header("Mcp-Session-Id", session);
        }
        for (name, value) in &self.headers {
            header(name, value);
        }
        if let Some(name) = self.counts {
            header(name, &format!("{:022}{FIRST_ID}", 0));
        }
        head.push_str("\r\n");
        let bytes = [head, body].concat();
        let numbers = bytes.match_indices(&FIRST_ID.to_string()).map(|(at, _)| at).collect();
        Prepared { bytes: bytes.into_bytes(), numbers }
    }
}

// === impl Prepared ===

impl Prepared {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds one to the id, in place; after ten billion calls it starts again from zero.
    pub(super) fn next_id(&mut self) {
        for at in &self.numbers {
            count(&mut self.bytes[*at..*at + ID_DIGITS]);
        }
    }
}

fn count(digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
    // A JSON number has no leading zeros.
    digits[0] = b'1';
}

fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {
            "name": "holdfast-load", "version": env!("CARGO_PKG_VERSION"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(prepared: &Prepared) -> Value {
        let text = std::str::from_utf8(prepared.bytes()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn ids_count_up_in_place() {
        let plan = LoadPlan::new("127.0.0.1:1".parse().unwrap());
        let mut call = plan.call(Some("s"));
        for expected in FIRST_ID..FIRST_ID + 1200 {
            assert_eq!(body_of(&call)["id"], expected);
            call.next_id();
        }
    }

    #[test]
    fn a_header_counts_with_them() {
        let mut plan = LoadPlan::new("127.0.0.1:1".parse().unwrap());
        plan.counts = Some("X-Request-ID");
        let mut call = plan.call(None);
        call.next_id();
        let text = String::from_utf8(call.bytes().to_vec()).unwrap();
        assert!(text.contains("\r\nX-Request-ID: 00000000000000000000001000000001\r\n"), "{text}");
        assert_eq!(body_of(&call)["id"], FIRST_ID + 1);
    }

    #[test]
    fn the_last_id_is_followed_by_the_first() {
        let plan = LoadPlan::new("127.0.0.1:1".parse().unwrap());
        let mut call = plan.call(None);
        let at = call.numbers[0];
        call.bytes[at..at + ID_DIGITS].fill(b'9');
        call.next_id();
        assert_eq!(body_of(&call)["id"], FIRST_ID);
    }

    #[test]
    fn a_modern_call_says_the_same_in_headers_and_body() {
        let mut plan = LoadPlan::new("127.0.0.1:1".parse().unwrap());
        plan.dialect = Dialect::Modern;
        let call = plan.call(None);
        let text = String::from_utf8(call.bytes().to_vec()).unwrap();
        for line in ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: echo"]
        {
            assert!(text.contains(line), "{line}");
        }
        let body = body_of(&call);
        assert_eq!(
            body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"],
            "2026-07-28"
        );
        assert!(plan.initialize().is_none());
    }
}
