//! Client sessions as this node holds them.
//!
//! A [`Session`] is the living side of a [`SessionRecord`]: the record says what the session is,
//! the living side holds what belongs to this process (the open duplex to a stdio server, the
//! standing stream, what is running). The id that the client holds is ours and never changes; what
//! it is bound to may, and every change of binding raises the generation.

mod find;
mod kept;
pub(crate) mod notice;
mod restore;
mod standing;
mod table;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::method::Method;
use holdfast_mcp::version::Version;
use holdfast_store::{Binding, Notice, SessionKey, SessionRecord, StoreError};
use http::HeaderValue;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

pub(crate) use self::find::{
    Found, changed, close_when_idle, find_patiently, forget, idle, reclaim,
};
use self::kept::Kept;
pub(crate) use self::restore::{Whereto, reestablish};
pub(crate) use self::standing::{
    FOLLOWS_WITHIN, Opened, Standing, feed_duplex, open as open_standing, release,
};
pub(crate) use self::table::{Sessions, TableError, parse_id};
use crate::exchange::Call;
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::metrics::GaugeGuard;
use crate::principal::Principal;
use crate::server::Server;
use crate::upstream::ServerSession;
use crate::upstream::mux::Mux;

/// The session's tie to an instance, as calls use it.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The mark of the instance.
    pub(crate) mark: u32,
    /// The life of the server that the connection was opened in, where there is one.
    pub(crate) life: u64,
    pub(crate) generation: u32,
    /// `Mcp-Session-Id` for the instance; none where the connection is the session.
    pub(crate) server_session: Option<ServerSession>,
    /// The open duplex to a stdio, WebSocket or HTTP+SSE server.
    pub(crate) mux: Option<Arc<Mux>>,
}

impl Bound {
    /// A binding as its record has it: what is not open here is opened when it is needed.
    pub(crate) fn of(binding: &Binding) -> Self {
        Self {
            mark: binding.instance,
            life: NOT_OPEN,
            generation: binding.generation,
            server_session: binding.server_session.clone().and_then(ServerSession::new),
            mux: None,
        }
    }

    /// Whether a call can go to it as it is.
    pub(crate) fn is_usable(&self, server: &Server) -> bool {
        match &self.mux {
            Some(mux) => self.life == server.life.number && mux.ending().is_none(),
            None => !server.is_duplex() && server.fleet.place(self.mark).is_some(),
        }
    }

    pub(crate) fn server_session_text(&self) -> Option<&str> {
        self.server_session.as_ref().map(ServerSession::as_str)
    }
}

/// One client session. A node may hold a million that nobody uses: what few of them need is made when it is
/// needed ([`Rare`], `ended`), and what can be made from something else is not kept.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) owner: Principal,
    server: ArcSwap<Server>,
    _gauge: GaugeGuard,
    /// In nanoseconds since the node started.
    created: u64,
    bound: ArcSwap<Bound>,
    record: Mutex<Kept>,
    rare: OnceLock<Box<Rare>>,
    /// Cancelled once, before anything of the session is taken down: nothing is opened for it any more. There
    /// when somebody waits for that, or it has happened.
    ended: OnceLock<CancellationToken>,
    /// Calls that wait for their turn at the server, or were let in.
    running: Mutex<Vec<Weak<Call>>>,
    /// Counts the session's calls.
    calls: AtomicU64,
    /// In seconds since the node started.
    last_used: AtomicU32,
    in_use: AtomicU32,
    pub(crate) version: Version,
    /// The server gives this session no standing stream, and says so as if it did not know it.
    streamless: AtomicBool,
    /// Set before `ended`, where the session lives on at another node.
    moved: AtomicBool,
    /// Its server is being told to end it.
    ending: AtomicBool,
    /// Looked up since the sweep last asked.
    sought: AtomicBool,
    /// The gateway is its client, and lends it to clients that have none.
    lent: AtomicBool,
    /// Its client is to be told of its last move with its next answer, as the record has it.
    owes_notice: AtomicBool,
}

/// What a session has once its client listens, its server asks the client something, or it is bound anew.
#[derive(Debug, Default)]
struct Rare {
    /// One re-establishment at a time; the others wait for its result.
    rebind: OnceLock<Arc<tokio::sync::Mutex<Option<Failure>>>>,
    /// Counts re-establishments that failed.
    failed_rebinds: AtomicU64,
    /// Tells the standing stream that the binding has changed.
    rebound: Notify,
    standing: Mutex<Option<Arc<Standing>>>,
    /// One opening of the standing stream at a time.
    opening: tokio::sync::Mutex<()>,
    /// Ids of server→client requests without an answer, as the client knows them.
    outstanding: Mutex<HashSet<Box<str>>>,
    given: notice::Given,
}

/// While it lives, the session does not expire: a running call or an open stream.
pub(crate) struct InUse {
    session: Arc<Session>,
    clock: crate::clock::Clock,
}

/// What a failover that goes bit by bit knows a session by, on every node and before it is open.
pub(crate) fn steering_key(key: SessionKey) -> u64 {
    key.0 as u64
}

// === impl Session ===

impl Session {
    pub(crate) fn new(
        record: SessionRecord,
        server: Arc<Server>,
        bound: Bound,
        owner: Principal,
        gauge: GaugeGuard,
        now: Duration,
    ) -> Arc<Self> {
        let owes_notice = AtomicBool::new(record.notice.is_some_and(|it| it.by_answer));
        Arc::new(Self {
            key: record.key,
            owner,
            server: ArcSwap::new(server),
            _gauge: gauge,
            created: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            bound: ArcSwap::from_pointee(bound),
            version: record.version,
            record: Mutex::new(Kept::of(record)),
            rare: OnceLock::new(),
            ended: OnceLock::new(),
            running: Mutex::default(),
            calls: AtomicU64::new(0),
            last_used: AtomicU32::new(seconds(now)),
            in_use: AtomicU32::new(0),
            streamless: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            sought: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            owes_notice,
        })
    }

    /// The id that its client holds.
    pub(crate) fn id(&self) -> HeaderValue {
        table::id_header(self.key)
    }

    /// The digest of its owner.
    pub(crate) fn principal(&self) -> u64 {
        self.owner.digest
    }

    /// When it was opened, or came here: time since the node started.
    pub(crate) fn created(&self) -> Duration {
        Duration::from_nanos(self.created)
    }

    /// What few sessions have, where this one has it. Whoever looks for it because something else of the
    /// session has changed finds it, or who makes it finds the change: the fences see to it.
    fn rare(&self) -> Option<&Rare> {
        fence(Ordering::SeqCst);
        self.rare.get().map(|rare| &**rare)
    }

    /// What few sessions have; from now on this one is of those.
    fn made_rare(&self) -> &Rare {
        let rare = self.rare.get_or_init(Box::default);
        fence(Ordering::SeqCst);
        rare
    }

    pub(crate) fn steering_key(&self) -> u64 {
        steering_key(self.key)
    }

    /// Its server, as the latest configuration has it; once that has it no more, as it last was.
    pub(crate) fn server(&self) -> Arc<Server> {
        self.server.load_full()
    }

    /// Whether it is one of this server.
    pub(crate) fn is_of(&self, server: &Server) -> bool {
        self.server.load().name == server.name
    }

    /// Its server as another configuration has it. A standing stream of an instance that is gone looks for
    /// another one, and one that was asked for with other headers is asked for anew.
    pub(crate) fn serve_by(&self, server: &Arc<Server>) {
        let before = self.server.swap(Arc::clone(server));
        let gone = server.fleet.place(self.bound.load().mark).is_none();
        if gone || before.headers != server.headers {
            self.tell_rebound();
        }
    }

    pub(crate) fn bound(&self) -> Arc<Bound> {
        self.bound.load_full()
    }

    /// Wakes whoever waits for [`Self::rebound`].
    fn tell_rebound(&self) {
        if let Some(rare) = self.rare() {
            rare.rebound.notify_waiters();
        }
    }

    /// Resolves when the session is bound anew, or served in another way, after this was called.
    fn rebound(&self) -> Notified<'_> {
        self.made_rare().rebound.notified()
    }

    /// The standing stream, where there is one.
    pub(crate) fn standing(&self) -> Option<Arc<Standing>> {
        self.lock_standing()?.clone()
    }

    /// Takes the standing stream away, if there is one that is to go.
    pub(crate) fn take_standing(
        &self,
        goes: impl FnOnce(&Standing) -> bool,
    ) -> Option<Arc<Standing>> {
        self.lock_standing()?.take_if(|standing| goes(standing))
    }

    /// The place of the standing stream, where there has been one. Locked for nanoseconds.
    fn lock_standing(&self) -> Option<MutexGuard<'_, Option<Arc<Standing>>>> {
        self.rare().map(Rare::standing)
    }

    /// The session is another node's now.
    fn give_away(&self) {
        self.moved.store(true, Ordering::Release);
        self.stop();
    }

    /// Whether its client has had no answer yet that says that it was moved.
    pub(crate) fn owes_notice(&self) -> bool {
        self.owes_notice.load(Ordering::Acquire)
    }

    /// Whether it lives on at another node.
    pub(crate) fn is_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// Its server is told to end it, or was and did not: what breaks off meanwhile is no fault of the
    /// server's.
    pub(crate) fn set_ending(&self, ending: bool) {
        self.ending.store(ending, Ordering::Release);
    }

    /// The gateway is its client, and lends it to clients that have none.
    pub(crate) fn set_lent(&self) {
        self.lent.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// Whether its server is being told to end it, or was.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// From here on nothing is opened for the session.
    pub(crate) fn stop(&self) {
        self.ended().cancel();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.ended.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// Cancelled by [`Self::stop`].
    fn ended(&self) -> &CancellationToken {
        self.ended.get_or_init(CancellationToken::new)
    }

    /// Resolves when its client, or its server, has ended it: not when this node only forgets it, or it
    /// lives on at another one.
    pub(crate) async fn is_over(&self) {
        self.ended().cancelled().await;
        if self.is_moved() || !self.is_ending() {
            std::future::pending().await
        }
    }

    /// Waits for what [`Self::stop`] found half-done; what the session is bound to then is the last.
    pub(crate) async fn last_bound(&self) -> Arc<Bound> {
        let _none_is_running = self.rebinding().lock().await;
        self.bound()
    }

    fn rebinding(&self) -> &Arc<tokio::sync::Mutex<Option<Failure>>> {
        self.made_rare().rebind.get_or_init(Arc::default)
    }

    /// Its record, made anew.
    pub(crate) fn record(&self) -> SessionRecord {
        let server = Arc::clone(&self.server.load().name);
        self.kept().record(self.key, self.principal(), server, self.version)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its client is still to be told of its last move.
    fn notice(&self) -> Option<Notice> {
        self.kept().notice()
    }

    /// Keeps the session alive until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, clock: crate::clock::Clock) -> InUse {
        self.in_use.fetch_add(1, Ordering::Relaxed);
        InUse { session: Arc::clone(self), clock }
    }

    pub(crate) fn touch(&self, now: Duration) {
        self.last_used.store(seconds(now), Ordering::Relaxed);
    }

    pub(crate) fn idle_since(&self) -> Duration {
        Duration::from_secs(self.last_used.load(Ordering::Relaxed).into())
    }

    /// Somebody has looked it up: it is about to be used.
    fn seek(&self) {
        if !self.sought.load(Ordering::Relaxed) {
            self.sought.store(true, Ordering::Relaxed);
        }
    }

    /// Whether its record is due to be renewed: it is in use, or was used since this node last renewed it,
    /// and a tenth of its time is over. `unix`: milliseconds since the Unix epoch.
    pub(crate) fn used_after(
        &self,
        renewed: Option<Duration>,
        now: Duration,
        unix: u64,
        ttl: Duration,
    ) -> bool {
        // A session that came here was used here, and that one use counts too. How much of its time is
        // left its record says: it may have been used elsewhere, long ago.
        let Some(renewed) = renewed else {
            return self.kept().deadline().is_some_and(|at| has_run_down(at, unix, ttl));
        };
        let used = self.in_use.load(Ordering::Relaxed) > 0 || self.idle_since() > renewed;
        used && now.saturating_sub(renewed) >= ttl / 10
    }

    /// Unused for longer than `ttl`, and nothing of it is running.
    pub(crate) fn expired(&self, now: Duration, ttl: Duration) -> bool {
        self.in_use.load(Ordering::Relaxed) == 0 && now.saturating_sub(self.idle_since()) >= ttl
    }

    /// Changes the record by compare-and-set; `change` runs again on the newest record after a
    /// conflict.
    ///
    /// # Errors
    /// [`StoreError::Gone`] or [`StoreError::Missing`] if the session ended meanwhile.
    pub(crate) async fn update(
        &self,
        gateway: &Gateway,
        change: impl Fn(&mut SessionRecord),
    ) -> Result<(), StoreError> {
        let store = &gateway.store;
        let mut record = self.record();
        loop {
            change(&mut record);
            match gateway.patiently(|| store.replace(record.clone())).await {
                Ok(stored) => {
                    self.keep(stored);
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => record = store.get(self.key).await?,
                Err(gone) => return Err(gone),
            }
        }
    }

    /// Takes over a newer record that another node has written.
    fn refresh(&self, record: SessionRecord) {
        let bound = Bound::of(&record.binding);
        if self.keep(record) && bound.generation > self.bound.load().generation {
            self.bound.store(Arc::new(bound));
            self.tell_rebound();
        }
    }

    /// Keeps the record, if it is newer than the one that is here; whether it was.
    fn keep(&self, record: SessionRecord) -> bool {
        let mut newest = self.kept();
        if newest.revision >= record.revision {
            return false;
        }
        let owes_notice = record.notice.is_some_and(|it| it.by_answer);
        self.owes_notice.store(owes_notice, Ordering::Release);
        *newest = Kept::of(record);
        true
    }

    /// Writes a new binding in place of the one of generation `present`, and what its client is to be told
    /// of that. If another node was faster, its binding is the session's, and this returns `false`.
    ///
    /// # Errors
    /// [`StoreError`] if the session ended meanwhile or the store is away.
    pub(crate) async fn rebind(
        &self,
        gateway: &Gateway,
        present: u32,
        binding: &Binding,
        notice: Option<Notice>,
    ) -> Result<bool, StoreError> {
        let store = &gateway.store;
        let mut record = self.record();
        loop {
            if record.binding.generation != present {
                self.refresh(record);
                return Ok(false);
            }
            record.binding = binding.clone();
            record.notice = notice.or(record.notice);
            match gateway.patiently(|| store.replace(record.clone())).await {
                Ok(stored) => {
                    self.keep(stored);
                    return Ok(true);
                }
                Err(StoreError::Conflict { .. }) => record = store.get(self.key).await?,
                Err(gone) => return Err(gone),
            }
        }
    }

    /// The generation of the binding by which its record names this node as the holder of a connection, where
    /// none is open here by it.
    fn held_in_name_by(&self, me: Option<Origin>) -> Option<u32> {
        let (record, bound) = (self.record(), self.bound());
        let generation = record.binding.generation;
        let open = bound.generation >= generation && bound.mux.is_some();
        (me.is_some() && record.binding.node == me && !open).then_some(generation)
    }

    /// Numbers a new call.
    pub(crate) fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether no call has come after this one.
    pub(crate) fn is_latest(&self, call: u64) -> bool {
        self.calls.load(Ordering::Relaxed) == call
    }

    fn running(&self) -> MutexGuard<'_, Vec<Weak<Call>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on the client can cancel the call, until it ends.
    pub(crate) fn runs(call: &Arc<Call>) {
        if let Some(session) = &call.session
            && call.wanted.list()
        {
            session.running().push(Arc::downgrade(call));
        }
    }

    /// The call has ended.
    pub(crate) fn ran(&self, call: &Call) {
        let mut running = self.running();
        if let Some(at) = running.iter().position(|it| std::ptr::eq(it.as_ptr(), call)) {
            running.swap_remove(at);
        }
        // Idle sessions hold no room for more than a few.
        if running.is_empty() {
            running.shrink_to(FEW);
        }
    }

    /// The client has no use any more for the answer to its request of this id (JSON text). The server
    /// may still give one, or none for as long as it is waited for: nobody else has to wait meanwhile.
    /// Whether this node serves such a request.
    pub(crate) fn cancelled(&self, id: &str) -> bool {
        let calls: Vec<_> = self.running().iter().filter_map(Weak::upgrade).collect();
        let cancel = |call: &&Arc<Call>| {
            let (is, holds) = (call.ids.is(id), call.ids.hold(id));
            if is {
                call.cancel();
            } else if holds {
                call.wanted.strike(id);
            }
            is || holds
        };
        calls.iter().filter(cancel).count() > 0
    }

    /// The calls of this method that have begun here before the one of this number and may be running.
    pub(crate) fn running_before(&self, number: u64, method: Method) -> Vec<Arc<Call>> {
        // All of them first: the last hold on a call may be let go only when the list is not held any more.
        let mut calls: Vec<_> = self.running().iter().filter_map(Weak::upgrade).collect();
        calls.retain(|call| call.number < number && call.method == method);
        calls
    }

    /// A request of the server went to the client under this id (JSON text).
    pub(crate) fn asked(&self, id: &str) {
        let mut outstanding = self.made_rare().outstanding();
        // A client that never answers must not grow the set without bound.
        if outstanding.len() < MAX_OUTSTANDING {
            outstanding.insert(id.into());
        }
    }

    /// Whether the client has not answered the server's request of this id yet.
    pub(crate) fn waits_for(&self, id: &str) -> bool {
        self.rare().is_some_and(|rare| rare.outstanding().contains(id))
    }

    /// The client answered the server's request of this id, or it is void; whether it was open.
    pub(crate) fn answered(&self, id: &str) -> bool {
        self.rare().is_some_and(|rare| rare.outstanding().remove(id))
    }

    /// The requests whose binding died: the client is told to forget them.
    pub(crate) fn take_outstanding(&self) -> Vec<Box<str>> {
        self.rare().map(|rare| rare.outstanding().drain().collect()).unwrap_or_default()
    }
}

// === impl Rare ===

impl Rare {
    fn standing(&self) -> MutexGuard<'_, Option<Arc<Standing>>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outstanding(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For a field of four bytes, which is enough for 136 years.
fn seconds(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// Whether more than a tenth of the time to live is over that a record with this deadline was given; both in
/// milliseconds since the Unix epoch. A record that was renewed just now has eleven tenths of it left.
fn has_run_down(deadline: u64, now: u64, ttl: Duration) -> bool {
    deadline <= now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// Calls at once that a session has room for when it has none.
const FEW: usize = 4;

/// The life of no server.
const NOT_OPEN: u64 = u64::MAX;

/// Server→client requests of one session that are remembered while unanswered.
const MAX_OUTSTANDING: usize = 1024;

impl Drop for InUse {
    fn drop(&mut self) {
        self.session.touch(self.clock.now());
        self.session.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node may hold a million: each byte here is a megabyte. Before the value are a word of the allocator's
    /// and the two counts of its [`Arc`], and its block is a multiple of 16 bytes.
    #[test]
    fn a_session_that_nobody_uses_takes_no_more_than_it_must() {
        assert!(size_of::<Session>() <= 272, "{}", size_of::<Session>());
        assert!(size_of::<Bound>() <= 40, "{}", size_of::<Bound>());
    }

    #[test]
    fn a_session_that_is_taken_up_again_late_is_renewed_at_once() {
        let ttl = Duration::from_secs(3600);
        let now = 1_700_000_000_000;
        let minutes = |minutes: u64| now + minutes * 60_000;
        assert!(!has_run_down(minutes(66), now, ttl), "used just now");
        assert!(!has_run_down(minutes(61), now, ttl));
        assert!(has_run_down(minutes(60), now, ttl));
        assert!(has_run_down(minutes(4), now, ttl), "idle for over an hour");
        assert!(has_run_down(now - 1, now, ttl));
    }
}
