//! `holdfast events` and `holdfast incidents`: what was decided about servers and on what evidence, and
//! what their outages took.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use holdfast_admin::Client;
use holdfast_admin::api::{EventDto, EventsDto, IncidentDto, IncidentsDto};

use super::admin_port::AdminArgs;
use super::output::{many, span, table};
use super::{Outcome, OutputArgs};

#[derive(Args)]
pub(crate) struct Events {
    #[command(flatten)]
    admin: AdminArgs,
    /// How many of the last lines to show, 1 to 1000
    #[arg(long, value_name = "NUMBER", default_value_t = 50,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct Incidents {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Events {
    pub(crate) fn run(&self) -> Outcome {
        let ask = async |client: &Client| client.audit(usize::from(self.limit)).await;
        self.admin.present(false, self.output.output, ask, events)
    }
}

impl Incidents {
    pub(crate) fn run(&self) -> Outcome {
        let ask = async |client: &Client| client.incidents().await;
        self.admin.present(false, self.output.output, ask, incidents)
    }
}

fn events(page: &EventsDto) -> String {
    let mut text = many(page.events.len() as u64, "event");
    if page.events.is_empty() {
        return text;
    }
    let row = |it: &EventDto| {
        let server = if it.server.is_empty() { "-".to_owned() } else { it.server.clone() };
        vec![utc(it.at_unix_ms), server, it.kind.clone(), it.text.clone()]
    };
    let rows: Vec<Vec<String>> = page.events.iter().map(row).collect();
    text.push_str(&format!("\n\n{}", table(&["TIME (UTC)", "SERVER", "EVENT", "WHAT"], &rows)));
    text
}

fn incidents(page: &IncidentsDto) -> String {
    let mut text = many(page.incidents.len() as u64, "incident");
    if page.incidents.is_empty() {
        return text;
    }
    let heading = [
        "BEGAN (UTC)",
        "SERVER",
        "INSTANCE",
        "DETECTED",
        "DECIDED",
        "SWITCHED",
        "RECOVERED",
        "ALLOWED",
        "OBJECTIVE",
        "TIER",
        "IN DOUBT",
        "RPO",
        "MOVED",
    ];
    let row = |it: &IncidentDto| {
        let after = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), length);
        vec![
            utc(it.began_unix_ms),
            it.server.clone(),
            it.instance.clone(),
            length(it.detected_ms),
            after(it.decided_ms),
            after(it.switched_ms),
            after(it.recovered_ms),
            length(it.rto_ms),
            it.objective.clone(),
            it.tier.clone().unwrap_or_else(|| "-".to_owned()),
            in_doubt(it),
            it.rpo.clone().unwrap_or_else(|| "-".to_owned()),
            counted(it).map_or_else(|| "-".to_owned(), |_| it.sessions_moved.to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = page.incidents.iter().map(row).collect();
    text.push_str(&format!("\n\n{}", table(&heading, &rows)));
    text.push_str(
        "\n\nTimes are counted from the first bad sign. IN DOUBT: Writes of which nobody knows whether they\n\
         ran, and from when the first was received to the end. MOVED: sessions without their state",
    );
    text
}

/// What became of the RPO, where nodes counted what the outage cost.
fn counted(it: &IncidentDto) -> Option<&str> {
    it.rpo.as_deref().filter(|rpo| *rpo != "unmeasured")
}

/// The Writes of which nobody knows whether they ran, and for how long that was so.
fn in_doubt(it: &IncidentDto) -> String {
    match (counted(it), it.unknown_writes) {
        (None, _) => "-".to_owned(),
        (Some(_), 0) => "0".to_owned(),
        (Some(_), writes) => format!("{writes} ({})", length(it.in_doubt_ms)),
    }
}

fn length(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms}ms"),
        _ => span(Duration::from_millis(ms).as_secs()),
    }
}

/// A moment to the millisecond, as `2026-01-31 23:59:59.999`.
pub(super) fn utc(unix_ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).unwrap_or(UNIX_EPOCH);
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let ms = unix_ms % 1_000;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}")
}

/// The date so many days after the first of January 1970. Years are counted from March, so that the day
/// that comes and goes is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn moments_are_written_out() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(951_827_696_789), "2000-02-29 12:34:56.789");
        assert_eq!(utc(1_798_761_599_999), "2026-12-31 23:59:59.999");
    }
}
