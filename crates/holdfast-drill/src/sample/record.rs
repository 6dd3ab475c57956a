//! What came in, byte for byte, and what clients did: the evidence that tests look at.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::message::Message;

/// The newest requests are kept, at most so many …
const MAX_REQUESTS: usize = 20_000;
/// … and at most so many bytes of them.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Of what clients answered and gave up the newest so many are kept.
const MAX_OBSERVED: usize = 10_000;

/// A request as it came over the wire; a message on a connection has only a body.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    /// `http`, `stdio`, `websocket` or `sse`.
    pub(super) transport: &'static str,
    /// The number of the connection, from 1.
    pub(super) connection: u64,
    pub(super) method: String,
    /// Path and query.
    pub(super) path: String,
    /// The request line and the headers as they stood, to the empty line.
    pub(super) head: Bytes,
    pub(super) body: Bytes,
}

#[derive(Debug, Default)]
pub(super) struct Recorder {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next request.
    next: u64,
    bytes: usize,
    requests: VecDeque<(u64, Recorded)>,
}

/// What clients did that a tool cannot see.
#[derive(Debug, Default)]
pub(super) struct Observed {
    answers: Mutex<VecDeque<Value>>,
    cancelled: Mutex<VecDeque<Value>>,
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn add(&self, request: Recorded) {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.bytes += request.size();
        state.requests.push_back((number, request));
        while state.requests.len() > MAX_REQUESTS || state.bytes > MAX_BYTES {
            let Some((_, oldest)) = state.requests.pop_front() else { break };
            state.bytes -= oldest.size();
        }
    }

    /// Numbers go on, so that a test can ask for what came after a reset.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.requests.clear();
        state.bytes = 0;
    }

    /// The requests from number `since` on.
    pub(super) fn report(&self, since: u64) -> Value {
        let requests: Vec<(u64, Recorded)> =
            self.lock().requests.iter().filter(|(number, _)| *number >= since).cloned().collect();
        requests.iter().map(|(number, request)| request.report(*number)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Recorded ===

impl Recorded {
    fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }

    fn report(&self, number: u64) -> Value {
        let headers: Vec<(String, String)> = header_lines(&self.head)
            .map(|(name, value)| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (text(name), text(value))
            })
            .collect();
        json!({
            "number": number,
            "transport": self.transport,
            "connection": self.connection,
            "method": self.method,
            "path": self.path,
            "headers": headers,
            "head": STANDARD.encode(&self.head),
            "body": STANDARD.encode(&self.body),
        })
    }
}

/// Names and values in the order and the case in which they came.
fn header_lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

// === impl Observed ===

impl Observed {
    /// A client answered a request of the server.
    pub(super) fn answer(&self, session: &str, response: &Message) {
        let answer = json!({
            "session": session, "id": response.id, "result": response.result,
            "error": response.error,
        });
        keep(&self.answers, answer);
    }

    /// A client gave a request up, by a `notification` or by a `disconnect`; `id` is JSON text.
    pub(super) fn cancelled(&self, how: &str, session: Option<&str>, id: &str, running: bool) {
        let given_up = json!({ "how": how, "session": session, "id": id, "running": running });
        keep(&self.cancelled, given_up);
    }

    pub(super) fn clear(&self) {
        lock(&self.answers).clear();
        lock(&self.cancelled).clear();
    }

    pub(super) fn answers(&self) -> Value {
        json!(*lock(&self.answers))
    }

    pub(super) fn cancellations(&self) -> Value {
        json!(*lock(&self.cancelled))
    }
}

fn keep(list: &Mutex<VecDeque<Value>>, value: Value) {
    let mut list = lock(list);
    list.push_back(value);
    if list.len() > MAX_OBSERVED {
        list.pop_front();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &'static [u8]) -> Recorded {
        Recorded {
            transport: "http",
            connection: 1,
            method: "POST".to_owned(),
            path: "/mcp?x=1".to_owned(),
            head: Bytes::from_static(
                b"POST /mcp?x=1 HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-a:  2 \r\nX-b: 3\r\n\r\n",
            ),
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn headers_keep_their_order_case_and_repetition() {
        let recorder = Recorder::default();
        recorder.add(request(b"\x00\xff"));
        let report = recorder.report(0);
        assert_eq!(
            report[0]["headers"],
            json!([["Host", "a"], ["X-B", "1"], ["x-a", "2"], ["X-b", "3"]])
        );
        assert_eq!(STANDARD.decode(report[0]["body"].as_str().unwrap()).unwrap(), b"\x00\xff");
    }

    #[test]
    fn numbers_go_on_after_a_reset_and_the_oldest_leave_first() {
        let recorder = Recorder::default();
        recorder.add(request(b"a"));
        recorder.clear();
        recorder.add(request(b"b"));
        assert_eq!(recorder.report(1)[0]["number"], 1);
        assert_eq!(recorder.report(2), json!([]));
        for _ in 0..MAX_REQUESTS {
            recorder.add(request(b"c"));
        }
        let report = recorder.report(0);
        assert_eq!(report.as_array().unwrap().len(), MAX_REQUESTS);
        assert_eq!(report[0]["number"], 2);
    }
}
