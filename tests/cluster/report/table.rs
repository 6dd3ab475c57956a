//! Which promises did not hold, and the figures for people.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::{Facts, Report};
use crate::load::ledger::Call;
use crate::nemesis::{Incident, What};

// === impl Report ===

impl Report {
    pub(super) fn judge(&mut self, facts: &Facts) {
        // Whose session is gone, or whose balancer is away for longer than a client tries, has to listen
        // anew.
        let excused = |it: &Incident| it.what == What::RedisFlush || it.cuts_clients();
        let excused = facts.incidents.iter().any(excused);
        let standing_lost = if excused { 0 } else { self.standing.lost };
        let counts = [
            (self.sessions_lost, "sessions lost"),
            (self.writes_doubled, "writes run twice"),
            (self.writes_phantom, "writes with a result that never ran"),
            (self.writes_denied_but_ran, "writes said not to have run that did"),
            (self.writes_unknown_in_calm, "writes with an unknown outcome and no reason"),
            (self.writes_failed, "writes failed"),
            (self.unanswered, "calls without an answer"),
            (self.wrong, "wrong answers"),
            (self.reads_failed, "reads failed"),
            (usize::try_from(self.events_missing).unwrap_or(usize::MAX), "stream events missing"),
            (usize::try_from(self.events_doubled).unwrap_or(usize::MAX), "stream events doubled"),
            (standing_lost, "standing streams lost"),
        ];
        self.broken = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .chain(facts.several_leaders.iter().map(|it| format!("two leaders in one {it}")))
            .chain(facts.aborted.iter().map(|why| format!("the run ended early: {why}")))
            .collect();
        // In a failover of Redis a Write waits, and is refused only if that takes longer than it can.
        if self.writes_refused_in_failover * 2 > self.writes_in_failover {
            self.broken.push("most writes were refused while another Redis took over".into());
        }
        let unsaid = |it: &&Incident| it.takes_store_away() && it.said.is_none();
        if let Some(unsaid) = facts.incidents.iter().find(unsaid) {
            self.broken.push(format!("no node's readiness told of {:?}", unsaid.what));
        }
        if self.calls == 0 || self.writes == 0 {
            self.broken.push("nothing was called".into());
        }
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "  {name:<44} {value}");
        };
        row("balancer", &self.front);
        row("store", &self.store);
        row("seed", &self.seed);
        row("length", &format!("{} s at {} calls/s", self.seconds, self.rate));
        row("faults", &list(&self.faults));
        row("calls", &format!("{}: {}", self.calls, list(&self.by_kind)));
        row("outcomes", &list(&self.outcomes));
        row("sessions lost", &format!("{} of {}", self.sessions_lost, self.sessions));
        row("sessions lost with all that Redis held", &self.sessions_flushed);
        row("sessions not opened, without a store", &self.opens_refused);
        row("writes run twice", &format!("{} of {}", self.writes_doubled, self.writes));
        row("calls without an answer", &self.unanswered);
        row("  of these past their deadline", &self.late);
        let (cut, refused) = (self.cut_with_front, self.found_no_front);
        row("calls lost with their balancer", &format!("{cut}, and {refused} found none"));
        row("wrong answers", &self.wrong);
        row("reads failed", &self.reads_failed);
        row("reads refused without a store", &self.reads_refused);
        let (result, unknown, other) =
            (self.writes_moved_result, self.writes_moved_unknown, self.writes_moved_other);
        let moved = format!("{result} with their result, {unknown} with -31002, {other} otherwise");
        row("writes that lost their node under way", &moved);
        row("writes with an unknown outcome", &self.writes_unknown);
        row("  of these without a reason", &self.writes_unknown_in_calm);
        row("writes refused without a quorum or store", &self.writes_refused_isolated);
        let (refused, all) = (self.writes_refused_in_failover, self.writes_in_failover);
        row("  while another Redis took over", &format!("{refused} of {all}"));
        row("writes failed otherwise", &self.writes_failed);
        row("writes with a result that never ran", &self.writes_phantom);
        row("writes said not to have run that did", &self.writes_denied_but_ran);
        row("streams resumed", &self.streams_resumed);
        let events = format!("{} missing, {} doubled", self.events_missing, self.events_doubled);
        row("stream events", &events);
        let standing = &self.standing;
        row(
            "standing streams",
            &format!(
                "{}, of {} numbers each; lost {}, reopened {}, cut {}, GETs failed {}",
                standing.streams,
                standing.told,
                standing.lost,
                standing.reopened,
                standing.abrupt,
                standing.failed
            ),
        );
        row("terms with a leader", &self.terms);
        row("new leader, ms", &self.new_leader_ms);
        row("fault noticed, ms", &self.noticed_ms);
        row("settled after the fault, ms", &self.settled_ms);
        row("another primary or balancer, ms", &self.replaced_ms);
        row("said not to have its store, ms", &self.said_ms);
        row("longest call, ms", &self.longest_ms);
        if let Some(longest) = &self.longest {
            let Call { client, kind, server, resumed, .. } = longest;
            row(
                "  which was",
                &format!("{kind:?} of {client} at {server}, resumed {resumed} times"),
            );
        }
        for (client, pauses) in &self.pauses_ms {
            row(&format!("pause of {client}, ms"), pauses);
        }
        for (client, latency) in &self.latency_ms {
            row(&format!("quick calls of {client}, ms"), latency);
        }
        if self.broken.is_empty() {
            text.push_str("every promise held\n");
        }
        for broken in &self.broken {
            let _ = writeln!(text, "BROKEN: {broken}");
        }
        text
    }
}

fn list(counts: &BTreeMap<String, usize>) -> String {
    let each = counts.iter().map(|(name, count)| format!("{name} {count}"));
    each.collect::<Vec<_>>().join(", ")
}
