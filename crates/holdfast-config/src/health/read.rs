//! `health` as it stands in YAML.

use std::time::Duration;

use holdfast_engine::health::Bars;

use super::{Health, Indicator, Passive, Votes};
use crate::field::Field;
use crate::section::Section;
use crate::units::show_duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What an interval of checks may be.
pub(crate) const LEAST_INTERVAL: Duration = Duration::from_millis(500);
pub(crate) const MOST_INTERVAL: Duration = Duration::from_secs(3600);

// === impl Health ===

impl Health {
    /// The section; `interval` is what the environment says of the interval.
    pub(crate) fn read(mut section: Section<'_>, interval: Option<Duration>) -> Self {
        let mut health = Self::default();
        let range = LEAST_INTERVAL..=MOST_INTERVAL;
        section.duration("interval", range.clone(), &mut health.interval);
        if let Some(interval) = interval {
            health.interval = interval;
        }
        // Critical servers are never checked less often than the others.
        health.critical_interval = health.critical_interval.min(health.interval);
        section.duration("critical_interval", range, &mut health.critical_interval);
        health.timeout = health.timeout.min(health.interval);
        section.duration("timeout", MS * 100..=SECOND * 60, &mut health.timeout);
        section.number("retries", 0..=10, &mut health.retries);
        health.votes = Votes::read(section.section("votes"));
        health.passive = Passive::read(section.section("passive"));
        health.measures = read_measures(section.section("measures"));
        check_timeout(&section, health.timeout, health.interval);
        section.finish();
        health
    }
}

/// A check has to end before the next one begins.
pub(crate) fn check_timeout(section: &Section<'_>, timeout: Duration, interval: Duration) {
    if timeout > interval {
        let (timeout, interval) = (show_duration(timeout), show_duration(interval));
        section.report(
            "timeout",
            format!("{timeout} is longer than interval, {interval}"),
            "timeout up to interval",
            &format!("write {interval}, or a longer interval"),
        );
    }
}

// === impl Votes ===

impl Votes {
    fn read(mut section: Section<'_>) -> Self {
        let mut votes = Self::default();
        section.share("local", 0.0..=1.0, &mut votes.local);
        section.share("peers", 0.0..=1.0, &mut votes.peers);
        section.share("external", 0.0..=1.0, &mut votes.external);
        section.share("users", 0.0..=1.0, &mut votes.users);
        section.number("least_nodes", 1..=100, &mut votes.least_nodes);
        section.share("fail", 0.5..=1.0, &mut votes.fail);
        section.duration("round", SECOND..=SECOND * 600, &mut votes.round);
        votes.timeout = votes.timeout.min(votes.round);
        section.duration("timeout", MS * 100..=SECOND * 600, &mut votes.timeout);
        votes.fits(&section);
        section.finish();
        votes
    }

    fn fits(&self, section: &Section<'_>) {
        if self.local + self.peers + self.external + self.users <= 0.0 {
            section.report(
                "local",
                "all four weights are 0".into(),
                "at least one weight above 0",
                "write local: 0.4, peers: 0.3, external: 0.2, users: 0.1",
            );
        }
        if self.timeout > self.round {
            let (timeout, round) = (show_duration(self.timeout), show_duration(self.round));
            section.report(
                "timeout",
                format!("{timeout} is longer than round, {round}"),
                "timeout up to round",
                &format!("write {round}, or a longer round"),
            );
        }
    }
}

// === impl Passive ===

impl Passive {
    fn read(mut section: Section<'_>) -> Self {
        let mut passive = Self::default();
        let range = MS..=SECOND * 3600;
        let into = &mut passive.response_time;
        let mut inner = section.section("response_time");
        inner.duration("good", range.clone(), &mut into.good);
        inner.duration("bad", range, &mut into.bad);
        inner.share("weight", 0.0..=1.0, &mut into.weight);
        let (good, bad) = (show_duration(into.good), show_duration(into.bad));
        apart(&inner, into.good < into.bad, &good, &bad, "good below bad");
        inner.finish();

        read_share(section.section("error_rate"), &mut passive.error_rate, true);
        read_share(section.section("connect_success"), &mut passive.connect_success, false);
        read_share(section.section("cpu"), &mut passive.cpu, true);
        read_share(section.section("memory"), &mut passive.memory, true);
        read_share(section.section("io_wait"), &mut passive.io_wait, true);
        section.finish();
        passive
    }
}

/// Below which score what is done.
fn read_measures(mut section: Section<'_>) -> Bars {
    let mut bars = Bars::default();
    let mut read = |key, most, into: &mut u8| {
        let given = section.field(key).and_then(|field: Field<'_>| field.count(&(0..=most)));
        *into = given.and_then(|it| u8::try_from(it).ok()).unwrap_or(*into);
    };
    read("watch", 100, &mut bars.watch);
    read("degrade", 100, &mut bars.degrade);
    // From 50 on nobody finds it unhealthy, so no instance is left for its score.
    read("fail_over", 50, &mut bars.fail_over);
    read("emergency", 100, &mut bars.emergency);
    let Bars { watch, degrade, fail_over, emergency } = bars;
    if watch < degrade || degrade < fail_over || fail_over < emergency {
        section.report(
            "watch",
            format!(
                "watch {watch}, degrade {degrade}, fail_over {fail_over} and emergency {emergency} \
                 do not fall"
            ),
            "watch, degrade, fail_over and emergency, none above the one before it",
            "write watch: 75, degrade: 60, fail_over: 40, emergency: 20",
        );
    }
    section.finish();
    bars
}

/// An indicator that is a share; `rising` where more is worse.
fn read_share(mut section: Section<'_>, into: &mut Indicator<f64>, rising: bool) {
    section.share("good", 0.0..=1.0, &mut into.good);
    section.share("bad", 0.0..=1.0, &mut into.bad);
    section.share("weight", 0.0..=1.0, &mut into.weight);
    let (good, bad) = (into.good.to_string(), into.bad.to_string());
    let (fits, allowed) = if rising {
        (into.good < into.bad, "good below bad")
    } else {
        (into.good > into.bad, "good above bad")
    };
    apart(&section, fits, &good, &bad, allowed);
    section.finish();
}

fn apart(section: &Section<'_>, fits: bool, good: &str, bad: &str, allowed: &str) {
    if !fits {
        let key = if section.given(&["bad"]).is_empty() { "good" } else { "bad" };
        let found = format!("good is {good} and bad is {bad}");
        section.report(key, found, allowed, "exchange the two, or write both");
    }
}
