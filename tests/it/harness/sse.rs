//! An event stream as a client sees it: events, comments, and how it ended.

use super::wire::{Conn, Head, find};
use super::within;

/// One event or comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    /// `data` lines joined; `None` when there was no such line.
    pub(crate) data: Option<String>,
    pub(crate) retry: Option<u64>,
    /// A block of nothing but comments.
    pub(crate) comment: bool,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The body was finished as its framing says.
    Clean,
    /// The connection was cut in the middle.
    Cut,
}

/// A stream that is being read.
pub(crate) struct Stream {
    pub(crate) head: Head,
    conn: Conn,
    text: Vec<u8>,
    ended: Option<End>,
    /// The last id seen, which a client resumes with.
    pub(crate) last_id: Option<String>,
}

impl Stream {
    pub(crate) fn new(head: Head, conn: Conn) -> Self {
        assert!(head.is_sse(), "not an event stream: {head:?}");
        Self { head, conn, text: Vec::new(), ended: None, last_id: None }
    }

    /// The next event or comment; `None` when the stream has ended.
    pub(crate) async fn next_block(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = find(&self.text, b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                let event = parse(&String::from_utf8(block).expect("events are UTF-8"));
                if event.id.is_some() {
                    self.last_id.clone_from(&event.id);
                }
                return Some(event);
            }
            if self.ended.is_some() {
                return None;
            }
            match self.conn.piece().await {
                // CRLF and CR count as LF; a test that needs the exact bytes reads the connection.
                Ok(Some(piece)) => {
                    self.text.extend(piece.into_iter().filter(|byte| *byte != b'\r'));
                }
                Ok(None) => self.ended = Some(End::Clean),
                Err(_) => self.ended = Some(End::Cut),
            }
        }
    }

    /// The next event, comments passed over.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.next_block().await?;
            if !block.comment {
                return Some(block);
            }
        }
    }

    /// The next JSON-RPC message: priming and other events without data are passed over.
    pub(crate) async fn message(&mut self) -> Option<serde_json::Value> {
        loop {
            let event = self.next().await?;
            if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                return Some(
                    serde_json::from_str(&data).unwrap_or_else(|e| panic!("{e}: {data:?}")),
                );
            }
        }
    }

    /// Every message until the stream ends, and how it ended.
    pub(crate) async fn into_end(mut self) -> (Vec<serde_json::Value>, End) {
        let mut messages = Vec::new();
        while let Some(message) = self.message().await {
            messages.push(message);
        }
        (messages, self.ended.expect("a stream without a next event has ended"))
    }

    /// Waits for the end and says how it was; events on the way are thrown away.
    pub(crate) async fn end(&mut self) -> End {
        while self.next_block().await.is_some() {}
        self.ended.expect("a stream without a next event has ended")
    }

    /// The next message that fits; what comes before it is thrown away.
    pub(crate) async fn find(
        &mut self,
        what: &str,
        fits: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        within(what, async {
            loop {
                let message = self.message().await;
                let message = message.unwrap_or_else(|| panic!("{what}: the stream ended first"));
                if fits(&message) {
                    return message;
                }
            }
        })
        .await
    }
}

fn parse(block: &str) -> Event {
    let mut event = Event { comment: true, ..Event::default() };
    for line in block.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
        event.comment = false;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.event = Some(value.to_owned()),
            "retry" => event.retry = value.parse().ok(),
            "data" => match &mut event.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => event.data = Some(value.to_owned()),
            },
            _ => {}
        }
    }
    event
}
