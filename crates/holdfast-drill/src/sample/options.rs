//! What kind of server to be, and the arguments that say so.
//!
//! The parser is written by hand, so that the crate needs no command-line library and the gateway's
//! binary, the example and tests share one list of switches.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::behaviour::Rule;

/// Everything that can be chosen before the server starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's name in `serverInfo` and in the answer of the tool `whoami`.
    pub name: String,
    /// Listen here for HTTP, HTTP+SSE and WebSocket; `None` serves one client on stdin and stdout.
    pub http: Option<SocketAddr>,
    /// Also serve the control endpoints here; the way to script a server on stdio.
    pub control: Option<SocketAddr>,
    /// How requests over Streamable HTTP are answered.
    pub answers: Answers,
    /// Give events ids, prime streams (2025-11-25) and replay on GET with `Last-Event-ID`.
    pub resumable: bool,
    /// Keep no legacy sessions: no session ids, no GET streams, no DELETE.
    pub stateless: bool,
    /// Which eras are served.
    pub eras: Eras,
    /// The newest legacy version that is offered.
    pub latest: &'static str,
    /// Answer GET with 405 although there are sessions.
    pub no_get: bool,
    /// End lines of event streams with CRLF instead of LF.
    pub crlf: bool,
    /// The `retry:` that primes a resumable stream, in milliseconds.
    pub retry_ms: u64,
    /// Entries of a list per page; 0 lists everything at once.
    pub page_size: usize,
    /// Append a line `tool key pid` here for every execution of a tool.
    pub execution_log: Option<PathBuf>,
    /// Faults that are scripted from the start.
    pub behaviour: Vec<Rule>,
}

/// How requests over Streamable HTTP are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// JSON, unless the call sends something before its answer.
    #[default]
    Auto,
    /// Always JSON; what a call sends before goes to the session's GET stream.
    Json,
    /// Always an event stream, with headers sent at once.
    Sse,
}

/// Which eras are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eras {
    /// Legacy sessions and modern requests on the same endpoint.
    #[default]
    Both,
    /// Only versions with `initialize`.
    LegacyOnly,
    /// Only 2026-07-28.
    ModernOnly,
}

/// The legacy versions, newest first.
pub(super) const LEGACY_VERSIONS: [&str; 4] =
    ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// The modern version.
pub(super) const MODERN_VERSION: &str = "2026-07-28";

/// One line per switch, for a usage text.
pub const USAGE: &str = "\
  --http ADDRESS         listen for HTTP (/mcp), HTTP+SSE (/sse) and WebSocket (/ws)
  --stdio                serve one client on stdin and stdout (the default)
  --control ADDRESS      serve the control endpoints (/_drill/…) on a port of their own
  --name NAME            the name in serverInfo (sample)
  --answers MODE         auto, json or sse (auto)
  --resumable            event ids, primed streams, Last-Event-ID
  --retry MS             the retry of primed streams (500)
  --stateless            no legacy sessions
  --legacy-only          no 2026-07-28
  --modern-only          nothing but 2026-07-28
  --latest VERSION       the newest legacy version offered (2025-11-25)
  --no-get               answer GET with 405
  --crlf                 end lines of event streams with CRLF
  --page-size N          entries of a list per page (0: all)
  --execution-log FILE   append `tool key pid` for every execution
  --behaviour JSON       script a fault from the start; may be repeated
";

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "sample".to_owned(),
            http: None,
            control: None,
            answers: Answers::Auto,
            resumable: false,
            stateless: false,
            eras: Eras::Both,
            latest: LEGACY_VERSIONS[0],
            no_get: false,
            crlf: false,
            retry_ms: 500,
            page_size: 0,
            execution_log: None,
            behaviour: Vec::new(),
        }
    }
}

impl Options {
    /// Reads the switches of [`USAGE`] (without a program name).
    ///
    /// # Errors
    /// A sentence that names the switch and what is wrong with it.
    pub fn from_args(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.into_iter();
        while let Some(switch) = args.next() {
            let mut value =
                || args.next().ok_or_else(|| format!("{switch} needs a value after it"));
            match switch.as_str() {
                "--http" => options.http = Some(parse(&switch, &value()?, "HOST:PORT")?),
                "--stdio" => options.http = None,
                "--control" => options.control = Some(parse(&switch, &value()?, "HOST:PORT")?),
                "--name" => options.name = value()?,
                "--answers" => {
                    options.answers = match value()?.as_str() {
                        "auto" => Answers::Auto,
                        "json" => Answers::Json,
                        "sse" => Answers::Sse,
                        other => return Err(format!("--answers {other}: not auto, json or sse")),
                    }
                }
                "--resumable" => options.resumable = true,
                "--retry" => options.retry_ms = parse(&switch, &value()?, "milliseconds")?,
                "--stateless" => options.stateless = true,
                "--legacy-only" => options.eras = Eras::LegacyOnly,
                "--modern-only" => options.eras = Eras::ModernOnly,
                "--latest" => {
                    let wanted = value()?;
                    let known = LEGACY_VERSIONS.iter().find(|known| **known == wanted);
                    options.latest = known.ok_or_else(|| {
                        format!("--latest {wanted}: not one of {LEGACY_VERSIONS:?}")
                    })?;
                }
                "--no-get" => options.no_get = true,
                "--crlf" => options.crlf = true,
                "--page-size" => options.page_size = parse(&switch, &value()?, "a number")?,
                "--execution-log" => options.execution_log = Some(value()?.into()),
                "--behaviour" => {
                    let text = value()?;
                    let rule = serde_json::from_str(&text)
                        .map_err(|error| format!("--behaviour {text}: {error}"))?;
                    options.behaviour.push(rule);
                }
                _ => return Err(format!("unknown switch {switch}")),
            }
        }
        Ok(options)
    }

    /// The legacy versions that are offered, newest first.
    pub(super) fn legacy_versions(&self) -> impl Iterator<Item = &'static str> {
        let latest = self.latest;
        LEGACY_VERSIONS.into_iter().filter(move |version| *version <= latest)
    }

    /// The version that a session gets whose client asks for `wanted`.
    pub(super) fn negotiate(&self, wanted: Option<&str>) -> &'static str {
        self.legacy_versions().find(|version| Some(*version) == wanted).unwrap_or(self.latest)
    }

    pub(super) fn serves_legacy(&self) -> bool {
        self.eras != Eras::ModernOnly
    }

    pub(super) fn serves_modern(&self) -> bool {
        self.eras != Eras::LegacyOnly
    }
}

fn parse<T: std::str::FromStr>(switch: &str, value: &str, wanted: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{switch} {value}: {wanted} is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        Options::from_args(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_switch_of_the_usage_is_understood() {
        for line in USAGE.lines() {
            let mut words = line.split_whitespace();
            let switch = words.next().unwrap();
            let value = match words.next().unwrap() {
                "ADDRESS" => "127.0.0.1:1",
                "NAME" | "FILE" => "x",
                "MODE" => "json",
                "MS" | "N" => "7",
                "VERSION" => "2025-03-26",
                "JSON" => r#"{"fault":{"kind":"hang"}}"#,
                _ => "",
            };
            read(&format!("{switch} {value}")).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn mistakes_name_the_switch() {
        for (line, part) in [
            ("--nonsense", "unknown switch --nonsense"),
            ("--http", "--http needs a value"),
            ("--http here", "--http here: HOST:PORT"),
            ("--answers xml", "not auto, json or sse"),
            ("--latest 2026-07-28", "--latest 2026-07-28"),
            (r#"--behaviour {"fault":{"kind":"explode"}}"#, "explode"),
            (r#"--behaviour {"tmes":2,"fault":{"kind":"hang"}}"#, "tmes"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_version_that_is_not_offered_is_answered_with_the_latest() {
        let options = read("--latest 2025-06-18").unwrap();
        assert_eq!(options.negotiate(Some("2025-03-26")), "2025-03-26");
        assert_eq!(options.negotiate(Some("2025-11-25")), "2025-06-18");
        assert_eq!(options.negotiate(None), "2025-06-18");
    }
}
