//! The last minute of every server, from readings that are taken once a second.
//!
//! The metrics only rise; what a person wants to see is what happens now. Two readings a minute
//! apart give both rates and quantiles of just that minute.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use holdfast_proxy::metrics::Traffic;

/// How far back the status looks.
const SPAN: Duration = Duration::from_secs(60);

/// Readings of all servers, the oldest about a minute old.
#[derive(Debug)]
pub(crate) struct Window {
    readings: VecDeque<(Instant, BTreeMap<String, Traffic>)>,
}

/// What happened since the oldest reading.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    pub(crate) span: Duration,
    pub(crate) traffic: Traffic,
}

impl Window {
    /// A window that begins now, with `reading` as what was before.
    pub(crate) fn new(now: Instant, reading: BTreeMap<String, Traffic>) -> Self {
        Self { readings: VecDeque::from([(now, reading)]) }
    }

    /// Adds a reading and forgets those that are no longer needed.
    pub(crate) fn push(&mut self, now: Instant, reading: BTreeMap<String, Traffic>) {
        self.readings.push_back((now, reading));
        // The oldest stays as long as the next one is not a full span old: the window then covers
        // the span and at most one reading more.
        while self.readings.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) {
            self.readings.pop_front();
        }
    }

    /// What `server` did between the oldest reading and `current`, which was read at `now`.
    pub(crate) fn recent(&self, server: &str, now: Instant, current: &Traffic) -> Recent {
        let Some((at, _)) = self.readings.front() else { return Recent::default() };
        // One that has come with a new configuration begins later.
        let oldest = self.readings.iter().find_map(|(_, reading)| reading.get(server));
        let traffic = oldest.map_or_else(|| current.clone(), |old| current.since(old));
        Recent { span: now.saturating_duration_since(*at), traffic }
    }
}

impl Recent {
    /// Both together; the spans are the same.
    pub(crate) fn add(&mut self, other: &Self) {
        self.span = self.span.max(other.span);
        self.traffic.add(&other.traffic);
    }

    /// The share of finished calls that failed, 0 to 1; none without calls.
    pub(crate) fn failed(&self) -> Option<f64> {
        self.share(0)
    }

    /// The same of the calls that the server was asked.
    pub(crate) fn failed_at_the_server(&self) -> Option<f64> {
        self.share(self.traffic.unasked)
    }

    fn share(&self, unasked: u64) -> Option<f64> {
        let Traffic { calls, cancelled, failures, .. } = self.traffic;
        let finished = calls.saturating_sub(cancelled).saturating_sub(unasked);
        (finished > 0).then(|| failures.saturating_sub(unasked) as f64 / finished as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(calls: u64) -> Traffic {
        Traffic { calls, ..Traffic::default() }
    }

    fn one(calls: u64) -> BTreeMap<String, Traffic> {
        BTreeMap::from([("one".to_owned(), traffic(calls))])
    }

    #[test]
    fn recent_is_what_came_after_the_oldest_reading() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut window = Window::new(start, one(100));
        for s in 1..=30 {
            window.push(at(s), one(100 + s * 10));
        }
        let recent = window.recent("one", at(30), &traffic(400));
        assert_eq!((recent.span, recent.traffic.calls), (Duration::from_secs(30), 300));
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut window = Window::new(start, one(0));
        for s in 1..=300 {
            window.push(at(s), one(s));
        }
        let recent = window.recent("one", at(300), &traffic(300));
        assert_eq!((recent.span, recent.traffic.calls), (Duration::from_secs(60), 60));
        assert!(window.readings.len() <= 62, "{}", window.readings.len());
    }

    #[test]
    fn a_pause_between_readings_keeps_one_old_reading() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut window = Window::new(start, one(0));
        window.push(at(200), one(7));
        let recent = window.recent("one", at(200), &traffic(7));
        assert_eq!((recent.span, recent.traffic.calls), (Duration::from_secs(200), 7));
    }

    #[test]
    fn servers_come_and_go_and_none_is_taken_for_another() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut window = Window::new(start, one(100));
        let mut both = one(110);
        both.insert("later".to_owned(), traffic(5));
        window.push(at(1), both);
        let recent = |server, calls| window.recent(server, at(2), &traffic(calls)).traffic.calls;
        assert_eq!((recent("one", 120), recent("later", 9)), (20, 4));
        assert_eq!(recent("new", 3), 3);
    }

    #[test]
    fn cancelled_calls_are_not_in_the_share_of_failures_nor_a_servers_what_it_was_not_asked() {
        let traffic = Traffic { calls: 10, cancelled: 6, failures: 1, ..Traffic::default() };
        let recent = Recent { span: SPAN, traffic };
        assert_eq!(recent.failed(), Some(0.25));
        let traffic = Traffic { calls: 10, failures: 6, unasked: 5, ..Traffic::default() };
        let recent = Recent { span: SPAN, traffic };
        assert_eq!((recent.failed(), recent.failed_at_the_server()), (Some(0.6), Some(0.2)));
        assert_eq!(Recent::default().failed(), None);
    }
}
