//! Writes in a cluster: in the journal before they are on the wire.
//!
//! A balancer that loses a node sends what it had sent there to another one. For a Read that is a
//! second try; for a Write it would be a second execution. So every Write that has a name (the
//! balancer's request id, or session and JSON-RPC id) is written down first, with "only if absent":
//! whoever finds an entry waits for its owner, delivers its answer, or says that its outcome is
//! unknown. [`holdfast_engine::journal`] decides; this does.
//!
//! The entry of a call that waits for its turn says that it was not sent ([`Phase::Waiting`]), until its turn comes: then
//! it is made [`Phase::Pending`], which is a round to the store that only those pay who have waited. Whoever finds it
//! when its node is dead runs it, or says that it did not run.

mod open;
mod settling;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_config::Tier;
use holdfast_engine::backoff::Backoff;
use holdfast_engine::class::CallClass;
use holdfast_engine::journal::{
    Arrival, CallKey, Entry, MAX_AGE, Phase, arrival, awaited, may_send,
};
use holdfast_store::{Begin, StoreError};
use http::StatusCode;
use sha2::{Digest, Sha256};

pub(crate) use self::open::Open;
use self::open::Running;
use self::settling::Settling;
use super::attempt::json_headers;
use super::{Answer, Call, Ids, Whole};
use crate::boxes::{Boxed, Boxes, worker};
use crate::cluster::ASKED_WITHIN;
use crate::failure::{Failure, Ran};
use crate::fleet::left;
use crate::gateway::Gateway;
use crate::random;

/// A call's entry in the journal, which this node owns.
#[derive(Debug)]
pub(crate) struct Ticket {
    gateway: std::sync::Weak<Gateway>,
    entry: Entry,
    /// When it was begun, or taken over.
    begun: Instant,
    revision: AtomicU64,
    /// Whether the entry says that the call waits: then it is not sent.
    waits: AtomicBool,
    /// Whether its turn is being written, or was without a word of what came of it.
    turns: AtomicBool,
    settled: AtomicBool,
    running: Arc<Running>,
}

/// Answers larger than this are not kept: sealing makes them a third longer, and entries hold 64 KiB.
const LARGEST_KEPT: usize = 46 * 1024;

/// How long a call waits for the cluster from its receipt on: it has its entry within [`MAX_AGE`] then.
const WAITS: Duration = MAX_AGE.saturating_sub(Duration::from_secs(2));

/// What is left of a server's time for an answer that the gateway gives itself.
const ANSWERS: Duration = Duration::from_millis(50);

/// How often a call without a lease looks for one.
const LEASE_POLL: Duration = Duration::from_millis(20);

/// What answers are sealed for.
const PURPOSE: &[u8] = b"journal";

impl Call {
    /// Whether the journal is to know of it, where it has a name.
    fn is_journaled(&self) -> bool {
        self.class == CallClass::Write && self.server.settings.tier == Tier::One
    }

    /// Whether the journal knew it already: what became of it is known where it ran.
    pub(super) fn is_repeat(&self) -> bool {
        let has_name =
            self.gateway.cluster.is_some() && self.is_journaled() && self.key().is_some();
        has_name && self.ticket.get().is_none()
    }

    /// Whether a second sending by a balancer could not be told from a first one: then its response
    /// has to begin before it is sent, so that no balancer repeats it.
    pub(crate) fn must_begin_first(&self) -> bool {
        self.gateway.cluster.is_some()
            && self.class == CallClass::Write
            && (!self.is_journaled() || self.key().is_none())
    }

    /// Whether it may run here although another node may have run it: what may be repeated, and
    /// what the journal would know of.
    pub(crate) fn may_run_again(&self) -> bool {
        match self.class {
            CallClass::Lifecycle | CallClass::Read => true,
            CallClass::Idempotent => self.is_latest(),
            CallClass::Write => self.is_journaled() && self.key().is_some(),
        }
    }

    /// The last check before its first byte is written.
    ///
    /// # Errors
    /// Why it is not sent; it did not run.
    pub(crate) fn may_send(&self) -> Result<(), String> {
        let Some(cluster) = &self.gateway.cluster else { return Ok(()) };
        if self.class != CallClass::Write {
            return Ok(());
        }
        let me = cluster.me();
        let ticket = self.ticket.get();
        if ticket.is_some_and(Ticket::waits) {
            return Err("its entry in the journal says that it waits".to_owned());
        }
        let (owner, begun) =
            ticket.map_or((me, self.started), |ticket| (ticket.entry.owner, ticket.begun));
        may_send(owner, me, cluster.has_lease(), begun.elapsed()).map_err(|error| error.to_string())
    }

    /// Whether another node may have taken it over while it waits here, and run it: for all that this one knows, it
    /// was given up. With a lease it was not.
    pub(super) fn may_be_taken(&self) -> bool {
        let Some(cluster) = &self.gateway.cluster else { return false };
        let lost = |ticket: &Ticket| ticket.entry.owner != cluster.me() || !cluster.has_lease();
        self.ticket.get().is_some_and(|ticket| ticket.waits() && lost(ticket))
    }

    /// Waits for a lease for as long as the cluster is waited for from then on; whether there is one. It ends before
    /// the server's `timeout` does: its client is to hear of the group, and not that the server was not called in time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn leased(&self, since: Instant) -> bool {
        let Some(cluster) = &self.gateway.cluster else { return true };
        if cluster.has_lease() {
            return true;
        }
        let granted = async {
            while !cluster.has_lease() {
                if since.elapsed() >= WAITS {
                    return false;
                }
                tokio::time::sleep(LEASE_POLL).await;
            }
            true
        };
        let end = self.started + self.server.settings.timeout;
        // What a balancer may have brought elsewhere is asked about there before that.
        let asks = self.balancer_id.as_ref().map_or(Duration::ZERO, |_| ASKED_WITHIN);
        let before = end.saturating_duration_since(Instant::now()).saturating_sub(asks);
        tokio::time::timeout(left(end).min(before), granted).await.unwrap_or(false)
    }

    /// Its name in the journal, and whether a balancer gave it. Made once: the body is part of it.
    fn key(&self) -> Option<(CallKey, bool)> {
        *self.key.get_or_init(|| self.make_key())
    }

    fn make_key(&self) -> Option<(CallKey, bool)> {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        add(&self.principal.digest.to_be_bytes());
        add(self.server.name.as_bytes());
        let by_balancer = match (&self.balancer_id, &self.session) {
            (Some(id), _) => {
                add(b"balancer");
                add(id.as_bytes());
                true
            }
            (None, Some(session)) if !matches!(self.ids, Ids::None) => {
                add(b"session");
                add(&session.key.0.to_be_bytes());
                self.ids.iter().for_each(|id| add(id.as_bytes()));
                false
            }
            _ => return None,
        };
        add(&self.body);
        Some((CallKey(hash.finalize().into()), by_balancer))
    }

    /// The name of its entry, also before it is written: a response can begin while the store takes
    /// its time, and what is recorded of its stream then must lead to the answer all the same.
    pub(crate) fn journal_key(&self) -> Option<CallKey> {
        if let Some(ticket) = self.ticket.get() {
            return Some(ticket.running.key);
        }
        let journaled = self.gateway.cluster.is_some() && self.is_journaled();
        journaled.then(|| self.key()).flatten().map(|(key, _)| key)
    }
}

/// Lets a call in: writes its entry in this phase, or answers it from the one that there is. [`Phase::Waiting`] is for
/// a call whose turn has not come; when it has, it is let in once more, as [`Phase::Pending`].
///
/// # Errors
/// The call's answer, where it does not run here.
///
/// # Cancel safety
/// An entry that was written and has no ticket yet is found as an orphan of this node.
pub(super) async fn admit(call: &Arc<Call>, phase: Phase) -> Result<(), Answer> {
    let gateway = &call.gateway;
    if gateway.cluster.is_none() || call.class != CallClass::Write {
        return Ok(());
    }
    if let Some(ticket) = call.ticket.get() {
        return match ticket.waits() && phase == Phase::Pending {
            true => Box::pin(its_turn(call, ticket)).await,
            false => Ok(()),
        };
    }
    // Until the journal has been asked nobody knows whether a balancer has sent it to another node as well.
    call.out.set(call.balancer_id.is_some());
    // Between two leaders nobody grants leases: a pause, and no failure.
    if !call.leased(call.started).await {
        return Err(unavailable(call, "this node has no lease from the cluster").await);
    }
    if call.is_journaled()
        && let Some((key, by_balancer)) = call.key()
    {
        let told = phase != Phase::Waiting || gateway.journal.all_read_waiting();
        let phase = if told { phase } else { Phase::Pending };
        let call = Arc::clone(call);
        Boxed::new(&ENTERING, Entering { call, key, by_balancer, phase }).await?;
    }
    call.out.set(false);
    Ok(())
}

/// A call that the journal is asked about.
struct Entering {
    call: Arc<Call>,
    key: CallKey,
    by_balancer: bool,
    phase: Phase,
}

thread_local! {
    static ENTERING: Boxes<Entering, Result<(), Answer>> =
        const { Boxes::new(|| worker(&ENTERING, enter)) };
}

/// What few calls need is boxed where it is awaited.
async fn enter(Entering { call, key, by_balancer, phase }: Entering) -> Result<(), Answer> {
    let (call, gateway) = (&call, &call.gateway);
    let Some(cluster) = &gateway.cluster else { return Ok(()) };
    let principal = call.principal.digest;
    let mut pause = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
    let mut found: Option<(Entry, u64)> = None;
    let mut waited = false;
    loop {
        let owner_acts = found.as_ref().is_some_and(|(entry, _)| {
            let mine = entry.owner == cluster.me();
            if mine { gateway.journal.is_open(&key) } else { cluster.may_run(entry.owner) }
        });
        let entry = found.as_ref().map(|(entry, _)| entry);
        // Where the call was before, an entry is its own, as for one that has waited. None: the node
        // where it was had not begun, and from here on cannot.
        let known = waited || (call.again && entry.is_some());
        let decided = match known {
            true => awaited(entry, principal, owner_acts),
            false => arrival(entry, principal, by_balancer, owner_acts),
        };
        match decided {
            Arrival::Run => {
                let entry = Entry {
                    owner: cluster.me(),
                    principal,
                    server: call.server.name.to_string(),
                    class: call.class.as_u8(),
                    instance: 0,
                    started: crate::clock::unix_millis(),
                    by_balancer,
                    phase: phase.clone(),
                };
                let begun = Instant::now();
                let running = gateway.open_entry(key, by_balancer);
                // Asked when it is open: another node that bars it now finds it here. None bars what no balancer
                // has named.
                if by_balancer && gateway.journal.is_barred(&key) {
                    return Err(unknown(call, "another node has answered it in the meantime"));
                }
                // That it was barred is forgotten some time after.
                if begun.saturating_duration_since(call.started) >= MAX_AGE {
                    if let Some((entry, revision)) =
                        found.as_ref().filter(|(entry, _)| entry.phase == Phase::Waiting)
                    {
                        let failure = waited_elsewhere(call);
                        match Box::pin(deny(call, &failure, &key, entry, *revision)).await {
                            Ok(()) => return Err(super::gave_up(call, failure)),
                            Err(StoreError::Conflict { .. }) => {
                                found = Box::pin(look(call, &key)).await?;
                                continue;
                            }
                            Err(error) => return Err(unknown(call, &crate::failure::told(&error))),
                        }
                    }
                    let reason = format!("it was not written down within {} s", MAX_AGE.as_secs());
                    return Err(Box::pin(unavailable(call, &reason)).await);
                }
                match write(gateway, &key, found.as_ref(), &entry).await {
                    Ok(Begin::Mine(revision)) => {
                        let _ = call.ticket.set(Ticket::new(entry, revision, begun, running));
                        return Ok(());
                    }
                    // The key that was held meanwhile is let go: whoever has the entry holds it too.
                    Ok(Begin::Other(entry, revision)) => {
                        call.out.set(true);
                        found = Some((entry, revision));
                    }
                    // Between two leaders nothing is written, and after a verdict the node joins anew.
                    Err(StoreError::Unavailable(_) | StoreError::Fenced)
                        if call.started.elapsed() < WAITS =>
                    {
                        tokio::time::sleep(pause.next(random::u64())).await;
                        Box::pin(call.leased(call.started)).await;
                    }
                    Err(error) => {
                        let reason = crate::failure::told(&error);
                        return Err(Box::pin(unavailable(call, &reason)).await);
                    }
                }
            }
            Arrival::Wait => {
                waited = true;
                tokio::time::sleep(pause.next(random::u64())).await;
                found = Box::pin(look(call, &key)).await?;
            }
            Arrival::Deliver { answer, .. } => {
                return match gateway.unseal(PURPOSE, answer) {
                    Some(body) => Err(delivered(call, body)),
                    None => Err(unknown(call, "its answer can no longer be read")),
                };
            }
            Arrival::TakeOver => {
                waited = true;
                let Some((entry, revision)) = found.take() else { continue };
                let entry = Entry { owner: cluster.me(), phase: Phase::Unknown, ..entry };
                match Box::pin(gateway.store.settle(&key, revision, &entry)).await {
                    Ok(_) => {
                        // Its own node cannot tell any more that it is in doubt.
                        let received = crate::clock::seen_at(entry.started, call.started);
                        call.server.fleet.counts.losses.unknown(received);
                        return Err(unknown(call, "the node that ran it was lost"));
                    }
                    Err(StoreError::Conflict { .. }) => found = Box::pin(look(call, &key)).await?,
                    Err(error) => return Err(unknown(call, &crate::failure::told(&error))),
                }
            }
            Arrival::NotKept => {
                return Err(unknown(call, "it ran, and its answer was too large to be kept"));
            }
            Arrival::Forbidden | Arrival::Unknown => {
                return Err(unknown(call, "the node that ran it was lost"));
            }
        }
    }
}

/// The turn of a call has come that has waited: from here on its entry says that it may have been sent.
///
/// # Errors
/// The call's answer: another node has taken it over, or the entry could not be written. It is not sent.
///
/// # Cancel safety
/// Cancelled, the entry may be written; the call is not sent, and what it comes to is written over either.
async fn its_turn(call: &Arc<Call>, ticket: &Ticket) -> Result<(), Answer> {
    let since = Instant::now();
    let mut pause = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
    let entry = ticket.turned();
    ticket.turns.store(true, Ordering::Relaxed);
    loop {
        let revision = ticket.revision.load(Ordering::Relaxed);
        match call.gateway.store.settle(&ticket.running.key, revision, &entry).await {
            Ok(revision) => {
                ticket.revision.store(revision, Ordering::Relaxed);
                ticket.waits.store(false, Ordering::Relaxed);
                return Ok(());
            }
            Err(StoreError::Conflict { .. } | StoreError::Missing) => {
                return Err(unknown(call, "another node took it over while it waited"));
            }
            Err(StoreError::Unavailable(_)) if since.elapsed() < WAITS => {
                tokio::time::sleep(pause.next(random::u64())).await;
                call.leased(since).await;
            }
            Err(error) => {
                let reason = crate::failure::told(&error);
                let mut failure = Failure::dependency(&call.server.name, reason);
                if !stays_unsent(call, &failure).await {
                    failure.ran = Ran::Maybe;
                }
                return Err(super::gave_up(call, failure));
            }
        }
    }
}

/// Why a call is not run that waited at a node that is gone.
fn waited_elsewhere(call: &Call) -> Failure {
    let reason = "the node at which it waited for its turn was lost".to_owned();
    Failure::dependency(&call.server.name, reason)
}

/// Settles that a call did not run that waited, and will not.
///
/// # Errors
/// As [`holdfast_store::Store::settle`].
async fn deny(
    call: &Call,
    failure: &Failure,
    key: &CallKey,
    entry: &Entry,
    revision: u64,
) -> Result<(), StoreError> {
    let gateway = &call.gateway;
    let Some(cluster) = &gateway.cluster else { return Err(StoreError::Fenced) };
    let answer = Some(gateway.seal(PURPOSE, &failure.render(&call.ids)));
    let phase = Phase::Complete { answer, status: 200, is_stream: false };
    let entry = Entry { owner: cluster.me(), phase, ..entry.clone() };
    gateway.store.settle(key, revision, &entry).await.map(|_| ())
}

/// Whether it is sure that a call did not run which is refused so, and that it will not: what the journal has as
/// waiting is settled there first, since another node could run it.
///
/// # Cancel safety
/// Cancelled, it may be settled.
pub(super) async fn stays_unsent(call: &Call, failure: &Failure) -> bool {
    let Some(ticket) = call.ticket.get().filter(|ticket| ticket.waits()) else { return true };
    let revision = ticket.revision.load(Ordering::Relaxed);
    let denied = deny(call, failure, &ticket.running.key, &ticket.entry, revision).await;
    if denied.is_ok() {
        ticket.settled.store(true, Ordering::Relaxed);
    }
    denied.is_ok()
}

/// Writes a new entry, or one in place of another that says that its call did not run.
async fn write(
    gateway: &Gateway,
    key: &CallKey,
    found: Option<&(Entry, u64)>,
    entry: &Entry,
) -> Result<Begin, StoreError> {
    if let Some((_, revision)) = found {
        match Box::pin(gateway.store.settle(key, *revision, entry)).await {
            Ok(revision) => return Ok(Begin::Mine(revision)),
            Err(StoreError::Conflict { .. } | StoreError::Missing) => {}
            Err(error) => return Err(error),
        }
    }
    gateway.store.begin(key, entry).await
}

async fn look(call: &Call, key: &CallKey) -> Result<Option<(Entry, u64)>, Answer> {
    match call.gateway.store.entry(key).await {
        Ok((entry, revision)) => Ok(Some((entry, revision))),
        Err(StoreError::Missing | StoreError::Gone) => Ok(None),
        Err(error) => Err(unknown(call, &crate::failure::told(&error))),
    }
}

/// This node did not run the call, and will not. Where a balancer may have sent it to another one before,
/// all others are asked: only what they say together can be said of the call.
async fn unavailable(call: &Call, reason: &str) -> Answer {
    let mut failure = Failure::dependency(&call.server.name, reason.to_owned());
    let elsewhere = match (&call.balancer_id, call.key()) {
        _ if call.again => true,
        (None, _) => false,
        (Some(_), Some((key, _))) => {
            // However late it is: its client is told of the group before the server's time is over.
            let end = call.started + call.server.settings.timeout - ANSWERS;
            let asked = crate::cluster::nobody_has(&call.gateway, &key);
            !tokio::time::timeout_at(end.into(), asked).await.unwrap_or(false)
        }
        (Some(_), None) => true,
    };
    if elsewhere {
        failure.ran = Ran::Maybe;
    }
    super::gave_up(call, failure)
}

fn unknown(call: &Call, reason: &str) -> Answer {
    super::gave_up(call, Failure::unknown(&call.server.name, reason.to_owned()))
}

fn delivered(call: &Call, body: Bytes) -> Answer {
    call.settle_with(&body);
    Answer::whole(Whole { status: StatusCode::OK, headers: json_headers(), body })
}

/// What became of a call whose stream another node had, as its entry says.
pub(crate) enum Fate {
    /// It has an answer.
    Answered(Bytes),
    /// It may be gone on with: the call has the entry's ticket now.
    Mine,
    /// It waited for its turn where it was, and was not sent. Nobody sends it any more.
    Denied(Failure),
    /// Nobody will ever know, or another node goes on with it.
    Unknown,
}

/// How often an entry is read again because it was found older than it is.
const INHERIT_TRIES: u32 = 5;

/// Takes over the entry of an orphaned call.
pub(crate) async fn inherit(call: &Call, key: CallKey) -> Fate {
    let gateway = &call.gateway;
    let Some(cluster) = &gateway.cluster else { return Fate::Unknown };
    let mut pause = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
    let until = Instant::now() + call.server.settings.timeout;
    let mut tries = 0;
    while tries < INHERIT_TRIES {
        let found = gateway.patiently(|| gateway.store.entry(&key)).await;
        let Ok((entry, revision)) = found else { return Fate::Unknown };
        if entry.principal != call.principal.digest {
            return Fate::Unknown;
        }
        let mine = entry.owner == cluster.me();
        match entry.phase {
            // It was taken over before, for a client that went again before it heard of that.
            Phase::Pending | Phase::Streaming { .. } | Phase::Waiting
                if mine && gateway.journal.is_open(&key) && Instant::now() < until =>
            {
                tokio::time::sleep(pause.next(random::u64())).await;
            }
            Phase::Complete { ref answer, .. } => {
                let answer = answer.as_ref().and_then(|answer| gateway.unseal(PURPOSE, answer));
                return answer.map_or(Fate::Unknown, Fate::Answered);
            }
            Phase::Waiting if !cluster.may_run(entry.owner) => {
                let failure = waited_elsewhere(call);
                let denied = gateway.patiently(|| deny(call, &failure, &key, &entry, revision));
                match denied.await {
                    Ok(()) => return Fate::Denied(failure),
                    Err(StoreError::Conflict { .. }) => {
                        tries += 1;
                        tokio::time::sleep(pause.next(random::u64())).await;
                    }
                    Err(_) => return Fate::Unknown,
                }
            }
            Phase::Pending | Phase::Streaming { .. } if !cluster.may_run(entry.owner) => {
                let entry = Entry { owner: cluster.me(), phase: Phase::Pending, ..entry };
                let begun = Instant::now();
                let running = gateway.open_entry(key, entry.by_balancer);
                match gateway.patiently(|| gateway.store.settle(&key, revision, &entry)).await {
                    Ok(revision) => {
                        let _ = call.ticket.set(Ticket::new(entry, revision, begun, running));
                        return Fate::Mine;
                    }
                    // This node is behind: there may be an answer by now.
                    Err(StoreError::Conflict { .. }) => {
                        drop(running);
                        tries += 1;
                        tokio::time::sleep(pause.next(random::u64())).await;
                    }
                    Err(_) => return Fate::Unknown,
                }
            }
            _ => return Fate::Unknown,
        }
    }
    Fate::Unknown
}

// === impl Ticket ===

impl Ticket {
    fn new(entry: Entry, revision: u64, begun: Instant, running: Arc<Running>) -> Self {
        Self {
            gateway: running.gateway.clone(),
            begun,
            revision: AtomicU64::new(revision),
            waits: AtomicBool::new(entry.phase == Phase::Waiting),
            turns: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            entry,
            running,
        }
    }

    fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Its entry from its turn on.
    fn turned(&self) -> Entry {
        Entry { phase: Phase::Pending, ..self.entry.clone() }
    }

    /// Writes down the call's answer.
    pub(super) fn complete(&self, answer: &[u8]) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        let kept = answer.len() <= LARGEST_KEPT;
        let answer = kept.then(|| gateway.seal(PURPOSE, answer));
        self.settle(Phase::Complete { answer, status: 200, is_stream: false });
    }

    /// Writes down that the call ran, without its answer.
    pub(super) fn not_kept(&self) {
        self.settle(Phase::Complete { answer: None, status: 200, is_stream: false });
    }

    /// Writes down how the call failed. That it did not run is an answer like any other: whoever asks
    /// again gets it, and nobody runs the call afterwards.
    pub(super) fn failed(&self, failure: &Failure, ids: &Ids) {
        match failure.ran {
            Ran::No => self.complete(&failure.render(ids)),
            Ran::Maybe => self.settle(Phase::Unknown),
        }
    }

    /// Nobody waits for the writing: an answer that is with its client needs no entry, and one that
    /// was lost with this node is found as an orphan.
    pub(super) fn settle(&self, phase: Phase) {
        if self.settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(gateway) = self.gateway.upgrade() else { return };
        let settling = Settling {
            entry: Entry { phase, ..self.entry.clone() },
            revision: self.revision.load(Ordering::Relaxed),
            turned: (self.waits() && self.turns.load(Ordering::Relaxed)).then(|| self.turned()),
            running: Arc::clone(&self.running),
            _open: gateway.open.token(),
            gateway,
        };
        Arc::new(settling).begin();
    }
}

impl Drop for Ticket {
    /// A call that ends without a word may have run.
    fn drop(&mut self) {
        self.settle(Phase::Unknown);
    }
}
