//! What each call adds to the figures.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Anomalies, Facts, Lost, Report, Spread};
use crate::load::ledger::{Call, Kind, Outcome};
use crate::nemesis::{Incident, Scope, What};

const OUTCOME_UNKNOWN: i64 = -31_002;
const STORE_AWAY: i64 = -31_004;

// === impl Report ===

impl Report {
    pub(super) fn count(
        &mut self,
        call: &Call,
        ran: Option<u32>,
        incidents: &[Incident],
        lost: &mut Lost,
        anomalies: &mut Anomalies,
    ) {
        *self.by_kind.entry(format!("{:?}", call.kind)).or_default() += 1;
        *self.outcomes.entry(name(&call.outcome)).or_default() += 1;
        self.streams_resumed += call.resumed as usize;
        self.events_missing += u64::from(call.events_missing);
        self.events_doubled += u64::from(call.events_doubled);
        if call.events_missing + call.events_doubled > 0 {
            anomalies.note("events missing or doubled", call, ran);
        }
        if call.outcome.is_unanswered() {
            let cut = |it: &Incident| it.cuts_clients() && call.overlaps(it.from, it.healed);
            let late = matches!(call.outcome, Outcome::Nothing { .. });
            // An SDK whose two GETs found no balancer waits for the rest of its time.
            if incidents.iter().any(cut) {
                let after = |it: &Incident| cut(it) && call.started >= it.from;
                match incidents.iter().any(after) {
                    true => self.found_no_front += 1,
                    false => self.cut_with_front += 1,
                }
            } else {
                self.unanswered += 1;
                self.late += usize::from(late);
                anomalies.note("no answer", call, ran);
            }
        }
        if let Outcome::SessionLost { status } = call.outcome {
            // An SDK client has one at each server.
            let own = || format!("{} at {}", call.client, call.server);
            let session = call.session.clone().unwrap_or_else(own);
            // Who asked for a session before Redis was emptied may have lost it with the others.
            let opened = lost.opened.get(&session).copied().unwrap_or_default();
            let flushed = |it: &Incident| {
                it.what == What::RedisFlush && call.ended >= it.from && opened <= it.healed
            };
            let cut = |it: &Incident| it.cuts_clients() && call.overlaps(it.from, it.settled);
            if incidents.iter().any(flushed) {
                lost.flushed.insert(session);
            } else if status == 0 && incidents.iter().any(cut) {
                // A client that gives up with its connection; its session may be there.
                self.cut_with_front += 1;
            } else {
                lost.sessions.insert(session);
                anomalies.note("session lost", call, ran);
            }
        }
        if let Outcome::Wrong { .. } = call.outcome {
            self.wrong += 1;
            anomalies.note("wrong answer", call, ran);
        }
        if let Outcome::Error { code, .. } = call.outcome {
            self.count_failed(call, code, incidents, anomalies);
        }
        if call.kind.is_write() {
            self.count_write(call, ran.unwrap_or(0), incidents, anomalies);
        }
    }

    /// A call that changes nothing has ended in an error.
    fn count_failed(
        &mut self,
        call: &Call,
        code: i64,
        incidents: &[Incident],
        anomalies: &mut Anomalies,
    ) {
        let during = |it: &Incident| call.overlaps(it.from, it.settled);
        let away = |it: &Incident| it.store_away && during(it);
        if call.kind == Kind::Open {
            // A new session is new state: it takes what a Write takes.
            if incidents.iter().any(|it| it.isolates() && during(it)) {
                self.opens_refused += 1;
            } else {
                self.reads_failed += 1;
                anomalies.note("session not opened", call, None);
            }
        } else if call.kind.is_read() || call.kind == Kind::Idle {
            let lost = |it: &Incident| call.overlaps(it.from, it.settled + 1_000);
            let counts = call.kind == Kind::Idle;
            if counts && code == OUTCOME_UNKNOWN && incidents.iter().any(lost) {
                // It counts at its server: a Write whose node was lost.
                self.writes_unknown += 1;
            } else if counts && incidents.iter().any(|it| it.isolates() && during(it)) {
                self.writes_refused_isolated += 1;
            } else if code == STORE_AWAY && incidents.iter().any(away) {
                self.reads_refused += 1;
            } else {
                self.reads_failed += 1;
                anomalies.note("read failed", call, None);
            }
        }
    }

    fn count_write(
        &mut self,
        call: &Call,
        ran: u32,
        incidents: &[Incident],
        anomalies: &mut Anomalies,
    ) {
        self.writes += 1;
        let failover = |it: &Incident| {
            let store = it.what.scope() == Scope::Redis && it.replaced.is_some();
            store && !it.store_away && call.overlaps(it.from, it.settled)
        };
        if incidents.iter().any(failover) {
            self.writes_in_failover += 1;
            let refused = matches!(call.outcome, Outcome::Error { code: STORE_AWAY, .. });
            self.writes_refused_in_failover += usize::from(refused);
        }
        if ran > 1 {
            anomalies.note("ran twice", call, Some(ran));
        }
        if call.moved {
            match (&call.outcome, call.outcome.code()) {
                (Outcome::Result, _) => self.writes_moved_result += 1,
                (_, Some(OUTCOME_UNKNOWN)) => self.writes_moved_unknown += 1,
                _ => self.writes_moved_other += 1,
            }
        }
        match &call.outcome {
            Outcome::Result if ran == 0 => {
                self.writes_phantom += 1;
                anomalies.note("a result, but it never ran", call, Some(ran));
            }
            Outcome::Error { code: OUTCOME_UNKNOWN, .. } => {
                self.writes_unknown += 1;
                let during = |it: &Incident| call.overlaps(it.from, it.settled + 1_000);
                // Nothing is lost by these.
                let mild = |it: &Incident| matches!(it.what, What::Rolling | What::ConfigReload);
                let calm = |it: &Incident| mild(it) && during(it);
                if !incidents.iter().any(during) || incidents.iter().any(calm) {
                    self.writes_unknown_in_calm += 1;
                    anomalies.note("outcome unknown without a fault", call, Some(ran));
                }
            }
            Outcome::Error { may_have_run, .. } => {
                if *may_have_run == Some(false) && ran > 0 {
                    self.writes_denied_but_ran += 1;
                    anomalies.note("said not to have run, but it did", call, Some(ran));
                }
                let during = |it: &Incident| it.isolates() && call.overlaps(it.from, it.settled);
                if incidents.iter().any(during) && ran == 0 {
                    self.writes_refused_isolated += 1;
                } else {
                    self.writes_failed += 1;
                    anomalies.note("write failed", call, Some(ran));
                }
            }
            _ => {}
        }
    }

    /// How long clients waited: over all quick calls, and at the worst in each fault.
    pub(super) fn pauses(&mut self, facts: &Facts) {
        let mut clients: BTreeMap<String, Vec<&Call>> = BTreeMap::new();
        let quick = |call: &&Call| matches!(call.kind, Kind::Read | Kind::Write);
        for call in facts.calls.iter().filter(quick) {
            let client = match call.client.as_str() {
                "raw" => format!("raw {}", json!(call.era).as_str().unwrap_or_default()),
                sdk => sdk.to_owned(),
            };
            clients.entry(client).or_default().push(call);
        }
        for (client, calls) in clients {
            let worst = facts.incidents.iter().map(|incident| {
                let during = |call: &&&Call| call.overlaps(incident.from, incident.settled);
                calls.iter().filter(during).map(|call| call.took()).max().unwrap_or_default()
            });
            self.pauses_ms.insert(client.clone(), Spread::of(worst));
            self.latency_ms.insert(client, Spread::of(calls.iter().map(|call| call.took())));
        }
    }
}

fn name(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Result => "result".into(),
        Outcome::Error { code, .. } => code.to_string(),
        Outcome::Wrong { .. } => "wrong".into(),
        Outcome::SessionLost { .. } => "session lost".into(),
        Outcome::Status { status, .. } => format!("status {status}"),
        Outcome::Broken { .. } => "broken".into(),
        Outcome::Nothing { .. } => "nothing".into(),
    }
}
