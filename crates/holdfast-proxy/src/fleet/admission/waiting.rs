//! A call in its class's queue, until its turn comes or it has waited for long enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_config::BulkheadClass;
use holdfast_engine::limits::bulkhead::{Ticket, ToolKey};
use tokio::sync::oneshot;

use super::super::server::ServerFleet;
use super::{Admitted, NotAdmitted, id};

/// What a call that asks to be let in has got.
pub(super) enum Asked<'a> {
    /// A place.
    In(Admitted),
    /// One in its class's queue.
    Queued(Waiting<'a>),
}

/// A call in its class's queue.
pub(super) struct Waiting<'a> {
    pub(super) server: &'a Arc<ServerFleet>,
    pub(super) class: BulkheadClass,
    pub(super) tool: ToolKey,
    pub(super) ticket: Option<Ticket>,
    /// Goes after the ticket was given back: until then whoever lets the call in finds that it listens, and
    /// the place is given back once.
    pub(super) granted: oneshot::Receiver<()>,
}

impl Waiting<'_> {
    /// Its place, when its turn comes within this time.
    pub(super) async fn granted(mut self, patience: Duration) -> Result<Admitted, NotAdmitted> {
        let (server, granted) = (self.server, &mut self.granted);
        let waited = server.gate.relieves(&server.name, granted);
        if let Ok(Ok(())) = tokio::time::timeout(patience, waited).await {
            self.ticket = None;
            self.server.gate.lock().budget.began(Instant::now());
            return Ok(self.server.admitted(self.class, self.tool));
        }
        Err(too_late(self.class, patience))
    }
}

/// The turn of a call of this class did not come within this time.
pub(super) fn too_late(class: BulkheadClass, patience: Duration) -> NotAdmitted {
    let retry_after = patience.max(Duration::from_millis(100));
    NotAdmitted::Full { class, retry_after, waited: true }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut state = self.server.gate.lock();
        let place = id(self.class);
        if state.waiting.remove(&ticket).is_some() {
            state.bulkheads.cancel(place, ticket);
            state.tell_line();
        } else {
            // It was let in at this very moment.
            state.bulkheads.leave(place, self.tool, None);
            state.let_in(Instant::now());
            state.tell_line();
        }
    }
}
