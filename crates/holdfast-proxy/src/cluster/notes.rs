//! Small messages between nodes: about sessions that several of them know, about Writes, and about the
//! store.
//!
//! | note | what it asks |
//! |---|---|
//! | `release` | give up your standing stream of this session: its client is here now |
//! | `ended` | this session has ended: forget it |
//! | `cancelled` | the client has no use any more for the answer to this request of this session |
//! | `store` | does the store answer you? |
//! | `bar` | have you had this Write? If not, do not begin with it |

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_engine::journal::CallKey;
use holdfast_engine::replicated::Origin;
use holdfast_peer::Lane;
use holdfast_store::SessionKey;
use serde::{Deserialize, Serialize};

use crate::gateway::Gateway;
use crate::session;

const RELEASE: &str = "proxy/release";
const ENDED: &str = "proxy/ended";
const CANCELLED: &str = "proxy/cancelled";
const STORE: &str = "proxy/store";
const BAR: &str = "proxy/bar";

/// What a node says that does not begin with a Write.
const BARRED: &[u8] = b"barred";

/// How long another node may take over a note.
const WITHIN: Duration = Duration::from_millis(750);

/// Within this time [`nobody_has`] has an answer.
pub(crate) const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// How long another node may take to say whether the store answers it: it knows that already, and
/// whoever asks has an answer of its own to give in time.
const STORE_WITHIN: Duration = Duration::from_millis(300);

/// Asks for a standing stream.
#[derive(Debug, Serialize, Deserialize)]
struct Release {
    session: u128,
    /// The stream and the last event that the client has seen of it, where it says so.
    stream: Option<(u128, u64)>,
}

/// What a node had of a standing stream that it gave up.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Released {
    /// The messages that the client has not seen, oldest first.
    pub(crate) missed: Vec<Vec<u8>>,
    /// Whether those are all: nothing older was forgotten.
    pub(crate) whole: bool,
    /// How far the server's own stream had come.
    pub(crate) server_event: Option<String>,
    /// The binding that it came from.
    pub(crate) generation: u32,
}

/// Asks the other nodes to give up their standing stream of a session; what the one that had it
/// knows. A node that does not answer within 750 ms is taken to have none.
pub(crate) async fn ask_to_release(
    gateway: &Gateway,
    session: SessionKey,
    stream: Option<(u128, u64)>,
) -> Option<Released> {
    let cluster = gateway.cluster.as_ref()?;
    let note = postcard::to_allocvec(&Release { session: session.0, stream }).ok()?;
    let note = Bytes::from(note);
    let asked = cluster
        .others()
        .into_iter()
        .map(|origin| cluster.peers.call(origin.node, Lane::Data, RELEASE, note.clone(), WITHIN));
    let answers = join_all(asked).await;
    let had = |answer: Bytes| postcard::from_bytes::<Option<Released>>(&answer).ok().flatten();
    answers.into_iter().flatten().find_map(had)
}

/// Tells the other nodes that a session has ended. Those that may still use what they have of it
/// are returned: they were not heard.
pub(crate) async fn tell_ended(gateway: &Gateway, session: SessionKey) -> Vec<Origin> {
    let Some(cluster) = gateway.cluster.as_ref() else { return Vec::new() };
    let note = Bytes::copy_from_slice(&session.0.to_be_bytes());
    let told = cluster.others().into_iter().map(|origin| {
        let call = cluster.peers.call(origin.node, Lane::Data, ENDED, note.clone(), WITHIN);
        async move { call.await.is_err().then_some(origin) }
    });
    join_all(told).await.into_iter().flatten().collect()
}

/// Tells the other nodes that the client has cancelled its request of this id (JSON text). Whichever
/// serves it lets it go; one that does not hear of it within 750 ms serves it to its end.
pub(crate) async fn tell_cancelled(gateway: &Gateway, session: SessionKey, id: &str) {
    let Some(cluster) = gateway.cluster.as_ref() else { return };
    let Ok(note) = postcard::to_allocvec(&(session.0, id)) else { return };
    let note = Bytes::from(note);
    let told = cluster
        .others()
        .into_iter()
        .map(|origin| cluster.peers.call(origin.node, Lane::Data, CANCELLED, note.clone(), WITHIN));
    join_all(told).await;
}

/// Asks the other nodes whether the store answers them; the name of one for which it does.
pub(crate) async fn ask_for_store(gateway: &Gateway) -> Option<String> {
    let cluster = gateway.cluster.as_ref()?;
    let asked = cluster.others().into_iter().map(|origin| {
        let call =
            cluster.peers.call(origin.node, Lane::Control, STORE, Bytes::new(), STORE_WITHIN);
        async move { call.await.is_ok().then_some(origin.node) }
    });
    let node = join_all(asked).await.into_iter().flatten().next()?;
    cluster.watch().borrow().members.get(&node).map(|member| member.name.clone())
}

/// Whether none of the other nodes has had this Write, and none will begin with it. The journal cannot be
/// asked, or this would not be. A node that does not answer, is not there, or was started a moment ago may
/// have had it.
pub(crate) async fn nobody_has(gateway: &Gateway, key: &CallKey) -> bool {
    let (Some(cluster), Some(section)) = (&gateway.cluster, &gateway.config.cluster) else {
        return false;
    };
    let others = cluster.others();
    if others.len() + 1 < section.size() {
        return false;
    }
    let note = Bytes::copy_from_slice(&key.0);
    let asked = others
        .into_iter()
        .map(|origin| cluster.peers.call(origin.node, Lane::Control, BAR, note.clone(), WITHIN));
    join_all(asked).await.into_iter().all(|answer| answer.is_ok_and(|answer| answer == BARRED))
}

/// Answers a note of another node.
///
/// # Errors
/// A text that says what is wrong with the note.
pub(crate) async fn answer(
    gateway: &Arc<Gateway>,
    method: &str,
    note: &[u8],
) -> Result<Bytes, String> {
    match method {
        RELEASE => {
            let note: Release = postcard::from_bytes(note).map_err(|error| error.to_string())?;
            let released = session::release(gateway, SessionKey(note.session), note.stream);
            postcard::to_allocvec(&released).map(Bytes::from).map_err(|error| error.to_string())
        }
        ENDED => {
            let key: [u8; 16] = note.try_into().map_err(|_| "a key has 16 bytes".to_owned())?;
            let key = SessionKey(u128::from_be_bytes(key));
            // Its calls here end with it, and are no fault of the server's.
            if let Some(session) = gateway.sessions.look(key) {
                session.set_ending(true);
            }
            session::forget(gateway, key).await;
            Ok(Bytes::new())
        }
        CANCELLED => {
            let (key, id): (u128, &str) =
                postcard::from_bytes(note).map_err(|error| error.to_string())?;
            if let Some(session) = gateway.sessions.look(SessionKey(key)) {
                session.cancelled(id);
            }
            Ok(Bytes::new())
        }
        BAR => {
            let key: [u8; 32] = note.try_into().map_err(|_| "a call has 32 bytes".to_owned())?;
            let barred = gateway.journal.bar(CallKey(key), Instant::now());
            Ok(if barred { Bytes::from_static(BARRED) } else { Bytes::new() })
        }
        STORE => gateway.store_answers().await.map(|()| Bytes::new()),
        unknown => Err(format!("the data plane does not know the note {unknown}")),
    }
}
