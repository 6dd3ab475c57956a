//! Values in Redis: one server, one that Sentinels watch, or a Redis Cluster.
//!
//! Three kinds of connection to each primary, so that none waits for another: one for commands, which
//! many share (`dial`), one for each runtime that writes what must last, in groups (`writers`), and one that
//! listens for what other nodes write (`changes`). `keeper` finds the primaries and makes lost connections anew;
//! `inspect` looks at what they are and at their settings.
//!
//! # What a write does
//! It is a script that compares and sets in one step, and does what it does once however often it is
//! sent. So a write whose reply was lost is sent again, to whichever server is the primary by then:
//!
//! | the script finds | then |
//! |---|---|
//! | our value (no other write has the same) | it was written |
//! | what the write expects | it was not; it is now |
//! | anything else | somebody wrote after it, or in its place: unknown |
//!
//! # When a write lasts
//! Redis replicates after it has answered. A write that must last is answered when `WAIT` has counted
//! as many replicas as the configuration asks for; one that too few have is sent once more, and is
//! then unknown. Which primary counts is the cluster's decision (`adopted`): while this node sees
//! another one, it writes nothing that must last.

mod carry;
mod changes;
mod clock;
mod copy;
mod dial;
mod direct;
mod entry;
mod failure;
mod inspect;
mod keeper;
mod keys;
mod link;
mod resp;
mod scripts;
mod sentinels;
mod succession;
#[cfg(test)]
mod tests;
mod tls;
mod topology;
mod writer;
mod writers;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::{HostPort, Redis};
use holdfast_engine::replicated::{Expect, Invalid, KvEntry, MAX_KEY, MAX_VALUE, SESSIONS};
use redis::{Pipeline, Value, cmd};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use self::carry::{Carried, Lasting};
use self::clock::Clock;
use self::copy::Copy;
use self::dial::Dialler;
use self::failure::Unusable;
use self::keeper::{Keeper, Reach};
use self::keys::{Bucket, Names};
use self::link::Sent;
use self::scripts::{Call, Outcome, Put};
use super::{Became, NotWritten, Posted, became};
use crate::StoreError;
use crate::operations::{Operations, TakesWrites};

/// A Redis primary, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// Changes whenever the process does. With a Redis Cluster: one for all of its masters.
    pub run_id: Arc<str>,
    /// Host and port; of several masters, all of them.
    pub address: String,
}

/// What another node may have written: a hint. It may come late, twice, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// The entry at this key.
    Key(Bytes),
    /// Anything: hints were missed, or the store was emptied.
    Everything,
}

/// The values, and the tasks that keep the connections. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct RedisKv {
    shared: Arc<Shared>,
    _ends: watch::Sender<()>,
}

/// A store that is connected, or tries to be.
pub(crate) struct Connected {
    pub(crate) kv: RedisKv,
    pub(crate) primary: watch::Receiver<Option<Primary>>,
    pub(crate) changes: mpsc::UnboundedReceiver<StoreChange>,
}

/// What the tasks and the callers share.
#[derive(Debug)]
struct Shared {
    settings: Redis,
    names: Names,
    dialler: Dialler,
    clock: Clock,
    copy: Copy,
    operations: Arc<Operations>,
    adopted: watch::Receiver<Option<Arc<str>>>,
    reach: watch::Sender<Reach>,
    seen: watch::Sender<Option<Primary>>,
    changes: mpsc::UnboundedSender<StoreChange>,
    /// The primaries may have changed.
    look: Notify,
    /// The mark of each primary, by the bucket it is in.
    marks: Mutex<HashMap<Bucket, String>>,
    /// When hints that are not here were last asked for.
    asked: Mutex<HashMap<Bytes, Instant>>,
    runtime: Handle,
    hasher: RandomState,
    drawn: AtomicU64,
}

impl RedisKv {
    /// Connects. If Redis is away that goes on in the background.
    ///
    /// # Errors
    /// What is wrong with it, or with the configuration, and the cure.
    pub(crate) async fn connect(
        settings: Redis,
        adopted: watch::Receiver<Option<Arc<str>>>,
        operations: Arc<Operations>,
    ) -> Result<Connected, String> {
        Self::connect_at(settings, adopted, operations, Clock::start()).await
    }

    async fn connect_at(
        settings: Redis,
        adopted: watch::Receiver<Option<Arc<str>>>,
        operations: Arc<Operations>,
        clock: Clock,
    ) -> Result<Connected, String> {
        let dialler = Dialler::new(&settings)?;
        let patience = settings.connect_timeout + settings.command_timeout;
        let (changes, told) = mpsc::unbounded_channel();
        let (seen, primary) = watch::channel(None);
        let reason = "it has not been reached yet".into();
        let shared = Arc::new(Shared {
            names: Names::new(&settings.key_prefix),
            dialler,
            clock,
            copy: Copy::default(),
            operations,
            adopted,
            reach: watch::Sender::new(Reach::Away { since: Instant::now(), reason }),
            seen,
            changes,
            look: Notify::new(),
            marks: Mutex::default(),
            asked: Mutex::default(),
            runtime: Handle::current(),
            hasher: RandomState::new(),
            drawn: AtomicU64::new(0),
            settings,
        });
        let weakly = Arc::downgrade(&shared);
        let takes_writes =
            TakesWrites::new(move || weakly.upgrade().is_some_and(|it| it.takes_writes()));
        let _ = shared.operations.takes_writes.set(takes_writes);
        let mut keeper = Keeper::new(Arc::clone(&shared));
        if let Ok(Err(Unusable::Wrong(reason))) = timeout(patience, keeper.round()).await {
            return Err(reason);
        }
        let (ends, ended) = watch::channel(());
        tokio::spawn(keeper.run(ended.clone()));
        tokio::spawn(changes::listen(Arc::clone(&shared), ended));
        Ok(Connected { kv: Self { shared, _ends: ends }, primary, changes: told })
    }

    pub(crate) fn now(&self) -> u64 {
        self.shared.clock.now()
    }

    /// What this node has heard of, without asking.
    pub(crate) fn get_local(&self, key: &[u8]) -> Option<KvEntry> {
        let found = self.shared.copy.get(key);
        if found.is_none() && crate::keys::hints_of(key).is_some() {
            self.shared.fetch_at_leisure(key);
        }
        found.filter(|entry| !entry.is_past(self.now()))
    }

    /// What Redis has; if that is away, what this node has.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        match self.get_fresh(key).await {
            Err(error @ StoreError::Unavailable(_)) => match self.get_local(key) {
                Some(entry) => Ok(Some(entry)),
                None => Err(error),
            },
            found => found,
        }
    }

    pub(crate) async fn get_fresh(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        let found = self.get_even_past(key).await?;
        Ok(found.filter(|entry| !entry.is_past(self.now())))
    }

    pub(crate) async fn get_even_past(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        self.shared.read(key).await
    }

    /// With `later` a deadline that is there and later stays. The revision, and the deadline that it
    /// has now.
    pub(crate) async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        deadline: Option<u64>,
        later: bool,
    ) -> Result<(u64, Option<u64>), NotWritten> {
        check(&key, &value)?;
        let shared = &self.shared;
        let put = Put { key, value, expect, deadline, later };
        let (call, lasting) = self.put_call(&put);
        let Carried { outcome, lost } = shared.carry_out(&put.key, call, lasting).await?;
        match (outcome, lost) {
            (Outcome::Done { revision, deadline }, _) => {
                let entry = KvEntry { value: put.value, revision, deadline };
                shared.keep(&put.key, Some(&entry));
                Ok((revision, deadline))
            }
            (Outcome::Mismatch(found), None) => {
                shared.keep(&put.key, found.as_ref());
                Err(NotWritten::Mismatch(found))
            }
            (Outcome::Mismatch(found), Some(reason)) => {
                shared.keep(&put.key, found.as_ref());
                match became(&put.value, put.expect, found.as_ref()) {
                    Became::Ours(revision) => Ok((revision, found.and_then(|it| it.deadline))),
                    Became::NotYet | Became::Overwritten => {
                        Err(NotWritten::Failed(StoreError::Unknown(reason)))
                    }
                }
            }
        }
    }

    /// Writes over the entry at `revision`, once, and does not wait. `done` is told the new revision.
    pub(crate) fn post(
        &self,
        put: Posted,
        done: impl FnOnce(Result<u64, NotWritten>) + Send + 'static,
    ) {
        let Posted { key, value, revision, deadline } = put;
        if let Err(error) = check(&key, &value) {
            return done(Err(error));
        }
        let expect = Expect::Revision(revision);
        let put = Put { key, value, expect, deadline, later: false };
        let (call, _) = self.put_call(&put);
        let told = move |sent| {
            done(match sent {
                Sent::Reply(reply) => match Outcome::read(reply) {
                    Some(Outcome::Done { revision, .. }) => Ok(revision),
                    Some(Outcome::Mismatch(found)) => Err(NotWritten::Mismatch(found)),
                    None => unknown("Redis' reply cannot be read".to_owned()),
                },
                Sent::NotDone(reason) | Sent::Refused(reason) => {
                    Err(NotWritten::Failed(StoreError::Unavailable(reason)))
                }
                Sent::Lost(reason) | Sent::Broke(reason) => unknown(reason),
            });
        };
        self.shared.post(&put.key, call, Box::new(told));
    }

    /// The script of a put, and whether it must last.
    fn put_call(&self, put: &Put) -> (Call, Lasting) {
        let shared = &self.shared;
        let (lasting, channel) = kind(&put.key);
        let channel = if channel { shared.names.channel() } else { &[] };
        (Call::put(&shared.names, put, shared.clock.given(), channel), lasting)
    }

    pub(crate) async fn delete(&self, key: Bytes, expect: Expect) -> Result<(), NotWritten> {
        let shared = &self.shared;
        let call = Call::delete(&shared.names, &key, expect, shared.clock.given());
        let Carried { outcome, lost } = shared.carry_out(&key, call, Lasting::Yes).await?;
        match (outcome, lost) {
            (Outcome::Done { .. }, _) | (Outcome::Mismatch(None), Some(_)) => {
                shared.copy.remove(&key);
                Ok(())
            }
            (Outcome::Mismatch(found), None) => {
                shared.keep(&key, found.as_ref());
                Err(NotWritten::Mismatch(found))
            }
            (Outcome::Mismatch(Some(_)), Some(reason)) => {
                Err(NotWritten::Failed(StoreError::Unknown(reason)))
            }
        }
    }

    pub(crate) async fn touch(&self, key: Bytes, deadline: u64) -> Result<(), NotWritten> {
        let shared = &self.shared;
        let call = Call::touch(&shared.names, &key, deadline, shared.clock.given());
        // A deadline only moves forward, whoever moves it and how often.
        match shared.carry_out(&key, call, Lasting::No).await?.outcome {
            Outcome::Done { revision, deadline } => {
                shared.copy.touch(&key, revision, deadline);
                Ok(())
            }
            Outcome::Mismatch(_) => {
                shared.copy.remove(&key);
                Err(NotWritten::Mismatch(None))
            }
        }
    }

    /// Sessions that are past their deadline, the longest past first. What cannot be asked has none.
    pub(crate) async fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        debug_assert_eq!(prefix, SESSIONS, "of other entries there is no index");
        let shared = &self.shared;
        let Reach::Here(routes) = shared.reach.borrow().clone() else { return Vec::new() };
        let mut found = Vec::new();
        shared.operations.reads.inc();
        for link in &routes.links {
            let mut commands = Pipeline::new();
            for bucket in link.target.buckets(&shared.names) {
                let mut range = cmd("ZRANGEBYSCORE");
                range.arg(shared.names.due(bucket)).arg("-inf").arg(self.now());
                range.arg("WITHSCORES").arg("LIMIT").arg(0).arg(limit);
                commands.add_command(range);
            }
            match link.send_all(&commands, shared.settings.command_timeout).await {
                Ok(replies) => replies.into_iter().for_each(|reply| scored(reply, &mut found)),
                Err(reason) => tracing::debug!(reason, "redis: what is due is not known"),
            }
        }
        found.sort_unstable();
        found.into_iter().take(limit).map(|(_, key)| key).collect()
    }

    /// Whether commands are answered, by the primary that the cluster has adopted, and writes taken.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn health(&self) -> Result<(), String> {
        let shared = &self.shared;
        let routes = match shared.reach.borrow().clone() {
            Reach::Here(routes) => routes,
            Reach::Away { reason, .. } => {
                return Err(format!("Redis is away: {}", failure::without_addresses(&reason)));
            }
        };
        let signs = routes.links.iter().map(|link| link.sign(&shared.settings, HEALTH));
        for sign in futures_util::future::join_all(signs).await {
            sign?;
        }
        if let Some(reason) = routes.links.iter().find_map(|link| link.writers.standing().refusal())
        {
            return Err(format!("Redis takes no writes: {reason}"));
        }
        if routes.links.iter().any(|link| link.writers.standing().is_short()) {
            return Err("too few of Redis' replicas acknowledge what is written".to_owned());
        }
        if let Some(reason) = routes.links.iter().find_map(|link| link.writers.standing().goes()) {
            return Err(reason.to_owned());
        }
        if shared.is_adopted() {
            return Ok(());
        }
        Err("this node sees another Redis primary than the one that the cluster has adopted"
            .to_owned())
    }
}

// === impl Shared ===

impl Shared {
    /// Whether what must last may be written to the primary that this node sees.
    fn is_adopted(&self) -> bool {
        match &*self.adopted.borrow() {
            None => true,
            Some(adopted) => match &*self.reach.borrow() {
                Reach::Here(routes) => routes.run_id == *adopted,
                Reach::Away { .. } => false,
            },
        }
    }

    /// Whether writes are taken, as far as is known without asking.
    fn takes_writes(&self) -> bool {
        match &*self.reach.borrow() {
            Reach::Here(routes) => {
                routes.links.iter().all(|link| link.writers.standing().takes_writes())
            }
            Reach::Away { .. } => false,
        }
    }

    /// Whether what must last may be written to this primary: it is one that this node uses, and the
    /// cluster has adopted it.
    fn may_write(&self, run_id: &str) -> bool {
        let used = match &*self.reach.borrow() {
            Reach::Here(routes) => routes.links.iter().any(|link| *link.about.run_id == *run_id),
            Reach::Away { .. } => false,
        };
        used && self.is_adopted()
    }

    /// Keeps the node's copy as Redis has it.
    fn keep(&self, key: &[u8], found: Option<&KvEntry>) {
        if !key.starts_with(SESSIONS) && crate::keys::hints_of(key).is_none() {
            return;
        }
        match found {
            Some(entry) => self.copy.put(key, entry),
            None => self.copy.remove(key),
        }
    }

    fn tell(&self, change: StoreChange) {
        // Nobody may care.
        let _ = self.changes.send(change);
    }

    /// Reads an entry and tells of it.
    fn fetch(shared: &Arc<Self>, key: Bytes) {
        let shared = Arc::clone(shared);
        shared.runtime.clone().spawn(async move {
            if let Ok(Some(_)) = shared.read(&key).await {
                shared.tell(StoreChange::Key(key));
            }
        });
    }

    /// As [`Self::fetch`], and not again for a while.
    fn fetch_at_leisure(self: &Arc<Self>, key: &[u8]) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.get(key).is_some_and(|last| last.elapsed() < LEISURE) {
            return;
        }
        // As many as there are servers with tools; and no more, whoever names others.
        if asked.len() >= ASKED {
            asked.clear();
        }
        let key = Bytes::copy_from_slice(key);
        asked.insert(key.clone(), Instant::now());
        Self::fetch(self, key);
    }

    /// A primary has this mark; `offered` is what it would have got if it had none.
    fn marked(&self, bucket: Bucket, address: &HostPort, found: Option<&str>, offered: &str) {
        let before = {
            let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            match found {
                Some(mark) => marks.insert(bucket, mark.to_owned()),
                None => marks.remove(&bucket),
            }
        };
        if before.is_none() || before.as_deref() == found {
            return;
        }
        let anew = found == Some(offered);
        tracing::error!(%address, anew, "redis was emptied or replaced: the sessions in it are lost");
        self.copy.clear();
        self.tell(StoreChange::Everything);
    }

    fn new_mark(&self) -> String {
        format!("{:016x}{:016x}", self.random(), self.random())
    }

    /// Different each time and in each process; no secret.
    fn random(&self) -> u64 {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        self.hasher.hash_one((drawn, std::process::id()))
    }
}

/// Whether what is at a key must last, and whether other nodes are told of it.
fn kind(key: &[u8]) -> (Lasting, bool) {
    let hints = crate::keys::hints_of(key).is_some();
    (if hints { Lasting::No } else { Lasting::Yes }, hints || key.starts_with(SESSIONS))
}

fn unknown<T>(reason: String) -> Result<T, NotWritten> {
    Err(NotWritten::Failed(StoreError::Unknown(reason)))
}

/// The limits of the replicated machine: a record that fits in one store fits in the other.
fn check(key: &[u8], value: &[u8]) -> Result<(), NotWritten> {
    let refused = |invalid| Err(NotWritten::Failed(StoreError::Refused(invalid)));
    match (key.len(), value.len()) {
        (0, _) => refused(Invalid::Key),
        (length, _) if length > MAX_KEY => refused(Invalid::Key),
        (_, length) if length > MAX_VALUE => refused(Invalid::Value),
        _ => Ok(()),
    }
}

/// Reads the members and scores of a sorted set.
fn scored(reply: Value, found: &mut Vec<(u64, Bytes)>) {
    let Value::Array(members) = reply else { return };
    for member in members {
        let Value::Array(pair) = member else { return };
        let mut pair = pair.into_iter();
        let (Some(Value::BulkString(key)), Some(Value::Double(deadline))) =
            (pair.next(), pair.next())
        else {
            return;
        };
        // Deadlines are whole and below 2^53.
        found.push((deadline as u64, key.into()));
    }
}

/// How long whoever asks after the store's health waits.
const HEALTH: Duration = Duration::from_millis(800);

/// How often hints that are not here are asked for.
const LEISURE: Duration = Duration::from_secs(10);

/// How many hints are remembered to have been asked for.
const ASKED: usize = 1024;
