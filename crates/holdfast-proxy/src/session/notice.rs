//! What the client of a session is told that was moved to another instance, where nothing is known of what
//! the first one kept in memory for it: a line on its standing stream, and a member of the `_meta` of its
//! next answer.
//!
//! One node moves the session, another may have the client's stream, and a third one may serve its next
//! call. So what is still to be told stands in the session's record ([`Notice`]), and who tells it takes it
//! out of there first: each is told once. A store that does not answer in time keeps nobody waiting: then it
//! is told all the same, and another node may tell it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use holdfast_store::{Notice, StoreError};

use super::Session;
use crate::gateway::Gateway;

/// An answer, or a line on a stream, waits no longer than this for the store.
const CLAIM_WITHIN: Duration = Duration::from_millis(500);

/// In which way the client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Log,
    Answer,
}

/// The last generation for which this node has told the client: where the store has not taken that down, once
/// from here is enough.
#[derive(Debug, Default)]
pub(super) struct Given {
    log: AtomicU32,
    answer: AtomicU32,
}

/// The notice of the session for an answer that can take it, as JSON text; `None`: it is not due, or another
/// answer has it.
///
/// # Cancel safety
/// The notice may be lost with the answer.
pub(crate) async fn for_answer(gateway: &Gateway, session: &Session) -> Option<String> {
    let notice = claim(gateway, session, Way::Answer).await?;
    Some(text(session, &notice).to_string())
}

/// Tells the client on its standing stream what it has not been told yet, where that stream is open here.
pub(crate) fn tell_listener(gateway: &Arc<Gateway>, session: &Arc<Session>) {
    let is_due = session.notice().is_some_and(|it| Way::Log.is_due(&it));
    if is_due && listens(session) {
        tokio::spawn(log(Arc::clone(gateway), Arc::clone(session)));
    }
}

async fn log(gateway: Arc<Gateway>, session: Arc<Session>) {
    let Some(notice) = claim(&gateway, &session, Way::Log).await else { return };
    if !hears_warnings(session.record().log_level.as_deref()) {
        // Its next answer says it all the same.
        return;
    }
    let message = serde_json::json!({
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": {
            "level": "warning",
            "logger": "holdfast",
            "data": {
                "message": "the session was moved to another instance of the server; what the server \
                            kept in memory for it is lost",
                "session": text(&session, &notice),
            },
        },
    });
    let told = {
        // Under the lock under which another node gets the stream: it gets the line with it.
        let standing = session.lock_standing();
        let open = standing.as_ref().and_then(|it| it.as_ref()).filter(|it| it.is_open());
        // One line for each move is no queue's to refuse: put back, it would be tried again at once.
        open.map(|it| it.log.append_last(&message.to_string().into(), None)).is_some()
    };
    if !told {
        // The next stream has it.
        write(&gateway, &session, &notice, Way::Log, true).await;
        Way::Log.is_not_given(&session, &notice);
    }
}

/// Whether a client wants messages of the level `warning`, by its last `logging/setLevel`; it has said nothing else
/// if there was none.
fn hears_warnings(set_level: Option<&[u8]>) -> bool {
    let Some(message) = set_level else { return true };
    let message: serde_json::Value = serde_json::from_slice(message).unwrap_or_default();
    let level = message["params"]["level"].as_str().unwrap_or_default();
    !matches!(level, "error" | "critical" | "alert" | "emergency")
}

fn listens(session: &Session) -> bool {
    session.standing().is_some_and(|it| it.is_open())
}

fn text(session: &Session, notice: &Notice) -> serde_json::Value {
    let server = session.server();
    let ids = server.settings.instances();
    // One that the configuration has no more has no name in it either.
    let id = |mark: u32| match server.fleet.place(mark) {
        Some(at) => ids.get(at).map_or("default", |it| it.id.as_str()),
        None => "removed",
    };
    serde_json::json!({
        "movedFrom": id(notice.from),
        "movedTo": id(session.record().binding.instance),
        "stateLost": true,
    })
}

/// The notice, if it is this caller that is to give it in this way.
async fn claim(gateway: &Gateway, session: &Session, way: Way) -> Option<Notice> {
    let notice = session.notice().filter(|it| way.is_due(it))?;
    if way.given(session).fetch_max(notice.generation, Ordering::AcqRel) >= notice.generation {
        return None;
    }
    let written = write(gateway, session, &notice, way, false);
    let is_ours = tokio::time::timeout(CLAIM_WITHIN, written).await.unwrap_or(true);
    if !is_ours {
        way.is_not_given(session, &notice);
    }
    is_ours.then_some(notice)
}

/// Takes down whether the notice is due in this way. Whether it was this that changed it, or nobody knows.
async fn write(gateway: &Gateway, session: &Session, of: &Notice, way: Way, due: bool) -> bool {
    let given = Notice { by_log: false, by_answer: false, ..*of };
    let mut record = session.record();
    loop {
        let mut notice = record.notice.unwrap_or(given);
        // A later move has its own.
        if notice.generation != of.generation || way.is_due(&notice) == due {
            return false;
        }
        way.set(&mut notice, due);
        record.notice = (notice.by_log || notice.by_answer).then_some(notice);
        match gateway.store.replace(record).await {
            Ok(stored) => {
                session.keep(stored);
                return true;
            }
            Err(StoreError::Conflict { .. }) => match gateway.store.get(session.key).await {
                Ok(newest) => record = newest,
                Err(_) => return true,
            },
            Err(_) => return true,
        }
    }
}

// === impl Way ===

impl Way {
    fn is_due(self, notice: &Notice) -> bool {
        match self {
            Self::Log => notice.by_log,
            Self::Answer => notice.by_answer,
        }
    }

    fn set(self, notice: &mut Notice, due: bool) {
        match self {
            Self::Log => notice.by_log = due,
            Self::Answer => notice.by_answer = due,
        }
    }

    /// This node has not told the client of it: whoever has may have failed, and then it is due again.
    fn is_not_given(self, session: &Session, notice: &Notice) {
        // Of a later move it may have.
        let (of, order) = (notice.generation, Ordering::AcqRel);
        let _ = self.given(session).compare_exchange(of, 0, order, Ordering::Acquire);
    }

    fn given(self, session: &Session) -> &AtomicU32 {
        match self {
            Self::Log => &session.made_rare().given.log,
            Self::Answer => &session.made_rare().given.answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_asks_for_errors_alone_is_not_warned() {
        let asks = |level: &str| {
            let message =
                format!(r#"{{"method":"logging/setLevel","params":{{"level":"{level}"}}}}"#);
            hears_warnings(Some(message.as_bytes()))
        };
        assert!(hears_warnings(None) && hears_warnings(Some(b"{}")));
        assert!(["debug", "info", "notice", "warning"].into_iter().all(asks));
        assert!(!["error", "critical", "alert", "emergency"].into_iter().any(asks));
    }
}
