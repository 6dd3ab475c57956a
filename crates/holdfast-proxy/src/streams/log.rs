//! One stream's events, from the first that a client may ask for again to the newest.

mod entry;
mod stuck;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use holdfast_mcp::event_id::{EventId, Sealer, StreamKind};
use holdfast_mcp::sse;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::entry::{Entry, FRAMING, Kept, Room};
use self::stuck::WhenStuck;
use super::ids::{Ids, Told};
use crate::metrics::Metrics;

/// Where a stream comes from: what its event ids carry beside their number.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) principal: u64,
    pub(crate) kind: StreamKind,
    /// The call's JSON-RPC id as JSON text; none for a standing stream.
    pub(crate) request_id: Option<Box<str>>,
    pub(crate) class: u8,
    pub(crate) instance: u16,
    pub(crate) generation: u32,
    pub(crate) server_session: Option<Box<str>>,
}

/// What a new log is made from.
pub(crate) struct NewLog {
    /// Random: the name of the stream.
    pub(crate) id: u128,
    /// The highest progress that the client was told before it.
    pub(crate) progress: Option<f64>,
    pub(crate) origin: Origin,
    /// Seals event ids; `None`: the client cannot resume, events carry none.
    pub(crate) sealer: Option<Arc<Sealer>>,
    /// Whether the first event of each response primes the client (2025-11-25 and later).
    pub(crate) prime: bool,
    /// Whether other nodes may have to open its event ids.
    pub(crate) shared: bool,
    /// Bytes that may wait for a reader before the writer has to.
    pub(crate) queue: usize,
    /// Bytes of delivered events kept for a client that comes back.
    pub(crate) retain: usize,
    /// A disconnect cancels the call after this long; `None`: it never does (legacy).
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What a reader finds at the end of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogState {
    /// More may come.
    Open,
    /// The server ended its response and waits to be asked again: readers end cleanly, the next
    /// one wakes the relay.
    Paused,
    /// Nothing more will come.
    Complete,
}

#[derive(Debug)]
struct Inner {
    ids: Ids,
    entries: VecDeque<Entry>,
    room: Room,
    next_seq: u64,
    /// First number that no reader has been given.
    undelivered: u64,
    bytes: usize,
    undelivered_bytes: usize,
    state: LogState,
    server_event: Option<Arc<str>>,
    /// The highest progress that the client was told.
    progress: Option<f64>,
    /// How far the server's stream had come with the newest event that is forgotten.
    forgotten: Option<Arc<str>>,
    /// Counts readers; only the newest receives.
    epoch: u64,
    attached: bool,
    waker: Option<Waker>,
    /// The newest reader's connection.
    connection: Option<CancellationToken>,
    last_seen: Instant,
    /// What is done once when it has been stuck for a while.
    when_stuck: Option<WhenStuck>,
    /// Whether a client has been primed.
    primed: bool,
}

/// A stream's events and the place where its writer and its reader meet.
#[derive(Debug)]
pub(crate) struct StreamLog {
    id: u128,
    sealer: Option<Arc<Sealer>>,
    prime: bool,
    queue: usize,
    retain: usize,
    cancel_after: Option<Duration>,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
    /// The reader, by its epoch, whose task is at its writer's right now and reads afterwards, so that it
    /// need not be woken; else 0.
    driven: AtomicU64,
    room: Notify,
    arrived: Notify,
    /// Cancelled once a response that follows the log has been begun.
    begun: CancellationToken,
    /// Cancels the relay: a modern client hung up, or the session ended.
    pub(crate) cancel: CancellationToken,
}

// === impl StreamLog ===

impl StreamLog {
    pub(crate) fn new(new: NewLog) -> Arc<Self> {
        let origin = new.origin;
        let id = EventId {
            stream: new.id,
            seq: 0,
            kind: origin.kind,
            request_id: origin.request_id,
            class: origin.class,
            instance: origin.instance,
            generation: origin.generation,
            principal: origin.principal,
            server_session: origin.server_session,
            server_event: None,
            progress: None,
        };
        Arc::new(Self {
            id: new.id,
            sealer: new.sealer,
            prime: new.prime,
            queue: new.queue.max(1),
            retain: new.retain,
            cancel_after: new.cancel_after,
            metrics: new.metrics,
            inner: Mutex::new(Inner {
                ids: Ids::new(id, new.shared),
                entries: VecDeque::new(),
                room: Room::default(),
                next_seq: 1,
                undelivered: 1,
                bytes: 0,
                undelivered_bytes: 0,
                state: LogState::Open,
                server_event: None,
                progress: new.progress,
                forgotten: None,
                epoch: 0,
                attached: false,
                waker: None,
                connection: None,
                last_seen: Instant::now(),
                when_stuck: None,
                primed: false,
            }),
            driven: AtomicU64::new(0),
            room: Notify::new(),
            arrived: Notify::new(),
            begun: CancellationToken::new(),
            cancel: CancellationToken::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code panics under this lock, so a poisoned one still guards a whole log.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> u128 {
        self.id
    }

    /// Whether clients can come back to it.
    pub(crate) fn resumable(&self) -> bool {
        self.sealer.is_some()
    }

    pub(crate) fn state(&self) -> LogState {
        self.inner().state
    }

    pub(crate) fn belongs_to(&self, principal: u64) -> bool {
        self.inner().ids.origin.principal == principal
    }

    /// Bytes held, and since when nobody reads (`None` while somebody does).
    pub(crate) fn usage(&self) -> (usize, Option<Instant>) {
        let inner = self.inner();
        (inner.bytes, (!inner.attached).then_some(inner.last_seen))
    }

    /// Nothing more comes: what is kept for a client that comes back takes one buffer and no spare
    /// room.
    pub(super) fn compact(&self) {
        let mut inner = self.inner();
        let length = inner.entries.iter().filter_map(Entry::copied).map(Bytes::len).sum();
        let mut joined = Vec::with_capacity(length);
        for data in inner.entries.iter().filter_map(Entry::copied) {
            joined.extend_from_slice(data);
        }
        let mut joined = Bytes::from(joined);
        for entry in &mut inner.entries {
            if let Some(length) = entry.copied().map(Bytes::len) {
                entry.kept = Kept::Message(joined.split_to(length));
            }
        }
        inner.entries.shrink_to_fit();
        inner.room = Room::default();
    }

    /// Bytes of memory that a stream of which nothing more comes takes.
    pub(super) fn footprint(&self) -> usize {
        let inner = self.inner();
        let messages = inner.entries.iter().filter_map(Entry::message);
        size_of::<Self>()
            + OUTSIDE
            + inner.entries.capacity() * size_of::<Entry>()
            + messages.map(Bytes::len).sum::<usize>()
    }

    /// Whether everything after the event `seq` is still here.
    pub(crate) fn holds_after(&self, seq: u64) -> bool {
        let inner = self.inner();
        inner.entries.front().map_or(inner.next_seq, |entry| entry.seq) <= seq.saturating_add(1)
    }

    /// The session behind the stream was bound anew.
    pub(crate) fn rebind(&self, instance: u16, generation: u32, server_session: Option<Box<str>>) {
        let mut inner = self.inner();
        inner.ids.rebind(instance, generation, server_session);
        // The old server's event ids mean nothing to the new one.
        inner.server_event = None;
        inner.forgotten = None;
        for entry in &mut inner.entries {
            entry.server_event = None;
        }
    }

    /// Appends a message. Waits while more bytes than the queue allows are undelivered.
    ///
    /// # Cancel safety
    /// Cancelled while it waits, nothing was appended.
    pub(crate) async fn append(self: &Arc<Self>, data: &Bytes, server_event: Option<&str>) {
        loop {
            let room = self.room.notified();
            if self.append_if_room(data, server_event) {
                return;
            }
            if tokio::time::timeout(STALL, room).await.is_err() {
                self.cut_slow_reader();
            }
        }
    }

    /// Appends a message, or drops it where nobody can ever read it; `false` if it has to wait for room.
    pub(crate) fn append_if_room(&self, data: &Bytes, server_event: Option<&str>) -> bool {
        let mut inner = self.inner();
        let room = inner.undelivered_bytes < self.queue;
        let goes = room || inner.state == LogState::Complete || self.deserted(&inner);
        if goes {
            self.push(&mut inner, data, server_event);
        }
        goes
    }

    /// Appends a message, whether there is room or not: what ends the exchange, after which its writer is
    /// done, or the one line about a move. A stream whose reader is gone for good must not keep its relay.
    pub(crate) fn append_last(&self, data: &Bytes, server_event: Option<&str>) {
        self.push(&mut self.inner(), data, server_event);
    }

    pub(super) fn count_rotation(&self) {
        self.metrics.streams_rotated.inc();
    }

    /// Appends a message if there is room; whether there was.
    pub(crate) fn try_append(&self, data: &Bytes) -> bool {
        let mut inner = self.inner();
        if inner.undelivered_bytes >= self.queue {
            return false;
        }
        self.push(&mut inner, data, None);
        true
    }

    /// Whether a client reads it now.
    pub(crate) fn is_read(&self) -> bool {
        self.inner().attached
    }

    /// Whether its reader is gone and no other can come.
    fn deserted(&self, inner: &Inner) -> bool {
        !self.resumable() && !inner.attached && inner.epoch > 0
    }

    pub(crate) fn is_deserted(&self) -> bool {
        self.deserted(&self.inner())
    }

    fn push(&self, inner: &mut Inner, data: &Bytes, server_event: Option<&str>) {
        if inner.state == LogState::Complete || self.deserted(inner) {
            return;
        }
        if let Some(event) = server_event {
            inner.server_event = Some(event.into());
        }
        let data = inner.room.kept(data);
        self.store(inner, Kept::Message(data));
    }

    fn store(&self, inner: &mut Inner, kept: Kept) {
        let (seq, progress) = (inner.next_seq, inner.progress);
        inner.next_seq += 1;
        let entry = Entry { seq, kept, server_event: inner.server_event.clone(), progress };
        inner.bytes += entry.bytes();
        inner.undelivered_bytes += entry.bytes();
        if inner.entries.len() == inner.entries.capacity() && !inner.entries.is_empty() {
            inner.entries.reserve(PLACES);
        }
        inner.entries.push_back(entry);
        self.trim(inner);
        self.wake(inner);
    }

    fn wake(&self, inner: &mut Inner) {
        // Asked under the lock under which the reader reads afterwards.
        if self.driven.load(Ordering::Relaxed) != inner.epoch
            && let Some(waker) = inner.waker.take()
        {
            waker.wake();
        }
    }

    /// Until what is returned is dropped, the task of the reader of `epoch` is at the writer's.
    pub(super) fn driving(&self, epoch: u64) -> Driving<'_> {
        self.driven.store(epoch, Ordering::Relaxed);
        Driving(self)
    }

    /// The messages after the event `seq`, or those that nobody has been given; and whether none of
    /// them is forgotten.
    pub(crate) fn messages_after(&self, seq: Option<u64>) -> (Vec<Vec<u8>>, bool) {
        let inner = self.inner();
        let wanted = seq.map_or(inner.undelivered, |seq| seq.saturating_add(1));
        let oldest = inner.entries.front().map_or(inner.next_seq, |entry| entry.seq);
        let mut messages = Vec::new();
        let missed = inner.entries.iter().filter(|entry| entry.seq >= wanted);
        messages.extend(missed.filter_map(Entry::message).map(|data| data.to_vec()));
        (messages, oldest <= wanted)
    }

    /// Passes the server's reconnection delay on, to clients that are primed.
    pub(crate) fn hint(&self, retry_ms: u64) {
        let mut inner = self.inner();
        if !self.prime || inner.state == LogState::Complete {
            return;
        }
        if self.resumable() {
            self.store(&mut inner, Kept::Prime(retry_ms));
        }
    }

    /// Remembers how far the server's own stream has come, without an event for the client.
    pub(crate) fn note_server_event(&self, event: &str) {
        self.inner().server_event = Some(event.into());
    }

    /// Remembers the progress that the next message tells.
    pub(crate) fn note_progress(&self, progress: f64) {
        self.inner().progress = Some(progress);
    }

    /// The server's last event id, where its stream can be taken up again.
    pub(crate) fn server_event(&self) -> Option<Box<str>> {
        self.inner().server_event.as_deref().map(Into::into)
    }

    /// Nothing more comes; readers end once they have read the rest.
    pub(crate) fn finish(&self) {
        self.set_state(LogState::Complete);
        self.room.notify_waiters();
    }

    /// As [`Self::finish`]. A writer that is driven by its reader is not polled on before that has written the rest, or
    /// has found its client taking nothing: behind the end it holds nobody up.
    pub(crate) async fn finish_and_let_write(&self) {
        self.finish();
        let mut waits = self.driven.load(Ordering::Relaxed) != 0;
        poll_fn(|_| match std::mem::take(&mut waits) {
            // Who polled comes back without being woken.
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    /// Ends the present response cleanly and waits until a client has come back for more.
    pub(crate) async fn pause(&self) {
        let back = self.arrived.notified();
        self.set_state(LogState::Paused);
        back.await;
    }

    fn set_state(&self, state: LogState) {
        let mut inner = self.inner();
        if inner.state == LogState::Complete {
            return;
        }
        inner.state = state;
        self.wake(&mut inner);
    }

    /// Forgets what is not worth keeping. Where a client can come back, the newest event stays,
    /// however large: it may be the answer, and that it was handed to the connection does not mean
    /// that it arrived.
    fn trim(&self, inner: &mut Inner) {
        let (bytes, events) = if self.resumable() { (self.retain, 1) } else { (0, 0) };
        inner.trim(bytes, events);
    }

    // --- the reader's side ---

    /// A reader has been given everything that there is, the head of its response before it: what
    /// drives it writes that out before anything else of this thread runs.
    pub(super) fn caught_up(&self) {
        if !self.begun.is_cancelled() {
            self.begun.cancel();
        }
    }

    /// Resolves once a response that follows the log has been begun.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Makes the caller the one reader. `after`: the last number it has seen; without one it gets
    /// what nobody has been given. Returns its epoch, its first number, and whether events that
    /// it asked for are gone.
    pub(super) fn attach(
        &self,
        after: Option<u64>,
        connection: Option<CancellationToken>,
    ) -> (u64, u64, bool) {
        let mut inner = self.inner();
        inner.epoch += 1;
        inner.attached = true;
        inner.connection = connection;
        inner.last_seen = Instant::now();
        if let Some(older) = inner.waker.take() {
            older.wake();
        }
        if inner.state == LogState::Paused {
            inner.state = LogState::Open;
            self.arrived.notify_one();
        }
        let wanted =
            after.map_or(inner.undelivered, |seq| seq.saturating_add(1)).min(inner.next_seq);
        let oldest = inner.entries.front().map_or(inner.next_seq, |entry| entry.seq);
        (inner.epoch, wanted.max(oldest), wanted < oldest)
    }

    /// The event that primes a client: an id to come back with, and when.
    pub(super) fn prime(&self, next: u64, retry_ms: u64) -> Option<Bytes> {
        if !self.prime {
            return None;
        }
        let sealer = self.sealer.as_deref()?;
        let inner = &mut *self.inner();
        let seen = next.saturating_sub(1);
        let server_event: Option<Box<str>> = inner.server_event_at(seen).map(Into::into);
        // The number before the first is no event's, so the first such id is one of the series too.
        let is_first = !std::mem::replace(&mut inner.primed, true) && seen == 0;
        let (ids, progress) = (&mut inner.ids, inner.progress);
        let mut out = BytesMut::with_capacity(FRAMING);
        let told = Told { seq: seen, server_event: server_event.as_deref(), progress };
        let id = |out: &mut BytesMut| match is_first {
            true => ids.seal(sealer, told, out),
            false => ids.seal_anew(sealer, told, out),
        };
        sse::encode_prime(id, retry_ms, &mut out);
        Some(out.freeze())
    }

    /// Appends to `out` what the reader of `epoch` gets next.
    pub(super) fn read(
        &self,
        epoch: u64,
        next: &mut u64,
        out: &mut BytesMut,
        waker: &Waker,
    ) -> Read {
        let mut inner = self.inner();
        if inner.epoch != epoch {
            return Read::End;
        }
        let Inner { entries, ids, undelivered, undelivered_bytes, .. } = &mut *inner;
        let front = entries.front().map_or(*next, |entry| entry.seq);
        let start = next.saturating_sub(front) as usize;
        let (before, was_full) = (*undelivered, *undelivered_bytes >= self.queue);
        let (empty, mut rest) = (out.len(), false);
        // Small events that wait together leave together: one write instead of many.
        for entry in entries.range(start.min(entries.len())..) {
            if out.len() > empty && out.len() - empty + entry.bytes() > JOIN {
                rest = true;
                break;
            }
            out.reserve(entry.bytes());
            match (&self.sealer, &entry.kept) {
                (Some(sealer), Kept::Message(data)) => {
                    let id = |out: &mut BytesMut| ids.seal(sealer, entry.told(), out);
                    sse::encode_message_with(id, data, out);
                }
                (Some(sealer), Kept::Prime(retry)) => {
                    let id = |out: &mut BytesMut| ids.seal_anew(sealer, entry.told(), out);
                    sse::encode_prime(id, *retry, out);
                }
                (None, Kept::Message(data)) => sse::encode_message(None, data, out),
                // Nobody primes a client that cannot come back.
                (None, Kept::Prime(_)) => {}
            }
            *next = entry.seq + 1;
            if entry.seq >= *undelivered {
                *undelivered = entry.seq + 1;
                *undelivered_bytes -= entry.bytes();
            }
        }
        if inner.undelivered > before {
            self.trim(&mut inner);
            if was_full {
                self.room.notify_waiters();
            }
        }
        match rest {
            true => Read::Some,
            false if inner.state == LogState::Open => inner.wait(waker),
            false => Read::End,
        }
    }

    /// The reader of `epoch` is gone; whether it was the newest.
    pub(super) fn detach(&self, epoch: u64) -> bool {
        let mut inner = self.inner();
        if inner.epoch != epoch {
            return false;
        }
        self.leave(&mut inner);
        true
    }

    fn leave(&self, inner: &mut Inner) {
        inner.attached = false;
        inner.connection = None;
        inner.waker = None;
        inner.last_seen = Instant::now();
        if self.deserted(inner) {
            inner.entries.clear();
            inner.room = Room::default();
            inner.bytes = 0;
            inner.undelivered_bytes = 0;
            inner.undelivered = inner.next_seq;
            self.room.notify_waiters();
        }
    }
}

/// How long a full queue waits for its reader.
pub(super) const STALL: Duration = Duration::from_secs(10);

/// Events up to this many bytes leave in one write.
const JOIN: usize = 16 * 1024;

/// What a log has on the heap beside its events, and its place among the streams.
const OUTSIDE: usize = 512;

/// A stream of more than a few events has places made for so many at a time, at least.
const PLACES: usize = 16;

/// What a reader finds behind what was appended, if anything was.
pub(super) enum Read {
    /// More that is here.
    Some,
    /// Nothing for now.
    All,
    /// The end.
    End,
}

/// A log whose writer is being driven by its reader.
pub(super) struct Driving<'a>(&'a StreamLog);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.driven.store(0, Ordering::Relaxed);
    }
}

// === impl Inner ===

impl Inner {
    fn wait(&mut self, waker: &Waker) -> Read {
        if !self.waker.as_ref().is_some_and(|own| own.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        Read::All
    }

    /// Forgets delivered events beyond `bytes`, oldest first, down to the newest `events`. An
    /// undelivered one is never forgotten.
    fn trim(&mut self, bytes: usize, events: usize) {
        while self.entries.len() > events
            && self.bytes.saturating_sub(self.undelivered_bytes) > bytes
            && self.entries.front().is_some_and(|oldest| oldest.seq < self.undelivered)
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.forgotten = oldest.server_event;
        }
    }

    /// How far the server's stream had come for a client that has seen the event `seq`.
    fn server_event_at(&self, seq: u64) -> Option<&str> {
        let newest = seq + 1 >= self.next_seq;
        let at = match self.entries.front() {
            Some(oldest) if !newest => match seq.checked_sub(oldest.seq) {
                Some(index) => {
                    self.entries.get(usize::try_from(index).ok()?)?.server_event.as_ref()
                }
                None if seq + 1 == oldest.seq => self.forgotten.as_ref(),
                None => None,
            },
            _ => self.server_event.as_ref(),
        };
        at.map(|event| &**event)
    }
}
