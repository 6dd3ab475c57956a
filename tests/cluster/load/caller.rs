//! One call from the first byte to its answer, resumed as the SDKs resume: when a stream ends before
//! its answer, a GET with the last event id after the time that the server asked for, given up after
//! the second one that fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::ledger::{Era, Kind, Outcome};
use crate::http::{Answer, Events, Pool};

/// What an SDK waits for before it resumes when the server has not said.
const RETRY: u64 = 1_000;
/// GETs in a row that may fail; the Python and TypeScript SDKs make two.
const RESUMES: u32 = 2;

/// A client: one session of a legacy version, or none in the modern era.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) pool: Pool,
    pub(crate) host: Arc<str>,
    pub(crate) server: &'static str,
    pub(crate) era: Era,
    pub(crate) session: Option<Arc<str>>,
}

/// What is asked, and what its answer must be.
pub(crate) struct Ask {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) tool: &'static str,
    pub(crate) arguments: Value,
    /// Text that the result must hold.
    pub(crate) expect: String,
    /// So many progress events must come.
    pub(crate) steps: Option<u64>,
}

/// What the client saw.
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    pub(crate) moved: bool,
    pub(crate) resumed: u32,
    pub(crate) missing: u32,
    pub(crate) doubled: u32,
    pub(crate) trace: String,
}

/// Numbered events as they come.
#[derive(Default)]
struct Progress {
    seen: Vec<u64>,
}

// === impl Client ===

impl Client {
    /// Opens a legacy session.
    pub(crate) async fn open(mut self, name: &str) -> Result<Self, String> {
        let body = json!({
            "jsonrpc": "2.0", "id": "open", "method": "initialize", "params": {
                "protocolVersion": self.version(), "capabilities": {},
                "clientInfo": { "name": name, "version": "1" },
            },
        });
        let answer = self.pool.send(self.post(&body, "initialize")?).await?;
        let status = answer.status();
        let session = answer.header("mcp-session-id").map(Arc::<str>::from);
        if status != 200 || session.is_none() {
            let body = answer.body(&self.pool).await.unwrap_or_default();
            return Err(format!("initialize: {status} {}", String::from_utf8_lossy(&body)));
        }
        self.finish(answer).await?;
        self.session = session;
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let told = self.pool.send(self.post(&note, "notifications/initialized")?).await?;
        match told.status() {
            202 => self.finish(told).await?,
            status => return Err(format!("initialized: {status}")),
        }
        self.list_tools().await?;
        Ok(self)
    }

    /// What clients do first of all, and where a gateway learns which tools only read.
    pub(crate) async fn list_tools(&self) -> Result<(), String> {
        let mut list =
            json!({ "jsonrpc": "2.0", "id": "list", "method": "tools/list", "params": {} });
        self.sign(&mut list["params"]);
        let answer = self.pool.send(self.post(&list, "tools/list")?).await?;
        match answer.status() {
            200 => self.finish(answer).await,
            status => Err(format!("tools/list: {status}")),
        }
    }

    /// What every modern request says of its client.
    fn sign(&self, params: &mut Value) {
        if self.era == Era::Modern {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(self.version());
            params["_meta"]["io.modelcontextprotocol/clientInfo"] =
                json!({ "name": "drill", "version": "1" });
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
    }

    async fn finish(&self, answer: Answer) -> Result<(), String> {
        if answer.is_stream() {
            let mut events = answer.events();
            while events.next(&self.pool).await?.is_some() {}
            return Ok(());
        }
        answer.body(&self.pool).await.map(drop)
    }

    fn version(&self) -> &'static str {
        match self.era {
            Era::Legacy => "2025-11-25",
            Era::Older => "2025-06-18",
            Era::Modern => "2026-07-28",
        }
    }

    fn post(&self, body: &Value, method: &str) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::post(format!("/mcp/{}", self.server))
            .header("host", &*self.host)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if method != "initialize" {
            request = request.header("mcp-protocol-version", self.version());
        }
        if self.era == Era::Modern {
            request = request.header("mcp-method", method);
            if let Some(name) = body["params"]["name"].as_str() {
                request = request.header("mcp-name", name);
            }
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", &**session);
        }
        request.body(Full::new(Bytes::from(body.to_string()))).map_err(|e| e.to_string())
    }

    /// A GET: the standing stream, or a resumed one.
    pub(crate) fn get(&self, last: Option<&str>) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::get(format!("/mcp/{}", self.server))
            .header("host", &*self.host)
            .header("accept", "text/event-stream")
            .header("mcp-protocol-version", self.version());
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", &**session);
        }
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        request.body(Full::new(Bytes::new())).map_err(|e| e.to_string())
    }

    /// Calls a tool and waits for its answer until the deadline.
    pub(crate) async fn call(&self, ask: &Ask, deadline: Instant) -> Seen {
        let mut seen = Seen {
            outcome: Outcome::Nothing { stage: "before the headers" },
            moved: false,
            resumed: 0,
            missing: 0,
            doubled: 0,
            trace: String::new(),
        };
        let mut progress = Progress::default();
        let outcome = self.exchange(ask, deadline, &mut seen, &mut progress).await;
        if let (Some(steps), Outcome::Result) = (ask.steps, &outcome) {
            (seen.missing, seen.doubled) = progress.faults(steps);
        }
        seen.outcome = outcome;
        seen
    }

    async fn exchange(
        &self,
        ask: &Ask,
        deadline: Instant,
        seen: &mut Seen,
        progress: &mut Progress,
    ) -> Outcome {
        let request = match self.post(&self.body(ask), "tools/call") {
            Ok(request) => request,
            Err(what) => return Outcome::Broken { what },
        };
        let answer = match timeout_at(deadline, self.pool.send(request)).await {
            Err(_) => return Outcome::Nothing { stage: "before the headers" },
            Ok(Err(what)) => return Outcome::Broken { what },
            Ok(Ok(answer)) => answer,
        };
        seen.note(&answer);
        if !answer.is_stream() {
            let status = answer.status();
            return match timeout_at(deadline, answer.body(&self.pool)).await {
                Err(_) => Outcome::Nothing { stage: "in the body" },
                Ok(Err(what)) => Outcome::Broken { what },
                Ok(Ok(body)) => judge(ask, status, &body),
            };
        }
        self.follow(ask, answer.events(), deadline, seen, progress).await
    }

    /// Reads a stream, and those that resume it, up to the answer.
    async fn follow(
        &self,
        ask: &Ask,
        mut events: Events,
        deadline: Instant,
        seen: &mut Seen,
        progress: &mut Progress,
    ) -> Outcome {
        let (mut last, mut retry) = (None, RETRY);
        loop {
            let why = loop {
                let Ok(next) = timeout_at(deadline, events.next(&self.pool)).await else {
                    return Outcome::Nothing { stage: "in the stream" };
                };
                let event = match next {
                    Ok(Some(event)) => event,
                    Ok(None) => break "the stream ended".to_owned(),
                    Err(why) => break why,
                };
                retry = event.retry.unwrap_or(retry);
                if let Some(id) = event.id.filter(|id| !id.is_empty()) {
                    last = Some(id);
                }
                if event.data.is_empty() {
                    continue;
                }
                let Ok(message) = serde_json::from_str::<Value>(&event.data) else {
                    return Outcome::Wrong { what: format!("not JSON: {}", event.data) };
                };
                if message.get("method").is_none() {
                    return judge(ask, 200, event.data.as_bytes());
                }
                if let Err(what) = progress.note(ask, &message) {
                    return Outcome::Wrong { what };
                }
            };
            seen.moved = true;
            if Instant::now() > deadline {
                return Outcome::Nothing { stage: "resumed over and over" };
            }
            let Some(id) = &last else {
                return Outcome::Broken {
                    what: format!("{why}, without an event id to resume at"),
                };
            };
            events = match self.resume(id, retry, deadline, seen).await {
                Ok(events) => events,
                Err(outcome) => return outcome,
            };
        }
    }

    async fn resume(
        &self,
        last: &str,
        retry: u64,
        deadline: Instant,
        seen: &mut Seen,
    ) -> Result<Events, Outcome> {
        let mut why = String::new();
        for _ in 0..RESUMES {
            tokio::time::sleep(Duration::from_millis(retry)).await;
            let request = self.get(Some(last)).map_err(|what| Outcome::Broken { what })?;
            let answer = match timeout_at(deadline, self.pool.send(request)).await {
                Err(_) => {
                    return Err(Outcome::Nothing { stage: "before a resumed stream's headers" });
                }
                Ok(Err(what)) => {
                    why = what;
                    continue;
                }
                Ok(Ok(answer)) => answer,
            };
            seen.note(&answer);
            if answer.status() == 200 && answer.is_stream() {
                seen.resumed += 1;
                return Ok(answer.events());
            }
            why = format!("status {}", answer.status());
        }
        Err(Outcome::Broken { what: format!("resuming failed {RESUMES} times: {why}") })
    }

    fn body(&self, ask: &Ask) -> Value {
        let mut params = json!({ "name": ask.tool, "arguments": ask.arguments });
        if ask.steps.is_some() {
            params["_meta"]["progressToken"] = json!(ask.id);
        }
        self.sign(&mut params);
        json!({ "jsonrpc": "2.0", "id": ask.id, "method": "tools/call", "params": params })
    }
}

/// What an answer is worth.
fn judge(ask: &Ask, status: u16, body: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(body);
    let Ok(message) = serde_json::from_slice::<Value>(body) else {
        return Outcome::Status { status, body: text.chars().take(200).collect() };
    };
    if status == 404 {
        return Outcome::SessionLost { status };
    }
    if message["id"] != json!(ask.id) {
        return Outcome::Wrong { what: format!("status {status}, not under {}: {text}", ask.id) };
    }
    if let Some(error) = message.get("error") {
        return Outcome::Error {
            code: error["code"].as_i64().unwrap_or_default(),
            may_have_run: error["data"]["mayHaveRun"].as_bool(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        };
    }
    if status != 200 || !message["result"].to_string().contains(&ask.expect) {
        return Outcome::Wrong { what: format!("status {status}, not `{}`: {text}", ask.expect) };
    }
    Outcome::Result
}

// === impl Seen ===

impl Seen {
    /// Keeps what the balancer says about an answer.
    fn note(&mut self, answer: &Answer) {
        let sent = answer.header("x-drill-sent").unwrap_or_default();
        // All but the last did not answer; one that refused the connection was sent nothing.
        let before = sent.rsplit_once(", ").map_or("", |(before, _)| before);
        self.moved |= before.split(", ").any(|bytes| !matches!(bytes, "" | "-" | "0"));
        for name in ["x-drill-request", "x-drill-nodes", "x-drill-sent"] {
            if let Some(value) = answer.header(name) {
                self.trace.push_str(value);
                self.trace.push(' ');
            }
        }
    }
}

// === impl Progress ===

impl Progress {
    fn note(&mut self, ask: &Ask, message: &Value) -> Result<(), String> {
        if message["method"] != "notifications/progress" {
            return Ok(());
        }
        let params = &message["params"];
        match params["progress"].as_u64() {
            Some(number) if params["progressToken"] == json!(ask.id) => {
                self.seen.push(number);
                Ok(())
            }
            _ => Err(format!("progress of another call: {message}")),
        }
    }

    /// How many of `1..=steps` are missing, and how many came again or behind a later one.
    fn faults(&self, steps: u64) -> (u32, u32) {
        let missing = (1..=steps).filter(|number| !self.seen.contains(number)).count();
        let (mut highest, mut doubled) = (0, 0);
        for number in &self.seen {
            if *number <= highest {
                doubled += 1;
            }
            highest = highest.max(*number);
        }
        (u32::try_from(missing).unwrap_or(u32::MAX), doubled)
    }
}
