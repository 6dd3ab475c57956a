//! The ids of one stream's events, sealed as they are written out.

use bytes::BytesMut;
use holdfast_mcp::event_id::{EventId, Sealer, Series};

use crate::random::Nonces;

/// What the ids of a stream's events say, and what sealing them takes.
#[derive(Debug)]
pub(super) struct Ids {
    /// Of the stream; number, progress and server's event are each event's.
    pub(super) origin: EventId,
    nonces: Nonces,
    /// Whether other nodes may have to open them, of which some may be of a version that does not know
    /// series.
    shared: bool,
    /// Sealed with the first id that needs it.
    series: Option<Series>,
}

/// How far a client is with an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) seq: u64,
    pub(super) server_event: Option<&'a str>,
    pub(super) progress: Option<f64>,
}

// === impl Ids ===

impl Ids {
    pub(super) fn new(origin: EventId, shared: bool) -> Self {
        Self { origin, nonces: Nonces::new(), shared, series: None }
    }

    /// From here on the events are of another binding.
    pub(super) fn rebind(
        &mut self,
        instance: u16,
        generation: u32,
        server_session: Option<Box<str>>,
    ) {
        self.origin.instance = instance;
        self.origin.generation = generation;
        self.origin.server_session = server_session;
        self.series = None;
    }

    /// Appends the id of an event. Where the server has an id for it, that is nobody else's business,
    /// and all of ours is sealed.
    pub(super) fn seal(&mut self, sealer: &Sealer, event: Told<'_>, out: &mut BytesMut) {
        if self.shared || event.server_event.is_some() {
            return self.seal_anew(sealer, event, out);
        }
        let (origin, nonces) = (&self.origin, &mut self.nonces);
        let series = self.series.get_or_insert_with(|| sealer.series(origin, nonces.next()));
        sealer.number_onto(series, event.seq, event.progress, out);
    }

    /// Appends an id that no event has had: what primes a client is an event of its own.
    pub(super) fn seal_anew(&mut self, sealer: &Sealer, event: Told<'_>, out: &mut BytesMut) {
        let origin = &mut self.origin;
        (origin.seq, origin.progress) = (event.seq, event.progress);
        origin.server_event = event.server_event.map(Into::into);
        sealer.seal_onto(origin, self.nonces.next(), out);
    }
}
